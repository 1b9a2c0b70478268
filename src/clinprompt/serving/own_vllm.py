"""A folder of task files on a vLLM server of our own: the model baked, the server started, both gone with us."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from clinprompt.errors import BackboneError, ClinpromptError
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.serving import bake as baking
from clinprompt.serving import vllm_server
from clinprompt.serving.baked_manifest import Manifest, read_manifest
from clinprompt.serving.library import artifact_files, require_folder
from clinprompt.serving.vllm_server import VllmServer


@dataclass(frozen=True)
class OwnVllm:
    """What is served and how. `baked`: the folder of the model; made if it is not there, None: a temporary one.

    `options` are passed to vLLM as they are; `told` is called with a line about what is going on.
    """

    tasks: Path
    baked: Path | None
    backbone: str
    dtype: str | None = None
    metaprompts: Sequence[Path] = ()
    python: Path | None = None
    log: Path | None = None
    options: tuple[str, ...] = ()
    told: Callable[[str], None] = lambda line: None


@contextmanager
def own_server(own: OwnVllm) -> Iterator[tuple[VllmServer, Path]]:
    """The running server and its model's folder, until the end of the block or of this process.

    Whoever ends this process by SIGTERM ends the block, too. Raises BackboneError if vLLM is missing or does not start.
    """
    require_folder(own.tasks)
    python = vllm_server.interpreter_of(own.python)
    with _orderly_end(), TemporaryDirectory(prefix="clinprompt-vllm-") as place:
        folder = own.baked or Path(place) / "model"
        if folder.exists():
            _require_same(own, read_manifest(folder))
        else:
            own.told(f"baking the tasks of {own.tasks} into {own.baked or 'a temporary folder'}")
            bake_folder(own.tasks, folder, backbone=own.backbone, dtype=own.dtype, metaprompts=own.metaprompts)
        own.told(f"starting vLLM ({python}); this takes a minute or more")
        server = vllm_server.start(
            folder,
            python=python,
            extra=own.options,
            log=own.log,
            api_key=secrets.token_urlsafe(32),
            waiting=lambda seconds: own.told(f"vLLM is starting ({seconds:.0f} s)"),
        )
        try:
            yield server, folder
        finally:
            own.told("stopping vLLM")
            server.stop()


def _require_same(own: OwnVllm, manifest: Manifest) -> None:
    """Refuse a folder that was baked of another model, or in another precision, than is asked for."""
    asked, name = own.backbone, manifest.backbone.name
    if name not in (asked, Path(asked).name) or own.dtype not in (None, manifest.dtype):  # of a folder: its last part
        wanted = asked + (f" in {own.dtype}" if own.dtype else "")
        raise BackboneError(
            f"{own.baked}: baked of {name} in {manifest.dtype}, not of {wanted}. "
            "Name a folder that is not there yet, and it is made."
        )


def bake_folder(
    tasks: Path, out: Path, *, backbone: str, dtype: str | None = None, metaprompts: Sequence[Path] = ()
) -> Manifest:
    """Bake what can be baked of a folder: soft prompts made for this backbone; with room for as many again.

    Other files are left out without a word here: who serves the folder says why it does not serve them.
    """
    found = {path: prompt for path in artifact_files(tasks) if (prompt := _prompt_in(path, metaprompts)) is not None}
    needed = sum(len(file.prompt) for file in found.values())
    baking.bake([], out, backbone=backbone, dtype=dtype, room=max(2 * needed, baking.ROOM))
    ours = read_manifest(out).backbone.fingerprint
    fitting = [path for path, file in found.items() if file.card.backbone.fingerprint == ours]
    return baking.add(out, fitting, metaprompts=metaprompts) if fitting else read_manifest(out)


def _prompt_in(path: Path, metaprompts: Sequence[Path]) -> TaskPrompt | None:
    """The soft prompt of a file; None where it holds something else, or nothing that can be read."""
    try:
        [(_, file, _)] = baking.load_all([path], metaprompts)
    except ClinpromptError:
        return None
    return file


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM leaves the block as an exception, so that what was started in it is stopped."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
