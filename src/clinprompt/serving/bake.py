"""Baking: the soft prompts of many tasks as new words of a model that any engine loads unmodified.

A soft prompt is l vectors before the embeddings of the input. Written as l extra rows of the embedding table, with a
special token for each, it becomes a string of tokens: `<|task:NAME:0|><|task:NAME:1|>…`, and every engine's prefix
cache, batching and scheduling work for it. See `baked_weights` for why the new tokens are never chosen.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clinprompt.backbone.model import DTYPES, Backbone, model_folder
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import TaskPrompt, backbone_note, load_task, require_backbone
from clinprompt.serving import baked_tokens as tokens
from clinprompt.serving import baked_weights as weights
from clinprompt.serving.baked import GENERATION, open_baked, text_side
from clinprompt.serving.baked_manifest import (
    MANIFEST,
    BakedTask,
    FileNote,
    Manifest,
    TableNote,
    note,
    read_manifest,
    write_json,
    write_manifest,
)
from clinprompt.version import __version__

ROOM = 256  # least number of rows kept for prompts
WRITTEN = ("config.json", tokens.TOKENIZER, GENERATION)  # files of ours; every other small file is copied as it is
COPIED = ("*.json", "*.txt", "*.jinja", "LICENSE*", "NOTICE*")


def bake(
    files: Sequence[Path],
    out: Path,
    *,
    backbone: str | None = None,
    dtype: str | None = None,
    room: int | None = None,
    metaprompts: Sequence[Path] = (),
    offline: bool = False,
) -> Manifest:
    """Write a model folder in which each task file's soft prompt is a run of new special tokens.

    `backbone`: default the one named in the first card. `dtype` of the vocabulary tables and of the computation:
    default the preset's; prompts are then rounded as the in-process path rounds them. `room`: rows kept for prompts,
    default those needed and as many again, at least 256. Without files (then `backbone` is needed) all of them are
    free. The folder appears when it is complete; an existing one is refused.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists. Add tasks to a baked model with --add, or name a new folder.")
    loaded = load_all(files, metaprompts) if files or backbone is None else []
    folder, preset = model_folder(backbone or loaded[0][1].card.backbone.name, offline=offline)
    chosen = dtype or preset.dtype
    if chosen not in DTYPES:
        raise BackboneError(f"unknown dtype {chosen!r}; known: {', '.join(DTYPES)}")
    text = text_side(folder, preset, backbone or loaded[0][1].card.backbone.name)
    for _, artifact, path in loaded:
        require_backbone(artifact.card, text, path)
    needed = sum(len(artifact.prompt) for _, artifact, _ in loaded)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tables = _write_weights(folder, text, partial, room, needed, DTYPES[chosen])
        manifest = Manifest(
            library=__version__,
            backbone=backbone_note(text),
            preset=preset,
            dtype=chosen,  # type: ignore[arg-type]
            tables=tables,
            tasks=(),
            files={},
        )
        _write_texts(folder, partial, manifest)
        manifest = _commit(partial, manifest, _placed(text, manifest, loaded, partial))
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def add(folder: Path, files: Sequence[Path], *, metaprompts: Sequence[Path] = ()) -> Manifest:
    """Add task files to a baked model: their rows are written into free places; no shard is rewritten.

    A task of the same name is replaced; its old rows stay until the new ones are in force. Raises ArtifactError when
    the room is used up.
    """
    return _add(folder, load_all(files, metaprompts))


def add_prompt(folder: Path, name: str, file: TaskPrompt, *, held: Collection[int] = ()) -> Manifest:
    """Add one task that is in memory already, under a name; see `add`.

    Rows of a task it replaces are not cleared, and those in `held` not used: a server that has them loaded may still
    have requests for them.
    """
    path = Path(f"{name}.safetensors")
    return _add(folder, [(tokens.check_name(name, path), file, path)], clear=False, held=held)


