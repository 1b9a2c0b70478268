"""One adapter for several tasks: resume equals uninterrupted, the file answers as the bank did, by task name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinprompt.adapters.files import bank_of
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError, BackboneError, TrainingError
from clinprompt.prompts.artifact import load_task, save_task
from clinprompt.prompts.multitask import MultitaskAdapter, load_multitask, save_multitask
from clinprompt.training import loop as looping
from clinprompt.training.identity import digest_of
from clinprompt.training.learn import source_examples
from clinprompt.training.multitask import FILE, MultitaskSettings, learn_multitask, run_identity
from clinprompt.training.multitask_banks import MULTITASK_METHODS, multitask_bank
from clinprompt.training.settings import LoopSettings
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=6, batch_size=4, learning_rate=0.01, evaluate_every=3, checkpoint_every=2)


def settings(method: str, **changes: object) -> MultitaskSettings:
    return MultitaskSettings(**{"method": method, "loop": LOOP, **changes})  # type: ignore[arg-type]


def sources() -> list:  # type: ignore[type-arg]
    return [ner_task(), nli_task(), ner_task("find-more", shift=3)]


@pytest.mark.parametrize("method", sorted(MULTITASK_METHODS))
def test_resume_is_exact_and_the_file_answers_as_the_training_did(method: str, tmp_path: Path) -> None:
    backbone = tiny()
    whole = learn_multitask(backbone, sources(), settings(method), tmp_path / "whole")

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_multitask(backbone, sources(), settings(method), tmp_path / "parts", progress=stop)
    parts = learn_multitask(backbone, sources(), settings(method), tmp_path / "parts")
    assert parts.adapter.card.digest == whole.adapter.card.digest
    assert torch.equal(parts.fit.validation, whole.fit.validation)
    start = multitask_bank(backbone, 3, method, {}).stored()
    assert any(not torch.equal(values, start[name]) for name, values in whole.adapter.tensors.items())
    read = load_multitask(tmp_path / "parts" / FILE)
    assert read.names == ["find", "infer", "find-more"]
    for row, source in enumerate(sources()):
        save_task(read.of(source.task.name), tmp_path / "task.safetensors")
        bank = bank_of(backbone, load_task(tmp_path / "task.safetensors"))
        held = source_examples(backbone, source, settings(method), bank.length, read.card.position).validation
        torch.testing.assert_close(loss_of(backbone, bank, held), whole.fit.validation[row], atol=1e-5, rtol=1e-5)


def loss_of(backbone: Backbone, bank: object, held: list) -> torch.Tensor:  # type: ignore[type-arg]
    from clinprompt.backbone.injection import collate, label_states, token_losses

    with torch.no_grad(), bank.applied(backbone, [0] * len(held)) as prompts:  # type: ignore[attr-defined]
        return token_losses(backbone, label_states(backbone, collate(backbone, held), prompts)).mean()


def test_names_backbones_and_folders_are_checked(tmp_path: Path) -> None:
    backbone = tiny()
    learned = learn_multitask(backbone, sources(), settings("lora"), tmp_path)
    with pytest.raises(ArtifactError, match=r"unknown task .fnd.*find"):
        learned.adapter.of("fnd")
    with pytest.raises(BackboneError, match="made for backbone"):
        bank_of(tiny(seed=1), learned.adapter.of("find"))
    with pytest.raises(TrainingError, match=r"holds a run with other settings"):
        learn_multitask(backbone, sources(), settings("lora", seed=1), tmp_path)
    with pytest.raises(TrainingError, match="at least two"):
        learn_multitask(backbone, [ner_task()], settings("lora"), tmp_path / "one")
    with pytest.raises(TrainingError, match="repeated: find"):
        learn_multitask(backbone, [ner_task(), ner_task()], settings("lora"), tmp_path / "twice")
    with pytest.raises(TrainingError, match="mtl-lor"):
        learn_multitask(backbone, sources(), settings("mtl-lor"), tmp_path / "unknown")
    with pytest.raises(TrainingError, match=r"vocabulary has 256 positions to start from, not 300"):
        multitask_bank(backbone, 3, "prefix", {"length": 300})
    with pytest.raises(TrainingError, match=r"adapter\.rnk.*Known: rank, alpha, targets"):
        learn_multitask(backbone, sources(), settings("lora", adapter={"rnk": 3}), tmp_path / "key")


def test_a_file_with_slices_for_other_tasks_is_refused(tmp_path: Path) -> None:
    learned = learn_multitask(tiny(), sources(), settings("lora"), tmp_path / "run")

    card = learned.adapter.card.model_copy(update={"adapter": learned.adapter.card.adapter | {"per_task": ["lora_A"]}})
    save_multitask(MultitaskAdapter(learned.adapter.tensors, card), tmp_path / "wrong.safetensors")
    with pytest.raises(ArtifactError, match="names 3 tasks"):
        load_multitask(tmp_path / "wrong.safetensors")


def test_early_stopping_of_a_shared_adapter_stops_tasks_without_validation_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first validation is the best; one task is never judged, and what is shared is not trained past the stop."""
    backbone = tiny()
    blind = [ner_task(), replace(nli_task(), validation=[])]
    loop = LOOP.model_copy(update={"evaluate_every": 1, "patience": 2, "schedule": "constant"})
    short = learn_multitask(
        backbone, blind, settings("lora", loop=loop.model_copy(update={"steps": 1})), tmp_path / "short"
    )
    told = []

    def rising(backbone: object, problem: object, how: object, processes: object, rows: list[int]) -> torch.Tensor:
        told.append(rows)
        return torch.tensor([float(len(told)) if 0 in rows else math.nan, math.nan])

    monkeypatch.setattr(looping, "validation_losses", rising)
    found = learn_multitask(backbone, blind, settings("lora", loop=loop), tmp_path / "whole")
    assert found.fit.steps.tolist() == [3, 3] and told == [[0, 1]] * 3
    assert float(found.fit.validation[0]) == 1.0 and math.isnan(float(found.fit.validation[1]))
    for name, values in short.adapter.tensors.items():
        assert torch.equal(found.adapter.tensors[name], values)


def test_a_given_start_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    """Two starts of the same shape are two runs; the same start again continues."""
    backbone = tiny()
    starts = {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        starts[name] = multitask_bank(backbone, 3, "lora", {}, seed)
    one = learn_multitask(backbone, sources(), settings("lora"), tmp_path, bank=starts["one"])  # type: ignore[arg-type]
    same = learn_multitask(backbone, sources(), settings("lora"), tmp_path, bank=starts["same"])  # type: ignore[arg-type]
    assert same.adapter.card.digest == one.adapter.card.digest
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        learn_multitask(backbone, sources(), settings("lora"), tmp_path, bank=starts["other"])  # type: ignore[arg-type]


def test_the_identity_of_a_run_without_a_given_start_is_what_it_was() -> None:
    """Evidence is filed under it."""
    backbone = tiny()
    bank = multitask_bank(backbone, 2, "lora", {})
    described = settings("lora").model_dump(mode="json")
    described["loop"].pop("checkpoint_every")
    shapes = {name: list(values.shape) for name, values in bank.values().items()}
    assert run_identity(backbone, settings("lora"), bank, []) == digest_of(
        [backbone.fingerprint, described, shapes, []]
    )
