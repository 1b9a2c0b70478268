"""Text to token ids: where the chat template, the soft prompt and the answer go.

The pieces of a causal sequence, with P the soft prompt:

    start:  [BOS] P  head  source  tail  target     (the default: behind BOS, as a served token string would stand)
    end:    [BOS] head  source  P  tail  target     (near the answer: local-attention layers still see it)
    front:  P  [BOS] head  source  tail  target     (before everything: PEFT's convention, for imported prompts)

`head` and `tail` are what the tokenizer's own chat template puts around a user's turn (empty without chat). T5-type
models get P and the source in the encoder and the target in the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import BackboneError

_SENTINEL = "CLINPROMPTSOURCE"
# Templates that tell the model today's date (gpt-oss, LLaMA 3.2) are told this one: a prompt must meet the text it was
# trained with, and a training resumed after midnight must be the same training. Our choice.
_TODAY = date(2025, 1, 1)
_CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example without its prompt: `ids[:context]` is read, `ids[context:]` is the target.

    The prompt is inserted before `ids[insert_at]`.
    """

    ids: NDArray[np.int32]
    context: int
    insert_at: int

    @property
    def labels(self) -> int:
        """Number of target tokens."""
        return len(self.ids) - self.context


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids around the source: `bos`, then `head` before it, `tail` behind it."""

    bos: tuple[int, ...]
    head: tuple[int, ...]
    tail: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.bos) + len(self.head) + len(self.tail)


def frame(backbone: Backbone) -> Frame:
    """The tokens a backbone wants around every source; computed from its own chat template."""
    if backbone.kind == "seq2seq":
        return Frame((), (), (int(backbone.tokenizer.eos_token_id),))
    if not backbone.preset.chat:
        return Frame(_bos(backbone.tokenizer), (), ())
    return _chat_frame(backbone.tokenizer, backbone.preset.answer_prefix)


def _bos(tokenizer: Any) -> tuple[int, ...]:
    """The BOS the tokenizer itself would add (LLaMA does; GPT-2 types and the embedded model do not)."""
    probe = tokenizer("a")["input_ids"]
    starts_with_bos = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
    return (int(tokenizer.bos_token_id),) if starts_with_bos else ()


@lru_cache(maxsize=16)
def _chat_frame(tokenizer: Any, answer_prefix: str) -> Frame:
    if not tokenizer.chat_template:
        raise BackboneError("this preset speaks through a chat template, but the tokenizer has none: set chat: false")
    turn = [{"role": "user", "content": _SENTINEL}]
    template = dated(tokenizer.get_chat_template())
    text: str = tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False, add_generation_prompt=True)
    if text.count(_SENTINEL) != 1:
        raise BackboneError("the chat template does not show the user's text exactly once; set chat: false")
    before, after = text.split(_SENTINEL)

    def ids(part: str) -> tuple[int, ...]:
        return tuple(tokenizer(part, add_special_tokens=False)["input_ids"])

    head, tail = ids(before), ids(after + answer_prefix)
    bos = tokenizer.bos_token_id
    if bos is not None and head[:1] == (bos,):
        return Frame((int(bos),), head[1:], tail)
    return Frame((), head, tail)


def dated(template: str) -> str:
    """A chat template with the calls that ask for the current date replaced by a fixed one."""
    return _CLOCK.sub(lambda call: repr(_TODAY.strftime(call["form"])), template)


def encode(
    backbone: Backbone, sources: Sequence[str], targets: Sequence[str] | None, position: PromptPosition
) -> list[Encoded]:
    """Token ids of many examples; with `targets` None the sequences end where the answer begins.

    The target is tokenised on its own (" " + target, then EOS), so training, likelihood and generation see the same
    tokens whatever the source ends with.
    """
    around = frame(backbone)
    tokenize = backbone.tokenizer
    # A note that spells out a control token stays text: it can end neither its turn nor the answer.
    source_ids = (
        tokenize(list(sources), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if sources
        else []
    )
    target_ids = target_tokens(backbone, targets) if targets is not None else [[] for _ in sources]
    return [_join(around, s, t, position) for s, t in zip(source_ids, target_ids, strict=True)]


def target_tokens(backbone: Backbone, targets: Sequence[str]) -> list[list[int]]:
    """Token ids of answers, each ended by EOS. Chat models answer without the leading space."""
    lead = "" if backbone.preset.chat or backbone.kind == "seq2seq" else " "
    texts = [lead + target for target in targets]
    if not texts:
        return []
    ids = backbone.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [[*row, backbone.end_ids[0]] for row in ids]


def _join(around: Frame, source: list[int], target: list[int], position: PromptPosition) -> Encoded:
    before = [*around.bos, *around.head, *source]
    context = [*before, *around.tail]
    insert_at = {"start": len(around.bos), "front": 0, "end": len(before)}[position]
    return Encoded(np.asarray([*context, *target], dtype=np.int32), len(context), insert_at)


def source_budget(backbone: Backbone, prompt_length: int, target_reserve: int) -> int:
    """Most tokens a source may have so that frame, prompt and an answer of `target_reserve` tokens still fit."""
    budget = backbone.context - prompt_length - frame(backbone).size - target_reserve
    if budget < 16:
        raise BackboneError(
            f"{backbone.name}: a context of {backbone.context} tokens leaves no room for text beside a prompt of "
            f"{prompt_length} and an answer of {target_reserve}. Use a shorter prompt."
        )
    return budget