def _add(
    folder: Path, loaded: list[tuple[str, TaskPrompt, Path]], *, clear: bool = True, held: Collection[int] = ()
) -> Manifest:
    with _locked(folder):
        baked = open_baked(folder)
        for _, artifact, path in loaded:
            require_backbone(artifact.card, baked.text, path)
        new = _placed(baked.text, baked.manifest, loaded, folder, held)
        names = {task.name for task in new}
        kept = tuple(task for task in baked.manifest.tasks if task.name not in names)
        return _changed(folder, baked.manifest, (*kept, *new), clear=clear)


def exchange(
    folder: Path, removed: Sequence[str], files: Sequence[Path], *, metaprompts: Sequence[Path] = ()
) -> Manifest:
    """Take tasks out, then add others: `remove` and `add`, with all that could be refused refused before anything is
    removed."""
    loaded = load_all(files, metaprompts)
    baked = open_baked(folder)
    gone = {name for name in removed if baked.manifest.task(name)}
    freed = sum(len(task.ids) for task in baked.manifest.tasks if task.name in gone)
    for _, artifact, path in loaded:
        require_backbone(artifact.card, baked.text, path)
    _require_place(baked.text, baked.manifest, loaded, folder, len(baked.manifest.free) + freed)
    remove(folder, removed)
    return _add(folder, loaded)


def remove(folder: Path, names: Sequence[str], *, clear: bool = True) -> Manifest:
    """Take tasks out of a baked model; their rows become free, and zero unless a server may still need them
    (`clear`)."""
    with _locked(folder):
        manifest = read_manifest(folder)
        for name in names:
            manifest.task(name)
        kept = tuple(task for task in manifest.tasks if task.name not in names)
        return _changed(folder, manifest, kept, clear=clear)


# --- building -----------------------------------------------------------------------------------------------------


def load_all(
    files: Sequence[Path], metaprompts: Sequence[Path], *, adapters: bool = False
) -> list[tuple[str, TaskPrompt, Path]]:
    """(name, task, file) of every file; a task is called after its file. Soft prompts, or (`adapters`) LoRA files."""
    if not files:
        raise ArtifactError("no task file given: name at least one.")
    loaded = []
    for path in files:
        name = tokens.check_name(path.name.removesuffix(".safetensors"), path)
        task = load_task(path, list(metaprompts))
        if task.is_adapter and not adapters:
            cure = "write a PEFT folder with --as peft" if task.card.method == "lora" else "use it in process"
            raise ArtifactError(f"{path}: holds {task.card.method}, which changes the model and is no prompt: {cure}.")
        if adapters and task.card.method != "lora":
            raise ArtifactError(f"{path}: holds {task.card.method or 'a prompt'}, not lora: bake it without --as peft.")
        loaded.append((name, task, path))
    names = [name for name, _, _ in loaded]
    for name in names:
        if names.count(name) > 1:
            raise ArtifactError(f"two task files are called {name!r}; tokens need different names: rename one.")
    return loaded


