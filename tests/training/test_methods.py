"""What each method stores and starts from, and that its files answer as its row did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinprompt.adapters.files import bank_of
from clinprompt.errors import ArtifactError, BackboneError, TrainingError
from clinprompt.evaluation.answerer import of_task
from clinprompt.planning import plan_adapt
from clinprompt.prompts.artifact import Metaprompt, TaskPrompt, load_task, save_task
from clinprompt.prompts.bank import trainable_parameters
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.banks import room_for, starting_bank
from clinprompt.training.costs import kept_numbers, stored_bytes, trained_numbers
from clinprompt.training.learn import learn
from clinprompt.training.loop import prompt_loss
from clinprompt.training.settings import AdaptSettings, LearnSettings, LoopSettings, LoraSettings, Method, changed
from clinprompt.training.starts import source_losses
from tests.models import tiny
from tests.prompts.cards import metaprompt_for
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=3, batch_size=3, learning_rate=0.05, vector_learning_rate=0.05, micro_tokens=256)
SETTINGS = AdaptSettings(lora=LoraSettings(rank=2), prefix_length=3, target_reserve=32, loop=LOOP)
METHODS: list[Method] = ["mpt", "pt", "spot", "prefix", "lora", "full", "lora+prefix", "peml"]


def settings_of(method: Method, **more: object) -> AdaptSettings:
    return changed(SETTINGS, {"method": method, **more})


@pytest.mark.parametrize("method", METHODS)
def test_a_file_comes_back_and_answers(method: Method, tmp_path: Path) -> None:
    backbone, task = tiny(), nli_task("target")
    file = adapt(backbone, metaprompt_for(backbone), [Plan(task, settings_of(method))]).tasks[0]
    assert file.card.method == method
    saved = save_task(file, tmp_path / "task.safetensors")
    back = load_task(tmp_path / "task.safetensors")
    assert back.card == saved.card and back.is_adapter == (method not in ("mpt", "pt", "spot"))
    assert {n: t.tolist() for n, t in back.tensors.items()} == {n: t.tolist() for n, t in file.tensors.items()}
    answers = [of_task(backbone, each).answers(task.validation) for each in (file, back)]
    assert [p.probabilities for p in answers[0]] == [p.probabilities for p in answers[1]]
    numbers = sum(tensor.numel() for tensor in back.tensors.values())
    length = room_for(backbone, settings_of(method), metaprompt_for(backbone)).length
    assert kept_numbers(backbone, settings_of(method), method, length) == numbers
    assert stored_bytes(backbone, settings_of(method), method, length) == 4 * numbers
    card = (tmp_path / "task.safetensors").stat().st_size - 4 * numbers
    assert 0 < card < 12_000


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["full", "vectors", "group", "shared", "frozen"])
def test_trained_numbers_are_those_of_the_bank(method: Method, mode: str) -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone, rank=2)
    chosen = settings_of(method, mode=mode)
    plans = [Plan(ner_task(name), chosen) for name in ("a", "b")]
    room = room_for(backbone, chosen, metaprompt)
    examples = [plan_examples(backbone, plan, room.length, room.position) for plan in plans]
    bank, rates = starting_bank(backbone, room, metaprompt, [chosen] * 2, examples)
    wanted = trained_numbers(backbone, chosen, method, room.length, rank=2, tasks=2)
    assert trainable_parameters(bank) == wanted and set(rates) == set(bank.trainable())
    estimate = plan_adapt(backbone, examples, room.length, chosen, method, 2)
    assert estimate.stages[-1].parameters == wanted and estimate.flops > 0


def test_more_is_computed_for_more_that_is_trained() -> None:
    backbone = tiny()
    flops = []
    for method in ("prefix", "lora", "full"):
        chosen = settings_of(method)  # type: ignore[arg-type]
        room = room_for(backbone, chosen, None)
        examples = [plan_examples(backbone, Plan(ner_task(), chosen), room.length, room.position)]
        flops.append(plan_adapt(backbone, examples, room.length, chosen, room.method).flops)
    assert flops == sorted(flops) and len(set(flops)) == 3


def test_spot_starts_at_the_best_source() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    plan = Plan(nli_task("target"), settings_of("spot"))
    room = room_for(backbone, plan.settings, metaprompt)
    examples = plan_examples(backbone, plan, room.length, room.position)
    losses = source_losses(backbone, metaprompt, examples.train)
    best = metaprompt.names[int(losses.argmin())]
    alone = adapt(backbone, metaprompt, [Plan(plan.target, settings_of("spot", start=best, shots=0))]).tasks[0].prompt
    assert float(losses.min()) == prompt_loss(backbone, examples.train, alone)
    for start, wanted in ((None, best), ("task1", "task1")):
        bank, _ = starting_bank(backbone, room, metaprompt, [changed(plan.settings, {"start": start})], [examples])
        torch.testing.assert_close(bank.values()["prompt"][0], metaprompt.prompt(wanted))
    untrained = adapt(backbone, metaprompt, [Plan(plan.target, settings_of("spot", shots=0))]).tasks[0]
    mean = metaprompt.shared * (metaprompt.u.mean(0) @ metaprompt.v.mean(0).T)
    torch.testing.assert_close(untrained.prompt, mean)


@pytest.mark.parametrize("method", ["mpt", "spot"])
def test_some_methods_need_a_metaprompt(method: Method) -> None:
    with pytest.raises(TrainingError, match="starts from a metaprompt"):
        adapt(tiny(), None, [Plan(ner_task(), settings_of(method))])


@pytest.mark.parametrize("field", [{"method": "pt"}, {"lora.rank": 3}, {"prefix_length": 2}, {"mode": "vectors"}])
def test_rows_share_what_shapes_their_bank(field: dict[str, object]) -> None:
    chosen = settings_of("lora")
    plans = [Plan(ner_task("a"), chosen), Plan(ner_task("b"), changed(chosen, field))]
    with pytest.raises(TrainingError, match="train together have one"):
        adapt(tiny(), None, plans)


def test_without_decomposition_all_sources_train_one_prompt(tmp_path: Path) -> None:
    loop = LoopSettings(steps=4, batch_size=4, learning_rate=0.1, micro_tokens=256)
    chosen = LearnSettings(
        prompt_length=5, target_reserve=32, teacher=loop, source=loop, decomposition=False, rank=2, start="vocabulary"
    )
    learned = learn(tiny(), [ner_task(), nli_task()], chosen, tmp_path).metaprompt
    assert torch.equal(learned.u, torch.ones(2, 5, 1)) and torch.equal(learned.v, torch.ones(2, 32, 1))
    assert torch.equal(learned.prompt("find"), learned.prompt("infer"))
    file = adapt(tiny(), learned, [Plan(ner_task("new"), settings_of("mpt", mode="shared"))]).tasks[0]
    assert file.card.mode == "shared" and not torch.equal(file.prompt, learned.shared)


def test_an_adapter_is_no_prompt_and_must_fit(tmp_path: Path) -> None:
    backbone = tiny()
    file = adapt(backbone, None, [Plan(ner_task(), settings_of("lora", shots=0))]).tasks[0]
    with pytest.raises(ArtifactError, match="holds lora, trained inside the backbone"):
        _ = file.prompt
    with pytest.raises(BackboneError, match="made for backbone"):
        bank_of(tiny(seed=1), file)
    name = next(iter(file.tensors))
    fewer = {n: t for n, t in file.tensors.items() if n != name}
    for tensors, method in ((fewer, "lora"), (file.tensors, "prefix"), (file.tensors, "full"), ({}, "lora")):
        card = file.card.model_copy(update={"method": method})
        with pytest.raises(ArtifactError, match=f"cannot be applied as {method}"):
            bank_of(backbone, TaskPrompt(tensors, card))


def test_all_weights_leave_the_backbone_alone() -> None:
    backbone = tiny()
    before = {name: weight.clone() for name, weight in backbone.model.named_parameters()}
    file = adapt(backbone, None, [Plan(nli_task(), settings_of("full"))]).tasks[0]
    after = dict(backbone.model.named_parameters())
    assert all(torch.equal(after[name], weight) and after[name].grad is None for name, weight in before.items())
    assert any(not torch.equal(file.tensors[name], weight) for name, weight in before.items())


def test_metaprompt_is_named_only_where_it_was_used() -> None:
    backbone = tiny()
    metaprompt: Metaprompt = metaprompt_for(backbone)
    files = [adapt(backbone, metaprompt, [Plan(ner_task(), settings_of(m, shots=0))]).tasks[0] for m in METHODS]
    assert [bool(file.card.metaprompt) for file in files] == [m in ("mpt", "spot") for m in METHODS]
