"""Multi-task adapters of equal size: the rank (or prefix length) whose parameters come closest to a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.training.multitask_banks import adapter_settings, multitask_method, multitask_parameters

MOST = 4096  # largest rank or length that is looked at


@dataclass(frozen=True)
class Sized:
    """Settings of a method's adapter, the numbers it trains over all tasks, and their ratio to the budget."""

    adapter: dict[str, Any]
    parameters: int
    ratio: float


def sized(backbone: Backbone, tasks: int, method: str, budget: int, given: Mapping[str, Any] | None = None) -> Sized:
    """The settings nearest to a budget of trained numbers over all tasks: `given` with a rank (of `prefix` a length).

    Of two equally near the smaller. `alpha` grows with the rank, so that the scale alpha / rank stays what the method's
    default (or `given`) makes it [O]. Raises TrainingError if even rank one is more than twice the budget.
    """
    key = multitask_method(method).size
    start = adapter_settings(method, given or {})
    rank, alpha = getattr(start, key), getattr(start, "alpha", None)

    def at(size: int) -> dict[str, Any]:
        scaled = {} if alpha is None or key != "rank" else {"alpha": alpha * size / rank}
        return {**(given or {}), key: size, **scaled}

    def numbers(size: int) -> int:
        return multitask_parameters(backbone, tasks, method, at(size))

    low, high = 1, MOST
    while low < high:  # the first size that reaches the budget: parameters grow with the size
        middle = (low + high) // 2
        low, high = (low, middle) if numbers(middle) >= budget else (middle + 1, high)
    best = min({max(1, low - 1), low}, key=lambda size: (abs(numbers(size) - budget), size))
    found = numbers(best)
    if found > 2 * budget:
        raise TrainingError(
            f"{method}: its smallest adapter ({key} {best}) has {found:,} numbers for {tasks} tasks, more than twice "
            f"the budget of {budget:,}. Name fewer targets, or raise the budget."
        )
    return Sized(at(best), found, found / budget)
