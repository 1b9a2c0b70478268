"""`--dry-run`: the estimate of a run as a table or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinprompt.commands.output import duration, print_json, print_table, quantity, say, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clinprompt.backbone.model import Backbone
    from clinprompt.planning import Estimate
    from clinprompt.training.batching import TaskExamples


def print_plan(
    verb: str,
    estimate: Estimate,
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    length: int,
    rate: float | None,
    as_json: bool,
) -> None:
    """Show what a run would do. Without a given rate, one is measured on the examples (two passes)."""
    from clinprompt.planning import FORMULA, calibrate, with_rate

    encoded = [e for task in examples for e in task.train]
    if rate is not None:
        estimate = with_rate(estimate, rate, measured=False)
    elif encoded:
        estimate = with_rate(estimate, calibrate(backbone, encoded, length), measured=True)
    if as_json:
        print_json({"verb": verb, "dry_run": True, "backbone": backbone.name, **estimate.summary()})
        return
    known = estimate.rate
    print_table(
        f"Plan of `{verb}` (nothing was trained)",
        ("stage", "trained numbers", "steps", "tokens", "tokens a step", "FLOPs", "time"),
        [
            (
                stage.name,
                stage.parameters,
                stage.steps,
                quantity(stage.tokens),
                quantity(stage.tokens / stage.steps) if stage.steps else None,
                quantity(stage.flops),
                duration(stage.flops / known if known else None),
            )
            for stage in estimate.stages
        ],
    )
    counts = ", ".join(f"{name} {count}" for name, count in estimate.examples.items())
    say(f"Training examples: {counts}")
    say(
        f"Backbone {backbone.name}: {estimate.backbone_parameters:,} weights, all frozen; N = "
        f"{estimate.body_parameters:,} outside the embeddings, V·d = {backbone.vocabulary:,} · {backbone.width}"
    )
    say(f"FLOPs: {FORMULA}; padding is not counted")
    how = "measured just now on these examples" if estimate.measured else "as given"
    if known:
        say(f"Time: {duration(estimate.seconds)} at {quantity(known)}FLOP/s ({how})")
    say(f"Memory: about {size(estimate.memory)} (within a factor of two)")
    say("  " + ", ".join(f"{name} {size(count)}" for name, count in estimate.memory_parts.items()))
    for note in estimate.notes:
        say(f"Note: {note}")
