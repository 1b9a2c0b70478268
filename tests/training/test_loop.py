"""Rows are independent, resuming is exact, and the optimiser is AdamW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinprompt.errors import TrainingError
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import learn
from clinprompt.training.optimiser import RowAdamW
from clinprompt.training.settings import AdaptSettings, LearnSettings, LoopSettings, LoraSettings, changed
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=6, batch_size=3, evaluate_every=2, checkpoint_every=2, micro_tokens=256)
LEARN = LearnSettings(prompt_length=5, limit=12, validation_records=4, target_reserve=32, teacher=LOOP, source=LOOP)


ADAPTERS = ["lora", "prefix", "full"]


def plan(shots: int | None, draw: int, seed: int, rate: float, mode: str = "full", method: str | None = None) -> Plan:
    loop = LOOP.model_copy(update={"learning_rate": rate, "vector_learning_rate": rate})
    settings = AdaptSettings(
        method=method,  # type: ignore[arg-type]
        mode=mode,  # type: ignore[arg-type]
        lora=LoraSettings(rank=3),
        prefix_length=4,
        shots=shots,
        draw=draw,
        seed=seed,
        target_reserve=32,
        loop=loop,
    )
    return Plan(ner_task("target", shift=3), settings)


@pytest.mark.parametrize("method", ["pt", "full", "vectors", "shared"])
def test_row_in_a_crowd_equals_its_solitary_twin(method: str, tmp_path: Path) -> None:
    backbone = tiny()
    metaprompt = None if method == "pt" else learn(backbone, [ner_task(), nli_task()], LEARN, tmp_path).metaprompt
    mode = "full" if method == "pt" else method
    plans = [plan(4, 0, 0, 0.01, mode), plan(4, 1, 0, 0.03, mode), plan(2, 2, 7, 0.1, mode), plan(8, 3, 1, 0.02, mode)]
    crowd = adapt(backbone, metaprompt, plans)
    for index, single in enumerate(plans):
        alone = adapt(backbone, metaprompt, [single])
        torch.testing.assert_close(crowd.tasks[index].prompt, alone.tasks[0].prompt, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(crowd.fit.history[:, index], alone.fit.history[:, 0], atol=1e-5, rtol=1e-4)
    assert len({t.prompt.sum().item() for t in crowd.tasks}) == len(plans)


@pytest.mark.parametrize("method", [*ADAPTERS, "spot"])
def test_rows_of_every_method_equal_their_solitary_twins(method: str, tmp_path: Path) -> None:
    """Also with validation, by which a row keeps its best values and stops early."""
    backbone = tiny()
    metaprompt = learn(backbone, [ner_task(), nli_task()], LEARN, tmp_path).metaprompt if method == "spot" else None
    rates = (0.01, 0.003, 0.03)
    plans = [
        plan(shots, i, i, rate, method=method) for i, (shots, rate) in enumerate(zip((4, 2, None), rates, strict=True))
    ]
    plans = [
        Plan(p.target, changed(p.settings, {"judged": True, "loop.patience": 1, "loop.evaluate_every": 1}))
        for p in plans
    ]
    crowd = adapt(backbone, metaprompt, plans)
    for index, single in enumerate(plans):
        alone = adapt(backbone, metaprompt, [single])
        assert int(crowd.fit.steps[index]) == int(alone.fit.steps[0])
        for name, tensor in alone.tasks[0].tensors.items():
            torch.testing.assert_close(crowd.tasks[index].tensors[name], tensor, atol=5e-5, rtol=1e-3)


class Interrupted(Exception):
    """Stands for `kill -9`: nothing is written on the way out."""


@pytest.mark.parametrize(("stage", "at"), [("teachers", 3), ("teachers", 6), ("teacher states", 1), ("metaprompt", 5)])
def test_interrupted_learning_ends_bit_identical(stage: str, at: int, tmp_path: Path) -> None:
    backbone = tiny()
    sources = [ner_task(), nli_task()]
    whole = learn(backbone, sources, LEARN, tmp_path / "whole").metaprompt

    def stop(name: str, done: int, total: int, loss: float) -> None:
        if (name, done) == (stage, at):
            raise Interrupted

    with pytest.raises(Interrupted):
        learn(backbone, sources, LEARN, tmp_path / "cut", progress=stop)
    resumed = learn(backbone, sources, LEARN, tmp_path / "cut").metaprompt
    assert torch.equal(resumed.shared, whole.shared)
    assert torch.equal(resumed.u, whole.u) and torch.equal(resumed.v, whole.v)
    assert resumed.card == whole.card


def test_another_run_is_refused(tmp_path: Path) -> None:
    backbone = tiny()
    learn(backbone, [ner_task(), nli_task()], LEARN, tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        learn(backbone, [ner_task(), nli_task()], LEARN.model_copy(update={"seed": 1}), tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        learn(backbone, [ner_task(shift=1), nli_task()], LEARN, tmp_path)


def test_optimiser_is_adamw_per_slice() -> None:
    """Two slices with different rates and activity against two torch AdamW optimisers."""
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4)
    stacked = torch.nn.Parameter(start.clone())
    ours = RowAdamW({"p": stacked}, weight_decay=0.1, clip=0.5)
    twins = [torch.nn.Parameter(start[i].clone()) for i in range(2)]
    peers = [torch.optim.AdamW([t], lr=lr, weight_decay=0.1) for t, lr in zip(twins, (0.1, 0.01), strict=True)]
    for step in range(5):
        gradient = torch.randn(2, 3, 4)
        stacked.grad = gradient.clone()
        active = torch.tensor([True, step % 2 == 0])
        ours.step({"p": torch.tensor([0.1, 0.01])}, {"p": active})
        for i in range(2):
            if active[i]:
                twins[i].grad = gradient[i].clone()
                torch.nn.utils.clip_grad_norm_([twins[i]], 0.5)
                peers[i].step()
    torch.testing.assert_close(stacked.detach(), torch.stack([t.detach() for t in twins]))


def test_training_lowers_the_loss_and_touches_no_weight(tmp_path: Path) -> None:
    backbone = tiny()
    before = backbone.fingerprint, {n: p.clone() for n, p in backbone.model.named_parameters()}
    loop = LOOP.model_copy(update={"steps": 40, "learning_rate": 1.0})
    result = adapt(backbone, None, [Plan(nli_task(), AdaptSettings(target_reserve=32, loop=loop))], prompt_length=5)
    assert result.fit.history[-5:].mean() < result.fit.history[:5].mean() - 0.05
    assert all(torch.equal(p, before[1][n]) for n, p in backbone.model.named_parameters())


def test_early_stopping_stops_a_row_and_keeps_its_best() -> None:
    """Validation says the opposite of training, so its loss rises once training has an effect."""
    task = nli_task()
    opposite = [replace(r, label="no" if r.label == "yes" else "yes") for r in task.train]
    always = [replace(r, label="yes") for r in task.train]
    contrary = replace(task, train=always, validation=[replace(r, label="no") for r in opposite])
    loop = LoopSettings(steps=60, batch_size=3, learning_rate=1.0, evaluate_every=1, patience=3)
    plan_ = Plan(contrary, AdaptSettings(target_reserve=32, loop=loop))
    result = adapt(tiny(), None, [plan_], prompt_length=5)
    assert int(result.fit.steps[0]) < 60
    assert result.tasks[0].card.metrics["validation_loss"] == pytest.approx(float(result.fit.validation[0]), abs=1e-4)


def test_divergence_is_reported() -> None:
    loop = LOOP.model_copy(update={"learning_rate": 1e38, "warmup": 0.0, "clip": 0.0})
    with pytest.raises(TrainingError, match="lower the learning rate"):
        adapt(tiny(), None, [Plan(nli_task(), AdaptSettings(target_reserve=32, loop=loop))], prompt_length=5)


def test_the_metaprompt_is_chosen_by_the_mean_but_every_source_keeps_its_own_loss(tmp_path: Path) -> None:
    learned = learn(tiny(), [ner_task(), nli_task()], LEARN, tmp_path)
    losses = learned.metaprompt.card.metrics["validation_loss"]
    assert losses["find"] != losses["infer"]
    assert learned.source_fit.validation.tolist() == pytest.approx([losses["find"], losses["infer"]], abs=1e-4)
