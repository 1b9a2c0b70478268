"""A metaprompt whose P* a network produces: the formula, its gradient, folding, and that it ends as a plain file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clinprompt.architecture.network import Architecture
from clinprompt.backbone.model import Backbone
from clinprompt.methods.generated import GeneratedBank, generated_bank, generated_numbers, generated_rates
from clinprompt.prompts.artifact import load_metaprompt
from clinprompt.prompts.bank import trainable_parameters
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import learn, teachers_identity
from clinprompt.training.loop import prompt_loss
from clinprompt.training.settings import AdaptSettings, LearnSettings, LoopSettings
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

T, L, D = 3, 5, 6
CELL = Architecture(operations=("mlp-tanh", "norm"), width=8, hidden=4)
LOOP = LoopSettings(steps=6, batch_size=4, learning_rate=0.05, evaluate_every=3, checkpoint_every=2)
SETTINGS = LearnSettings(
    prompt_length=4, limit=8, validation_records=4, target_reserve=32, window=64, teacher=LOOP, source=LOOP
)
GENERATED = SETTINGS.model_copy(update={"architecture": CELL})
SOURCES = [ner_task(), nli_task()]


def bank_of(rank: int = 1, **options: bool) -> GeneratedBank:
    start = torch.randn(L, D, generator=torch.Generator().manual_seed(1))
    return generated_bank(start, T, CELL, rank=rank, noise=0.1, seed=0, **options)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_row_is_the_formula(rank: int) -> None:
    bank = bank_of(rank)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    value = {name.replace(":", "."): tensor.double().numpy() for name, tensor in bank.values().items()}
    own = {name.removeprefix("network."): tensor for name, tensor in value.items()}

    def of(name: str) -> np.ndarray:
        return np.asarray(own[name][0])

    e = of("embeddings")
    x = np.tanh(e @ of("slot0.mlp-tanh.down") + of("slot0.mlp-tanh.down_bias"))
    x = x @ of("slot0.mlp-tanh.up") + of("slot0.mlp-tanh.up_bias")
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    h = e + x * of("slot1.norm.scale") + of("slot1.norm.shift")
    shared = h @ of("projection") + of("bias")
    got = bank.compose(torch.arange(T)).detach().numpy()
    for row in range(T):
        np.testing.assert_allclose(got[row], shared * (own["u"][row] @ own["v"][row].T), rtol=1e-4, atol=1e-5)


def test_gradients_are_differences() -> None:
    bank = bank_of().double()
    rows, wanted = torch.tensor([0, 2, 2]), torch.randn(3, L, D, dtype=torch.float64)

    def loss() -> Tensor:
        return ((bank.compose(rows) - wanted) ** 2).sum()

    loss().backward()  # type: ignore[no-untyped-call]
    for name, parameter in bank.trainable().items():
        assert parameter.grad is not None
        index = (2 if name in ("u", "v") else 0, 1)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                parameter[index] += step
                values.append(float(loss()))
            parameter[index] += 1e-6
        difference = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad[index].sum()) == pytest.approx(difference, rel=1e-4, abs=1e-7), name


def test_it_starts_where_it_is_told_and_trains_what_is_counted() -> None:
    start = torch.randn(L, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bank_of().generated().detach(), start, atol=1e-4, rtol=1e-4)
    narrow = generated_bank(start, T, Architecture(width=2), rank=1, noise=0.0, seed=0)
    assert 0 < float((narrow.generated().detach() - start).norm()) < float((start - start.mean(0)).norm())
    assert trainable_parameters(bank_of()) == generated_numbers(CELL, L, D) + T * (L + D)
    frozen = bank_of(decomposition=False)
    assert not {"u", "v"} & set(frozen.trainable()) and trainable_parameters(frozen) == generated_numbers(CELL, L, D)
    rates = generated_rates(bank_of(), 0.4, 0.1)
    assert set(rates) == set(bank_of().trainable())
    assert rates["network.projection"].tolist() == pytest.approx([0.4 / 8])
    assert rates["u"].tolist() == pytest.approx([0.1] * T)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny()


def test_resume_is_exact_and_the_file_answers_as_the_network_did(backbone: Backbone, tmp_path: Path) -> None:
    whole = learn(backbone, SOURCES, GENERATED, tmp_path / "whole")

    def stop(stage: str, done: int, total: int, loss: float) -> None:
        if (stage, done) == ("metaprompt", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(backbone, SOURCES, GENERATED, tmp_path / "parts", progress=stop)
    parts = learn(backbone, SOURCES, GENERATED, tmp_path / "parts")
    assert parts.metaprompt.digest == whole.metaprompt.digest
    file = load_metaprompt(tmp_path / "parts" / "metaprompt.safetensors")
    assert file.card.settings["architecture"]["operations"] == ["mlp-tanh", "norm"]
    for row, examples in enumerate(parts.examples):
        folded = prompt_loss(backbone, examples.validation, file.prompt(examples.name))
        assert folded == pytest.approx(float(parts.source_fit.validation[row]), abs=1e-5)
    plain = learn(backbone, SOURCES, SETTINGS, tmp_path / "plain")
    assert torch.equal(plain.teachers.prompt, whole.teachers.prompt)
    assert not torch.allclose(plain.metaprompt.shared, whole.metaprompt.shared, atol=1e-3)
    loop = LoopSettings(steps=2, batch_size=2)
    task = adapt(backbone, file, [Plan(ner_task("more"), AdaptSettings(window=64, target_reserve=32, loop=loop))])
    assert task.tasks[0].prompt.shape == (4, 32)


def test_other_runs_are_described_as_before() -> None:
    """Identities of runs hang on it; teachers do not depend on the network."""
    assert "architecture" not in SETTINGS.model_dump(mode="json")
    assert LearnSettings.model_validate(GENERATED.model_dump(mode="json")) == GENERATED
    assert teachers_identity(tiny(), SETTINGS, []) == teachers_identity(tiny(), GENERATED, [])
