"""Options beyond the papers: starts by similarity, mixtures, rank; each a row that equals its solitary twin."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clinprompt.errors import TrainingError
from clinprompt.methods.mpt import Mode, source_weights, target_bank
from clinprompt.methods.registry import METHODS
from clinprompt.planning import plan_adapt
from clinprompt.prompts.bank import trainable_parameters
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.banks import room_for, starting_bank
from clinprompt.training.loop import prompt_loss
from clinprompt.training.settings import AdaptSettings, LoopSettings, changed
from clinprompt.training.starts import similar, source_losses, source_starts
from tests.models import tiny
from tests.prompts.cards import metaprompt_for
from tests.training.rows import plain_task_file, rows_like_their_twins
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=3, batch_size=3, learning_rate=0.05, vector_learning_rate=0.05, micro_tokens=256)
SETTINGS = AdaptSettings(method="mpt", target_reserve=32, loop=LOOP)
BEYOND = ["mpt-best", "mpt-similar", "mpt-mixture", "mpt-gates", "mpt-rank2"]
ALL_TOGETHER = {"start": "similar", "factors.mixture": "residual", "factors.rank": 3}


def beyond(name: str) -> dict[str, Any]:
    return dict(METHODS[name].adapt) if name in METHODS else ALL_TOGETHER


def test_settings_that_are_off_leave_identities_as_they_were() -> None:
    assert "factors" not in AdaptSettings().model_dump(mode="json")
    assert changed(SETTINGS, {"factors.rank": 2}).model_dump(mode="json")["factors"]["rank"] == 2
    assert "factors" not in changed(SETTINGS, {"factors": None}).model_dump(mode="json")


def test_weights_by_loss() -> None:
    losses = torch.tensor([1.0, 1.1, 3.0], dtype=torch.float64)
    powers = np.exp(-np.array([1.0, 1.1, 3.0]) / 0.1)
    np.testing.assert_allclose(similar(losses, 0.1).numpy(), powers / powers.sum(), rtol=1e-6)
    assert similar(losses, 1e-9).tolist() == [1.0, 0.0, 0.0]  # cold: the best source alone
    torch.testing.assert_close(similar(losses, 1e9), torch.full((3,), 1 / 3))  # hot: the mean


def test_a_similar_start_is_the_weighted_mean() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    chosen = changed(SETTINGS, {"start": "similar", "factors.temperature": 0.5, "factors.examples": 5})
    examples = plan_examples(backbone, Plan(nli_task("target"), chosen), 5, "start")
    losses = [prompt_loss(backbone, examples.train[:5], metaprompt.prompt(name)) for name in metaprompt.names]
    powers = np.exp(-np.array(losses) / 0.5)
    weights = powers / powers.sum()
    u, v = (np.einsum("t,t...->...", weights, tensor.numpy()) for tensor in (metaprompt.u, metaprompt.v))
    wanted = metaprompt.shared.numpy() * (u @ v.T)
    for method in ("mpt", "spot"):
        settings = changed(chosen, {"method": method})
        room = room_for(backbone, settings, metaprompt)
        bank, _ = starting_bank(backbone, room, metaprompt, [settings], [examples])
        got = bank.compose(torch.tensor([0])).detach()[0].numpy()  # type: ignore[attr-defined]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    # Nothing to look at: the mean.
    assert source_starts(backbone, metaprompt, "mpt", [chosen], [[]]) == ["mean"]
    assert source_weights(metaprompt, "mean").tolist() == pytest.approx([1 / 3] * 3)
    assert source_weights(metaprompt, "task1").tolist() == [0.0, 1.0, 0.0]


def test_rows_that_see_the_same_examples_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from clinprompt.training import starts

    backbone = tiny()
    metaprompt, calls = metaprompt_for(backbone), 0

    def counted(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return source_losses(*args)

    monkeypatch.setattr(starts, "source_losses", counted)
    rows = [changed(SETTINGS, {"start": start}) for start in ("similar", "similar", "best", "task1")]
    seen = plan_examples(backbone, Plan(nli_task(), rows[0]), 5, "start").train
    found = source_starts(backbone, metaprompt, "mpt", rows, [seen] * 4)
    assert calls == 1 and found[3] == "task1"
    assert found[2] == metaprompt.names[int(source_losses(backbone, metaprompt, seen).argmin())]
    assert isinstance(found[0], torch.Tensor) and torch.equal(found[0], found[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [1, 2])
@pytest.mark.parametrize("mixture", [None, "residual"])
def test_more_rank_changes_nothing_at_first(known: int, mixture: Any) -> None:
    metaprompt = metaprompt_for(tiny(), rank=known)
    starts = ["mean", "mean", "mean"]
    narrow = target_bank(metaprompt, starts, "vectors", mixture=mixture)
    wide = target_bank(metaprompt, starts, "vectors", rank=3, mixture=mixture, seeds=[0, 1, 1])
    rows = torch.arange(3)
    torch.testing.assert_close(wide.compose(rows), narrow.compose(rows), rtol=1e-6, atol=1e-7)
    assert wide.rank == 3 and not wide.v.detach()[:, :, known:].any()
    extra = wide.u.detach()[:, :, known:]
    assert extra.std() == pytest.approx(0.02, rel=0.5)
    assert not torch.equal(extra[0], extra[1]) and torch.equal(extra[1], extra[2])  # by seed
    wide.compose(rows).square().sum().backward()  # type: ignore[no-untyped-call]
    assert wide.v.grad is not None and bool((wide.v.grad[:, :, known:] != 0).any())  # but they can learn


@pytest.mark.parametrize("name", [*BEYOND, "all together"])
@pytest.mark.parametrize("mode", ["full", "vectors"])
def test_a_row_equals_its_solitary_twin(name: str, mode: str) -> None:
    rows_like_their_twins(changed(SETTINGS, {**beyond(name), "mode": mode}), "vector_learning_rate")


@pytest.mark.parametrize("name", [*BEYOND, "all together"])
@pytest.mark.parametrize("mode", ["full", "vectors"])
def test_a_file_is_a_plain_task_file(name: str, mode: str, tmp_path: Path) -> None:
    back, bank = plain_task_file(changed(SETTINGS, {**beyond(name), "mode": mode}), tmp_path)
    assert set(back.tensors) == ({"prompt"} if mode == "full" else {"u", "v"}) and bank.length == 5


@pytest.mark.parametrize(("mixture", "mode"), product(["gates", "residual"], ["full", "vectors", "group"]))
def test_counts_of_mixtures(mixture: Any, mode: Mode) -> None:
    metaprompt = metaprompt_for(tiny())
    bank = target_bank(metaprompt, ["mean", "task1"], mode, mixture=mixture)
    own = 5 + 32 if mixture == "residual" else 0
    shared = {"full": 2 * 5 * 32, "vectors": 0, "group": 5 * 32}[mode]
    assert trainable_parameters(bank) == shared + 2 * (2 * 3 + own)


def test_gates_learn_at_a_rate_of_their_own() -> None:
    backbone = tiny()
    settings = changed(SETTINGS, {"factors.mixture": "residual", "factors.gate_ratio": 4.0})
    examples = plan_examples(backbone, Plan(nli_task(), settings), 5, "start")
    room = room_for(backbone, settings, metaprompt_for(backbone))
    _, rates = starting_bank(backbone, room, metaprompt_for(backbone), [settings], [examples])
    assert {name: float(rate) for name, rate in rates.items()} == pytest.approx(
        {"shared": 0.05, "u": 0.05, "v": 0.05, "gates_u": 0.2, "gates_v": 0.2}
    )


def test_looking_for_a_start_is_charged() -> None:
    backbone = tiny()
    examples = [plan_examples(backbone, Plan(nli_task(), SETTINGS), 5, "start")]
    flops = {}
    for start, sources in (("mean", 3), ("similar", 3), ("similar", 6), ("task1", 3)):
        settings = changed(SETTINGS, {"start": start, "factors.examples": 4})
        planned = plan_adapt(backbone, examples, 5, settings, "mpt", 1, sources)
        flops[start, sources] = planned.flops
        assert len(planned.stages) == 1 + (start == "similar")
    looked = flops["similar", 3] - flops["mean", 3]
    assert flops["task1", 3] == flops["mean", 3] and looked > 0
    assert flops["similar", 6] - flops["mean", 3] == pytest.approx(2 * looked)
    best = plan_adapt(backbone, examples, 5, changed(SETTINGS, {"method": "spot"}), "spot", 1, 3)
    assert best.stages[0].tokens == 3 * sum(len(e.ids) + 5 for e in examples[0].train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pt", "factors.rank": 2}, "`factors` belong to mpt and spot"),
        ({"mode": "shared", "factors.mixture": "gates"}, "mode shared trains no vectors"),
        ({"factors.rank": 1}, "below the metaprompt's, 2"),
        ({"factors.rank": 3, "factors.mixture": "gates"}, "no vectors of its own to widen"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    backbone = tiny()
    with pytest.raises(TrainingError, match=message):
        adapt(backbone, metaprompt_for(backbone, rank=2), [Plan(ner_task(), changed(SETTINGS, changes))])
