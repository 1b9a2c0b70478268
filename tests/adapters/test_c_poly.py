"""C-Poly's samples: Gumbel-sigmoids that follow from seed, step and example, whatever interrupts or cuts a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from clinprompt.adapters.c_poly import CPolyBank, CPolySettings
from clinprompt.adapters.family import family_bank
from clinprompt.backbone.model import Backbone
from clinprompt.training.learn import source_examples
from clinprompt.training.loop import accumulate
from clinprompt.training.multitask import MultitaskSettings, learn_multitask, multitask_problem
from clinprompt.training.multitask_banks import MultitaskBank
from clinprompt.training.processes import Processes
from clinprompt.training.settings import LoopSettings
from tests.adapters.support import losses
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

TASKS = [1, 0, 1]
SETTINGS = MultitaskSettings(
    method="c-poly", loop=LoopSettings(steps=6, batch_size=6, learning_rate=0.01, evaluate_every=3, checkpoint_every=2)
)
ONE_BY_ONE = 1  # tokens of a micro-batch that holds a single example


def fresh(backbone: Backbone) -> CPolyBank:
    """With random values, so that every sample matters."""
    bank = family_bank(CPolyBank, backbone, 3, CPolySettings(common=2, own=2), seed=5)
    assert isinstance(bank, CPolyBank)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bank.parameters.values():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return bank


def test_announced_batches_are_sampled_once_and_by_their_numbers() -> None:
    backbone = tiny()
    bank = fresh(backbone)

    def read(step: int | None, examples: Sequence[int] = (0, 1, 2)) -> list[torch.Tensor]:
        if step is not None:
            bank.announce(step, [10 + i for i in examples])
        return [found.detach() for found in losses(backbone, bank, [TASKS[i] for i in examples], examples)]

    first, calm = read(3), read(None)
    for one, other in ((first, calm), (first, read(4))):
        assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(read(None), calm, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(read(3), first, strict=True))
    for i in range(3):  # alone as in company
        torch.testing.assert_close(read(3, [i])[0], first[i], atol=5e-5, rtol=1e-4)


def test_samples_are_gumbel_sigmoids() -> None:
    """σ(z + logistic noise) exceeds ½ with probability σ(z)."""
    bank = fresh(tiny())
    noise = torch.stack(list(bank._samples(7, range(2000), torch.device("cpu")).values()))
    for logit in (-1.0, 0.0, 2.0):
        share = float(((logit + noise).sigmoid() > 0.5).double().mean())
        assert abs(share - 1 / (1 + np.exp(-logit))) < 0.01
    assert len(set(noise.flatten().tolist())) > 0.99 * noise.numel()


@pytest.mark.parametrize("count", [1, 2])
def test_gradients_do_not_depend_on_how_a_step_is_cut(count: int) -> None:
    """One pass over all, example by example, or shared by two processes: the same to rounding."""
    backbone, sources = tiny(), [ner_task(), nli_task(), ner_task("find-more", shift=3)]

    def gradients(micro_tokens: int, processes: Sequence[Processes]) -> dict[str, torch.Tensor]:
        bank = fresh(backbone)
        examples = [source_examples(backbone, source, SETTINGS, 0, "front") for source in sources]
        problem = multitask_problem(cast(MultitaskBank, bank), examples, SETTINGS)
        picks = problem.sampler.step(2, range(3))
        loop = SETTINGS.loop.model_copy(update={"micro_tokens": micro_tokens})
        for process in processes:
            accumulate(backbone, problem, loop, picks, process, 2)
        return {name: p.grad for name, p in bank.parameters.items() if p.grad is not None}

    whole = gradients(100_000, [Processes()])
    cut = gradients(ONE_BY_ONE, [Processes(rank, count) for rank in range(count)])
    assert whole.keys() == cut.keys() and any(".logits" in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-5, rtol=1e-3)


def test_an_interruption_inside_a_pass_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, sources = tiny(), [ner_task(), nli_task()]
    whole = learn_multitask(backbone, sources, SETTINGS, tmp_path / "whole")
    read = CPolyBank.inside
    passes = 0

    @contextmanager
    def stopping(
        self: CPolyBank, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None
    ) -> Iterator[None]:
        nonlocal passes
        with read(self, backbone, rows, tasks):
            passes += 1
            if passes == 8:
                raise KeyboardInterrupt
            yield

    with monkeypatch.context() as patched:
        patched.setattr(CPolyBank, "inside", stopping)
        with pytest.raises(KeyboardInterrupt):
            learn_multitask(backbone, sources, SETTINGS, tmp_path / "parts")
    parts = learn_multitask(backbone, sources, SETTINGS, tmp_path / "parts")
    assert parts.adapter.card.digest == whole.adapter.card.digest
    assert all(torch.equal(parts.adapter.tensors[name], values) for name, values in whole.adapter.tensors.items())
