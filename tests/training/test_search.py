"""A search over the sample tasks on a tiny backbone ends in a cell, a diagram and a gap, and can be interrupted."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from clinprompt import api
from clinprompt.adapters.joint import JointBank
from clinprompt.architecture.discrete import load_architecture
from clinprompt.architecture.network import Architecture
from clinprompt.errors import TrainingError
from clinprompt.training import relaxing
from clinprompt.training import search as searching
from clinprompt.training.learn import SourceTask, source_examples
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.optimiser import RowAdamW
from clinprompt.training.relaxing import Cell, Relaxed, RelaxSettings, halves, relax
from clinprompt.training.search import ARCHITECTURE, DIAGRAM, RECORD, SearchSettings, best_bank, search
from clinprompt.training.settings import LoopSettings, LoraSettings
from tests.models import tiny
from tests.training.synthetic import ner_task

pytest.importorskip("optuna", reason="the outer search needs the extra `search`")

LOOP = LoopSettings(steps=3, batch_size=4, learning_rate=0.003, checkpoint_every=1, validation_limit=2)
RELAX = RelaxSettings(operations=("zero", "mlp-gelu", "attention"), lora=LoraSettings(rank=2), loop=LOOP)
SETTINGS = SearchSettings(
    trials=2, depths=(1, 2), lengths=(2, 4), widths=(8,), hiddens=(4,), relax=RELAX, limit=6, validation_records=2
)


def sample_sources() -> list[SourceTask]:
    sources = api.source_tasks("sample")
    return sorted(sources, key=lambda s: max(len(r.text) for r in s.train))[:2]


def test_a_search_on_sample_tasks_ends_in_a_cell_a_diagram_and_a_gap(tmp_path: Path) -> None:
    backbone, sources = tiny(), sample_sources()
    found = search(backbone, sources, SETTINGS, tmp_path)
    stored = load_architecture(tmp_path / ARCHITECTURE)
    assert stored == found.architecture and set(stored.operations) <= set(RELAX.operations)
    assert stored.length in SETTINGS.lengths and len(stored.operations) in SETTINGS.depths
    record = json.loads((tmp_path / RECORD).read_text())
    best = record["trials"][found.best]
    assert best["gap"] == pytest.approx(best["discrete_loss"] - best["relaxed_loss"])
    assert best["discrete_loss"] == min(trial["discrete_loss"] for trial in record["trials"])
    assert record["seconds"] == pytest.approx(sum(t["seconds"] for t in record["trials"])) and record["tokens"] > 0
    assert all(0 <= value <= 1 for value in best["entropies"])
    assert stored.search["tasks"] == [source.task.name for source in sources]
    ElementTree.fromstring((tmp_path / DIAGRAM).read_text())
    bank = best_bank(backbone, sources, SETTINGS, tmp_path, found)
    assert isinstance(bank.bank, JointBank) and bank.rows == len(sources) and bank.length == stored.length


def test_an_interrupted_search_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    backbone, sources = tiny(), [ner_task(), ner_task("more", shift=3)]
    whole = search(backbone, sources, SETTINGS, tmp_path / "whole")

    def stop(trial: str, step: int, steps: int, loss: float) -> None:
        if trial.startswith("trial 2") and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(backbone, sources, SETTINGS, tmp_path / "parts", progress=stop)
    parts = search(backbone, sources, SETTINGS, tmp_path / "parts")
    timed = {"seconds"}
    for ours, theirs in zip(parts.trials, whole.trials, strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert parts.architecture.bare() == whole.architecture.bare() and parts.tokens == whole.tokens
    with pytest.raises(TrainingError, match="other settings"):
        search(backbone, sources, SETTINGS.model_copy(update={"seed": 1}), tmp_path / "parts")


def test_validation_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two validations of 0.2 s each."""
    examples = [source_examples(tiny(), ner_task(), MultitaskSettings(), 4, "front")]
    real = relaxing.validation_losses

    def slow(*given: Any) -> torch.Tensor:
        time.sleep(0.2)
        return real(*given)

    short = LOOP.model_copy(update={"steps": 1})
    trained = relax(tiny(), examples, Cell(1, 8, 4, 4), RELAX.model_copy(update={"loop": short})).tokens
    begun = time.monotonic()
    monkeypatch.setattr(relaxing, "validation_losses", slow)
    found = relax(tiny(), examples, Cell(1, 8, 4, 4), RELAX.model_copy(update={"loop": short}))
    assert 0.4 <= found.seconds <= time.monotonic() - begun
    assert found.tokens == trained