def _write_weights(
    folder: Path, text: Backbone, out: Path, room: int | None, needed: int, dtype: torch.dtype
) -> TableNote:
    known = weights.shards(folder)
    embedding, head = _table_names(text, known)
    table = _read_table(folder, known, embedding)
    tied = head not in known or bool(getattr(text.model.config.get_text_config(), "tie_word_embeddings", False))
    head_table = table if tied else _read_table(folder, known, head)
    size, rows = _room(room, needed, table.shape[0]), table.shape[0]
    if len(text.tokenizer) > rows:
        raise BackboneError(
            f"{folder}: its tokenizer has {len(text.tokenizer)} tokens and its embedding table {rows} rows; the tokens "
            "beyond them mean nothing to the model. Use the tokenizer that belongs to it."
        )
    bias = head.removesuffix(".weight") + ".bias"
    biases = {bias: weights.read_tensor(known[bias], bias)} if bias in known else {}
    weight_map = weights.write_body(folder, known, {embedding, head, *biases}, out)
    weights.write_tables(out, (embedding, table), (head, head_table), size, dtype, biases)
    weight_map |= {embedding: weights.EMBEDDING, head: weights.HEAD} | dict.fromkeys(biases, weights.HEAD)
    total = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    write_json(out / weights.INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    place = weights.places(out / weights.EMBEDDING)[embedding]
    fixed = place.begin + (place.end - place.begin) // place.shape[0] * rows
    return TableNote(
        embedding_file=weights.EMBEDDING,
        embedding=embedding,
        head_file=weights.HEAD,
        head=head,
        rows=rows,
        room=size,
        tokens=len(text.tokenizer),
        scale=scale_of(text.model.get_input_embeddings()),
        prefix=note(out / weights.EMBEDDING, fixed),
    )


def _table_names(text: Backbone, known: dict[str, Path]) -> tuple[str, str]:
    """What the checkpoint calls the embedding table and the head; of a tied head the name it would have.

    Checkpoints name tensors as the model does, with or without the prefix of its base model.
    """
    model, prefix = text.model, str(text.model.base_model_prefix)
    modules = dict(model.named_modules())
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    embedding = next(name for name, module in modules.items() if module is inputs) + ".weight"
    head = next(name for name, module in modules.items() if module is outputs) + ".weight"
    found = weights.find(embedding, prefix, known)
    if found is None:
        raise BackboneError(
            f"{text.name}: no tensor {embedding} among its weights: its input embeddings are not found."
        )
    return found, weights.find(head, prefix, known) or head


def _read_table(folder: Path, known: dict[str, Path], name: str) -> torch.Tensor:
    table = weights.read_tensor(known[name], name)
    if not table.is_floating_point():
        raise BackboneError(f"{folder}: its vocabulary tables are quantised; bake the unquantised model.")
    return table


def embedding_table(folder: Path, text: Backbone) -> torch.Tensor:
    """(V, d) input embeddings of a model folder, as stored."""
    known = weights.shards(folder)
    return _read_table(folder, known, _table_names(text, known)[0])


def _room(room: int | None, needed: int, rows: int) -> int:
    """Rows for prompts, such that the whole table is a multiple of 64 rows, which matrix kernels like."""
    if room is not None and room < needed:
        raise ArtifactError(f"--room {room}: these tasks alone need {needed} rows.")
    size = room if room is not None else max(2 * needed, ROOM)
    return size + -(rows + size) % 64


def scale_of(inputs: Any) -> float:
    """What the embedding layer multiplies its rows by (Gemma 3: the square root of the width)."""
    return float(getattr(inputs, "scalar_embed_scale", 1.0))


def _write_texts(folder: Path, out: Path, manifest: Manifest) -> None:
    """Configuration with the larger vocabulary and an untied head; small files as they are."""
    for pattern in COPIED:
        for path in folder.glob(pattern):
            if path.name not in (*WRITTEN, weights.INDEX, MANIFEST) and path.is_file():
                shutil.copyfile(path, out / path.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and (part is config or "vocab_size" in part):
            part["tie_word_embeddings"] = False
            if "vocab_size" in part:
                part["vocab_size"] = manifest.tables.rows + manifest.tables.room
            for key in {"dtype", "torch_dtype"} & part.keys() or {"dtype"}:
                part[key] = manifest.dtype
    write_json(out / "config.json", config)
    path = folder / GENERATION
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(out / GENERATION, tokens.suppressed(generation, manifest))
    shutil.copyfile(folder / tokens.TOKENIZER, out / tokens.TOKENIZER)


def _placed(
    text: Backbone,
    manifest: Manifest,
    loaded: Sequence[tuple[str, TaskPrompt, Path]],
    folder: Path,
    held: Collection[int] = (),
) -> tuple[BakedTask, ...]:
    """Write the prompts into free rows. Until the manifest names them, the rows mean nothing to anyone, but for those
    in `held`, which are left alone."""
    free, tables = [index for index in manifest.free if index not in held], manifest.tables
    _require_place(text, manifest, loaded, folder, len(free), len(manifest.free) - len(free))
    placed = []
    for name, artifact, _ in loaded:
        prompt = artifact.prompt
        ids, free = tuple(free[: len(prompt)]), free[len(prompt) :]
        rows = as_stored(prompt, manifest)
        written = weights.write_rows(folder / tables.embedding_file, tables.embedding, ids, rows)
        digest = hashlib.sha256(written).hexdigest()
        placed.append(BakedTask(name=name, card=artifact.card, ids=ids, rows=digest, template=None))
    return tuple(placed)


def _require_place(
    text: Backbone,
    manifest: Manifest,
    loaded: Sequence[tuple[str, TaskPrompt, Path]],
    folder: Path,
    free: int,
    waiting: int = 0,
) -> None:
    """Raises ArtifactError for prompts that do not fit in number, width or name; nothing is written before."""
    needed = sum(len(artifact.prompt) for _, artifact, _ in loaded)
    if needed > free:
        raise ArtifactError(
            f"{folder}: {needed} rows are needed and {free} of {manifest.tables.room} are free"
            f"{f' ({waiting} more when questions under way are answered)' if waiting else ''}. Remove tasks, or bake "
            "anew with a larger --room."
        )
    raw = tokens.read_tokenizer(folder)
    base = [entry for entry in raw.get("added_tokens", []) if entry["id"] < manifest.tables.tokens]
    for name, artifact, path in loaded:
        tokens.check_tokens({**raw, "added_tokens": base}, [name], path)
        if artifact.prompt.shape[1] != text.width:
            raise ArtifactError(
                f"{path}: a prompt of width {artifact.prompt.shape[1]} for a model of width {text.width}."
            )


def as_stored(prompt: torch.Tensor, manifest: Manifest) -> torch.Tensor:
    """(l, d) prompt → the rows of the embedding table from which the model makes it."""
    return (prompt / manifest.tables.scale).to(DTYPES[manifest.dtype])


def _changed(folder: Path, manifest: Manifest, tasks: tuple[BakedTask, ...], *, clear: bool) -> Manifest:
    """Commit another set of tasks, then (`clear`) overwrite the rows nobody uses any more."""
    changed = _commit(folder, manifest, tasks)
    gone = tuple(sorted(manifest.used - changed.used))
    if gone and clear:
        empty = torch.zeros(len(gone), manifest.backbone.width, dtype=DTYPES[manifest.dtype])
        weights.write_rows(folder / manifest.tables.embedding_file, manifest.tables.embedding, gone, empty)
    return changed


def _commit(folder: Path, manifest: Manifest, tasks: tuple[BakedTask, ...]) -> Manifest:
    """Tokenizer first, manifest last. What an interruption leaves in between is put right by the next change."""
    raw = tokens.read_tokenizer(folder)
    write_json(folder / tokens.TOKENIZER, tokens.with_tokens(raw, manifest.tables.tokens, tasks))
    text = text_side(folder, manifest.preset, manifest.backbone.name, manifest.backbone.fingerprint)
    known = {task.name: task.template for task in manifest.tasks if task in tasks}
    tasks = tuple(
        task if task.name in known else task.model_copy(update={"template": tokens.template_for(text, task)})
        for task in tasks
    )
    changed = manifest.model_copy(update={"tasks": tasks, "files": _files(folder, manifest)})
    write_manifest(folder, changed)
    return changed


def _files(folder: Path, manifest: Manifest) -> dict[str, FileNote]:
    """Notes on all files but the embedding table (see `TableNote.prefix`); weights are hashed once, when written."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name in (MANIFEST, manifest.tables.embedding_file) or path.name.startswith("."):
            continue
        known = manifest.files.get(path.name)
        found[path.name] = known if known and path.suffix == ".safetensors" else note(path)
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One change at a time."""
    read_manifest(folder)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ArtifactError(f"{folder}: another change is under way; try again when it has ended.") from None
        yield
