"""The network between the learned prompt embeddings and the prefix: a chain of slots beside a straight connection.

With embeddings E (m, w) and slots f₁ … f_n, its output is `E + f_n(… f₁(E))`. The straight connection is our choice:
with it, `zero` in a slot leaves E itself instead of a prefix that is the same at every position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from clinprompt.architecture.space import MOST_SLOTS, OPERATIONS, find_operation, start
from clinprompt.errors import TrainingError

EMBEDDINGS = "embeddings"
Slots = Sequence[Sequence[str]]
"""The candidate operations of every slot: one each in a chosen network, several in a relaxed one."""


class Architecture(BaseModel):
    """A chosen network: one operation per slot, the width w of its positions, the width h inside its bottlenecks, and
    the length m of the prefix it produces. `search` records where it was found and is read by nobody."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: tuple[str, ...] = Field(default=("mlp-tanh",), min_length=1, max_length=MOST_SLOTS)
    width: int = Field(default=64, ge=1, le=4096)
    hidden: int = Field(default=32, ge=1, le=4096)
    length: int = Field(default=16, ge=1, le=1024)
    search: dict[str, Any] = Field(default_factory=dict)

    @field_validator("operations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in OPERATIONS]
        if unknown:
            raise ValueError(f"unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}")
        return names

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        return tuple((name,) for name in self.operations)

    def bare(self) -> Architecture:
        """Without the record of its search."""
        return self.model_copy(update={"search": {}})


def network_shapes(slots: Slots, width: int, hidden: int, length: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one row of all its parameters; an operation's are called "slot<i>.<operation>.<weight>"."""
    found: dict[str, tuple[int, ...]] = {EMBEDDINGS: (length, width)}
    for index, candidates in enumerate(slots):
        for name in candidates:
            shapes = find_operation(name).shapes(width, hidden)
            found |= {f"slot{index}.{name}.{weight}": shape for weight, shape in shapes.items()}
    return found


def start_network(slots: Slots, width: int, hidden: int, length: int, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Parameters (R, …) of one network per seed: embeddings N(0, 1), weights as `space.start` draws them."""
    shapes = network_shapes(slots, width, hidden, length)
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        first = {EMBEDDINGS: torch.randn(shapes[EMBEDDINGS], generator=generator)}
        rows.append(first | start({n: s for n, s in shapes.items() if n != EMBEDDINGS}, generator))
    return {name: torch.stack([row[name] for row in rows]) for name in shapes}


def compute_network(slots: Slots, parameters: Mapping[str, Tensor], mixture: Tensor | None = None) -> Tensor:
    """(R, m, w). `mixture` (slots, candidates) weighs the candidates of every slot; None: each slot has only one."""
    if mixture is None and any(len(candidates) != 1 for candidates in slots):
        raise TrainingError("a slot with several candidates needs weights for them")
    embeddings = parameters[EMBEDDINGS]
    x = embeddings
    for index, candidates in enumerate(slots):
        outputs = [_operate(index, name, x, parameters) for name in candidates]
        if mixture is None:
            x = outputs[0]
        else:
            x = torch.einsum("orml,o->rml", torch.stack(outputs), mixture[index].to(x.dtype))
    return embeddings + x


def solved_projection(states: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """W (R, w, n) and b (R, n) with which `states W + b` is the target (R, m, n): exactly if w ≥ m and the states
    (R, m, w) are independent, else as near as rank w comes."""
    bias = target.mean(1)
    return torch.linalg.pinv(states) @ (target - bias[:, None]), bias


def _operate(index: int, name: str, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    place = f"slot{index}.{name}."
    own = {key.removeprefix(place): value for key, value in parameters.items() if key.startswith(place)}
    return find_operation(name).compute(x, own)
