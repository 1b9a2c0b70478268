"""Many soft prompts in one tensor, one row per run.

The backbone is frozen, so R independent prompt trainings are one training of an R-row bank: a batch names a row per
example, and rows never touch each other. Two forms, one interface:

- `DirectBank`: every row owns its prompt (teachers, single-task prompt tuning).
- `DecomposedBank`: row k is `P*[group k] ∘ (u_k v_kᵀ)` (MPT, arXiv 2303.02861, §3.1); rows of one group share `P*`.

All values are fp32 whatever the backbone's precision. What is trained inside the backbone (`clinprompt.adapters`) has
the same interface, `Bank`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from clinprompt.backbone.model import Backbone


class Bank(Protocol):
    """What training and inference need of anything that is learned beside a frozen backbone, in rows."""

    @property
    def rows(self) -> int: ...

    @property
    def length(self) -> int:
        """Positions of the context that the bank takes from every sequence."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether one batch may hold examples of several rows."""
        ...

    @property
    def adapts(self) -> bool:
        """Whether the backbone itself computes differently; then a prompt's keys and values are not its alone."""
        ...

    def applied(
        self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None = None
    ) -> AbstractContextManager[Tensor]:
        """While it is open, `backbone` computes a batch of B examples as the bank says: example i with row `rows[i]`.

        Yields the prompts (B, l, d) to insert into the examples (l = 0: none), differentiable. `tasks[i]` numbers the
        task of example i; only banks whose rows know several tasks read it.
        """
        ...

    def announce(self, step: int, picks: Sequence[int]) -> None:
        """The next batch is of training step `step`, its example i is number `picks[i]` of that step. What a bank draws
        by chance depends on nothing else: not on interruptions, micro-batches or processes."""
        ...

    def extra_loss(self) -> Tensor | None:
        """(R,) terms added to every row's loss, of the forward pass just made (a load balance); None: there is none."""
        ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name; the first dimension of each is its slices."""
        ...

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """For each of the given rows, the slice of parameter `name` it uses."""
        ...

    def values(self) -> dict[str, Tensor]:
        """All tensors, detached, by name."""
        ...

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set all tensors in place."""
        ...


class PromptBank(Bank, Protocol):
    """A bank of soft prompts and nothing else."""

    def compose(self, rows: Tensor) -> Tensor:
        """(B,) row numbers → (B, l, d) prompts, differentiable."""
        ...


class PromptModule(nn.Module, ABC):
    """What banks of soft prompts share: parameters of a module, composed into a prompt per row."""

    mixes = True
    adapts = False

    @abstractmethod
    def compose(self, rows: Tensor) -> Tensor:
        """(B,) → (B, l, d)."""

    @contextmanager
    def applied(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Prompts change nothing inside the backbone: every distinct row is composed once and repeated.

        index_select, here and in every bank: its backward pass always adds up in one order. That of `prompts[rows]`
        adds from several threads at once, and two runs of the same seed would drift apart from the last digit on.
        """
        distinct, inverse = torch.unique(torch.tensor(list(rows), device=backbone.device), return_inverse=True)
        yield self.compose(distinct).index_select(0, inverse)

    def announce(self, step: int, picks: Sequence[int]) -> None:
        """Nothing here is drawn by chance."""

    def extra_loss(self) -> Tensor | None:
        """Prompts have none."""
        return None

    def values(self) -> dict[str, Tensor]:
        """All tensors, detached, by name."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set all tensors in place."""
        self.load_state_dict(values)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class DirectBank(PromptModule):
    """R prompts (R, l, d), each its own row."""

    def __init__(self, prompt: Tensor) -> None:
        super().__init__()
        if prompt.ndim != 3:
            raise ValueError(f"prompts must be (rows, length, width), not {tuple(prompt.shape)}")
        self.prompt = nn.Parameter(prompt.detach().to(torch.float32).clone())

    @property
    def rows(self) -> int:
        return self.prompt.shape[0]

    @property
    def length(self) -> int:
        return self.prompt.shape[1]

    def compose(self, rows: Tensor) -> Tensor:
        """(B,) → (B, l, d)."""
        return self.prompt.index_select(0, rows)

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Row k uses slice k."""
        return rows


class DecomposedBank(PromptModule):
    """Rows `shared[group] ∘ (u vᵀ)`: shared (G, l, d), u (R, l, r), v (R, d, r).

    `train_shared=False` freezes P* (our third adaptation mode: only u and v, l + d numbers per task at rank one),
    `train_vectors=False` u and v (the ablation without decomposition: at u vᵀ = 1 every row is P*).
    """

    group: Tensor

    def __init__(
        self,
        shared: Tensor,
        u: Tensor,
        v: Tensor,
        group: Sequence[int] | Tensor,
        *,
        train_shared: bool = True,
        train_vectors: bool = True,
    ) -> None:
        super().__init__()
        if shared.ndim != 3 or u.ndim != 3 or v.ndim != 3 or u.shape[0] != v.shape[0] or u.shape[2] != v.shape[2]:
            raise ValueError(f"shapes do not fit: {tuple(shared.shape)}, {tuple(u.shape)}, {tuple(v.shape)}")
        if (u.shape[1], v.shape[1]) != (shared.shape[1], shared.shape[2]):
            raise ValueError(f"u is for length {u.shape[1]}, v for width {v.shape[1]}; P* is {tuple(shared.shape[1:])}")
        self.shared = nn.Parameter(shared.detach().to(torch.float32).clone(), requires_grad=train_shared)
        self.u = nn.Parameter(u.detach().to(torch.float32).clone(), requires_grad=train_vectors)
        self.v = nn.Parameter(v.detach().to(torch.float32).clone(), requires_grad=train_vectors)
        self.register_buffer("group", torch.as_tensor(group, dtype=torch.long).clone())

    @property
    def rows(self) -> int:
        return self.u.shape[0]

    @property
    def length(self) -> int:
        return self.shared.shape[1]

    @property
    def rank(self) -> int:
        return self.u.shape[2]

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The task vectors of rows (B,): u (B, l, r) and v (B, d, r)."""
        return self.u.index_select(0, rows), self.v.index_select(0, rows)

    def compose(self, rows: Tensor) -> Tensor:
        """(B,) → (B, l, d)."""
        factor = torch.einsum("blr,bdr->bld", *self.vectors(rows))
        return self.shared.index_select(0, self.group[rows]) * factor

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Row k uses slice group[k] of P* and slice k of its own vectors."""
        return self.group[rows] if name == "shared" else rows


def unit_vectors(
    rows: int, length: int, width: int, rank: int = 1, *, noise: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Task vectors with `u vᵀ = 1` (+ small noise), so that a task starts at P* itself.

    Rank one: u = v = 1. Further ranks start with v = 0 and u ~ N(0, 0.02): they add nothing yet but can learn.
    `noise` breaks the tie between tasks. (PEFT draws both from N(0, 0.02): every prompt then starts near zero.)
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(rows, length, rank, generator=generator) * 0.02
    v = torch.zeros(rows, width, rank)
    u[..., 0], v[..., 0] = 1.0, 1.0
    u[..., 0] += noise * torch.randn(rows, length, generator=generator)
    v[..., 0] += noise * torch.randn(rows, width, generator=generator)
    return u, v


def trainable_parameters(bank: Bank) -> int:
    """Numbers that training changes, over all rows."""
    return sum(p.numel() for p in bank.trainable().values())
