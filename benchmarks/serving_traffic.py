"""The traffic of the serving benchmark: which task is asked about which text, the same for every contender."""

from __future__ import annotations

import random
from dataclasses import dataclass

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone
from clinprompt.corpora.sample.suite import sample_suite


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the number of its task, and the text behind the task's prompt."""

    task: int
    source: str


def passes(backbone: Backbone, *, count: int, requests: int, tasks: int, tokens: int) -> list[list[Ask]]:
    """`count` lists of requests in mixed order, about equally many for each task; no text comes twice.

    Texts are words of synthetic notes, of `tokens` tokens or a few more. New texts in every pass: an engine with a
    prefix cache would know those of the pass before.
    """
    words = " ".join(data.splits["train"][0].text for data in sample_suite(train=2, validation=1, test=1)).split()
    return [_mixed(backbone, words, requests, tasks, tokens, seed) for seed in range(count)]


def _mixed(backbone: Backbone, words: list[str], requests: int, tasks: int, tokens: int, seed: int) -> list[Ask]:
    chance = random.Random(seed)
    order = [number % tasks for number in range(requests)]
    chance.shuffle(order)
    return [Ask(task, _text(backbone, words, tokens, chance)) for task in order]


def _text(backbone: Backbone, words: list[str], tokens: int, chance: random.Random) -> str:
    chosen: list[str] = []
    while (have := backbone.length(" ".join(chosen))) < tokens:
        chosen += chance.choices(words, k=max(1, (tokens - have) // 2))
    return " ".join(chosen)


def plain_ids(backbone: Backbone, ask: Ask) -> list[int]:
    """Token ids of a request without any prompt, as our own paths encode it."""
    found: list[int] = encode(backbone, [ask.source], None, "start")[0].ids.tolist()
    return found
