"""`clinprompt serve`: a folder of task files behind an HTTP API. `clinprompt serve-key`: keys for it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import print_json, remark, say
from clinprompt.errors import ArtifactError, BackboneError, TaskError

if TYPE_CHECKING:
    from clinprompt.serving.batching import BatchLimits
    from clinprompt.serving.engine import Engine

NETWORK, LIMITS, VLLM = "Network", "Limits", "With --engine vllm"
ENGINES = ("transformers", "vllm")


def serve(
    tasks: Annotated[Path, typer.Option(help="Folder of task files; each is served under its file's name.")],
    engine: Annotated[
        str, typer.Option(help="transformers: in this process. vllm: a vLLM server, by default one of our own.")
    ] = "transformers",
    url: Annotated[
        str | None,
        typer.Option(
            help="Where one answers, e.g. http://127.0.0.1:8001, that has --baked loaded. Default: one is started.",
            rich_help_panel=VLLM,
        ),
    ] = None,
    baked: Annotated[
        Path | None,
        typer.Option(
            help="The baked model (see `clinprompt bake`); made if it is not there. Default: a temporary one.",
            rich_help_panel=VLLM,
            show_default=False,
        ),
    ] = None,
    vllm_python: Annotated[
        Path | None,
        typer.Option(
            help="Interpreter of the environment that has vLLM. Default: CLINPROMPT_VLLM_PYTHON, else this one.",
            rich_help_panel=VLLM,
            show_default=False,
        ),
    ] = None,
    vllm_option: Annotated[
        list[str] | None,
        typer.Option(
            help="An option for the vLLM that is started, e.g. --vllm-option=--max-model-len=8192. Repeatable.",
            rich_help_panel=VLLM,
        ),
    ] = None,
    vllm_log: Annotated[
        Path | None, typer.Option(help="Keep what the vLLM that is started prints.", rich_help_panel=VLLM)
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
        int,
        typer.Option(
            min=1,
            help="Questions held at once; beyond: 429, or 413 for one request.",
            rich_help_panel=LIMITS,
        ),
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

    With --engine vllm the tasks are baked into a model, a vLLM server is started on it and stopped with this command;
    task files come and go as above. With --url a vLLM that runs already is used: it serves the tasks of --baked, and a
    new one after `clinprompt bake --add` and a restart of it.

    \b
    Examples:
      clinprompt serve --tasks runs/tasks
      clinprompt serve-key keys.json ward-7
      clinprompt serve --tasks tasks --engine vllm --vllm-python venv-vllm/bin/python
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
    over = _Vllm(url, baked, vllm_python, tuple(vllm_option or ()), vllm_log)
    with _engine(engine, over, tasks, choice, limits, tuple(metaprompt or ()), quiet) as made:

        async def run() -> None:
            service = Service.of_folder(
                tasks, await made(), settings, keys=api_keys, audit=audit, metaprompts=tuple(metaprompt or ())
            )
            remark(f"{address.url} · {address.url}/docs · tasks of {tasks} · Ctrl-C finishes what was accepted", quiet)
            await server(create_app(service, teach), address, seconds=timeout).serve(sockets=[listening])

        asyncio.run(run())


@dataclass(frozen=True)
class _Vllm:
    """The options that belong to --engine vllm."""

    url: str | None
    baked: Path | None
    python: Path | None
    options: tuple[str, ...]
    log: Path | None


@contextmanager
def _engine(
    name: str,
    vllm: _Vllm,
    tasks: Path,
    choice: o.ModelChoice,
    limits: BatchLimits,
    metaprompts: tuple[Path, ...],
    quiet: bool,
) -> Iterator[Callable[[], Awaitable[Engine]]]:
    """How the engine is made in the server's event loop, and what must run beside it."""
    if name not in ENGINES:
        raise TaskError(f"--engine {name}: known are {' and '.join(ENGINES)}.")
    if name == "transformers":
        if vllm != _Vllm(None, None, None, (), None):
            raise TaskError("--url, --baked and --vllm-… belong to --engine vllm.")
        yield _in_process(tasks, choice, limits)
        return
    if choice.device or choice.quantise or choice.autocast:
        raise TaskError(
            "--device, --quantise and --autocast belong to --engine transformers; vLLM has its own options."
        )
    if vllm.url is not None:
        if vllm.baked is None or vllm.python or vllm.options or vllm.log:
            raise TaskError(
                "--url needs --baked FOLDER, the model that vLLM has loaded (`clinprompt bake` makes one). --vllm-… "
                "are for a vLLM that is started here; leave --url away for that."
            )
        yield _over_url(vllm.url, vllm.baked, limits)
        return
    with _over_own(vllm, tasks, choice, limits, metaprompts, quiet) as made:
        yield made


def _in_process(tasks: Path, choice: o.ModelChoice, limits: BatchLimits) -> Callable[[], Awaitable[Engine]]:
    from clinprompt.serving.transformers_engine import TransformersEngine

    model = choice.load(choice.name or _backbone_of(tasks))

    async def made() -> Engine:
        return TransformersEngine(model, limits)

    return made


def _over_url(url: str, baked: Path, limits: BatchLimits) -> Callable[[], Awaitable[Engine]]:
    """Over a vLLM server that is there."""
    from clinprompt.serving.vllm_engine import connect

    async def made() -> Engine:
        return await connect(baked, url, api_key=os.environ.get("VLLM_API_KEY"), waiting=limits.waiting)

    return made


@contextmanager
def _over_own(
    vllm: _Vllm, tasks: Path, choice: o.ModelChoice, limits: BatchLimits, metaprompts: tuple[Path, ...], quiet: bool
) -> Iterator[Callable[[], Awaitable[Engine]]]:
    """Over a vLLM server that lives as long as this command."""
    from clinprompt.serving.own_vllm import OwnVllm, own_server
    from clinprompt.serving.vllm_engine import connect

    own = OwnVllm(
        tasks,
        vllm.baked,
        choice.name or _backbone_of(tasks),
        choice.dtype,
        metaprompts,
        vllm.python,
        vllm.log,
        ("--max-num-seqs", str(limits.rows), *vllm.options),
        lambda line: remark(line, quiet),
    )
    with own_server(own) as (server, folder):

        async def made() -> Engine:
            return await connect(folder, server.url, api_key=server.api_key, waiting=limits.waiting, reloads=True)

        yield made


def _backbone_of(folder: Path) -> str:
    """The backbone that the task files of a folder name; the embedded one where no file names any."""
    from clinprompt.prompts.artifact import read_card
    from clinprompt.serving.library import artifact_files

    names = set()
    for path in artifact_files(folder):
        with suppress(ArtifactError, OSError):  # foreign and damaged files: the server lists them with the reason
            names.add(read_card(path)[1].backbone.name)
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
