"""Prefixes inside T5's attention: against attention written out and against nothing, in company, with a cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5 import modeling_t5

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states, seq2seq_inputs
from clinprompt.backbone.model import Backbone, LayerStates
from clinprompt.backbone.t5_prefix import attentions, prefixed, prompt_states
from clinprompt.errors import BackboneError
from tests.models import tiny

SOURCES = ["Note: fever and cough.\nAnswer:", "x\nAnswer:", "about aspirin and warfarin\nAnswer:"]
TARGETS = ["fever", "none", "aspirin; warfarin"]
# FLAN-T5's and mT5's feed-forward block is gated; inner width heads · d_kv and d_model differ (24 and 32).
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {}),
    "flan": ("t5", {"feed_forward_proj": "gated-gelu", "d_kv": 6, "tie_word_embeddings": False}),
    "mt5": ("mt5", {"d_kv": 16}),
    # Transformers 5.23 itself cannot generate from a decoder deeper than the encoder, so this one is not asked to.
    "uneven": ("t5", {"num_decoder_layers": 3}),
}
GENERATING = ["t5", "flan", "mt5"]


def random_states(backbone: Backbone, count: int, length: int = 3) -> LayerStates:
    generator = torch.Generator().manual_seed(1)
    shape = (count, backbone.model.config.num_heads, length, backbone.model.config.d_kv)
    dtype = backbone.model.dtype
    return [
        (torch.randn(shape, generator=generator).to(dtype), torch.randn(shape, generator=generator).to(dtype))
        for _ in attentions(backbone)
    ]


def hidden(backbone: Backbone, picked: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Final states at the label positions (n, d) of the chosen examples, one after the other."""
    examples = encode(backbone, [SOURCES[i] for i in picked], [TARGETS[i] for i in picked], "front")
    batch = collate(backbone, examples)
    return label_states(backbone, batch, torch.zeros(len(picked), 0, backbone.width)).hidden[:, -1]


# -- attention written out -------------------------------------------------------------------------------


