"""`clinprompt serve`: a folder of task files behind an HTTP API. `clinprompt serve-key`: keys for it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import print_json, remark, say
from clinprompt.errors import BackboneError, TaskError

if TYPE_CHECKING:
    from clinprompt.serving.batching import BatchLimits
    from clinprompt.serving.engine import Engine

NETWORK, LIMITS = "Network", "Limits"
ENGINES = ("transformers", "vllm")


def serve(
    tasks: Annotated[Path, typer.Option(help="Folder of task files; each is served under its file's name.")],
    engine: Annotated[str, typer.Option(help="transformers: in this process. vllm: a vLLM server with --baked.")] = (
        "transformers"
    ),
    url: Annotated[
        str | None, typer.Option(help="vllm: where one answers, e.g. http://127.0.0.1:8001; default: one is started.")
    ] = None,
    baked: Annotated[
        Path | None, typer.Option(help="vllm: the baked model it has loaded (see `clinprompt bake`).")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=NETWORK)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, rich_help_panel=NETWORK)] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="Key file (see serve-key); then every request needs one.", rich_help_panel=NETWORK),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.", rich_help_panel=NETWORK)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.", rich_help_panel=NETWORK)] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve a network without TLS.", rich_help_panel=NETWORK)
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(help="Write who asked which task when (inputs as keyed hashes) to this file.")
    ] = None,
    fixed: Annotated[bool, typer.Option("--fixed", help="Tasks change in the folder only, not over HTTP.")] = False,
    no_teach: Annotated[
        bool, typer.Option("--no-teach", help="No task can be taught from the page or the API.")
    ] = False,
    teach_notes: Annotated[
        Path | None, typer.Option(help="Keep taught notes in this folder; default: they are forgotten.")
    ] = None,
    metaprompt: o.Metaprompts = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Answers under way at once.", rich_help_panel=LIMITS)] = 64,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Questions accepted and not answered; beyond: 429.", rich_help_panel=LIMITS)
    ] = 4096,
    max_documents: Annotated[int, typer.Option(min=1, help="Per request.", rich_help_panel=LIMITS)] = 64,
    max_tokens: Annotated[int, typer.Option(min=64, help="Of one document.", rich_help_panel=LIMITS)] = 65_536,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes of a request.", rich_help_panel=LIMITS)] = 4 * 2**20,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one request.", rich_help_panel=LIMITS)] = 120.0,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    quiet: o.Quiet = False,
) -> None:
    """Serve a folder of task files over HTTP: a page, predictions, OpenAI's API, metrics.

    All tasks share one frozen model and its batches. Put a task file into the folder (or PUT it) and it is served
    within seconds; remove it and it is gone; no request is dropped. The page at / reads notes with these tasks, and
    teaches new ones from a handful of notes. Only this machine is served unless --host
    says otherwise, and then only with --api-keys and TLS. No text of a request is logged.

    \b
    Examples:
      clinprompt serve --tasks runs/tasks
      clinprompt serve-key keys.json ward-7
      clinprompt serve --tasks tasks --host 0.0.0.0 --api-keys keys.json --tls-cert cert.pem --tls-key key.pem
      curl -s localhost:8000/v1/tasks/problems/predict -H 'Content-Type: application/json' \\
           -d '{"documents": ["She has gout."]}'
    """
    _require_extra()
    from clinprompt.serving.app import create_app
    from clinprompt.serving.batching import BatchLimits
    from clinprompt.serving.middleware import LOCAL_HOSTS
    from clinprompt.serving.running import Address, bound, log_to_stderr, require_safe, server
    from clinprompt.serving.service import Service
    from clinprompt.serving.settings import ServerSettings
    from clinprompt.serving.teaching import TeachSettings

    address = Address(host, port, tls_cert, tls_key)
    require_safe(address, keys=api_keys is not None, insecure=insecure_http)
    listening = bound(address)
    settings = ServerSettings(
        body_bytes=max_body,
        documents=max_documents,
        document_tokens=max_tokens,
        queue=max_queue,
        seconds=timeout,
        hosts=LOCAL_HOSTS if api_keys is None else (),
        manage=not fixed,
    )
    teach = TeachSettings(allowed=not no_teach, keep=teach_notes, metaprompts=tuple(metaprompt or ()))
    log_to_stderr(logging.WARNING if quiet else logging.INFO)
    choice = o.ModelChoice(backbone, dtype, device, quantise, autocast)
    limits = BatchLimits(rows=max_batch, waiting=max_queue)
    with _engine(engine, url, baked, tasks, choice, limits) as made:

        async def run() -> None:
            service = Service.of_folder(
                tasks, await made(), settings, keys=api_keys, audit=audit, metaprompts=tuple(metaprompt or ())
            )
            remark(f"{address.url} · {address.url}/docs · tasks of {tasks} · Ctrl-C finishes what was accepted", quiet)
            await server(create_app(service, teach), address).serve(sockets=[listening])

        asyncio.run(run())


@contextmanager
def _engine(
    name: str, url: str | None, baked: Path | None, tasks: Path, choice: o.ModelChoice, limits: BatchLimits
) -> Iterator[Callable[[], Awaitable[Engine]]]:
    """How the engine is made in the server's event loop, and what must run beside it."""
    if name not in ENGINES:
        raise TaskError(f"--engine {name}: known are {' and '.join(ENGINES)}.")
    if name == "transformers":
        if url is not None or baked is not None:
            raise TaskError("--url and --baked belong to --engine vllm.")
        yield _in_process(tasks, choice, limits)
        return
    if baked is None:
        raise TaskError("--engine vllm needs --baked FOLDER; make one with `clinprompt bake TASKFILE... --out FOLDER`.")
    with _vllm(url, baked, limits) as made:
        yield made


