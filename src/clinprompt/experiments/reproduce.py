"""A cell again, from its line in a results file: the same rows train together, and everything is compared exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.experiments.answering import answer_cells
from clinprompt.experiments.cells import CellPlan, Group
from clinprompt.experiments.choosing import choose
from clinprompt.experiments.lines import machine
from clinprompt.experiments.metaprompts import Progress, metaprompt_jobs, require
from clinprompt.experiments.multitask_bench import multitask_bench
from clinprompt.experiments.multitask_protocol import parse_multitask_protocol
from clinprompt.experiments.protocol import parse_protocol
from clinprompt.experiments.results import Cell, numerics_text
from clinprompt.experiments.store import ResultsFile, Store
from clinprompt.experiments.trainings import Row, Trained
from clinprompt.experiments.units import score_cell
from clinprompt.experiments.workbench import Workbench

COMPARED = ("metrics", "per_example", "errors", "test_set", "trials", "chosen", "metaprompt", "trainable")
"""Fields that must come out the same, to the last digit; times and energy are measured anew."""


@dataclass(frozen=True)
class Reproduction:
    """A recorded and a new line; `differences` names the fields that came out otherwise, `remarks` why that may be."""

    recorded: Cell
    found: Cell
    differences: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.differences


def recorded_cell(path: Path, identifier: str) -> Cell:
    """A cell's line. Raises TrainingError if the file has none with this id (a beginning of it is enough)."""
    found = [
        line
        for line in ResultsFile(path).lines()
        if line.get("kind", "cell") == "cell" and line["id"].startswith(identifier)
    ]
    if len(found) != 1:
        raise TrainingError(f"{path}: {len(found)} cells have an id that begins with {identifier!r}.")
    return Cell.model_validate(found[0])


def run_again(
    recorded: Cell, backbone: Backbone, work: Path, data_dir: Path | None, progress: Progress | None = None
) -> Reproduction:
    """Learn (unless it is in `work`), train and score a cell as its line says, and compare.

    Trials are trained and judged again; those of a multi-task comparison unless they are in `work`. Raises
    TrainingError when the data or the backbone are not those of the line.
    """
    _require_numerics(recorded, backbone)
    torch.set_num_threads(int(recorded.settings["threads"]))
    bench = _bench(recorded, backbone, Store(work), data_dir)
    group, cell = _find(bench, recorded)
    require(bench, metaprompt_jobs(bench, [replace(group, cells=(cell,))]), progress)
    found = _compute(bench, group, cell, recorded, progress)
    ours, theirs = found.model_dump(mode="json"), recorded.model_dump(mode="json")
    differences = tuple(name for name in COMPARED if ours[name] != theirs[name])
    return Reproduction(recorded, found, differences, tuple(_remarks(recorded, backbone)))


def _require_numerics(recorded: Cell, backbone: Backbone) -> None:
    wanted = recorded.settings.get("numerics", backbone.numerics)
    if wanted != backbone.numerics:
        raise TrainingError(
            f"cell {recorded.id} was computed in {numerics_text(wanted)}, and this is "
            f"{numerics_text(backbone.numerics)}: leave --dtype, --autocast and --quantise out, and the line decides."
        )


def _bench(recorded: Cell, backbone: Backbone, store: Store, data_dir: Path | None) -> Workbench:
    if "multitask" in recorded.settings:
        plan = parse_multitask_protocol(recorded.settings["multitask"], recorded.id)
        return multitask_bench(plan, backbone, store, data_dir)
    return Workbench(parse_protocol(recorded.settings["protocol"], recorded.id), backbone, store, data_dir)


def _compute(bench: Workbench, group: Group, cell: CellPlan, recorded: Cell, progress: Progress | None) -> Cell:
    spec = bench.spec(cell.method)
    if not spec.trains:
        return score_cell(bench, spec, cell, None, None, progress)
    trained: dict[Row, Trained] = {}
    for listed in recorded.settings["trainings"]:
        rows = tuple(Row(*row) for row in listed)
        trained |= bench.train_again(spec, cell.shots, rows, group.name, progress)
    fresh = replace(bench, store=_NoSelections(bench.store.work))
    choice = choose(fresh, group, trained)
    row = Row(cell.target, choice.chosen, cell.draw, cell.seed)
    if row not in trained:
        raise TrainingError(
            f"cell {cell.id}: the trials were judged otherwise than recorded (trial {choice.chosen} won), and its row "
            "was not trained. Processor, threads or PyTorch may be others than in the line's `machine`."
        )
    company = [Row(*found) for found in recorded.settings.get("answered_with", [])] or [row]
    cells = [cell] * len(company)
    answers = answer_cells(bench, cells, [trained[each] for each in company], company, progress)
    line = score_cell(bench, spec, cell, choice, trained[row], answers=answers[company.index(row)])
    return bench.annotated(line)


class _NoSelections(Store):
    """A store that forgets: the trials are judged anew."""

    def selection(self, identifier: str) -> dict[str, Any] | None:
        return None

    def keep_selection(self, identifier: str, found: dict[str, Any]) -> dict[str, Any]:
        return found


def _find(bench: Workbench, recorded: Cell) -> tuple[Group, CellPlan]:
    for group in bench.groups_of(recorded.method, recorded.target, recorded.shots):
        for cell in group.cells:
            if cell.id == recorded.id:
                return group, cell
    raise TrainingError(
        f"cell {recorded.id}: what would be computed here has another identity. The backbone must be "
        f"{recorded.backbone} with fingerprint {recorded.fingerprint} (here {bench.backbone.fingerprint}), the records "
        f"those it was computed on, the library {recorded.library}."
    )


def _remarks(recorded: Cell, backbone: Backbone) -> Sequence[str]:
    if recorded.machine != machine():
        return [f"recorded on {recorded.machine}; this is {machine()}: rounding may differ"]
    if recorded.settings["device"] != backbone.device.type:
        return [f"recorded on {recorded.settings['device']}, here on {backbone.device.type}: rounding may differ"]
    return []
