"""A prefix and LoRA in one training: in parallel both move, in sequence one after the other; settings stay as were."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from clinprompt.adapters.joint import JointBank, phases
from clinprompt.architecture.network import Architecture
from clinprompt.errors import TrainingError
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.banks import network_of, room_for, starting_bank
from clinprompt.training.loop import Problem, fit
from clinprompt.training.sampling import RowSampler
from clinprompt.training.settings import AdaptSettings, JointSettings, LoopSettings, LoraSettings, changed
from tests.models import tiny
from tests.training.synthetic import ner_task

LOOP = LoopSettings(steps=2, batch_size=2, learning_rate=0.01, warmup=0.0)
SETTINGS = AdaptSettings(method="lora+prefix", lora=LoraSettings(rank=2), prefix_length=3, target_reserve=32, loop=LOOP)


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_what_moves_when(order: str) -> None:
    backbone, chosen = tiny(), changed(SETTINGS, {"joint.order": order})
    room = room_for(backbone, chosen, None)
    examples = [plan_examples(backbone, Plan(ner_task(), chosen), room.length, room.position)]
    bank, rates = starting_bank(backbone, room, None, [chosen], examples)
    assert isinstance(bank, JointBank)
    seen = [{name: values.clone() for name, values in bank.values().items()}]

    def look(step: int, steps: int, loss: float) -> None:
        seen.append({name: values.clone() for name, values in bank.values().items()})

    problem = Problem(
        bank=bank,
        tasks=examples,
        sampler=RowSampler([0], [len(examples[0].train)], ["x"], [0], 2),
        rates=rates,
        row_tasks=[0],
        phases=phases(order, list(rates), LOOP.steps),  # type: ignore[arg-type]
    )
    fit(backbone, problem, LOOP, progress=look)
    moved = [
        {part: any(not torch.equal(a[n], b[n]) for n in a if n.startswith(part)) for part in ("prefix.", "lora.")}
        for a, b in pairwise(seen)
    ]
    both = {"prefix.": True, "lora.": True}
    alone = [{"prefix.": True, "lora.": False}, {"prefix.": False, "lora.": True}]
    assert moved == ([both, both] if order == "parallel" else alone)
    assert rates["prefix.keys"] == pytest.approx(0.1) and float(rates[next(n for n in rates if "lora" in n)]) == (
        pytest.approx(0.01)
    )


def test_an_order_reaches_the_training_and_changes_it() -> None:
    backbone = tiny()
    files = [
        adapt(backbone, None, [Plan(ner_task(), changed(SETTINGS, {"joint.order": order}))]).tasks[0].tensors
        for order in ("parallel", "sequential")
    ]
    assert any(not torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_settings_of_other_methods_are_described_as_before() -> None:
    """Identities of runs hang on it."""
    assert "joint" not in AdaptSettings().model_dump() and "joint" not in SETTINGS.model_dump(mode="json")
    given = changed(SETTINGS, {"method": "peml", "joint.architecture": {"operations": ["norm"], "length": 7}})
    assert AdaptSettings.model_validate(given.model_dump(mode="json")) == given
    assert network_of(given, "peml") == Architecture(operations=("norm",), length=7)
    assert room_for(tiny(), changed(given, {"prefix_length": None}), None).length == 7
    with pytest.raises(TrainingError, match="has no network"):
        network_of(given, "lora+prefix")
    with pytest.raises(TrainingError, match="unknown operation"):
        changed(SETTINGS, {"joint.architecture": {"operations": ["nor"]}})
    assert JointSettings().order == "parallel"
