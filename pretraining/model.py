"""A lean LLaMA for training: the same parameters, names and arithmetic as Transformers' LlamaForCausalLM.

Two things are different, and neither is exported: extra input rows (`codes`, the soft prompts of self-supervised
tasks, learned with the model and then thrown away), and a cross-entropy that never holds all logits at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the model. `codes` counts training-only input rows after the vocabulary."""

    vocabulary: int = 8192
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    intermediate: int = 640
    context: int = 1024
    theta: float = 10000.0
    epsilon: float = 1e-5
    codes: int = 0

    def to_llama(self) -> dict[str, Any]:
        """The `config.json` of the exported model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.theta,
            "rope_scaling": None,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
            "use_cache": True,
        }

    def matrix_flops_per_token(self) -> int:
        """Floating-point operations of all weight matrices, forward and backward (6 per weight and token)."""
        block = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate
        return 6 * (self.layers * block + self.vocabulary * self.hidden)

    def attention_flops_per_token(self, length: int) -> int:
        """Scores and mixing for rows of `length` tokens, as computed (full square), forward and backward."""
        return 3 * 4 * length * self.hidden * self.layers

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square norm; the gain is cast to the input's type, which keeps the fused kernel usable."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c.hidden))
        self.epsilon = c.epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.q_proj = nn.Linear(c.hidden, c.hidden, bias=False)
        self.k_proj = nn.Linear(c.hidden, c.hidden, bias=False)
        self.v_proj = nn.Linear(c.hidden, c.hidden, bias=False)
        self.o_proj = nn.Linear(c.hidden, c.hidden, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        mixed = F.linear(x, weight).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, width))
        return projected


class FeedForward(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.down_proj = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, dim=-1)
        projected: Tensor = self.down_proj(F.silu(gate) * up)
        return projected


class Block(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = FeedForward(c)
        self.input_layernorm = RMSNorm(c)
        self.post_attention_layernorm = RMSNorm(c)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Body(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocabulary, c.hidden)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c)


class Model(nn.Module):
    """Token ids (batch, length) → final hidden states (batch, length, hidden)."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.codes = nn.Embedding(config.codes, config.hidden)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Matrices that write into the residual stream start smaller, so that depth does not inflate it.
                narrow = name.endswith(("o_proj.weight", "down_proj.weight"))
                deviation = 0.02 / (2 * config.layers) ** 0.5 if narrow else 0.02
                nn.init.normal_(parameter, std=deviation, generator=generator)
        cos, sin = rotary_table(config)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (batch, 1, length, length) is True where a position may look; None means plain causal."""
        table = self.model.embed_tokens.weight
        if self.config.codes:
            table = torch.cat([table, self.codes.weight])
        x = F.embedding(ids, table)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        length = ids.shape[1]
        rotary = (self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype))
        for block in self.model.layers:
            x = block(x, rotary, mask)
        final: Tensor = self.model.norm(x)
        return final

    def logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """All logits (batch, length, vocabulary): for tests and small models."""
        return F.linear(self(ids, mask), self.model.embed_tokens.weight)


def rotary_table(c: ModelConfig) -> tuple[Tensor, Tensor]:
    width = c.hidden // c.heads
    frequencies = 1.0 / c.theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(c.context, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def document_mask(segments: Tensor) -> Tensor:
    """Segments (batch, length) → (batch, 1, length, length): causal, and only within one document."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (causal & (segments[:, :, None] == segments[:, None, :])).unsqueeze(1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted sum of token losses; gradients are formed chunk by chunk in the forward pass.

    The (tokens, vocabulary) matrix of logits would be the largest thing in memory and would be written and read several
    times; a chunk of it stays in the processor's cache and is used at once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, size: int) -> Tensor:
        compute = hidden.dtype
        weight = table.to(compute)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        table_gradient = torch.zeros_like(table, dtype=torch.float32)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            h, t, w = hidden[part], targets[part], weights[part]
            logits = (h @ weight.T).float()
            log_z = logits.logsumexp(-1, keepdim=True)
            loss += (w * (log_z.squeeze(1) - logits.gather(1, t[:, None]).squeeze(1))).sum()
            gradient = logits.sub_(log_z).exp_()
            gradient.scatter_add_(1, t[:, None], torch.full_like(log_z, -1.0))
            low = (gradient * w[:, None]).to(compute)
            hidden_gradient[part] = low @ weight
            table_gradient += (low.T @ h).float()
        ctx.save_for_backward(hidden_gradient, table_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, table_gradient = ctx.saved_tensors
        scale = gradients[0]
        return hidden_gradient * scale.to(hidden_gradient.dtype), table_gradient * scale, None, None, None


def weighted_loss(
    model: Model,
    ids: Tensor,
    segments: Tensor,
    weights: Tensor,
    *,
    chunk: int = 512,
    forward: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean next-token loss. `weights` (batch, length) weigh each position's *own* token as a target; 0 ignores it.

    `forward` is a compiled form of `model`, if there is one; `chunk` the number of tokens whose logits exist at once.
    """
    hidden = (model if forward is None else forward)(ids, document_mask(segments))[:, :-1].reshape(
        -1, model.config.hidden
    )
    targets, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1).float()
    weight = weight * (segments[:, 1:] == segments[:, :-1]).reshape(-1)
    kept = weight > 0
    total: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        hidden[kept], model.model.embed_tokens.weight, targets[kept], weight[kept], chunk
    )
    return total / weight.sum().clamp(min=1.0)
