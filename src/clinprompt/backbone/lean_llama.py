"""LLaMA's forward pass at the positions somebody reads, and nothing else.

Soft-prompt training reads the last layer at label positions only, a tenth of a typical sequence. There, queries, the
output projection, the feed-forward block and the final norm are computed for those positions alone; every other layer
is the model's own, with its element-wise steps (norms, rotary positions) in fewer passes over memory and with less
kept for the backward pass. Frozen weights are taken for granted: no weight gets a gradient.

Only Transformers' own unmodified LLaMA classes are recognised; everything else takes the general path. The results are
those of the model itself to rounding (a test compares values and gradients).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)

from clinprompt.backbone.model import LayerStates

_PARTS = {
    "self_attn": LlamaAttention,
    "mlp": LlamaMLP,
    "input_layernorm": LlamaRMSNorm,
    "post_attention_layernorm": LlamaRMSNorm,
}


@dataclass(frozen=True)
class Places:
    """Whose positions a two-dimensional input (n, ·) of a linear layer holds: place i is number `offset[i]` of the
    places read in example `owner[i]`, of `examples` in all and `widest` at most in one."""

    owner: Tensor
    offset: Tensor
    examples: int
    widest: int


_PLACES: ContextVar[Places | None] = ContextVar("places", default=None)


def places() -> Places | None:
    """What the rows of a two-dimensional input are, while the last layer runs at label positions only."""
    return _PLACES.get()


@contextmanager
def _reading(chosen: Places) -> Iterator[None]:
    token = _PLACES.set(chosen)
    try:
        yield
    finally:
        _PLACES.reset(token)


def recognised(model: Any) -> bool:
    """Whether this is LLaMA as Transformers wrote it: exact classes, SDPA attention, one device, frozen, no hooks."""
    body = model.base_model
    if type(body) is not LlamaModel or body.training or body.config._attn_implementation != "sdpa":
        return False
    return _plain(body, LlamaModel) and not body.norm.weight.requires_grad and all(map(_plain_layer, body.layers))


def _plain_layer(layer: Any) -> bool:
    parts = all(_plain(getattr(layer, name), kind) for name, kind in _PARTS.items())
    return _plain(layer, LlamaDecoderLayer) and parts and not layer.input_layernorm.weight.requires_grad


def _plain(module: Any, kind: type) -> bool:
    """Exactly this class with its own `forward` and no foreign hooks.

    Transformers leaves listeners behind once hidden states were asked for; they do nothing unless it asks again.
    """
    foreign = [h for h in module._forward_hooks.values() if h.__module__ != "transformers.utils.output_capturing"]
    altered = foreign or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is kind and not altered


def states_at(
    model: Any, embeddings: Tensor, owner: Tensor, offset: Tensor, reads: Tensor, prefix: LayerStates | None = None
) -> Tensor:
    """Final hidden states (n, d) at places `reads[i]` of sequences `owner[i]`, from input embeddings (B, S, d).

    `offset[i]` numbers the places of one sequence from 0. `prefix`: m keys and values per layer that every place sees.
    Causal: padding on the right is seen by nobody.
    """
    body = model.base_model
    before = prefix[0][0].shape[2] if prefix else 0
    count = embeddings.shape[1]
    numbers = torch.arange(before, before + count, device=embeddings.device)[None]
    cosine, sine = (table[0, :, None, : table.shape[-1] // 2] for table in body.rotary_emb(embeddings, numbers))
    seen = embeddings.new_ones(count, before + count, dtype=torch.bool).tril(before) if before else None
    hidden = embeddings
    for index, layer in enumerate(body.layers[:-1]):
        hidden = hidden + _attend(layer, hidden, cosine, sine, seen, prefix[index] if prefix else None)
        hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
    last = body.layers[-1]
    at = Places(owner, offset, len(embeddings), int(offset.max()) + 1)
    chosen = hidden[owner, reads] + _attend_at(last, hidden, cosine, sine, at, reads, prefix[-1] if prefix else None)
    with _reading(at):
        chosen = chosen + last.mlp(_norm(last.post_attention_layernorm, chosen))
    return _norm(body.norm, chosen)


def _attend(
    layer: Any,
    hidden: Tensor,
    cosine: Tensor,
    sine: Tensor,
    seen: Tensor | None,
    before: tuple[Tensor, Tensor] | None,
) -> Tensor:
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, hidden)
    query = _turn(_heads(attention.q_proj(normed), attention), cosine, sine)
    key, value = _keys_values(attention, normed, cosine, sine, before)
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key,
        value,
        attn_mask=seen,
        is_causal=seen is None,
        scale=attention.scaling,
        enable_gqa=attention.num_key_value_groups > 1,
    )
    joined: Tensor = attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return joined


def _attend_at(
    layer: Any,
    hidden: Tensor,
    cosine: Tensor,
    sine: Tensor,
    at: Places,
    reads: Tensor,
    before: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Attention of the read places only: (n, d)."""
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, hidden)
    key, value = _keys_values(attention, normed, cosine, sine, before)
    with _reading(at):
        projected = attention.q_proj(normed[at.owner, reads])
    query = _turn(_heads(projected, attention), cosine[reads], sine[reads])
    where = (at.owner, at.offset)
    padded = query.new_zeros(at.examples, at.widest, *query.shape[1:]).index_put(where, query)
    horizon = reads.new_zeros(at.examples, at.widest).index_put(where, reads + key.shape[2] - hidden.shape[1])
    seen = torch.arange(key.shape[2], device=reads.device) <= horizon[:, None, :, None]  # (B, 1, widest, m+S)
    groups = attention.num_key_value_groups
    mixed = functional.scaled_dot_product_attention(
        padded.transpose(1, 2),
        key.repeat_interleave(groups, dim=1) if groups > 1 else key,
        value.repeat_interleave(groups, dim=1) if groups > 1 else value,
        attn_mask=seen,
        scale=attention.scaling,
    )
    with _reading(at):
        joined: Tensor = attention.o_proj(mixed.transpose(1, 2)[where].flatten(1))
    return joined


