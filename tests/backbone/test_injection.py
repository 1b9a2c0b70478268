"""Prompt injection against the model's own full forward pass, one example at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from tests.models import tiny

KINDS = ["llama", "gpt_oss", "qwen3", "gemma2", "gpt2", "t5"]
SOURCES = ["Find: Disease.\nText: fever\nAnswer:", "Text: a much longer text about aspirin and warfarin\nAnswer:", "x"]
TARGETS = ["fever", "none", "aspirin; warfarin"]


def independent_losses(backbone: Backbone, prompt: torch.Tensor, source: str, target: str) -> list[float]:
    """-log p of each target token from the model's full logits on one unpadded, hand-built sequence."""
    tok, model = backbone.tokenizer, backbone.model
    lead = "" if backbone.kind == "seq2seq" else " "
    labels = [*tok(lead + target, add_special_tokens=False)["input_ids"], tok.eos_token_id]
    ids = tok(source, add_special_tokens=False)["input_ids"]
    embed = model.get_input_embeddings()
    if backbone.kind == "seq2seq":
        encoder = torch.cat([prompt, embed(torch.tensor([*ids, tok.eos_token_id]))])[None]
        decoder = torch.tensor([[model.config.decoder_start_token_id, *labels[:-1]]])
        logits = model(inputs_embeds=encoder, decoder_input_ids=decoder).logits[0]
    else:
        whole = torch.cat([prompt, embed(torch.tensor([*ids, *labels]))])[None]
        logits = model(inputs_embeds=whole).logits[0, len(prompt) + len(ids) - 1 : -1]
    return functional.cross_entropy(logits, torch.tensor(labels), reduction="none").tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_hand_built_single_sequences(kind: str) -> None:
    backbone = tiny(kind)
    prompts = torch.randn(3, 5, backbone.width, generator=torch.Generator().manual_seed(1))
    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, "start"))
    with torch.no_grad():
        losses = token_losses(backbone, label_states(backbone, batch, prompts))
        for row in range(3):
            wanted = independent_losses(backbone, prompts[row], SOURCES[row], TARGETS[row])
            torch.testing.assert_close(losses[batch.owner == row], torch.tensor(wanted), atol=2e-5, rtol=1e-5)


def test_positions_of_the_prompt_with_bos_and_chat() -> None:
    plain = tiny(bos=True)
    for position, expected in {"start": 1, "front": 0}.items():
        assert encode(plain, ["abc"], ["d"], position)[0].insert_at == expected  # type: ignore[arg-type]
    example = encode(plain, ["abc"], ["d"], "end")[0]
    assert example.insert_at == example.context == 4  # <s> a b c | P | target
    chat = tiny(bos=True, chat=True)
    example = encode(chat, ["abc"], ["d"], "end")[0]
    read = chat.tokenizer.decode(example.ids[: example.context])
    assert read == "<s><|user|>\nabc\n<|assistant|>\n"
    assert chat.tokenizer.decode(example.ids[: example.insert_at]) == "<s><|user|>\nabc"
    assert chat.tokenizer.decode(example.ids[example.context :]) == "d</s>"


@pytest.mark.parametrize("position", ["start", "end", "front"])
def test_every_position_equals_a_hand_built_sequence(position: str) -> None:
    backbone = tiny(bos=True)
    prompt = torch.randn(5, backbone.width, generator=torch.Generator().manual_seed(2))
    embed = backbone.model.get_input_embeddings()
    examples = encode(backbone, SOURCES, TARGETS, position)  # type: ignore[arg-type]
    batch = collate(backbone, examples)
    with torch.no_grad():
        states = label_states(backbone, batch, prompt.expand(3, -1, -1))
        for row, example in enumerate(examples):
            ids = torch.from_numpy(example.ids).long()
            parts = [embed(ids[: example.insert_at]), prompt, embed(ids[example.insert_at :])]
            run = backbone.model(inputs_embeds=torch.cat(parts)[None], output_hidden_states=True)
            wanted = run.hidden_states[-1][0, len(prompt) + example.context - 1 : -1]
            torch.testing.assert_close(states.hidden[states.owner == row][:, 0], wanted, atol=1e-5, rtol=1e-5)


def test_prompt_gradient_against_finite_differences() -> None:
    backbone = tiny("gpt2")  # LLaMA types normalise in fp32 even in double precision, too coarse for differences
    backbone.model.double()
    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, "start"))

    def loss(prompt: torch.Tensor) -> torch.Tensor:
        states = label_states(backbone, batch, prompt.expand(3, -1, -1))
        return functional.cross_entropy(backbone.head(states.hidden[:, -1]), states.labels)

    prompt = torch.randn(5, backbone.width, dtype=torch.double, requires_grad=True)
    gradient = torch.autograd.grad(loss(prompt), prompt)[0]
    direction = torch.randn_like(prompt)
    step = 1e-6
    with torch.no_grad():
        numeric = (loss(prompt + step * direction) - loss(prompt - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, atol=1e-7, rtol=1e-5)
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_a_note_cannot_speak_in_control_tokens() -> None:
    backbone = tiny(bos=True, chat=True)
    example = encode(backbone, ["a</s>b"], ["x</s>"], "start")[0]
    assert list(example.ids).count(backbone.tokenizer.eos_token_id) == 1  # the one we put at the end
    assert "a</s>b" in backbone.tokenizer.decode(example.ids)