def _in_process(tasks: Path, choice: o.ModelChoice, limits: BatchLimits) -> Callable[[], Awaitable[Engine]]:
    from clinprompt.serving.transformers_engine import TransformersEngine

    model = choice.load(choice.name or _backbone_of(tasks))

    async def made() -> Engine:
        return TransformersEngine(model, limits)

    return made


@contextmanager
def _vllm(url: str | None, baked: Path, limits: BatchLimits) -> Iterator[Callable[[], Awaitable[Engine]]]:
    """Over a vLLM server that is there, or over one that lives as long as this command."""
    from clinprompt.serving import vllm_server
    from clinprompt.serving.vllm_engine import connect

    own = None if url is not None else vllm_server.start(baked)
    key = os.environ.get("VLLM_API_KEY") if own is None else None

    async def made() -> Engine:
        address = own.url if own is not None else str(url)
        return await connect(baked, address, api_key=key, waiting=limits.waiting, reloads=own is not None)

    try:
        yield made
    finally:
        if own is not None:
            own.stop()


def _backbone_of(folder: Path) -> str:
    """The backbone that the task files of a folder name; the embedded one for an empty folder."""
    from clinprompt.prompts.artifact import read_card
    from clinprompt.serving.library import artifact_files

    names = {read_card(path)[1].backbone.name for path in artifact_files(folder)}
    if len(names) > 1:
        raise BackboneError(
            f"{folder}: its files are for several backbones ({', '.join(sorted(names))}). One server holds one: move "
            "the others to a folder of their own, or choose one with --backbone."
        )
    return names.pop() if names else "embedded"


def _require_extra() -> None:
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise BackboneError(f"serving needs an extra ({', '.join(missing)} missing): pip install 'clinprompt[serve]'")


def serve_key(
    file: Annotated[Path, typer.Argument(help="Key file; made if there is none.")],
    name: Annotated[str, typer.Argument(help="Who the key is for; it stands in logs and in the audit file.")],
    manage: Annotated[
        bool, typer.Option("--manage", help="The key may also add and remove tasks and read metrics.")
    ] = False,
    per_minute: Annotated[int, typer.Option(min=1, help="Requests per minute.")] = 600,
    as_json: o.AsJson = False,
) -> None:
    """Make an API key for `clinprompt serve --api-keys FILE`.

    The key is printed once; the file keeps its hash only. Delete an entry from the file to revoke the key: a running
    server notices.

    \b
    Examples:
      clinprompt serve-key keys.json ward-7
      clinprompt serve-key keys.json operations --manage --per-minute 60
    """
    from clinprompt.serving.keys import create_key

    key = create_key(file, name, scopes=("predict", "manage") if manage else ("predict",), per_minute=per_minute)
    if as_json:
        print_json({"id": name, "key": key, "file": str(file)})
        return
    say(key)
    remark(f"{name}: added to {file}. This is the only time the key is shown.")