def _keys_values(
    attention: Any, normed: Tensor, cosine: Tensor, sine: Tensor, before: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Each (B, heads, m+S, width): those given to stand before, then the text's."""
    key = _turn(_heads(attention.k_proj(normed), attention), cosine, sine).transpose(1, 2)
    value = _heads(attention.v_proj(normed), attention).transpose(1, 2)
    if before is None:
        return key, value
    return torch.cat([before[0].to(key.dtype), key], dim=2), torch.cat([before[1].to(value.dtype), value], dim=2)


def _heads(projected: Tensor, attention: Any) -> Tensor:
    """(…, heads · width) → (…, heads, width)."""
    return projected.view(*projected.shape[:-1], -1, attention.head_dim)


def _norm(module: Any, hidden: Tensor) -> Tensor:
    normed: Tensor = _RMSNorm.apply(hidden, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


def _turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    turned: Tensor = _Rotation.apply(heads, cosine, sine)  # type: ignore[no-untyped-call]
    return turned


class _RMSNorm(torch.autograd.Function):
    """LlamaRMSNorm with a frozen weight: keeps the input and one number per position."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = hidden.float()
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return weight * (wide * scale).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        # An overflowed mean square leaves a scale of 0, and no gradient: let it show, as it does in the model's own.
        scale = scale.masked_fill(scale == 0, torch.nan)
        unit = hidden.float() * scale
        gradient = (gradients[0] * weight).float()
        along = (gradient * unit).mean(-1, keepdim=True)
        return (gradient - unit.mul_(along)).mul_(scale).to(hidden.dtype), None, None


class _Rotation(torch.autograd.Function):
    """Rotary positions: each pair (first half, second half) of a head turned by its position's angle."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.dtype = heads.dtype
        return _turned(heads.to(cosine.dtype), cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return _turned(gradients[0], cosine, sine, -1.0).to(ctx.dtype), None, None


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor, direction: float) -> Tensor:
    half = heads.shape[-1] // 2
    left, right = heads[..., :half], heads[..., half:]
    turned = torch.empty_like(heads, memory_format=torch.contiguous_format)
    torch.mul(left, cosine, out=turned[..., :half])
    torch.mul(right, cosine, out=turned[..., half:])
    turned[..., :half].addcmul_(right, sine, value=-direction)
    turned[..., half:].addcmul_(left, sine, value=direction)
    return turned
