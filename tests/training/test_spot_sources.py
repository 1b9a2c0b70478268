"""SPoT's source prompts: the teachers, kept as they are in a file of the metaprompt's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from clinprompt.experiments.metaprompts import variant
from clinprompt.methods.registry import METHODS
from clinprompt.methods.spot import undistilled
from clinprompt.planning import plan_learn
from clinprompt.prompts.artifact import load_metaprompt
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import learn, load_teachers
from clinprompt.training.settings import ExtendSettings, LearnSettings, changed
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task
from tests.training.test_loop import LEARN
from tests.training.test_methods import settings_of

AS_THEY_ARE = changed(LEARN, {"students": False})


def test_source_prompts_are_the_products_bit_for_bit() -> None:
    prompts = torch.randn(3, 4, 6)
    shared, u, v = undistilled(prompts)
    assert torch.equal(shared * (u @ v.transpose(1, 2)), prompts)


def test_a_file_of_teachers_shares_them_with_mpt_and_has_no_source_stage(tmp_path: Path) -> None:
    backbone, sources, shared = tiny(), [ner_task(), nli_task()], tmp_path / "teachers"
    stages: list[str] = []
    learn(backbone, sources, LEARN, tmp_path / "mpt", teachers_folder=shared)
    learned = learn(
        backbone,
        sources,
        AS_THEY_ARE,
        tmp_path / "spot",
        teachers_folder=shared,
        progress=lambda stage, *_: stages.append(stage),
    )
    assert set(stages) <= {"teachers"} and len(list(shared.glob("*.checkpoint.safetensors"))) == 1
    assert not (tmp_path / "spot" / "source.checkpoint.safetensors").exists()
    file = load_metaprompt(tmp_path / "spot" / "metaprompt.safetensors")
    names, prompts = load_teachers(shared)
    for name, prompt in zip(names, prompts, strict=True):
        assert torch.equal(file.prompt(name), prompt)
    losses = [learned.metaprompt.card.metrics["validation_loss"][name] for name in names]
    assert losses == [round(x, 4) for x in learned.teacher_fit.validation.tolist()]
    assert [stage.name for stage in plan_learn(backbone, learned.examples, 4, AS_THEY_ARE).stages] == ["teachers"]


def test_a_target_starts_at_the_best_teacher(tmp_path: Path) -> None:
    backbone = tiny()
    file = learn(backbone, [ner_task(), nli_task()], AS_THEY_ARE, tmp_path).metaprompt
    _, prompts = load_teachers(tmp_path)
    task = adapt(backbone, file, [Plan(nli_task("target"), settings_of("spot", shots=0))]).tasks[0]
    torch.testing.assert_close(task.prompt, prompts.mean(dim=0))
    moved = settings_of("spot", **{"loop.learning_rate": 1e-30})
    task = adapt(backbone, file, [Plan(nli_task("target"), moved)]).tasks[0]
    assert any(torch.equal(task.prompt, prompt) for prompt in prompts)


def test_identities_of_runs_with_students_are_as_before() -> None:
    assert "students" not in LearnSettings().model_dump()
    assert AS_THEY_ARE.model_dump()["students"] is False
    assert variant(METHODS["spot"]) == "spot" and variant(METHODS["mpt-best"]) == "mpt"


def test_what_has_no_meaning_without_students_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave out `architecture`"):
        LearnSettings(students=False, architecture={})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="an extension is distilled"):
        ExtendSettings(students=False)