@pytest.mark.parametrize("call", [3, 4])
@pytest.mark.parametrize("waits", [True, False])
def test_ctrl_c_within_a_step_of_a_trial_takes_no_step_twice(
    call: int, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the weights of the second step moved, and after its logits did; where Ctrl-C can wait and where not."""
    examples = [source_examples(tiny(), ner_task(), MultitaskSettings(), 4, "front")]
    asked = (tiny(), examples, Cell(1, 8, 4, 4), RELAX)
    whole = relax(*asked)
    calls, real = 0, RowAdamW.step

    def step(*given: Any) -> None:
        nonlocal calls
        calls += 1
        real(*given)
        if calls == call and waits:
            signal.raise_signal(signal.SIGINT)
        elif calls == call:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RowAdamW, "step", step)
        relax(*asked, checkpoint=tmp_path / "x.safetensors", run="r")
    resumed = relax(*asked, checkpoint=tmp_path / "x.safetensors", run="r")
    assert (resumed.weights, resumed.discrete, resumed.tokens) == (whole.weights, whole.discrete, whole.tokens)
    assert all(torch.equal(values, whole.bank.values()[name]) for name, values in resumed.bank.values().items())


@pytest.mark.parametrize("rule", ["gumbel", "straight-through"])
def test_weights_and_logits_learn_from_different_halves(rule: str) -> None:
    backbone, settings = tiny(), RELAX.model_copy(update={"rule": rule})
    examples = [source_examples(backbone, ner_task(), MultitaskSettings(), 4, "front")]
    first, second = halves(examples, 0)
    seen = [
        {e.ids.tobytes() if hasattr(e.ids, "tobytes") else tuple(e.ids) for e in p[0].train} for p in (first, second)
    ]
    assert not seen[0] & seen[1] and len(first[0].train) + len(second[0].train) == len(examples[0].train)
    found = relax(backbone, examples, Cell(2, 8, 4, 4), settings)
    assert any(abs(value - 1 / 3) > 1e-4 for row in found.weights for value in row)  # the logits moved
    start = relax(
        backbone, examples, Cell(2, 8, 4, 4), settings.model_copy(update={"loop": LOOP.model_copy(update={"steps": 1})})
    )
    ours, theirs = found.bank.values(), start.bank.values()
    assert not torch.equal(ours["prefix.projection"], theirs["prefix.projection"])
    assert any(not torch.equal(ours[n], theirs[n]) for n in ours if n.endswith("lora_B"))


def test_tpe_chooses_from_the_fifth_trial_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trials ask for the points that a random search asks for, whatever their losses."""

    def points(folder: str, trials: int, sign: float) -> list[tuple[int, int, int]]:
        def scored(backbone: object, examples: object, cell: Cell, *rest: object, **named: object) -> Relaxed:
            loss = sign * (cell.depth + cell.length)
            made = Architecture(operations=["zero"] * cell.depth, width=8, hidden=cell.hidden, length=cell.length)
            return Relaxed(made, loss, loss, [0.5] * cell.depth, [[0.5, 0.5]] * cell.depth, 1.0, 1, None)  # type: ignore[arg-type]

        monkeypatch.setattr(searching, "relax", scored)
        space = {"trials": trials, "depths": (1, 2, 3, 4), "lengths": (2, 4, 8), "hiddens": (4, 8, 16)}
        found = search(tiny(), [ner_task()], SETTINGS.model_copy(update=space), tmp_path / folder)
        cells = [trial["architecture"] for trial in found.trials]
        return [(len(cell["operations"]), cell["length"], cell["hidden"]) for cell in cells]

    up, down = points("up", 12, 1.0), points("down", 12, -1.0)
    assert up[:4] == down[:4] and up[4:] != down[4:]


def test_tasks_too_small_to_halve_are_named() -> None:
    backbone = tiny()
    one = [source_examples(backbone, ner_task(count=1), MultitaskSettings(), 4, "front")]
    with pytest.raises(TrainingError, match="task find: 1 training example; a search needs at least two"):
        halves(one, 0)
