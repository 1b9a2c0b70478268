"""Own positions before a metaprompt's: rows equal their twins, files are plain, zero shots have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clinprompt.errors import TrainingError
from clinprompt.methods.registry import METHODS, OWN_LENGTH
from clinprompt.prompts.initialisation import from_vocabulary
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.banks import room_for
from clinprompt.training.settings import AdaptSettings, LoopSettings, changed
from tests.models import tiny
from tests.prompts.cards import metaprompt_for
from tests.training.rows import plain_task_file, rows_like_their_twins
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=3, batch_size=3, learning_rate=0.05, vector_learning_rate=0.05, micro_tokens=256)
SETTINGS = AdaptSettings(method="mpt", mode="frozen", own_length=4, target_reserve=32, loop=LOOP)
TRAINED = changed(SETTINGS, {"mode": "full"})
PLAIN = changed(SETTINGS, {"method": "pt", "mode": "full"})


@pytest.mark.parametrize("settings", [SETTINGS, TRAINED, PLAIN], ids=["frozen", "trained", "pt"])
def test_a_row_equals_its_solitary_twin(settings: AdaptSettings) -> None:
    assert all(file.prompt.shape == (9, 32) for file in rows_like_their_twins(settings, "learning_rate"))


def test_frozen_keeps_the_metaprompt_and_learns_before_it() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    start = metaprompt.shared * (metaprompt.u.mean(0) @ metaprompt.v.mean(0).T)
    prompt = adapt(backbone, metaprompt, [Plan(nli_task(), SETTINGS)]).tasks[0].prompt
    torch.testing.assert_close(prompt[4:], start)
    assert (prompt[:4] - from_vocabulary(backbone, 4, seed=0)[0]).abs().max() > 0.01
    moved = adapt(backbone, metaprompt, [Plan(nli_task(), TRAINED)]).tasks[0].prompt
    assert (moved[4:] - start).abs().max() > 0.01


def test_before_there_are_examples_a_metaprompt_answers_as_it_is() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    untrained = [changed(s, {"shots": 0}) for s in (SETTINGS, changed(SETTINGS, {"mode": "full", "own_length": None}))]
    prompts = [adapt(backbone, metaprompt, [Plan(nli_task(), s)]).tasks[0].prompt for s in untrained]
    assert prompts[0].shape == (5, 32) and torch.equal(*prompts)


@pytest.mark.parametrize("settings", [SETTINGS, TRAINED, PLAIN, changed(SETTINGS, {"mode": "shared"})])
def test_a_file_is_a_plain_task_file(settings: AdaptSettings, tmp_path: Path) -> None:
    back, bank = plain_task_file(settings, tmp_path)
    assert back.card.mode == ("" if settings.method == "pt" else settings.mode)
    assert set(back.tensors) == {"prompt"} and bank.length == 9


def test_a_group_shares_p_but_not_its_own_positions() -> None:
    settings = changed(SETTINGS, {"mode": "group"})
    plans = [Plan(nli_task("a"), settings), Plan(ner_task("b"), settings)]
    files = adapt(tiny(), metaprompt_for(tiny()), plans).tasks
    assert not torch.equal(files[0].prompt[:4], files[1].prompt[:4])


def test_an_interrupted_training_ends_where_it_would_have(tmp_path: Path) -> None:
    backbone, plan = tiny(), Plan(nli_task(), changed(SETTINGS, {"loop.checkpoint_every": 1}))
    metaprompt = metaprompt_for(backbone)
    whole = adapt(backbone, metaprompt, [plan]).tasks[0].prompt

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(backbone, metaprompt, [plan], checkpoint=tmp_path / "c.safetensors", progress=stop)
    assert (tmp_path / "c.safetensors").is_file()
    again = adapt(backbone, metaprompt, [plan], checkpoint=tmp_path / "c.safetensors").tasks[0].prompt
    assert torch.equal(again, whole)


def test_rows_of_the_registry_have_the_same_positions() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    lengths = {
        name: room_for(backbone, changed(AdaptSettings(), METHODS[name].adapt), metaprompt).length
        for name in ("mpt+", "mpt+trained", "pt+", "mpt")
    }
    assert lengths == {"mpt+": 5 + OWN_LENGTH, "mpt+trained": 5 + OWN_LENGTH, "pt+": 5 + OWN_LENGTH, "mpt": 5}
    by_default = room_for(backbone, changed(AdaptSettings(method="mpt"), {"mode": "frozen"}), metaprompt)
    assert by_default.length == 5 + OWN_LENGTH


def test_settings_without_own_positions_are_described_as_before() -> None:
    assert "own_length" not in AdaptSettings().model_dump(mode="json")
    assert SETTINGS.model_dump(mode="json")["own_length"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "vectors"}, "mode vectors keeps u and v alone"),
        ({"method": "lora"}, "`own_length` belongs to mpt and pt; lora"),
        ({"method": "spot"}, "`own_length` belongs to mpt and pt; spot"),
        ({"factors.rank": 3}, "mode frozen trains no vectors"),
        ({"factors.mixture": "gates"}, "mode frozen trains no vectors"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    backbone = tiny()
    with pytest.raises(TrainingError, match=message):
        adapt(backbone, metaprompt_for(backbone), [Plan(ner_task(), changed(SETTINGS, changes))])
