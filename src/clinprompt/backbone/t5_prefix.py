"""A prefix inside T5-type models (T5, mT5, FLAN-T5): keys and values before those of every attention.

There are three kinds of attention, and each has a prefix of its own: the encoder's over the text, the decoder's over
the answer, and the decoder's over the text (cross-attention). Li & Liang (arXiv 2101.00190, §4.2) put one before the
text and one before the answer; their released code for BART and UnifiedSKG for T5 (Xie et al., arXiv 2201.05966) have
all three. As in UnifiedSKG, a prefix has no position: the model's relative position bias is zero there and unchanged
between the text's own tokens. It is never masked.

A prefix joins keys and values behind the model's own cache, so that it never lies in one. That needs Transformers'
attention interface, through which T5 computes from version 5.15 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, MT5ForConditionalGeneration
from transformers.masking_utils import eager_mask
from transformers.models.t5 import modeling_t5

from clinprompt.backbone.model import Backbone, LayerStates
from clinprompt.errors import BackboneError

ATTENTION = "clinprompt_t5_prefix"
"""The name of our attention among Transformers' (eager, sdpa, …)."""


def attentions(backbone: Backbone) -> dict[str, Any]:
    """The attention modules by name: "encoder 0", …, "decoder 0", …, "cross 0", …; a prefix's layers in this order.

    Raises BackboneError for models of other types, and for a Transformers too old to take a prefix.
    """
    model: Any = backbone.model
    if not isinstance(backbone.model, modeling_t5.T5ForConditionalGeneration | MT5ForConditionalGeneration):
        raise BackboneError(
            f"{backbone.name}: a prefix (prefix, lora+prefix, peml, search) is made for decoder models and T5 types "
            f"(T5, mT5, FLAN-T5), not for {type(model).__name__}. Use lora, a multi-task adapter without prefix, pt or "
            "mpt with this one."
        )
    if not hasattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS"):
        raise BackboneError(
            f"a prefix in a T5-type model needs transformers>=5.15, and this is {transformers.__version__}: upgrade it."
        )
    encoder, decoder = model.get_encoder(), model.get_decoder()
    found = {f"encoder {i}": block.layer[0].SelfAttention for i, block in enumerate(encoder.block)}
    found |= {f"decoder {i}": block.layer[0].SelfAttention for i, block in enumerate(decoder.block)}
    return found | {f"cross {i}": block.layer[1].EncDecAttention for i, block in enumerate(decoder.block)}


@contextmanager
def prefixed(backbone: Backbone, states: LayerStates) -> Iterator[None]:
    """While it is open, every attention sees its keys and values (B, heads, m, head width) of `states` before its own.

    B is the batch that the model computes. Within another prefix the inner one holds. Raises as `attentions`.
    """
    modules = list(attentions(backbone).values())
    configs = {id(module.config): module.config for module in modules}
    before = {key: config._attn_implementation for key, config in configs.items()}
    handles = []
    try:
        for module, pair in zip(modules, states, strict=True):
            handles.append(module.register_forward_pre_hook(partial(_given, pair), with_kwargs=True))
        for config in configs.values():
            config._attn_implementation = ATTENTION
        yield
    finally:
        for handle in handles:
            handle.remove()
        for key, config in configs.items():
            config._attn_implementation = before[key]


@torch.no_grad()
def prompt_states(backbone: Backbone, prompts: Tensor) -> LayerStates:
    """What each attention makes of prompts (R, m, d) alone: keys and values (R, heads, m, head width).

    The encoder reads a prompt as a text; the decoder reads it as an answer to that text, so cross-attention's are those
    of the encoder's output [O]. Raises as `attentions`.
    """
    modules = list(attentions(backbone).values())
    projections = [projection for module in modules for projection in (module.k, module.v)]
    seen: dict[nn.Module, Tensor] = {}
    handles = [projection.register_forward_hook(partial(_kept, seen)) for projection in projections]
    embeddings = prompts.to(backbone.device, backbone.model.get_input_embeddings().weight.dtype)
    try:
        with backbone.precision():
            read = backbone.model.get_encoder()(inputs_embeds=embeddings).last_hidden_state
            backbone.model.get_decoder()(inputs_embeds=embeddings, encoder_hidden_states=read, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    width = modules[0].key_value_proj_dim
    found = [seen[projection].to(backbone.device) for projection in projections]  # (R, m, heads · width)
    heads = [states.view(*states.shape[:2], -1, width).transpose(1, 2) for states in found]
    return list(zip(heads[::2], heads[1::2], strict=True))


def _given(
    pair: tuple[Tensor, Tensor], module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook of an attention module, which hands arguments it does not know on to the attention function."""
    return inputs, {**named, "prefix": pair}


def _kept(seen: dict[nn.Module, Tensor], module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    seen[module] = output


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix: tuple[Tensor, Tensor],
    position_bias: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function. Query (B, heads, Q, width), keys and values (B, heads, K, width) with those of
    the cache, mask (B, 1, Q, K) and bias (1, heads, Q, K), both added to the scores. Returns (B, Q, heads, width)."""
    first, last = (states.to(key) for states in prefix)  # its precision, and its device in a spread model
    added = position_bias if attention_mask is None else position_bias + attention_mask
    output = functional.scaled_dot_product_attention(
        query,
        torch.cat([first, key], dim=2),
        torch.cat([last, value], dim=2),
        attn_mask=functional.pad(added, (first.shape[2], 0)).to(query.dtype),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, eager_mask)
