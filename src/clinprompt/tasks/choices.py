"""Closed answers: one of several texts, decided by length-normalised likelihood, pooled over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clinprompt.tasks.codec import Output
from clinprompt.tasks.surface import normalise


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen index (None if no answer could be used), a probability per choice, and the unusable answers."""

    index: int | None
    probabilities: tuple[float, ...]
    malformed: tuple[str, ...]


def choose(choices: Sequence[str], outputs: Sequence[Output]) -> Choice:
    """Pool the answers to the windows of one question.

    Log-likelihoods per token are averaged over the windows and put through a softmax. Answers without finite scores
    count as one vote for the choice they spell (case ignored); votes are used only if no answer has scores.
    """
    scored, votes = [], np.zeros(len(choices))
    malformed = []
    for output in outputs:
        scores = np.asarray(output.scores, dtype=np.float64)
        if len(scores) == len(choices) and not np.isnan(scores).any() and np.isfinite(scores).any():
            scored.append(np.maximum(scores, -1e9))
            continue
        index = _spelt(choices, output.text)
        if index is None:
            malformed.append(output.text)
        else:
            votes[index] += 1
    if scored:
        mean = np.mean(scored, axis=0)
        weights = np.exp(mean - mean.max())
    elif votes.any():
        weights = votes
    else:
        return Choice(None, (), tuple(malformed))
    return Choice(int(weights.argmax()), tuple((weights / weights.sum()).tolist()), tuple(malformed))


def _spelt(choices: Sequence[str], answer: str) -> int | None:
    wanted = normalise(answer)
    for key in (str, str.lower):
        known = [key(normalise(choice)) for choice in choices]
        if key(wanted) in known:
            return known.index(key(wanted))
    return None
