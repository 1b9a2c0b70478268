"""The tokenizer's side of a baked model: new special tokens, and requests as token ids and as text."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from clinprompt.backbone.encoding import Frame, frame
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.serving.baked_manifest import BakedTask, Manifest, Template, token

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TOKENIZER = "tokenizer.json"
_PROBE = "A line, 5 mg;\n second line"


def check_name(name: str, path: Path) -> str:
    """A task's name as it stands in its tokens. Raises ArtifactError for one that cannot."""
    if not NAME.fullmatch(name):
        raise ArtifactError(
            f"{path}: {name!r} cannot be part of a token: letters, digits, dots, dashes and underscores only. Rename "
            "the file."
        )
    return name


def check_tokens(raw: dict[str, Any], names: list[str], path: Path) -> None:
    """Refuse a task whose tokens the backbone's vocabulary has already."""
    vocabulary = raw["model"].get("vocab", {})
    known = {entry["content"] for entry in raw.get("added_tokens", [])}
    for name in names:
        if token(name, 0) in known or (isinstance(vocabulary, dict) and token(name, 0) in vocabulary):
            raise ArtifactError(f"{path}: the vocabulary has {token(name, 0)!r} already; rename the task file.")


def with_tokens(raw: dict[str, Any], manifest_tokens: int, tasks: tuple[BakedTask, ...]) -> dict[str, Any]:
    """`tokenizer.json` with the tokens of these tasks; `manifest_tokens` is the size of the backbone's own vocabulary.

    Tokenizers number added tokens without gaps, so ids that belong to no task (those a model pads its vocabulary with,
    and those of removed tasks) get a token `<|task::ID|>` as far as the highest id in use.
    """
    own = [entry for entry in raw.get("added_tokens", []) if entry["id"] < manifest_tokens]
    contents = {index: content for task in tasks for index, content in zip(task.ids, task.tokens, strict=True)}
    last = max(contents, default=manifest_tokens - 1)
    new = [_special(index, contents.get(index, f"<|task::{index}|>")) for index in range(manifest_tokens, last + 1)]
    return {**raw, "added_tokens": [*own, *new]}


def _special(index: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """`tokenizer.json` of a folder. Raises BackboneError without one."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise BackboneError(
            f"{folder}: no {TOKENIZER}. Save the fast tokenizer into the model folder first: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return raw


def request_ids(text: Backbone, task: BakedTask, source: list[int]) -> list[int]:
    """Token ids of a request: frame, prompt and source in the order of the card's position."""
    around = frame(text)
    return _ordered(around, list(task.ids), source, task.card.position)


def _ordered(around: Frame, prompt: list[int], source: list[int], position: PromptPosition) -> list[int]:
    before, text, tail = [*around.bos], [*around.head, *source], [*around.tail]
    match position:
        case "start":
            return [*before, *prompt, *text, *tail]
        case "front":
            return [*prompt, *before, *text, *tail]
        case "end":
            return [*before, *text, *prompt, *tail]


def template_for(text: Backbone, task: BakedTask) -> Template | None:
    """The request's text around the source, checked by tokenising a probe; None if no text gives these tokens."""
    tokenize, around = text.tokenizer, frame(text)
    bos, head, tail = (tokenize.decode(list(part), skip_special_tokens=False) for part in _parts(around))
    prompt = "".join(task.tokens)
    orders = {
        "start": (bos + prompt + head, tail),
        "front": (prompt + bos + head, tail),
        "end": (bos + head, prompt + tail),
    }
    before, after = orders[task.card.position]
    wanted = request_ids(text, task, tokenize(_PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    candidates = [Template(before=before, after=after, add_special_tokens=False)]
    if bos and before.startswith(bos):
        candidates.insert(0, Template(before=before.removeprefix(bos), after=after))
    if not bos:
        candidates.insert(0, Template(before=before, after=after))
    for template in candidates:
        if ids_of_text(tokenize, filled(template, _PROBE), template.add_special_tokens) == wanted:
            return template
    return None


def _parts(around: Frame) -> tuple[tuple[int, ...], ...]:
    return around.bos, around.head, around.tail


def filled(template: Template, source: str) -> str:
    """The text of a request."""
    return template.before + source + template.after


def split_like_gpt2(tokenizer: Any) -> Any:
    """A copy that splits text into words by GPT-2's rule before merging bytes: llama.cpp where it knows no better."""
    found = copy.deepcopy(tokenizer)
    found.backend_tokenizer.normalizer = None
    found.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return found


def ids_of_text(tokenizer: Any, text: str, add_special_tokens: bool) -> list[int]:
    """Token ids as an engine computes them from a request's text: control tokens in it are control tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
    return ids


def suppressed(generation: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """`generation_config.json`: greedy by default, and new tokens suppressed where an engine honours that.

    `top_k: 1` is the default of engines that read this file (vLLM does): a request that asks for another temperature
    still gets the most likely token, which is never a new one, unless it sets `top_k` itself.
    """
    first = manifest.tables.rows
    kept = {key: value for key, value in generation.items() if key not in ("temperature", "top_p", "min_p")}
    ids = sorted({*kept.get("suppress_tokens", []), *range(first, first + manifest.tables.room)})
    return {**kept, "do_sample": False, "top_k": 1, "suppress_tokens": ids}
