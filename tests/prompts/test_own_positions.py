"""Own positions before a metaprompt's prompt: what is composed, what moves, what rows have to do with each other."""

from __future__ import annotations

import pytest
import torch

from clinprompt.prompts.bank import DecomposedBank
from clinprompt.prompts.own_positions import OwnPositionsBank


def frozen(rows: int = 3, length: int = 2, width: int = 4) -> DecomposedBank:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(1, length, width, generator=generator)
    u, v = torch.randn(rows, length, 1, generator=generator), torch.randn(rows, width, 1, generator=generator)
    return DecomposedBank(shared, u, v, [0] * rows, train_shared=False, train_vectors=False)


def bank(rows: int = 3, own: int = 5) -> OwnPositionsBank:
    return OwnPositionsBank(torch.randn(rows, own, 4, generator=torch.Generator().manual_seed(2)), frozen(rows))


def test_own_positions_stand_before_the_product() -> None:
    one = bank()
    found = one.compose(torch.tensor([2, 0]))
    assert found.shape == (2, 7, 4) and one.length == 7 and one.rows == 3
    for place, row in enumerate([2, 0]):
        product = one.rest.shared[0].numpy() * (one.rest.u[row].numpy() @ one.rest.v[row].numpy().T)
        assert (found[place, :5].detach() == one.own[row]).all()
        assert found[place, 5:].numpy(force=True) == pytest.approx(product, abs=1e-6)


def test_nothing_but_own_positions_of_the_rows_in_a_batch_moves() -> None:
    one = bank()
    assert list(one.trainable()) == ["own"]
    one.compose(torch.tensor([1, 1])).square().sum().backward()
    gradient = one.own.grad
    assert gradient is not None and gradient[[0, 2]].abs().sum() == 0 and gradient[1].abs().sum() > 0
    assert torch.allclose(gradient[1], 4 * one.own[1])  # d/dx of 2x², both examples have this row
    assert one.rest.shared.grad is None and one.rest.u.grad is None


def test_what_moves_beneath_has_its_own_slices() -> None:
    shared, u, v = torch.ones(2, 2, 4), torch.ones(3, 2, 1), torch.ones(3, 4, 1)
    one = OwnPositionsBank(torch.zeros(3, 1, 4), DecomposedBank(shared, u, v, [0, 1, 1]))
    assert set(one.trainable()) == {"own", "shared", "u", "v"}
    rows = torch.tensor([2])
    assert one.slices("own", rows).tolist() == [2] and one.slices("shared", rows).tolist() == [1]


def test_values_come_back() -> None:
    one, other = bank(), OwnPositionsBank(torch.zeros(3, 5, 4), frozen())
    kept = {name: tensor.clone() for name, tensor in one.values().items()}
    other.restore(kept)
    rows = torch.arange(3)
    assert torch.equal(other.compose(rows), one.compose(rows))
    with torch.no_grad():
        one.own.zero_()
    assert not torch.equal(other.compose(rows), one.compose(rows))


@pytest.mark.parametrize("shape", [(2, 5, 4), (3, 5, 3), (3, 5)])
def test_own_positions_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="own positions"):
        OwnPositionsBank(torch.zeros(shape), frozen())
