"""Adapters of equal size: counted as built, and nearest to the budget among all ranks."""

from __future__ import annotations

import pytest

from clinprompt.errors import TrainingError
from clinprompt.methods.registry import METHODS, MULTITASK
from clinprompt.prompts.bank import trainable_parameters
from clinprompt.training.multitask_banks import (
    MULTITASK_METHODS,
    adapter_settings,
    multitask_bank,
    multitask_method,
    multitask_parameters,
)
from clinprompt.training.sizing import sized
from tests.models import tiny


@pytest.mark.parametrize("method", sorted(MULTITASK_METHODS))
def test_the_size_is_the_nearest_to_the_budget(method: str) -> None:
    backbone, budget = tiny(), 6_000 if method == "prefix" else 20_000
    found = sized(backbone, 5, method, budget)
    bank = multitask_bank(backbone, 5, method, found.adapter)
    assert trainable_parameters(bank) == found.parameters == round(found.ratio * budget)
    key = multitask_method(method).size
    others = [multitask_parameters(backbone, 5, method, {key: size}) for size in range(1, 100)]
    assert abs(found.parameters - budget) == min(abs(other - budget) for other in others)


def test_the_scale_stays() -> None:
    for method in ("lora", "mtl-lora", "moelora", "mixlora"):
        found = sized(tiny(), 3, method, 30_000)
        start = adapter_settings(method, {}).model_dump()
        assert found.adapter["alpha"] / found.adapter["rank"] == start["alpha"] / start["rank"]
    assert sized(tiny(), 3, "lora", 30_000, {"targets": ["q_proj"]}).adapter["targets"] == ["q_proj"]


def test_a_budget_that_is_too_small_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"mixlora: its smallest adapter \(rank 1\) has .* budget of 50"):
        sized(tiny(), 3, "mixlora", 50)


def test_every_method_is_registered_with_a_grid_of_one_size() -> None:
    assert set(MULTITASK) == set(MULTITASK_METHODS)
    assert {len(spec.grid) for spec in METHODS.values() if spec.trains} == {5}
    assert {len(spec.grid) for spec in MULTITASK.values()} == {6}
