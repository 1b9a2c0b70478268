"""Every method is found by name, and what it changes are settings that exist."""

from __future__ import annotations

import pytest

from clinprompt.errors import TrainingError
from clinprompt.methods.registry import METHODS, MULTITASK, find_method
from clinprompt.training.settings import AdaptSettings, LearnSettings, changed


@pytest.mark.parametrize("name", list(METHODS))
def test_settings_of_a_method(name: str) -> None:
    spec = find_method(name)
    assert spec.name == name and spec.summary
    learn = changed(LearnSettings(), spec.learn)
    # mpt-vocabulary-start says what the default is, for plans that say otherwise
    assert (learn == LearnSettings()) == (not spec.learn or name == "mpt-vocabulary-start")
    adapt = changed(AdaptSettings(), spec.adapt)
    trials = [changed(adapt, trial) for trial in spec.grid]
    assert len({trial.model_dump_json() for trial in trials}) == len(spec.grid) == (5 if spec.trains else 0)
    assert adapt.method in ("mpt", "spot") if spec.needs_metaprompt else adapt.method not in ("mpt", "spot")


def test_multitask_grids_begin_where_rows_with_two_trials_ended_and_look_above_first() -> None:
    """And hold six trials, which the control at the cost of a search spends. Single-task grids decide ids of cells
    that are computed already: they stay."""
    for name, spec in MULTITASK.items():
        rates = [trial["loop.learning_rate"] for trial in spec.grid]
        times = 10 if name == "prefix" else 1  # a prefix wants ten times the rate of LoRA
        assert rates == pytest.approx([times * rate for rate in (0.003, 0.01, 0.001, 0.03, 0.006, 0.0003)])
    assert [trial["loop.learning_rate"] for trial in METHODS["lora"].grid] == [0.001, 0.003, 0.0003, 0.01, 0.0001]


def test_an_unknown_method_names_the_known() -> None:
    with pytest.raises(TrainingError, match="Did you mean 'lora'"):
        find_method("lorra")


def test_changed_settings_are_checked() -> None:
    with pytest.raises(TrainingError, match=r"lora\.rank"):
        changed(AdaptSettings(), {"lora.rank": 0})
    with pytest.raises(TrainingError, match=r"loop\.speed"):
        changed(AdaptSettings(), {"loop.speed": 1})
    assert changed(AdaptSettings(shots=5), {"shots": None}).shots is None
