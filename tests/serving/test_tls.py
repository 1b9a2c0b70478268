"""Over the network only with a key and TLS: certificates made here, a real uvicorn, and what is refused."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.serving.keys import create_key
from tests.models import tiny
from tests.serving.world import Running, folder_of_tasks, running, service_on

trustme = pytest.importorskip("trustme", reason="trustme is not installed (extra: dev)")


@pytest.fixture(scope="module")
def authority() -> object:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(authority: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    place = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")  # type: ignore[attr-defined]
    files = place / "cert.pem", place / "key.pem"
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(files[0]), append=number > 0)
    issued.private_key_pem.write_to_path(str(files[1]))
    backbone, keys = tiny("llama", bos=True), place / "keys.json"
    key = create_key(keys, "ward-7")
    with running(
        service_on(folder_of_tasks(place, backbone, ("summary",)), backbone=backbone, keys=keys), tls=files
    ) as found:
        yield found, key


def trusting(authority: object) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)  # type: ignore[attr-defined]
    return context


def test_a_note_is_answered_over_tls(served: tuple[Running, str], authority: object) -> None:
    server, key = served
    assert server.url.startswith("https://")
    with server.client(verify=trusting(authority)) as client:
        assert client.get("/health").json()["status"] == "ok"
        sent = {"documents": ["She has gout."]}
        assert client.post("/v1/tasks/summary/predict", json=sent).status_code == 401
        found = client.post("/v1/tasks/summary/predict", json=sent, headers={"Authorization": f"Bearer {key}"})
        assert found.status_code == 200 and found.json()["answers"][0]["task"] == "summary"


def test_a_stranger_s_certificate_and_plain_http_get_nothing(served: tuple[Running, str]) -> None:
    server, _ = served
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"), server.client() as client:
        client.get("/health")
    plain = server.url.replace("https", "http")
    with pytest.raises(httpx.TransportError), httpx.Client(base_url=plain, timeout=10) as client:
        client.get("/health")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ["clinprompt serve-key keys.json NAME", "--api-keys"]),
        (["--insecure-http"], ["clinprompt serve-key keys.json NAME", "--api-keys"]),
        (["--api-keys", "keys.json"], ["--tls-cert and --tls-key", "--insecure-http"]),
        (["--api-keys", "keys.json", "--tls-cert", "cert.pem"], ["belong together"]),
        (["--api-keys", "keys.json", "--tls-cert", "no.pem", "--tls-key", "no.pem"], ["no.pem: no such file"]),
    ],
)
def test_the_command_refuses_a_network_without_key_or_tls(tmp_path: Path, options: list[str], says: list[str]) -> None:
    """Before a model is loaded or an address is bound."""
    result = CliRunner().invoke(app, ["serve", "--tasks", str(tmp_path), "--host", "0.0.0.0", *options])
    assert result.exit_code == 2 and not result.stdout
    assert all(words in result.stderr for words in says), result.stderr
