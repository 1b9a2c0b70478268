"""A synthetic token stream with the lengths of clinical text-to-text tasks, made from a seed."""

from __future__ import annotations

import numpy as np

from clinprompt.backbone.encoding import Encoded
from clinprompt.training.batching import TaskExamples

FIRST = 16  # ids below are left to special tokens


def stream(count: int, vocabulary: int, end: int, *, seed: int = 0, text: tuple[int, int] = (40, 300)) -> TaskExamples:
    """`count` examples: texts of 40–300 tokens (log-normal, median about 110), answers of 5–40 tokens, then the end.

    Tokens follow Zipf's law; an answer repeats a stretch of its text, so that there is something to learn.
    The prompt stands before everything, as PEFT's does.
    """
    random = np.random.default_rng(seed)
    shortest, longest = text
    frequencies = 1.0 / np.arange(1, vocabulary - FIRST + 1)
    frequencies /= frequencies.sum()
    examples = []
    for _ in range(count):
        length = int(np.clip(random.lognormal(np.log(2.75 * shortest), 0.6), shortest, longest))
        body = random.choice(vocabulary - FIRST, size=length, p=frequencies) + FIRST
        answer = int(np.clip(random.lognormal(np.log(12), 0.6), 5, min(40, length)))
        start = int(random.integers(0, length - answer + 1))
        ids = np.concatenate([body, body[start : start + answer], [end]]).astype(np.int32)
        examples.append(Encoded(ids, context=length, insert_at=0))
    return TaskExamples("stream", examples)
