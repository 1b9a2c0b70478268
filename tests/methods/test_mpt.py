"""The MPT algorithm's arithmetic: where it starts, what it trains, how many numbers that is."""

from __future__ import annotations

import pytest
import torch

from clinprompt.errors import ArtifactError
from clinprompt.methods.mpt import (
    Mode,
    decomposed_rates,
    initial_vectors,
    source_bank,
    start_of_shared,
    stored_numbers,
    target_bank,
)
from clinprompt.methods.pt import prompt_rates
from clinprompt.prompts.bank import DirectBank, trainable_parameters
from clinprompt.training.starts import first_prompts
from tests.models import tiny
from tests.prompts.cards import metaprompt_for


@pytest.mark.parametrize(
    ("width", "wanted", "parameters", "percent"),
    [(768, 77_668, 220e6, 0.0353), (4096, 413_796, 8.03e9, 0.0052)],
    ids=["T5-base", "LLaMA-3.1-8B"],
)
def test_published_counts(width: int, wanted: int, parameters: float, percent: float) -> None:
    numbers = stored_numbers("full", 100, width)
    assert numbers == wanted
    assert 100 * numbers / parameters == pytest.approx(percent, abs=5e-5)
    assert stored_numbers("vectors", 100, width) == 100 + width
    assert stored_numbers("group", 100, width, tasks=5) == 100 * width + 5 * (100 + width)


@pytest.mark.parametrize("mode", ["full", "vectors", "group"])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("tasks", [1, 3])
def test_counts_are_those_of_the_bank(mode: Mode, rank: int, tasks: int) -> None:
    bank = target_bank(metaprompt_for(tiny(), rank=rank), ["mean"] * tasks, mode)
    assert trainable_parameters(bank) == stored_numbers(mode, 5, 32, rank, tasks)


def test_targets_start_at_the_mean_or_at_a_named_source() -> None:
    metaprompt = metaprompt_for(tiny())
    bank = target_bank(metaprompt, ["mean", "task1"], "full")
    mean, named = bank.compose(torch.tensor([0, 1])).detach()
    u, v = metaprompt.u.mean(dim=0), metaprompt.v.mean(dim=0)
    torch.testing.assert_close(mean, metaprompt.shared * torch.outer(u[:, 0], v[:, 0]))
    torch.testing.assert_close(named, metaprompt.prompt("task1"))
    with pytest.raises(ArtifactError, match="Known: task0, task1, task2"):
        initial_vectors(metaprompt, "task7")


@pytest.mark.parametrize(("mode", "groups"), [("full", [0, 1, 2]), ("vectors", [0, 0, 0]), ("group", [0, 0, 0])])
def test_who_shares_p_star(mode: Mode, groups: list[int]) -> None:
    bank = target_bank(metaprompt_for(tiny()), ["mean"] * 3, mode)
    assert bank.group.tolist() == groups
    assert bank.shared.requires_grad == (mode != "vectors")
    before = bank.compose(torch.arange(3)).detach()
    with torch.no_grad():
        bank.shared[0] += 1
    moved = (bank.compose(torch.arange(3)) - before).abs().flatten(1).amax(dim=1) > 0
    assert moved.tolist() == [group == 0 for group in groups]


def test_source_tasks_start_at_p_star_and_apart() -> None:
    start = torch.randn(5, 8)
    torch.testing.assert_close(
        source_bank(start, 3, rank=2, noise=0.0, seed=0).compose(torch.arange(3)).detach(), start.expand(3, -1, -1)
    )
    apart = source_bank(start, 3, rank=1, noise=0.01, seed=0).compose(torch.arange(3)).detach()
    assert len({float(prompt.sum()) for prompt in apart}) == 3


def test_start_of_p_star() -> None:
    teachers = DirectBank(torch.randn(3, 5, 8))
    vocabulary = torch.randn(5, 8)
    assert start_of_shared(teachers, vocabulary, "vocabulary") is vocabulary
    torch.testing.assert_close(start_of_shared(teachers, vocabulary, "teachers"), teachers.prompt.detach().mean(0))


def test_two_learning_rates() -> None:
    bank = target_bank(metaprompt_for(tiny()), ["mean"] * 3, "group")
    rates = decomposed_rates(bank, 0.3, torch.tensor([0.4, 0.5, 0.6]))
    assert rates["shared"].tolist() == pytest.approx([0.3])
    assert rates["u"].tolist() == rates["v"].tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_prompt_tuning_rows() -> None:
    backbone = tiny()
    starts = [first_prompts(backbone, 5, ["vocabulary"] * 3, seeds, [[]] * 3) for seeds in ([1, 1, 1], [1, 2, 3])]
    same, apart = (DirectBank(values) for values in starts)
    assert torch.equal(same.prompt[0], same.prompt[2]) and not torch.equal(apart.prompt[0], apart.prompt[2])
    assert torch.equal(same.prompt[0], apart.prompt[0])
    with torch.no_grad():
        same.prompt[0] += 1  # rows do not share memory
    assert not torch.equal(same.prompt[0], same.prompt[1])
    assert prompt_rates(same, 0.1)["prompt"].tolist() == pytest.approx([0.1] * 3)
