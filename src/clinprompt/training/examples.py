"""Records of a task into encoded training examples: rendered by its codec, balanced, checked against the context."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from clinprompt.backbone.encoding import Encoded, encode, source_budget
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.codec import Codec, Example
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.ner import NerCodec
from clinprompt.tasks.registry import codec_for
from clinprompt.tasks.relation import RelationCodec
from clinprompt.tasks.surface import NONE
from clinprompt.tasks.triples import TripleCodec
from clinprompt.training.batching import TaskExamples

NEGATIVES = 1.0
"""Most examples answered "none" per example with an answer, in training only. Our choice: sentences without entities
and pairs without a relation outnumber the others up to 9:1, and a short training would learn to say nothing."""


def task_codec(
    backbone: Backbone, task: TaskDefinition, prompt_length: int, reserve: int, window: int | None = None
) -> Codec:
    """The codec of a task with windows that fit this backbone beside a prompt and an answer of `reserve` tokens.

    `window` (default: the backbone preset's) bounds the text of a ner or relation window further: the answer grows
    with the text there, and must fit. Other tasks are asked about as much text at once as there is room for.
    """
    budget = source_budget(backbone, prompt_length, reserve)
    codec = codec_for(task, backbone.length, budget)
    window = window or backbone.preset.window
    if window is None or task.type not in ("ner", "relation"):
        return codec
    assert isinstance(codec, NerCodec | RelationCodec | TripleCodec)
    return codec_for(task, backbone.length, min(budget, window + backbone.length(codec.instruction)))


def hashed_order(name: str, identifiers: Sequence[str], seed: int = 0) -> list[int]:
    """Indices in an order that depends on the identifiers and a seed only, not on how the corpus is sorted."""
    keys = [hashlib.sha256(f"{seed}\x1f{name}\x1f{i}".encode()).digest() for i in identifiers]
    return sorted(range(len(keys)), key=lambda i: keys[i])


def sample_records(name: str, records: Sequence[Record], limit: int | None, seed: int = 0) -> list[Record]:
    """At most `limit` records, chosen by hash; all of them, in hashed order, without a limit."""
    return [records[i] for i in hashed_order(name, [r.id for r in records], seed)[:limit]]


def balanced(name: str, examples: Sequence[Example], limit: int | None, negatives: float = NEGATIVES) -> list[Example]:
    """Examples in hashed order, those answered "none" thinned to `negatives` per answered one, at most `limit`."""
    order = hashed_order(name, [f"{e.record_id}\x1f{e.window}\x1f{e.arguments}" for e in examples])
    positive = sum(e.target != NONE for e in examples)
    allowed = max(1, round(negatives * positive))
    kept: list[Example] = []
    for index in order:
        if examples[index].target == NONE:
            if allowed == 0:
                continue
            allowed -= 1
        kept.append(examples[index])
    return kept[:limit]


def prepare(
    backbone: Backbone,
    task: TaskDefinition,
    train: Sequence[Record],
    validation: Sequence[Record],
    *,
    prompt_length: int,
    position: PromptPosition,
    reserve: int,
    window: int | None = None,
    limit: int | None = None,
) -> TaskExamples:
    """Encode a task's training and validation records. Examples longer than the context are left out and counted.

    Raises TaskError when nothing is left to train on.
    """
    codec = task_codec(backbone, task, prompt_length, reserve, window)
    chosen = balanced(task.name, [e for r in train for e in codec.render(r)], limit)
    held = balanced(task.name, [e for r in validation for e in codec.render(r)], limit)
    encoded = encode_examples(backbone, chosen, position)
    kept = [e for e in encoded if len(e.ids) + prompt_length <= backbone.context]
    if train and not kept:
        raise TaskError(
            f"task {task.name}: none of its {len(encoded)} training examples fits the backbone's context of "
            f"{backbone.context} tokens beside a prompt of {prompt_length}. Shorten the answers or the prompt."
        )
    judged = [e for e in encode_examples(backbone, held, position) if len(e.ids) + prompt_length <= backbone.context]
    return TaskExamples(task.name, kept, judged, skipped=len(encoded) - len(kept))


def encode_examples(backbone: Backbone, examples: Sequence[Example], position: PromptPosition) -> list[Encoded]:
    """Token ids of rendered examples with their targets."""
    return encode(backbone, [e.source for e in examples], [e.target for e in examples], position)


def answer_limit(examples: Sequence[Encoded], reserve: int) -> int:
    """Most tokens an answer may have at inference: half as long again as the longest trained one, at most `reserve`."""
    longest = max((e.labels for e in examples), default=reserve)
    return min(reserve, longest + longest // 2 + 8)
