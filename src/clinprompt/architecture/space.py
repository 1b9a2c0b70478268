"""The search space of PrefixNAS: the operations a slot may hold. The paper does not publish its list; this one is ours.

An operation maps m positions of width w to m positions of width w. It works on R networks at once: inputs are
(R, m, w), every tensor of weights has R as first dimension, and row r never sees another row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clinprompt.errors import TrainingError, unknown_name

KERNEL = 3  # positions that the convolution sees
Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Operation:
    """`shapes(w, h)`: its weights for one row, by name, h the bottleneck's width; `compute(x, weights)`: (R, m, w) →
    (R, m, w)."""

    name: str
    summary: str
    shapes: Callable[[int, int], Shapes]
    compute: Callable[[Tensor, Weights], Tensor]


def start(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of one row: matrices and kernels normal with deviation 1/√inputs, scales one, everything else zero."""
    found = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            found[name] = torch.ones(shape) if name.endswith("scale") else torch.zeros(shape)
        else:
            inputs = shape[1] if name.endswith("kernel") else shape[0]
            found[name] = torch.randn(shape, generator=generator) / inputs**0.5
    return found


def find_operation(name: str) -> Operation:
    """The operation of this name. Raises TrainingError with the nearest name and all known ones."""
    if name not in OPERATIONS:
        raise TrainingError(unknown_name("operation", name, list(OPERATIONS)))
    return OPERATIONS[name]


# -- parts -----------------------------------------------------------------------------------------------


def _nothing(width: int, hidden: int) -> Shapes:
    return {}


def _linear_shapes(width: int, hidden: int) -> Shapes:
    return {"weight": (width, width), "bias": (width,)}


def _linear(x: Tensor, w: Weights) -> Tensor:
    return x @ w["weight"] + w["bias"][:, None]


def _mlp_shapes(width: int, hidden: int) -> Shapes:
    return {"down": (width, hidden), "down_bias": (hidden,), "up": (hidden, width), "up_bias": (width,)}


def _mlp(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Weights], Tensor]:
    def compute(x: Tensor, w: Weights) -> Tensor:
        return activation(x @ w["down"] + w["down_bias"][:, None]) @ w["up"] + w["up_bias"][:, None]

    return compute


def _gated_shapes(width: int, hidden: int) -> Shapes:
    return _mlp_shapes(width, hidden) | {"gate": (width, hidden), "gate_bias": (hidden,)}


def _gated(x: Tensor, w: Weights) -> Tensor:
    """Dauphin et al., arXiv 1612.08083: (x D + b) ∘ σ(x G + c), then back up."""
    opened = torch.sigmoid(x @ w["gate"] + w["gate_bias"][:, None])
    return ((x @ w["down"] + w["down_bias"][:, None]) * opened) @ w["up"] + w["up_bias"][:, None]


def _convolution_shapes(width: int, hidden: int) -> Shapes:
    return {"kernel": (width, KERNEL), "bias": (width,)}


def _convolution(x: Tensor, w: Weights) -> Tensor:
    """Every channel by itself over neighbouring positions; beyond the ends there are zeros."""
    count = x.shape[1]
    padded = functional.pad(x, (0, 0, KERNEL // 2, KERNEL // 2))
    shifted = torch.stack([padded[:, k : k + count] for k in range(KERNEL)], dim=-1)  # (R, m, w, KERNEL)
    return (shifted * w["kernel"][:, None]).sum(-1) + w["bias"][:, None]


def _attention_shapes(width: int, hidden: int) -> Shapes:
    return {"query": (width, hidden), "key": (width, hidden), "value": (width, hidden), "out": (hidden, width)}


def _attention(x: Tensor, w: Weights) -> Tensor:
    """One head over all positions; a prefix has no order of reading, so there is no mask."""
    query, key, value = (x @ w[name] for name in ("query", "key", "value"))
    seen = torch.softmax(query @ key.transpose(1, 2) / key.shape[-1] ** 0.5, dim=-1)
    return seen @ value @ w["out"]


def _norm_shapes(width: int, hidden: int) -> Shapes:
    return {"scale": (width,), "shift": (width,)}


def _norm(x: Tensor, w: Weights) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:]) * w["scale"][:, None] + w["shift"][:, None]


def _with_norm(shapes: Callable[[int, int], Shapes]) -> Callable[[int, int], Shapes]:
    return lambda width, hidden: shapes(width, hidden) | _norm_shapes(width, hidden)


_GELU = _mlp(functional.gelu)

_ALL = (
    Operation("zero", "nothing: the slot adds zeros", _nothing, lambda x, w: x * 0),
    Operation("identity", "x", _nothing, lambda x, w: x),
    Operation("linear", "x W + b", _linear_shapes, _linear),
    Operation("mlp-relu", "bottleneck with ReLU", _mlp_shapes, _mlp(functional.relu)),
    Operation("mlp-gelu", "bottleneck with GELU", _mlp_shapes, _GELU),
    Operation("mlp-silu", "bottleneck with SiLU", _mlp_shapes, _mlp(functional.silu)),
    Operation("mlp-tanh", "bottleneck with tanh (the network of arXiv 2101.00190)", _mlp_shapes, _mlp(torch.tanh)),
    Operation("gated", "gated linear unit in the bottleneck", _gated_shapes, _gated),
    Operation("convolution", "depth-wise over three positions", _convolution_shapes, _convolution),
    Operation("attention", "self-attention over positions, one head", _attention_shapes, _attention),
    Operation("norm", "layer norm", _norm_shapes, _norm),
    Operation("residual-mlp", "x + mlp-gelu(x)", _mlp_shapes, lambda x, w: x + _GELU(x, w)),
    Operation("prenorm-mlp", "x + mlp-gelu(norm x)", _with_norm(_mlp_shapes), lambda x, w: x + _GELU(_norm(x, w), w)),
    Operation("postnorm-mlp", "norm(x + mlp-gelu(x))", _with_norm(_mlp_shapes), lambda x, w: _norm(x + _GELU(x, w), w)),
    Operation(
        "prenorm-attention",
        "x + attention(norm x)",
        _with_norm(_attention_shapes),
        lambda x, w: x + _attention(_norm(x, w), w),
    ),
)
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}
MOST_SLOTS = 4
