"""Mixed vectors against NumPy, forward and gradient, and what they start at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clinprompt.prompts.bank import trainable_parameters
from clinprompt.prompts.mixture import FLOOR, MixtureBank

T, R, L, D = 4, 3, 5, 6


def bank_of(weights: Tensor, rank: int = 1, **options: bool) -> MixtureBank:
    torch.manual_seed(0)
    own = (0.1 * torch.randn(R, L, rank), 0.1 * torch.randn(R, D, rank))
    sources = (torch.randn(T, L, rank), torch.randn(T, D, rank))
    return MixtureBank(torch.randn(2, L, D), sources, weights, own, [0, 1, 1], **options)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("rank", [1, 2])
def test_a_row_is_the_formula(rank: int) -> None:
    bank = bank_of(torch.rand(R, T), rank)
    with torch.no_grad():
        bank.gates_v.add_(torch.randn(R, T))
    got = bank.compose(torch.arange(R)).detach().numpy()
    value = {name: tensor.double().numpy() for name, tensor in bank.values().items()}
    for row, group in enumerate([0, 1, 1]):
        u = (
            sum(a * u for a, u in zip(softmax(value["gates_u"][row]), value["sources_u"], strict=True))
            + value["u"][row]
        )
        v = (
            sum(b * v for b, v in zip(softmax(value["gates_v"][row]), value["sources_v"], strict=True))
            + value["v"][row]
        )
        np.testing.assert_allclose(got[row], value["shared"][group] * (u @ v.T), rtol=1e-5, atol=1e-6)


def test_gradients_are_differences() -> None:
    bank = bank_of(torch.rand(R, T)).double()
    rows, wanted = torch.tensor([0, 2, 2]), torch.randn(3, L, D, dtype=torch.float64)

    def loss() -> Tensor:
        return ((bank.compose(rows) - wanted) ** 2).sum()

    loss().backward()  # type: ignore[no-untyped-call]
    for name, parameter in bank.trainable().items():
        assert parameter.grad is not None
        index = (2 if parameter.shape[0] == R else 1, 1)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                parameter[index] += step
                values.append(float(loss()))
            parameter[index] += 1e-6
        difference = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad[index].sum()) == pytest.approx(difference, rel=1e-4), name


def test_where_gates_start() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25] * 4, [0.0, 1.0, 0.0, 0.0]])
    bank = bank_of(weights)
    for gates in (bank.gates_u, bank.gates_v):
        torch.testing.assert_close(gates.detach().softmax(-1)[:2], weights[:2])
        assert gates.detach().softmax(-1)[2, 1] == pytest.approx(1 / (1 + (T - 1) * FLOOR))


def test_what_is_trained() -> None:
    whole = L * D * 2 + R * (2 * T + L + D)
    assert trainable_parameters(bank_of(torch.rand(R, T))) == whole
    assert set(bank_of(torch.rand(R, T), train_own=False).trainable()) == {"shared", "gates_u", "gates_v"}
    assert set(bank_of(torch.rand(R, T), train_shared=False).trainable()) == {"u", "v", "gates_u", "gates_v"}


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"weights must be \(rows, sources\)"):
        bank_of(torch.rand(R, T + 1))
