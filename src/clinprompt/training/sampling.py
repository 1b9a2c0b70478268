"""Which examples take part in a step. Samplers keep no state: step t is a function of the seed, so resuming is exact.

- `RowSampler`: every row draws its own batch from its own examples, as if it trained alone.
- `TaskSampler`: stochastic task sampling of MPT's source stage (arXiv 2303.02861, §3.2 and released loader).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SIZE_CAP = 2**18  # examples-proportional mixing caps a task's size here (T5, MPT's released loader)


@dataclass(frozen=True, slots=True)
class Pick:
    """One example of one step: which row reads it, from which task, and which example of the task."""

    row: int
    task: int
    example: int


class Sampler(Protocol):
    """The picks of a step; `active` are the rows that still train."""

    def step(self, step: int, active: Sequence[int]) -> list[Pick]: ...


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random stream that depends on a seed and names only, on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype=np.uint32).tolist()])


@lru_cache(maxsize=4096)
def _permutation(seed: int, key: str, size: int, epoch: int) -> NDArray[np.int64]:
    return stream(seed, key, f"epoch {epoch}").permutation(size)


def endless(seed: int, key: str, size: int, begin: int, count: int) -> list[int]:
    """Items begin … begin+count of the endless stream of shuffled epochs over `size` examples."""
    return [int(_permutation(seed, key, size, i // size)[i % size]) for i in range(begin, begin + count)]


@dataclass(frozen=True)
class RowSampler:
    """Row r draws `batch_size` examples of task `tasks[r]` (of `sizes[task]` examples) per step, epoch by epoch.

    `keys[r]` names the row's random stream: a row gets the same batches in a crowd of any size and alone.
    """

    tasks: Sequence[int]
    sizes: Sequence[int]
    keys: Sequence[str]
    seeds: Sequence[int]
    batch_size: int

    def step(self, step: int, active: Sequence[int]) -> list[Pick]:
        """`batch_size` picks for every active row."""
        picks = []
        for row in active:
            task = self.tasks[row]
            size = self.sizes[task]
            count = min(self.batch_size, size)
            drawn = endless(self.seeds[row], self.keys[row], size, step * count, count)
            picks += [Pick(row, task, example) for example in drawn]
        return picks


@dataclass(frozen=True)
class TaskSampler:
    """K ~ Uniform{2..κ} tasks per batch, drawn with replacement with p ∝ min(n, 2^18); each gets B // K examples and
    the remainder goes to one of them [P, MPT's released loader]. Without `stochastic`, every batch mixes all tasks
    by B independent proportional draws (the ablation)."""

    names: Sequence[str]
    sizes: Sequence[int]
    batch_size: int
    seed: int
    most: int = 8  # κ; our choice (the papers do not give it)
    stochastic: bool = True

    def step(self, step: int, active: Sequence[int]) -> list[Pick]:
        """The picks of one batch; row k is task k."""
        random = stream(self.seed, "tasks", str(step))
        weights = np.minimum(np.asarray(self.sizes, dtype=float), SIZE_CAP)
        weights /= weights.sum()
        drawn = random.choice(len(self.sizes), size=self._draws(random), p=weights)
        shares = np.full(len(drawn), self.batch_size // len(drawn))
        shares[int(random.integers(len(drawn)))] += self.batch_size % len(drawn)
        picks = []
        for task, share in zip(drawn.tolist(), shares.tolist(), strict=True):
            picks += [Pick(task, task, int(i)) for i in random.integers(self.sizes[task], size=share)]
        return picks

    def _draws(self, random: np.random.Generator) -> int:
        if not self.stochastic:
            return self.batch_size
        most = max(2, min(self.most, self.batch_size))
        return min(int(random.integers(2, most + 1)), self.batch_size)
