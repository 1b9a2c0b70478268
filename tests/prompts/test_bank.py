"""The bank against NumPy, finite differences and PEFT's own product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clinprompt.prompts.bank import DecomposedBank, DirectBank, trainable_parameters, unit_vectors
from clinprompt.prompts.initialisation import from_text, from_vocabulary
from tests.models import tiny


def random_bank(rank: int = 1, rows: int = 4, groups: int = 2, *, train_shared: bool = True) -> DecomposedBank:
    random = torch.Generator().manual_seed(0)
    shared, u, v = (
        torch.randn(*shape, generator=random) for shape in ((groups, 5, 7), (rows, 5, rank), (rows, 7, rank))
    )
    return DecomposedBank(shared, u, v, [i % groups for i in range(rows)], train_shared=train_shared)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_compose_equals_numpy(rank: int) -> None:
    bank = random_bank(rank)
    chosen = [3, 0, 3, 2]
    values = {name: tensor.numpy() for name, tensor in bank.values().items()}
    for row, prompt in zip(chosen, bank.compose(torch.tensor(chosen)), strict=True):
        factor = sum(np.outer(values["u"][row][:, r], values["v"][row][:, r]) for r in range(rank))
        np.testing.assert_allclose(prompt.detach().numpy(), values["shared"][row % 2] * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_tasks_start_at_the_shared_prompt(rank: int) -> None:
    shared = torch.randn(5, 7)
    bank = DecomposedBank(shared[None], *unit_vectors(4, 5, 7, rank), [0] * 4)
    torch.testing.assert_close(bank.compose(torch.arange(4)).detach(), shared.expand(4, -1, -1))
    u, v = unit_vectors(4, 5, 7, rank, noise=0.01)
    noisy = DecomposedBank(shared[None], u, v, [0] * 4).compose(torch.arange(4)).detach()
    assert 0 < float((noisy - shared).abs().max()) < 0.5
    assert not torch.equal(noisy[0], noisy[1])


def test_further_ranks_can_learn() -> None:
    """They add nothing at the start, but their gradient is not zero."""
    bank = DecomposedBank(torch.randn(1, 5, 7), *unit_vectors(1, 5, 7, 2), [0])
    bank.compose(torch.tensor([0])).square().sum().backward()
    assert bank.v.grad is not None and float(bank.v.grad[..., 1].abs().min()) > 0


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", ["shared", "u", "v"])
def test_gradient_against_finite_differences(rank: int, name: str) -> None:
    bank = random_bank(rank).double()
    rows = torch.tensor([0, 1, 1, 3])
    weight = torch.randn(4, 5, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        return (weight * bank.compose(rows).square()).sum()

    loss().backward()
    parameter = bank.trainable()[name]
    direction = torch.randn(parameter.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    assert parameter.grad is not None
    with torch.no_grad():
        parameter += 1e-6 * direction
        above = loss()
        parameter -= 2e-6 * direction
        below = loss()
    torch.testing.assert_close((parameter.grad * direction).sum(), (above - below) / 2e-6, atol=1e-5, rtol=1e-6)


def test_unused_rows_get_no_gradient() -> None:
    bank = random_bank()
    bank.compose(torch.tensor([1])).sum().backward()
    assert bank.u.grad is not None and bank.shared.grad is not None
    assert float(bank.u.grad[[0, 2, 3]].abs().max()) == 0 and float(bank.u.grad[1].abs().max()) > 0
    assert float(bank.shared.grad[0].abs().max()) == 0
    assert bank.slices("shared", torch.tensor([0, 3])).tolist() == [0, 1]
    assert bank.slices("u", torch.tensor([0, 3])).tolist() == [0, 3]


def test_a_frozen_shared_prompt_is_not_trained() -> None:
    bank = random_bank(train_shared=False)
    assert set(bank.trainable()) == {"u", "v"}
    bank.compose(torch.arange(4)).sum().backward()
    assert bank.shared.grad is None
    assert trainable_parameters(bank) == 4 * (5 + 7)


def test_product_equals_pefts() -> None:
    peft = pytest.importorskip("peft")
    bank = random_bank(rank=2, groups=1)
    config = peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_tasks=4, num_ranks=2, num_virtual_tokens=5, token_dim=7, num_transformer_submodules=1
    )
    theirs = peft.tuners.MultitaskPromptEmbedding(config, torch.nn.Embedding(9, 7))
    with torch.no_grad():
        theirs.embedding.weight.copy_(bank.shared[0])
        theirs.prefix_task_cols.copy_(bank.u)
        theirs.prefix_task_rows.copy_(bank.v.transpose(1, 2))
        tasks = torch.tensor([2, 0, 1])
        wanted = theirs(torch.arange(5).expand(3, -1), tasks)
        torch.testing.assert_close(bank.compose(tasks), wanted)


def test_pefts_start_is_near_zero_and_ours_is_not() -> None:
    """The trap of METHODS §2: a product of two N(0, 0.02) factors."""
    peft = pytest.importorskip("peft")
    config = peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_tasks=2, num_virtual_tokens=50, token_dim=64, num_transformer_submodules=1
    )
    words = torch.nn.Embedding(9, 64)
    theirs = peft.tuners.MultitaskPromptEmbedding(config, words)(torch.arange(50)[None], torch.tensor([0])).detach()
    ours = DecomposedBank(torch.randn(1, 50, 64), *unit_vectors(2, 50, 64), [0, 0]).compose(torch.tensor([0])).detach()
    assert float(theirs.std()) < 1e-3 < 0.5 < float(ours.std())


@pytest.mark.parametrize(
    ("length", "width", "wanted"), [(100, 768, 77_668), (100, 4096, 413_796)], ids=["T5-base", "LLaMA-3.1-8B"]
)
def test_published_parameter_counts(length: int, width: int, wanted: int) -> None:
    u, v = unit_vectors(1, length, width)
    assert trainable_parameters(DecomposedBank(torch.zeros(1, length, width), u, v, [0])) == wanted


def test_values_restore_exactly() -> None:
    one, other = random_bank(), random_bank()
    with torch.no_grad():
        one.u.mul_(3)
    other.restore(one.values())
    assert all(torch.equal(a, b) for a, b in zip(one.values().values(), other.values().values(), strict=True))
    prompts = DirectBank(torch.randn(3, 5, 7).double())
    assert prompts.prompt.dtype == torch.float32  # the master copy, whatever it was made from
    assert prompts.rows == 3 and prompts.length == 5


@pytest.mark.parametrize(
    ("shared", "u", "v"),
    [
        ((1, 5, 7), (2, 5, 1), (3, 7, 1)),
        ((1, 5, 7), (2, 5, 1), (2, 7, 2)),
        ((1, 5, 7), (2, 6, 1), (2, 7, 1)),
        ((1, 5, 7), (2, 5, 1), (2, 8, 1)),
        ((5, 7), (2, 5, 1), (2, 7, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shared: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        DecomposedBank(torch.zeros(shared), torch.zeros(u), torch.zeros(v), [0, 0])


def test_vocabulary_start_uses_plain_tokens_once_each() -> None:
    backbone = tiny()
    matrix = backbone.model.get_input_embeddings().weight
    prompts = from_vocabulary(backbone, 30, seed=3, rows=2)
    for prompt in prompts:
        ids = torch.cdist(prompt, matrix).argmin(dim=1)
        assert torch.equal(matrix[ids], prompt)
        assert len(set(ids.tolist())) == 30
        assert not set(ids.tolist()) & set(backbone.tokenizer.all_special_ids)
    assert torch.equal(prompts, from_vocabulary(backbone, 30, seed=3, rows=2))
    assert not torch.equal(prompts[0], prompts[1])


def test_text_start_repeats_the_text() -> None:
    backbone = tiny()
    ids = backbone.tokenizer("abc", add_special_tokens=False)["input_ids"]
    wanted = backbone.model.get_input_embeddings().weight[[*ids, *ids, *ids][:7]]
    assert torch.equal(from_text(backbone, 7, "abc")[0], wanted)
    assert torch.equal(from_text(backbone, 2, "abc")[0], wanted[:2])


@pytest.mark.parametrize("bank", ["direct", "decomposed"])
def test_gradients_are_the_same_at_every_run(bank: str) -> None:
    """With several threads and examples that share a row: not to the digit, they would differ between runs."""
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(10, 16, 256, generator=random)
    chosen = (
        DirectBank(shared) if bank == "direct" else DecomposedBank(shared[:1], *unit_vectors(10, 16, 256), [0] * 10)
    )
    rows = torch.randint(10, (32,), generator=random).tolist()
    weight = torch.randn(32, 16, 256, generator=random)
    backbone, threads, found = tiny("llama"), torch.get_num_threads(), set()
    torch.set_num_threads(4)
    try:
        for _ in range(60):
            chosen.zero_grad()
            with chosen.applied(backbone, rows) as prompts:
                (weight * prompts).sum().backward()
            found.add(b"".join(p.grad.numpy().tobytes() for p in chosen.parameters() if p.grad is not None))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
