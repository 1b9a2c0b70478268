"""Decoding: independent of batch, padding, caching and company; equal to the model's own greedy generation."""

from __future__ import annotations

import pytest
import torch

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone
from clinprompt.evaluation.decoding import Decoder
from tests.models import tiny

SOURCES = [
    "Text: fever\nAnswer:",
    "a much longer source text about aspirin and warfarin and so on\nAnswer:",
    "x",
    "abcd",
]
CHOICES = [["yes", "no"], ["entailment", "neutral", "contradiction"], ["none", "x"], ["yes", "yes please"]]
KINDS = ["llama", "gpt_oss", "qwen3", "gemma2", "gpt2", "t5"]


def prompts_for(backbone: Backbone, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 5, backbone.width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_transformers_generate(kind: str) -> None:
    backbone = tiny(kind)
    prompts = prompts_for(backbone)
    rows = [0, 1, 0, 1]
    answers = Decoder(backbone, prompts).generate(encode(backbone, SOURCES, None, "start"), rows, 12)
    for source, row, answer in zip(SOURCES, rows, answers, strict=True):
        ids = backbone.tokenizer(source, add_special_tokens=False)["input_ids"]
        ids = [*ids, 2] if kind == "t5" else ids
        whole = torch.cat([prompts[row], backbone.model.get_input_embeddings()(torch.tensor(ids))])[None]
        mask = torch.ones(whole.shape[:2], dtype=torch.long)
        out = backbone.model.generate(inputs_embeds=whole, attention_mask=mask, max_new_tokens=12, do_sample=False)
        assert answer == backbone.tokenizer.decode(out[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", ["start", "end", "front"])
def test_alone_equals_crowd_and_cached_equals_uncached(kind: str, position: str) -> None:
    backbone = tiny(kind, bos=kind == "llama")
    prompts = prompts_for(backbone)
    examples = encode(backbone, SOURCES, None, position)  # type: ignore[arg-type]
    rows = [0, 1, 1, 0]
    crowd = Decoder(backbone, prompts, position)  # type: ignore[arg-type]
    uncached = Decoder(backbone, prompts, position, cached=False)  # type: ignore[arg-type]
    together = crowd.score(examples, rows, CHOICES)
    answers = crowd.generate(examples, rows, 10)
    assert answers == uncached.generate(examples, rows, 10)
    for i, example in enumerate(examples):
        alone = uncached.score([example], [rows[i]], [CHOICES[i]])[0]
        torch.testing.assert_close(torch.tensor(together[i]), torch.tensor(alone), atol=1e-5, rtol=1e-5)
        assert uncached.generate([example], [rows[i]], 10) == [answers[i]]


def test_choice_scores_equal_label_losses() -> None:
    """The likelihood used to choose is the one that was trained."""
    from clinprompt.backbone.injection import collate, label_states, token_losses

    backbone = tiny()
    prompts = prompts_for(backbone, 1)
    scores = Decoder(backbone, prompts).score(encode(backbone, SOURCES[:1], None, "start"), [0], [CHOICES[1]])[0]
    for choice, score in zip(CHOICES[1], scores, strict=True):
        batch = collate(backbone, encode(backbone, SOURCES[:1], [choice], "start"))
        with torch.no_grad():
            loss = token_losses(backbone, label_states(backbone, batch, prompts)).mean()
        assert score == pytest.approx(-float(loss), abs=1e-5)


def test_no_prompt_is_prefetched_twice() -> None:
    backbone = tiny(bos=True)
    decoder = Decoder(backbone, prompts_for(backbone), token_budget=64)
    examples = encode(backbone, SOURCES, None, "start")
    for _ in range(3):
        decoder.generate(examples, [0, 1, 0, 1], 4)
        decoder.score(examples, [0, 1, 0, 1], CHOICES)
    assert sorted(backbone.prefetches.values()) == [1, 1]


def test_without_prompt_is_the_plain_model() -> None:
    backbone = tiny()
    empty = torch.zeros(1, 0, backbone.width)
    answer = Decoder(backbone, empty).generate(encode(backbone, SOURCES[:1], None, "start"), [0], 8)[0]
    ids = torch.tensor([backbone.tokenizer(SOURCES[0], add_special_tokens=False)["input_ids"]])
    out = backbone.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert answer == backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
