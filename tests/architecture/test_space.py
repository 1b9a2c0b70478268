"""Operations against NumPy, gradients against finite differences, and rows that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clinprompt.architecture.network import compute_network, start_network
from clinprompt.architecture.space import OPERATIONS, find_operation, start
from clinprompt.errors import TrainingError

WIDTH, HIDDEN, LENGTH = 6, 4, 5


def weights_of(name: str, rows: int = 2) -> dict[str, torch.Tensor]:
    """Random everywhere, biases and scales too, so that each of them matters."""
    shapes = find_operation(name).shapes(WIDTH, HIDDEN)
    drawn = [start(shapes, torch.Generator().manual_seed(seed)) for seed in range(rows)]
    noise = torch.Generator().manual_seed(9)
    return {
        key: torch.stack([row[key] for row in drawn]).double()
        + 0.3 * torch.randn(rows, *shape, generator=noise, dtype=torch.float64)
        for key, shape in shapes.items()
    }


def inputs(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_rows_are_computed_as_if_alone_and_gradients_are_right(name: str) -> None:
    operation, weights, x = find_operation(name), weights_of(name), inputs()
    whole = operation.compute(x, weights)
    assert whole.shape == x.shape
    for row in range(2):
        alone = operation.compute(x[row : row + 1], {key: w[row : row + 1] for key, w in weights.items()})
        torch.testing.assert_close(alone[0], whole[row])
    leaves = [x.requires_grad_(), *(w.requires_grad_() for w in weights.values())]
    assert torch.autograd.gradcheck(lambda *_: operation.compute(x, weights), leaves, eps=1e-6, atol=1e-5)


def test_operations_are_those_of_a_plain_formulation() -> None:
    x = inputs()[0].numpy()

    def row(name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # type: ignore[type-arg]
        weights = weights_of(name)
        found = find_operation(name).compute(inputs(), weights)[0].numpy()
        return found, {key: w[0].numpy() for key, w in weights.items()}

    found, w = row("mlp-tanh")
    np.testing.assert_allclose(found, np.tanh(x @ w["down"] + w["down_bias"]) @ w["up"] + w["up_bias"])
    found, w = row("gated")
    opened = 1 / (1 + np.exp(-(x @ w["gate"] + w["gate_bias"])))
    np.testing.assert_allclose(found, ((x @ w["down"] + w["down_bias"]) * opened) @ w["up"] + w["up_bias"])
    found, w = row("convolution")
    padded = np.pad(x, ((1, 1), (0, 0)))
    for channel in range(WIDTH):
        slid = np.correlate(padded[:, channel], w["kernel"][channel], "valid") + w["bias"][channel]
        np.testing.assert_allclose(found[:, channel], slid)
    found, w = row("attention")
    scores = (x @ w["query"]) @ (x @ w["key"]).T / HIDDEN**0.5
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, shares @ (x @ w["value"]) @ w["out"])
    found, w = row("norm")
    unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, unit * w["scale"] + w["shift"])


def test_a_chain_stands_beside_a_straight_connection() -> None:
    parameters = start_network([("linear",), ("mlp-relu",)], WIDTH, HIDDEN, LENGTH, [0, 1])
    e = parameters["embeddings"]
    first = find_operation("linear").compute(
        e, {"weight": parameters["slot0.linear.weight"], "bias": parameters["slot0.linear.bias"]}
    )
    own = {key: parameters[f"slot1.mlp-relu.{key}"] for key in ("down", "down_bias", "up", "up_bias")}
    second = find_operation("mlp-relu").compute(first, own)
    torch.testing.assert_close(compute_network([("linear",), ("mlp-relu",)], parameters), e + second)
    torch.testing.assert_close(compute_network([("zero",)], parameters), e)
    torch.testing.assert_close(compute_network([("identity",)], parameters), 2 * e)


def test_a_one_hot_mixture_is_the_chosen_network() -> None:
    slots = [tuple(OPERATIONS)] * 2
    parameters = start_network(slots, WIDTH, HIDDEN, LENGTH, [0])
    names = list(OPERATIONS)
    mixture = torch.zeros(2, len(names))
    mixture[0, names.index("attention")] = 1
    mixture[1, names.index("postnorm-mlp")] = 1
    torch.testing.assert_close(
        compute_network(slots, parameters, mixture),
        compute_network([("attention",), ("postnorm-mlp",)], parameters),
    )
    with pytest.raises(TrainingError, match="needs weights"):
        compute_network(slots, parameters)


def test_unknown_operations_are_named() -> None:
    with pytest.raises(TrainingError, match="mlp-gelu"):
        find_operation("mlp-gel")
