"""Rows are independent, resuming is exact, and the optimiser is AdamW."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.training import loop as looping
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import learn
from clinprompt.training.loop import Problem
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


def pressed() -> None:
    """Ctrl-C as a terminal sends it."""
    signal.raise_signal(signal.SIGINT)


def broken_off() -> None:
    """What cannot be waited for: a second Ctrl-C, or one in another thread."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("interrupt", [pressed, broken_off])
@pytest.mark.parametrize(("where", "call"), [("step", 3), ("step", 4), ("validation", 3)])
def test_ctrl_c_within_a_step_takes_no_step_twice(
    interrupt: Callable[[], None], where: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the weights moved (before the step is counted), and in a validation (before it is taken down)."""
    plans, checkpoint = [plan(None, 0, 0, 0.01, method="lora")], tmp_path / "x.safetensors"
    whole = adapt(tiny(), None, plans)
    calls = 0

    def then(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            found = real(*given)
            if calls == call:
                interrupt()
            return found

        return called

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if where == "step":
            patched.setattr(RowAdamW, "step", then(RowAdamW.step))
        else:
            patched.setattr(looping, "validation_losses", then(looping.validation_losses))
        adapt(tiny(), None, plans, checkpoint=checkpoint)
    resumed = adapt(tiny(), None, plans, checkpoint=checkpoint)
    assert torch.equal(resumed.fit.history, whole.fit.history) and resumed.fit.tokens == whole.fit.tokens
    assert torch.equal(resumed.fit.validation, whole.fit.validation)
    assert resumed.tasks[0].card == whole.tasks[0].card
    for name, tensor in whole.tasks[0].tensors.items():
        assert torch.equal(resumed.tasks[0].tensors[name], tensor)


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


@pytest.mark.parametrize("method", ["lora", "full", "pt"])
def test_a_row_that_diverges_stops_and_the_others_train_as_if_alone(method: str) -> None:
    rates = {"pt": 3e38}.get(method, 1e20)
    plans = [plan(None, 0, i, rate, method=method) for i, rate in enumerate((0.001, rates, 0.003))]
    crowd = adapt(tiny(), None, plans, prompt_length=5)
    for index in (0, 2):
        alone = adapt(tiny(), None, [plans[index]], prompt_length=5)
        assert int(crowd.fit.steps[index]) == LOOP.steps
        assert float(crowd.fit.validation[index]) == pytest.approx(float(alone.fit.validation[0]), rel=1e-4)
        for name, tensor in alone.tasks[0].tensors.items():
            torch.testing.assert_close(crowd.tasks[index].tensors[name], tensor, atol=5e-5, rtol=1e-3)
    assert float(crowd.fit.validation[1]) == math.inf and int(crowd.fit.steps[1]) < LOOP.steps
    assert crowd.tasks[1].card.metrics == {"diverged": int(crowd.fit.steps[1])}
    assert all(bool(tensor.isfinite().all()) for tensor in crowd.tasks[1].tensors.values())


def test_the_error_names_the_rate_of_the_row_that_diverged() -> None:
    """Both rows are lost, the second first; without anyone left there is nothing to train for."""
    plans = [plan(None, 0, 0, 1e38, method="lora"), plan(None, 0, 1, 1e20, method="lora")]
    with pytest.raises(TrainingError, match=r"task target: the loss is not a number at step \d: .*\(now 1e\+\d\d"):
        adapt(tiny(), None, plans)
    with pytest.raises(TrainingError, match=r"now 1e\+20\)"):
        adapt(tiny(), None, plans[1:])
    lost = adapt(tiny(), None, plans, tolerant=True)
    assert lost.fit.validation.tolist() == [math.inf, math.inf]


def test_rows_that_share_a_prompt_end_together(tmp_path: Path) -> None:
    backbone = tiny()
    metaprompt = learn(backbone, [ner_task(), nli_task()], LEARN, tmp_path).metaprompt
    plans = [Plan(ner_task("target", shift=3), plan(None, 0, 0, 3e38, "group").settings)]
    plans += [Plan(nli_task("other"), plan(None, 0, 0, 3e38, "group").settings)]
    with pytest.raises(TrainingError, match=r"not a number.*now 3e\+38"):
        adapt(backbone, metaprompt, plans, tolerant=True)


def test_a_teacher_that_diverges_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others finish, but there is nothing to learn from it: its gradient is no number from the second step on."""
    real = looping.accumulate

    def poisoned(backbone: Backbone, problem: Problem, *rest: Any) -> torch.Tensor:
        losses = real(backbone, problem, *rest)
        grad = problem.bank.trainable()["prompt"].grad
        assert grad is not None
        grad[1] = math.inf
        return losses

    monkeypatch.setattr(looping, "accumulate", poisoned)
    with pytest.raises(TrainingError, match=r"teacher of infer: the loss is not a number.*now 0\.03"):
        learn(tiny(), [ner_task(), nli_task()], LEARN, tmp_path)


def test_a_validation_loss_that_is_no_number_leaves_the_best_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second validation on the loss is NaN; the values of the first stay."""
    settings = plan(None, 0, 0, 0.03, method="pt").settings
    short_target = replace(ner_task("target", shift=3), validation=ner_task("target").validation[:1])
    first = Plan(short_target, changed(settings, {"loop.schedule": "constant"}))
    whole, short = (
        adapt(tiny(), None, [Plan(first.target, changed(first.settings, {"loop.steps": steps}))], prompt_length=5)
        for steps in (6, 2)
    )
    seen: list[torch.Tensor] = []
    real = looping.token_losses

    def judged(backbone: Backbone, states: Any) -> torch.Tensor:
        losses = real(backbone, states)
        if torch.is_grad_enabled():
            return losses
        seen.append(losses)
        return losses * math.nan if len(seen) > 1 else losses

    monkeypatch.setattr(looping, "token_losses", judged)
    cut = adapt(tiny(), None, [first], prompt_length=5)
    assert len(seen) == 3 and float(cut.fit.validation[0]) == pytest.approx(float(seen[0].mean()))
    assert torch.equal(cut.tasks[0].prompt, short.tasks[0].prompt)
    assert not torch.equal(whole.tasks[0].prompt, short.tasks[0].prompt)


def test_the_metaprompt_is_chosen_by_the_mean_but_every_source_keeps_its_own_loss(tmp_path: Path) -> None:
    learned = learn(tiny(), [ner_task(), nli_task()], LEARN, tmp_path)
    losses = learned.metaprompt.card.metrics["validation_loss"]
    assert losses["find"] != losses["infer"]
    assert learned.source_fit.validation.tolist() == pytest.approx([losses["find"], losses["infer"]], abs=1e-4)
