"""What every way of adapting has to satisfy: a row is its solitary twin, and its file is a plain task file."""

from __future__ import annotations

from pathlib import Path

import torch

from clinprompt.evaluation.answerer import of_task
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_metaprompt, save_task
from clinprompt.prompts.bank import Bank, trainable_parameters
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.banks import room_for, starting_bank
from clinprompt.training.costs import kept_numbers, trained_numbers
from clinprompt.training.settings import AdaptSettings, changed
from tests.models import tiny
from tests.prompts.cards import metaprompt_for
from tests.training.synthetic import ner_task, nli_task


def rows_like_their_twins(settings: AdaptSettings, rate: str) -> list[TaskPrompt]:
    """The files of three rows, of two tasks, two values of the learning rate called `rate` and three seeds, after a
    look that each ends where it ends alone."""
    backbone = tiny()
    metaprompt = metaprompt_for(backbone)
    plans = [
        Plan(ner_task("a"), settings),
        Plan(nli_task("b"), changed(settings, {f"loop.{rate}": 0.02, "seed": 1})),
        Plan(ner_task("a"), changed(settings, {"seed": 2})),
    ]
    crowd = adapt(backbone, metaprompt, plans).tasks
    for plan, file in zip(plans, crowd, strict=True):
        alone = adapt(backbone, metaprompt, [plan]).tasks[0]
        assert alone.tensors.keys() == file.tensors.keys()
        for key, tensor in alone.tensors.items():
            assert (tensor - file.tensors[key]).abs().max() < 2e-4, (plan.target.task.name, key)
    assert not torch.equal(crowd[0].prompt, crowd[2].prompt)
    return crowd


def plain_task_file(settings: AdaptSettings, folder: Path) -> tuple[TaskPrompt, Bank]:
    """The file of a row, read back, and the bank it started from, after a look that it answers as before and that its
    numbers were foretold."""
    backbone, task = tiny(), nli_task("target")
    metaprompt = metaprompt_for(backbone)
    save_metaprompt(metaprompt, folder / "metaprompt.safetensors")
    room = room_for(backbone, settings, metaprompt)
    examples = [plan_examples(backbone, Plan(task, settings), room.length, room.position)]
    bank, rates = starting_bank(backbone, room, metaprompt, [settings], examples)
    assert set(rates) == set(bank.trainable()) and room.length == bank.length
    file = adapt(backbone, metaprompt, [Plan(task, settings)]).tasks[0]
    save_task(file, folder / "task.safetensors")
    back = load_task(folder / "task.safetensors")
    answers = [of_task(backbone, each).answers(task.validation) for each in (file, back)]
    assert [p.probabilities for p in answers[0]] == [p.probabilities for p in answers[1]]
    foretold = trained_numbers(backbone, settings, room.method, room.length, rank=1, sources=3)
    assert foretold == trainable_parameters(bank)
    assert kept_numbers(backbone, settings, room.method, room.length) == sum(t.numel() for t in back.tensors.values())
    return back, bank
