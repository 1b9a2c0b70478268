"""Several prompts of one task answer in shared batches as each would alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from clinprompt.evaluation.answerer import Answerer, answers_together, zero_shot
from clinprompt.evaluation.decoding import Decoder
from clinprompt.training.learn import SourceTask
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task


def answerers_of(source: SourceTask, kind: str = "llama") -> list[Answerer]:
    backbone = tiny(kind)
    torch.manual_seed(1)
    prompts = [torch.randn(4, 32) for _ in range(3)]
    return [Answerer(backbone, source.task, prompt, limit=12, reserve=32) for prompt in prompts]


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "t5"])
@pytest.mark.parametrize("make", [ner_task, nli_task])
def test_together_as_alone(make: Callable[[], SourceTask], kind: str) -> None:
    source = make()
    answerers, records = answerers_of(source, kind), source.train
    told: list[tuple[int, int]] = []
    together = answers_together(answerers, records, lambda done, total: told.append((done, total)))
    assert told[-1] == (3 * len(records), 3 * len(records))
    for answerer, found in zip(answerers, together, strict=True):
        alone = answerer.answers(records)
        assert [replace(p, probabilities={}) for p in found] == [replace(p, probabilities={}) for p in alone]
        for one, other in zip(found, alone, strict=True):
            assert (one.probabilities or {}) == pytest.approx(other.probabilities or {}, rel=1e-4)
    assert together[0] != together[1]  # the prompts say different things


def test_rows_share_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    answerers, records = answerers_of(ner_task()), ner_task().train
    sizes: list[int] = []
    real = Decoder._generate_chunk

    def counted(self: Decoder, examples: list[object], rows: list[int], limit: int) -> list[list[int]]:
        sizes.append(len(set(rows)))
        return real(self, examples, rows, limit)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "_generate_chunk", counted)
    answers_together(answerers, records)
    assert sizes == [3]  # one batch, all three prompts in it


def test_only_prompts_that_are_asked_alike() -> None:
    first, second, _ = answerers_of(nli_task())
    for other in (replace(second, limit=5), replace(second, prompt=None), zero_shot(first.backbone, first.task)):
        with pytest.raises(ValueError, match="asked the same way"):
            answers_together([first, other], nli_task().train)
