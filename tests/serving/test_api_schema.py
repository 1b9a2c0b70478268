"""schemathesis against the API's own OpenAPI description: no crash, no undocumented status, bodies as described."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from clinprompt.serving.app import create_app
from clinprompt.serving.settings import ServerSettings
from tests.models import tiny
from tests.serving.world import folder_of_tasks, service_on

positive_data_acceptance = pytest.importorskip("schemathesis.specs.openapi.checks").positive_data_acceptance
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra: dev)")


def check_all(tmp_path: Path, examples: int) -> int:
    """Random requests of every operation, checked against the description; how many were sent."""
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone)
    limits = ServerSettings(document_tokens=500, questions=20, body_bytes=20_000, manage=False)
    app = create_app(service_on(folder, limits, backbone=backbone))
    sent = 0
    with TestClient(app, raise_server_exceptions=True) as client:
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        for operation in schema.get_all_operations():

            @given(case=operation.ok().as_strategy())
            @settings(
                max_examples=examples,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def check(case: schemathesis.Case) -> None:
                nonlocal sent
                sent += 1
                # Documents may be too long, or lack what a task needs: a schema cannot say so.
                case.call_and_validate(session=client, excluded_checks=[positive_data_acceptance])

            check()
        assert "clinprompt_defects_total 0.0" in client.get("/metrics").text
    return sent


def test_a_few_random_requests(tmp_path: Path) -> None:
    assert check_all(tmp_path, 5) > 20


@pytest.mark.slow
@pytest.mark.timeout(7200)  # minutes on a core of its own, longer beside other work
def test_many_random_requests(tmp_path: Path) -> None:
    assert check_all(tmp_path, 300) > 1000