def bucket(distance: int, both: bool, count: int, most: int) -> int:
    """T5's bucket (arXiv 1910.10683, §2.1) of memory position - query position."""
    base = 0
    if both:
        count //= 2
        base = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(0, -distance)
    if distance < count // 2:
        return base + distance
    far = math.log(distance / (count // 2)) / math.log(most / (count // 2)) * (count - count // 2)
    return base + min(count // 2 + int(far), count - 1)


def own_bias(module: Any, queries: int, keys: int) -> Any:
    """What T5 adds to the scores of a text's own tokens, (Q, K, heads)."""
    most, count = 128, module.config.relative_attention_num_buckets
    places = [[bucket(j - i, not module.is_decoder, count, most) for j in range(keys)] for i in range(queries)]
    return module.relative_attention_bias.weight.double().numpy()[np.array(places)]


def written_out(module: Any, bias: Any, text: Any, source: Any, seen: Any, pair: Any) -> Any:
    """One example: softmax over [prefix | own] keys. text (Q, d), source (K, d), seen (Q, K), prefix (heads, m, w)."""
    q, k, v, o = (getattr(module, name).weight.double().numpy() for name in "qkvo")
    outputs = []
    for head, rows in enumerate(np.split(np.arange(q.shape[0]), module.n_heads)):
        keys = np.concatenate([pair[0][head], source @ k[rows].T])
        values = np.concatenate([pair[1][head], source @ v[rows].T])
        scores = (text @ q[rows].T) @ keys.T
        own = scores[:, len(pair[0][head]) :]
        own += 0 if bias is None else bias[..., head]
        own[~seen] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        outputs.append(weights / weights.sum(axis=1, keepdims=True) @ values)
    return np.concatenate(outputs, axis=1) @ o.T


@contextmanager
def recorded(backbone: Backbone) -> Iterator[dict[str, tuple[Tensor, Tensor | None, Tensor]]]:
    """What every attention was given (text, other text) and what it answered."""
    found: dict[str, tuple[Tensor, Tensor | None, Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, named: Any, output: Any) -> None:
            found[name] = (inputs[0], named.get("key_value_states"), output[0])

        return hook

    handles = [m.register_forward_hook(keep(n), with_kwargs=True) for n, m in attentions(backbone).items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_attention_is_a_softmax_over_prefix_and_own_keys(kind: str) -> None:
    """In a mixed batch with padding, against NumPy: encoder, decoder and cross-attention of every layer."""
    name, config = KINDS[kind]
    backbone = tiny(name, **config)
    states = random_states(backbone, 3)
    with torch.no_grad(), prefixed(backbone, states), recorded(backbone) as found:
        hidden(backbone)
    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, "front"))
    assert set(found) == set(attentions(backbone))
    for (name, module), pair in zip(attentions(backbone).items(), states, strict=True):
        texts, others, answers = found[name]
        first = attentions(backbone)[f"{name.split()[0]} 0"]  # the first layer's bias is that of all
        bias = None if "cross" in name else own_bias(first, texts.shape[1], texts.shape[1])
        for i in range(3):
            text = texts[i].double().numpy()
            source = text if others is None else others[i].double().numpy()
            seen = np.tile(np.arange(len(source)) < int(batch.contexts[i]), (len(text), 1))
            if name.startswith("decoder"):
                seen = np.tril(np.ones((len(text), len(text)), dtype=bool))
            own = [part[i].double().numpy() for part in pair]
            wanted = written_out(module, bias, text, source, seen, own)
            np.testing.assert_allclose(answers[i].numpy(), wanted, rtol=1e-3, atol=1e-4)


# -- what changes nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_positions_change_nothing(kind: str) -> None:
    name, config = KINDS[kind]
    backbone = tiny(name, **config)
    plain = hidden(backbone)
    with prefixed(backbone, random_states(backbone, 3, length=0)):
        torch.testing.assert_close(hidden(backbone), plain, atol=1e-5, rtol=1e-4)


def test_keys_that_nobody_looks_at_change_nothing() -> None:
    """Keys with the score -10⁴ under every query of their example, solved for, whatever the values are."""
    backbone = tiny("t5", d_kv=64)
    backbone.model.double()
    queries: dict[Any, Tensor] = {}
    handles = [
        m.q.register_forward_hook(lambda module, inputs, output: queries.__setitem__(module, output))
        for m in attentions(backbone).values()
    ]
    plain = hidden(backbone)
    for handle in handles:
        handle.remove()
    states = []
    for module, (keys, values) in zip(attentions(backbone).values(), random_states(backbone, 3), strict=True):
        asked = queries[module.q].reshape(3, -1, 4, 64).transpose(1, 2)  # (B, heads, Q, width)
        wanted = torch.full((*asked.shape[:3], keys.shape[2]), -1e4, dtype=asked.dtype)
        solved = torch.linalg.lstsq(asked, wanted, driver="gelsd").solution
        states.append((solved.transpose(2, 3), values))
    with prefixed(backbone, states):
        torch.testing.assert_close(hidden(backbone), plain, atol=1e-6, rtol=1e-6)
    with prefixed(backbone, random_states(backbone, 3)):
        assert (hidden(backbone) - plain).abs().max() > 0.1


# -- rows, cache, afterwards -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_example_alone_computes_what_it_does_in_company(kind: str) -> None:
    name, config = KINDS[kind]
    backbone = tiny(name, **config)
    states = random_states(backbone, 3)
    with prefixed(backbone, states):
        crowd = hidden(backbone)
    counts = [len(e.ids) - e.context for e in encode(backbone, SOURCES, TARGETS, "front")]
    for i, own in enumerate(torch.split(crowd, counts)):
        with prefixed(backbone, [(keys[i : i + 1], values[i : i + 1]) for keys, values in states]):
            torch.testing.assert_close(hidden(backbone, (i,)), own, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", GENERATING)
def test_generation_with_the_cache_equals_without_and_the_prefix_never_lies_in_it(kind: str) -> None:
    name, config = KINDS[kind]
    backbone = tiny(name, **config)
    batch = collate(backbone, encode(backbone, SOURCES, None, "front"))
    embeddings, mask = seq2seq_inputs(backbone, batch, torch.zeros(3, 0, backbone.width))
    runs = []
    for states in (random_states(backbone, 3), random_states(backbone, 3, length=0)):
        for cached in (True, False):
            with torch.no_grad(), prefixed(backbone, states):
                read = backbone.model.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
                run = backbone.model.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=read),
                    attention_mask=mask,
                    max_new_tokens=7,
                    min_new_tokens=7,
                    do_sample=False,
                    use_cache=cached,
                    return_dict_in_generate=True,
                )
            runs.append(run.sequences)
            if cached:
                assert run.past_key_values.self_attention_cache.get_seq_length() == 7
                assert run.past_key_values.cross_attention_cache.get_seq_length() == embeddings.shape[1]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[2], runs[3])
    assert not torch.equal(runs[0], runs[2])


def test_the_model_comes_back_as_it_was() -> None:
    backbone = tiny("t5")
    before = hidden(backbone)
    one, other = random_states(backbone, 3), random_states(backbone, 3, length=1)
    with prefixed(backbone, other):
        inner = hidden(backbone)
    with pytest.raises(RuntimeError, match="stop"), prefixed(backbone, one):
        outer = hidden(backbone)
        with prefixed(backbone, other):
            assert torch.equal(hidden(backbone), inner)
        assert torch.equal(hidden(backbone), outer) and not torch.equal(outer, inner)
        raise RuntimeError("stop")
    assert torch.equal(hidden(backbone), before)
    assert all(not module._forward_pre_hooks for module in backbone.model.modules())
    assert {m.config._attn_implementation for m in attentions(backbone).values()} == {"sdpa"}


def test_half_precision_is_near_full() -> None:
    full, half, mixed = tiny("t5"), tiny("t5"), tiny("t5")
    half.model.to(torch.bfloat16)
    mixed.autocast = True
    found = []
    for backbone in (full, half, mixed):
        with torch.no_grad(), prefixed(backbone, random_states(full, 3)):
            found.append(hidden(backbone).float())
    for other in found[1:]:
        assert torch.nn.functional.cosine_similarity(other, found[0]).median() > 0.98


# -- where a prefix starts -------------------------------------------------------------------------------


def test_a_prompts_states_are_those_of_a_prompt_that_reads_itself_alone() -> None:
    """Without relative positions: one pass over prompt and text, in which the prompt is kept from looking at the text
    (the decoder's from what the encoder makes of it), equals the prefix."""
    backbone = tiny("t5", d_kv=6)
    with torch.no_grad():
        for name in ("encoder 0", "decoder 0"):
            attentions(backbone)[name].relative_attention_bias.weight.zero_()
    m, text = 4, backbone.embed(torch.arange(10, 19)[None])
    prompt, answer = torch.randn(1, m, backbone.width), torch.tensor([[0, 30, 40, 50]])

    def open_to(queries: int, keys: int) -> Tensor:
        """(1, 1, Q, K) float mask: the first m queries see the first m keys, the others all."""
        mask = torch.zeros(1, 1, queries, keys)
        mask[:, :, :m, m:] = torch.finfo(torch.float32).min
        return mask

    with torch.no_grad():
        with prefixed(backbone, prompt_states(backbone, prompt)):
            run = backbone.model(inputs_embeds=text, decoder_input_ids=answer, use_cache=False)
        both = torch.cat([prompt, text], dim=1)
        read = backbone.model.encoder(inputs_embeds=both, attention_mask=open_to(m + 9, m + 9)).last_hidden_state
        torch.testing.assert_close(run.encoder_last_hidden_state, read[:, m:], atol=1e-5, rtol=1e-4)
        told = backbone.model.decoder(
            inputs_embeds=torch.cat([prompt, backbone.embed(answer)], dim=1),
            encoder_hidden_states=read,
            encoder_attention_mask=open_to(m + 4, m + 9),
            use_cache=False,
        ).last_hidden_state
    torch.testing.assert_close(run.logits, backbone.model.lm_head(told[:, m:] * 32**-0.5), atol=1e-4, rtol=1e-4)


# -- who is refused --------------------------------------------------------------------------------------


def test_other_encoder_decoders_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"not for BartForConditionalGeneration\. Use lora"):
        prompt_states(tiny("bart"), torch.zeros(1, 4, 32))


def test_a_transformers_whose_t5_takes_no_prefix_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("t5")
    monkeypatch.delattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS")
    with pytest.raises(BackboneError, match=r"needs transformers>=5\.15"):
        prompt_states(backbone, torch.zeros(1, 4, 32))
