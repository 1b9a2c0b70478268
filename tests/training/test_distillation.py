"""The distillation loss against its formula, with the teacher run live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states
from clinprompt.backbone.model import Backbone
from clinprompt.methods.mpt import source_bank
from clinprompt.prompts.bank import DirectBank
from clinprompt.training.batching import TaskExamples
from clinprompt.training.distillation import Distillation, teacher_states
from clinprompt.training.loop import Problem, _start, accumulate
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import Pick, TaskSampler
from clinprompt.training.settings import LoopSettings
from tests.models import tiny

SOURCES = [["Text: fever", "a longer text about aspirin", "x"], ["What is it?", "yes or no: cough"]]
TARGETS = [["fever", "none", "aspirin; warfarin"], ["no", "yes"]]


def tasks_of(backbone: Backbone) -> list[TaskExamples]:
    return [
        TaskExamples(f"task{k}", encode(backbone, s, t, "start"))
        for k, (s, t) in enumerate(zip(SOURCES, TARGETS, strict=True))
    ]


def teachers_of(backbone: Backbone) -> DirectBank:
    return DirectBank(torch.randn(2, 5, backbone.width, generator=torch.Generator().manual_seed(7)))


def live(backbone: Backbone, prompt: torch.Tensor, source: str, target: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (n, V) and hidden states per layer (n, d) at the label positions of one hand-built sequence."""
    tokenize = backbone.tokenizer
    source_ids = tokenize(source, add_special_tokens=False)["input_ids"]
    target_ids = [*tokenize(" " + target, add_special_tokens=False)["input_ids"], tokenize.eos_token_id]
    embedded = backbone.model.get_input_embeddings()(torch.tensor([*source_ids, *target_ids]))
    with torch.no_grad():
        run = backbone.model(inputs_embeds=torch.cat([prompt, embedded])[None], output_hidden_states=True)
    labels = slice(len(prompt) + len(source_ids) - 1, -1)
    return run.logits[0, labels].double().numpy(), [s[0, labels].double().numpy() for s in run.hidden_states]


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("layers", [(-1,), (0, 1, -1)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_equal_the_formula(kind: str, layers: tuple[int, ...], temperature: float) -> None:
    backbone = tiny(kind)
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    student = torch.randn(2, 5, backbone.width, generator=torch.Generator().manual_seed(8))
    kept = teacher_states(backbone, teachers, tasks, layers)
    distillation = Distillation(kept, 0.9, 0.9, temperature, layers)
    picks = [(0, 2), (1, 0), (0, 0), (1, 1)]
    batch = collate(backbone, [tasks[t].train[e] for t, e in picks])
    with torch.no_grad():
        states = label_states(backbone, batch, student[[t for t, _ in picks]], layers)
        logits, hidden = distillation.losses(backbone, states, picks)
    for index, (task, example) in enumerate(picks):
        text = SOURCES[task][example], TARGETS[task][example]
        teacher_logits, teacher_layers = live(backbone, teachers.prompt[task].detach(), *text)
        student_logits, student_layers = live(backbone, student[task], *text)
        p, q = softmax(teacher_logits / temperature), softmax(student_logits / temperature)
        wanted_logits = (p * (np.log(p) - np.log(q))).sum(axis=1)
        wanted_hidden = np.mean([((teacher_layers[i] - student_layers[i]) ** 2).mean(axis=1) for i in layers], axis=0)
        mine = (batch.owner == index).numpy()
        np.testing.assert_allclose(logits.numpy()[mine], wanted_logits, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(hidden.numpy()[mine], wanted_hidden, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_student_that_is_its_teacher_loses_nothing(kind: str) -> None:
    backbone = tiny(kind)
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    distillation = Distillation(teacher_states(backbone, teachers, tasks, (-1,)))
    picks = [(0, 0), (0, 1), (1, 1)]
    batch = collate(backbone, [tasks[t].train[e] for t, e in picks])
    with torch.no_grad():
        states = label_states(backbone, batch, teachers.compose(torch.tensor([t for t, _ in picks])))
        logits, hidden = distillation.losses(backbone, states, picks)
    assert float(logits.abs().max()) < 1e-5 and float(hidden.abs().max()) < 1e-8


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "t5"])
def test_states_of_all_equal_those_of_each_alone(kind: str) -> None:
    backbone = tiny(kind)
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    together = teacher_states(backbone, teachers, tasks, (0, -1))
    for task, held in enumerate(tasks):
        for index, example in enumerate(held.train):
            alone = teacher_states(
                backbone, DirectBank(teachers.prompt[task : task + 1]), [TaskExamples("one", [example])], (0, -1)
            )
            torch.testing.assert_close(together[task][index], alone[0][0], atol=1e-5, rtol=1e-5)
            assert together[task][index].shape == (example.labels, 2, backbone.width)


def test_switched_off_terms_are_zero() -> None:
    backbone = tiny()
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    kept = teacher_states(backbone, teachers, tasks, (-1,))
    batch = collate(backbone, tasks[0].train[:1])
    states = label_states(backbone, batch, torch.zeros(1, 5, backbone.width))
    for weights in ((0.0, 0.9), (0.9, 0.0)):
        logits, hidden = Distillation(kept, *weights).losses(backbone, states, [(0, 0)])
        assert (bool(logits.any()), bool(hidden.any())) == (weights[0] > 0, weights[1] > 0)


def test_gradients_reach_the_bank_only_and_are_those_of_the_whole_loss() -> None:
    """L = L_LM + λ (L_logits + L_hidden), averaged over the labels of the batch: d/dP by autograd on full logits."""
    backbone = tiny()
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    distillation = Distillation(teacher_states(backbone, teachers, tasks, (-1,)), 0.9, 0.7)
    start = torch.randn(5, backbone.width, generator=torch.Generator().manual_seed(9))
    bank = source_bank(start, 2, rank=1, noise=0.1, seed=0)
    sampler = TaskSampler(["a", "b"], [3, 2], 4, 0)
    problem = Problem(bank, tasks, sampler, {}, [0, 1], normalise="batch", distillation=distillation)
    picks = [Pick(0, 0, 1), Pick(1, 1, 0), Pick(0, 0, 2)]
    accumulate(backbone, problem, LoopSettings(micro_tokens=64), picks, Processes())
    found = {name: parameter.grad for name, parameter in bank.trainable().items()}
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert teachers.prompt.grad is None

    twin = source_bank(start, 2, rank=1, noise=0.1, seed=0)
    total, labels = torch.zeros(()), 0
    for pick in picks:
        example = tasks[pick.task].train[pick.example]
        ids = torch.from_numpy(example.ids).long()
        runs = []
        for prompt in (twin.compose(torch.tensor([pick.row]))[0], teachers.prompt[pick.task].detach()):
            embedded = torch.cat([prompt, backbone.model.get_input_embeddings()(ids)])[None]
            run = backbone.model(inputs_embeds=embedded, output_hidden_states=True)
            place = slice(len(prompt) + example.context - 1, -1)
            runs.append((run.logits[0, place].log_softmax(-1), run.hidden_states[-1][0, place]))
        (said, state), (wanted, goal) = runs
        goldens = ids[example.context :]
        total = total - said.gather(1, goldens[:, None]).sum()
        total = total + 0.9 * (wanted.exp() * (wanted - said)).sum()
        total = total + 0.7 * (state - goal).square().mean(dim=1).sum()
        labels += len(goldens)
    (total / labels).backward()
    for name, parameter in twin.trainable().items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_states_are_kept_in_files_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    tasks, teachers = tasks_of(backbone), teachers_of(backbone)
    fresh = teacher_states(backbone, teachers, tasks, (-1,), folder=tmp_path, run="r1")
    computed = []
    import clinprompt.training.distillation as module

    original = module._states_of
    monkeypatch.setattr(module, "_states_of", lambda *a: computed.append(a[2]) or original(*a))
    again = teacher_states(backbone, teachers, tasks, (-1,), folder=tmp_path, run="r1")
    assert computed == []
    for one, other in zip(fresh, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    next(tmp_path.glob("task1*")).unlink()
    teacher_states(backbone, teachers, tasks, (-1,), folder=tmp_path, run="r1")
    assert computed == [1]
    teacher_states(backbone, teachers, tasks, (-1,), folder=tmp_path, run="another run")
    assert computed == [1, 0, 1]


def test_a_bank_without_rates_is_refused() -> None:
    from clinprompt.errors import TrainingError

    backbone = tiny()
    problem = Problem(teachers_of(backbone), tasks_of(backbone), TaskSampler(["a"], [3], 2, 0), {}, [0, 1])
    with pytest.raises(TrainingError, match="no learning rate for prompt"):
        _start(problem, LoopSettings())
