"""Extending a metaprompt: the old tasks stay (frozen) or are held (replayed), and an interrupted run ends the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TrainingError
from clinprompt.prompts.artifact import Metaprompt, load_metaprompt
from clinprompt.training.extend import Extended, ReplaySampler, extend, inherited
from clinprompt.training.learn import SourceTask, learn
from clinprompt.training.sampling import TaskSampler
from clinprompt.training.settings import ExtendSettings, LearnSettings, LoopSettings
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(
    steps=8, batch_size=4, learning_rate=0.05, vector_learning_rate=0.05, evaluate_every=4, checkpoint_every=3
)
SHAPE = {"limit": 12, "validation_records": 4, "target_reserve": 32, "teacher": LOOP, "source": LOOP}
OLD = [ner_task(), nli_task()]
NEW = [ner_task("more", shift=3)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny()


@pytest.fixture(scope="module")
def parent(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Metaprompt:
    folder = tmp_path_factory.mktemp("parent")
    learn(backbone, OLD, LearnSettings(prompt_length=4, window=64, **SHAPE), folder)
    return load_metaprompt(folder / "metaprompt.safetensors")


def run(
    backbone: Backbone, parent: Metaprompt, folder: Path, *, old: list[SourceTask] | None = None, **settings: object
) -> Extended:
    return extend(backbone, parent, OLD if old is None else old, NEW, ExtendSettings(**SHAPE | settings), folder)


@pytest.mark.parametrize("old", [OLD, []], ids=["measured", "without data"])
def test_frozen_old_tasks_are_bit_equal(
    backbone: Backbone, parent: Metaprompt, tmp_path: Path, old: list[SourceTask]
) -> None:
    found = run(backbone, parent, tmp_path, old=old, keep="freeze")
    written = load_metaprompt(tmp_path / "metaprompt.safetensors")
    assert torch.equal(written.shared, parent.shared)
    assert all(torch.equal(written.prompt(name), parent.prompt(name)) for name in parent.names)
    assert written.names == [*parent.names, "more"]
    assert not torch.equal(written.u[2], parent.u.mean(0)), "the new task has learned"
    assert found.before == found.after and len(found.before) == len(old)
    card = written.card
    assert card.parent == parent.digest and card.digest == written.digest != parent.digest
    assert [note.task for note in card.data] == written.names and len(card.answer_limit) == 3
    assert card.answer_limit[:2] == parent.card.answer_limit
    assert set(card.metrics["validation_loss"]) == set(written.names), "the parent's losses are still true"


def test_replay_trains_all_and_holds_the_old(backbone: Backbone, parent: Metaprompt, tmp_path: Path) -> None:
    found = run(backbone, parent, tmp_path, keep="replay")
    written = load_metaprompt(tmp_path / "metaprompt.safetensors")
    assert not torch.equal(written.shared, parent.shared)
    measured = written.card.metrics["extension"]["old_validation_loss"]
    for name in parent.names:
        assert not torch.equal(written.prompt(name), parent.prompt(name))
        assert found.after[name] < found.before[name] + 0.05
        assert measured[name] == {"before": round(found.before[name], 4), "after": round(found.after[name], 4)}
    assert set(written.card.settings["replayed"]) == set(parent.names)


def test_replay_forgets_less_than_no_replay(backbone: Backbone, parent: Metaprompt, tmp_path: Path) -> None:
    """A control that could fail: the same P* trained on the new task alone changes the old tasks' losses more."""
    loop = LOOP.model_copy(update={"steps": 30, "learning_rate": 0.2, "batch_size": 8})
    held = run(backbone, parent, tmp_path / "held", keep="replay", source=loop)
    unheld = run(backbone, parent, tmp_path / "unheld", keep="replay", source=loop, replay=0.01, weight_logits=0.0,
                 weight_hidden=0.0)  # fmt: skip
    assert sum(held.after.values()) < sum(unheld.after.values())


@pytest.mark.parametrize("keep", ["freeze", "replay"])
def test_resuming_ends_bit_identical(
    backbone: Backbone, parent: Metaprompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    whole = run(backbone, parent, tmp_path / "whole", keep=keep)
    calls = 0

    def interrupt(stage: str, done: int, total: int, loss: float) -> None:
        nonlocal calls
        calls += stage == "metaprompt"
        if calls == 5:
            raise KeyboardInterrupt

    settings = ExtendSettings(**SHAPE, keep=keep)
    with pytest.raises(KeyboardInterrupt):
        extend(backbone, parent, OLD, NEW, settings, tmp_path / "cut", progress=interrupt)
    assert not (tmp_path / "cut" / "metaprompt.safetensors").exists()
    again = extend(backbone, parent, OLD, NEW, settings, tmp_path / "cut")
    assert again.metaprompt.digest == whole.metaprompt.digest
    assert again.after == whole.after


def test_prompt_shape_and_windows_are_the_parents(parent: Metaprompt) -> None:
    settings = inherited(parent, ExtendSettings(prompt_length=9, rank=3, window=500, target_reserve=200))
    assert (settings.prompt_length, settings.rank, settings.window, settings.target_reserve) == (4, 1, 64, 32)


def test_wrong_input(backbone: Backbone, parent: Metaprompt, tmp_path: Path) -> None:
    settings = ExtendSettings(**SHAPE)
    with pytest.raises(TrainingError, match=r"already: find\. Rename"):
        extend(backbone, parent, OLD, [ner_task("find")], settings, tmp_path)
    with pytest.raises(TrainingError, match="repeated: more"):
        extend(backbone, parent, OLD, NEW * 2, settings, tmp_path)
    with pytest.raises(TrainingError, match="no new task"):
        extend(backbone, parent, OLD, [], settings, tmp_path)
    with pytest.raises(TrainingError, match="does not have it"):
        extend(backbone, parent, NEW, NEW, settings, tmp_path)
    with pytest.raises(BackboneError, match="made for backbone"):
        extend(tiny(seed=1), parent, OLD, NEW, settings, tmp_path)
    other = OLD[0].task.model_copy(update={"labels": {"Drug": "a drug"}})
    with pytest.raises(TrainingError, match="labels or instruction"):
        extend(backbone, parent, [replace(OLD[0], task=other)], NEW, settings, tmp_path)
    with pytest.raises(TrainingError, match=r"not at hand: infer\..*freeze"):
        extend(backbone, parent, OLD[:1], NEW, ExtendSettings(**SHAPE, keep="replay"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_extension_is_refused(backbone: Backbone, parent: Metaprompt, tmp_path: Path) -> None:
    run(backbone, parent, tmp_path, keep="freeze")
    with pytest.raises(TrainingError, match="another --out"):
        run(backbone, parent, tmp_path, keep="replay")


def test_replay_share_of_every_batch() -> None:
    old = TaskSampler(["a", "b", "c"], [500, 300, 200], 6, 0)
    sampler = ReplaySampler(old, TaskSampler(["d"], [5], 4, 0))
    for step in range(20):
        picks = sampler.step(step, range(4))
        counts = Counter(pick.row for pick in picks)
        assert counts[3] == 4 and sum(counts[row] for row in range(3)) == 6
        assert all(pick.row == pick.task and pick.example < (500, 300, 200, 5)[pick.task] for pick in picks)
        assert picks == sampler.step(step, range(4))
