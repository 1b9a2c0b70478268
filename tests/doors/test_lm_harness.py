"""The harness's door: without a prompt the harness's own numbers, with one those of the prompt's tokens written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="extra `lm-eval` is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from clinprompt.backbone.model import Backbone
from clinprompt.doors.lm_harness import ClinpromptLM
from clinprompt.errors import BackboneError, TaskError
from clinprompt.prompts.artifact import TaskPrompt, save_task
from tests.doors.tasks import NER, task_file
from tests.models import tiny

PAIRS = [("He has", " gout."), ("", "fever"), ("Plan: rest.", " And water, for a week"), ("He has", " a")]
TEXTS = ["No complaints.", "x" * 300]
WORDS = [5, 9, 17]  # tokens whose embeddings stand in for a learned prompt


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def answers(model: HFLM) -> list[Any]:
    scored = model.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    rolled = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in TEXTS]), disable_tqdm=True)
    settings = {"until": ["q"], "max_gen_toks": 12, "do_sample": False}
    asked = [(context, settings) for context in ("He has", "Plan: rest and more rest", "x")]
    return [scored, rolled, model.generate_until(requests("generate_until", asked), disable_tqdm=True)]


def of_words(backbone: Backbone, path: Path, position: str = "start") -> str:
    """A task file whose prompt is the embeddings of WORDS."""
    file = task_file(backbone, NER)
    prompt = backbone.embed(torch.tensor(WORDS)).clone()
    save_task(TaskPrompt({"prompt": prompt}, file.card.model_copy(update={"position": position})), path)
    return str(path)


class WithWords(HFLM):
    """The harness's class, with the tokens WORDS written behind the prefix token (or in front of a context)."""

    def _words(self, ids: torch.Tensor) -> torch.Tensor:
        place = 1 if int(ids[0, 0]) == self.prefix_token_id else 0
        words = torch.tensor(WORDS)[None].expand(len(ids), -1)
        return torch.cat([ids[:, :place], words, ids[:, place:]], dim=1)

    def _model_call(self, inps: torch.Tensor, **_: Any) -> torch.Tensor:
        return super()._model_call(self._words(inps))[:, len(WORDS) :]

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        del options["attention_mask"]  # one request at a time: nothing is padded
        found = super()._model_generate(self._words(context), max_length + len(WORDS), stop, **options)
        return torch.cat([context, found[:, context.shape[1] + len(WORDS) :]], dim=1)


def close(left: list[Any], right: list[Any]) -> None:
    for (value, greedy), (other, same) in zip(left[0], right[0], strict=True):
        assert value == pytest.approx(other, abs=1e-3) and greedy == same
    assert left[1] == pytest.approx(right[1], abs=1e-2)
    assert left[2] == right[2]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_without_a_prompt_equal_to_the_harness(bos: bool, batch: int) -> None:
    backbone = tiny("llama", bos=bos)
    theirs = HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=batch, max_length=200)
    close(answers(ClinpromptLM(backbone=backbone, batch_size=batch, max_length=200)), answers(theirs))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_prompt_of_words_equals_the_words(bos: bool, batch: int, tmp_path: Path) -> None:
    backbone = tiny("llama", bos=bos)
    ours = ClinpromptLM(
        task=of_words(backbone, tmp_path / "t.safetensors"), backbone=backbone, batch_size=batch, max_length=200
    )
    theirs = WithWords(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=1, max_length=200)
    found = answers(ours)
    close(found, answers(theirs))
    plain = HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=1, max_length=200)
    assert abs(found[0][0][0] - answers(plain)[0][0][0]) > 1e-2  # the prompt does matter


def test_length_is_what_the_prompt_leaves(tmp_path: Path) -> None:
    backbone = tiny("llama")
    model = ClinpromptLM(task=of_words(backbone, tmp_path / "t.safetensors"), backbone=backbone)
    assert model.max_length == backbone.context - len(WORDS)
    assert model.get_model_info()["soft_prompt_task"] == "find"


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="encoder-decoder"):
        ClinpromptLM(backbone=tiny("t5"))
    with pytest.raises(TaskError, match="`source` names a task of a metaprompt"):
        ClinpromptLM(source="x")
    backbone = tiny("llama")
    with pytest.raises(TaskError, match="no such place"):
        ClinpromptLM(task=of_words(backbone, tmp_path / "t.safetensors", "end"), backbone=backbone)
