"""Prefixes of a T5-type model from training to answers: alone, beside LoRA, from a network, and from a searched one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from clinprompt.adapters.files import bank_of
from clinprompt.adapters.inspect import changes
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError
from clinprompt.evaluation.predict import predict_task
from clinprompt.planning import plan_adapt, plan_search
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_task
from clinprompt.prompts.bank import Bank, trainable_parameters
from clinprompt.prompts.multitask import load_multitask
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.banks import room_for, starting_bank
from clinprompt.training.costs import kept_numbers
from clinprompt.training.learn import source_examples
from clinprompt.training.multitask import FILE, MultitaskSettings, learn_multitask
from clinprompt.training.relaxing import RelaxSettings
from clinprompt.training.search import SearchSettings, search, search_examples
from clinprompt.training.settings import AdaptSettings, LoopSettings, LoraSettings, Method, changed
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=3, batch_size=3, learning_rate=0.02, micro_tokens=256)
SETTINGS = AdaptSettings(lora=LoraSettings(rank=2), prefix_length=3, target_reserve=32, loop=LOOP)
METHODS: list[Method] = ["prefix", "lora+prefix", "peml"]


def loss_of(backbone: Backbone, bank: Bank, held: Sequence[Encoded]) -> float:
    with torch.no_grad(), bank.applied(backbone, [0] * len(held)) as prompts:
        return float(token_losses(backbone, label_states(backbone, collate(backbone, held), prompts)).mean())


@pytest.mark.parametrize("method", METHODS)
def test_rows_train_apart_and_their_files_answer(method: Method, tmp_path: Path) -> None:
    backbone = tiny("t5")
    chosen = changed(SETTINGS, {"method": method})
    plans = [Plan(ner_task(), chosen), Plan(nli_task(), changed(chosen, {"seed": 1}))]
    files = adapt(backbone, None, plans).tasks
    alone = adapt(backbone, None, plans[:1]).tasks[0]
    for name, values in alone.tensors.items():  # on average: Adam makes a step of a gradient that is but rounding
        own, other = ((values - file.tensors[name]).abs().mean() / values.abs().mean() for file in files)
        assert own < 0.01 < 0.1 < other
    for plan, file in zip(plans, files, strict=True):
        save_task(file, tmp_path / "task.safetensors")
        back = load_task(tmp_path / "task.safetensors")
        assert kept_numbers(backbone, chosen, method, 3) == sum(t.numel() for t in back.tensors.values())
        records = plan.target.validation
        answers = [predict_task(backbone, each, records) for each in (file, back)]
        assert answers[0] == answers[1] and len(answers[0]) == len(records)
        single = [predict_task(backbone, back, [record])[0] for record in records[:2]]
        assert [(p.record, p.malformed) for p in single] == [(p.record, p.malformed) for p in answers[0][:2]]


@pytest.mark.parametrize("method", METHODS)
def test_plans_count_what_is_trained(method: Method) -> None:
    backbone = tiny("t5", num_decoder_layers=3)
    chosen = changed(SETTINGS, {"method": method})
    room = room_for(backbone, chosen, None)
    examples = [plan_examples(backbone, Plan(nli_task(), chosen), room.length, room.position)]
    bank, rates = starting_bank(backbone, room, None, [chosen], examples)
    estimate = plan_adapt(backbone, examples, room.length, chosen, method)
    assert estimate.stages[-1].parameters == trainable_parameters(bank) and set(rates) == set(bank.trainable())
    longer = plan_adapt(backbone, examples, room.length + 5, chosen, method)
    assert longer.flops > estimate.flops and longer.stages[-1].tokens == estimate.stages[-1].tokens


def test_a_prefix_learns() -> None:
    """In every layer of every kind."""
    backbone, task = tiny("t5"), nli_task()
    chosen = changed(SETTINGS, {"method": "prefix", "loop.steps": 30, "loop.learning_rate": 0.1})
    room = room_for(backbone, chosen, None)
    examples = plan_examples(backbone, Plan(task, chosen), room.length, room.position)
    start, _ = starting_bank(backbone, room, None, [chosen], [examples])
    learned = adapt(backbone, None, [Plan(task, chosen)]).tasks[0]

    before = loss_of(backbone, start, examples.validation)
    assert loss_of(backbone, bank_of(backbone, learned), examples.validation) < 0.8 * before
    first = start.values()
    for layer, moved in enumerate(learned.tensors["keys"]):
        assert not torch.allclose(moved, first["keys"][0, layer], atol=1e-3)


def test_a_searched_network_trains_as_peml_and_folds(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the outer search needs the extra `search`")
    backbone, sources = tiny("t5"), [ner_task(), nli_task()]
    relax = RelaxSettings(operations=("zero", "mlp-gelu", "attention"), lora=LoraSettings(rank=2), loop=LOOP)
    space = SearchSettings(
        trials=1, depths=(2,), lengths=(3,), widths=(8,), hiddens=(4,), relax=relax, limit=6, validation_records=2
    )
    found = search(backbone, sources, space, tmp_path / "search")
    assert found.trials[0]["gap"] is not None and found.architecture.length == 3
    assert plan_search(backbone, search_examples(backbone, sources, space), space).flops > 0
    adapter = {"architecture": found.architecture.bare().model_dump(mode="json"), "rank": 2}
    settings = MultitaskSettings(method="peml", loop=LOOP.model_copy(update={"evaluate_every": 3}), adapter=adapter)
    learned = learn_multitask(backbone, sources, settings, tmp_path / "peml")
    read = load_multitask(tmp_path / "peml" / FILE)
    assert read.tensors["prefix.keys"].shape == (6, 4, 3, 8)  # two layers of three kinds
    for row, source in enumerate(sources):
        bank = bank_of(backbone, read.of(source.task.name))
        held = source_examples(backbone, source, settings, bank.length, read.card.position)
        folded = loss_of(backbone, bank, held.validation)
        assert folded == pytest.approx(float(learned.fit.validation[row]), abs=1e-5, rel=1e-5)


def test_a_file_is_looked_at_and_must_have_the_models_layers() -> None:
    backbone = tiny("t5")
    file = adapt(backbone, None, [Plan(ner_task(), changed(SETTINGS, {"method": "prefix", "shots": 0}))]).tasks[0]
    parts = [line["part"] for line in changes(backbone, file)]
    assert parts[:6] == [f"{kind} {layer} keys" for kind in ("encoder", "decoder", "cross") for layer in range(2)]
    fewer = {name: values[:4] for name, values in file.tensors.items()}
    flat = {name: values.flatten(1) for name, values in file.tensors.items()}
    for tensors, problem in ((fewer, "not those of 6 layers"), (flat, r"needed, \(layers, heads, m, head width\)")):
        with pytest.raises(ArtifactError, match=problem):
            bank_of(backbone, TaskPrompt(tensors, file.card))
