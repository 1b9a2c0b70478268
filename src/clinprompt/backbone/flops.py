"""How much a pass through a backbone computes: the formulas that plans are made of (`clinprompt.planning`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone


@dataclass(frozen=True)
class Volume:
    """Sequence positions, label tokens, and pairs of a position with one that it sees in a layer.

    `pairs` are those of a decoder-only model. In an encoder-decoder a layer of the encoder has `read`, one of the
    decoder `written`, its two kinds of attention together.
    """

    tokens: float = 0.0
    labels: float = 0.0
    pairs: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __add__(self, other: Volume) -> Volume:
        return Volume(
            self.tokens + other.tokens,
            self.labels + other.labels,
            self.pairs + other.pairs,
            self.read + other.read,
            self.written + other.written,
        )

    def times(self, factor: float) -> Volume:
        numbers = (self.tokens, self.labels, self.pairs, self.read, self.written)
        return Volume(*(number * factor for number in numbers))


def volume_of(examples: Sequence[Encoded], length: int, ahead: int = 0) -> Volume:
    """`length` positions are computed with every example, `ahead` are seen by it but not computed (a prefix)."""
    return sum((_one(len(e.ids) - e.labels + length, e.labels, ahead) for e in examples), Volume())


def _one(text: int, labels: int, ahead: int) -> Volume:
    size = text + labels
    return Volume(
        tokens=size,
        labels=labels,
        pairs=size * (size + 1) / 2 + size * ahead,
        read=text * (text + ahead),
        written=labels * (labels + 1) / 2 + labels * ahead + labels * (text + ahead),
    )


def body_parameters(backbone: Backbone) -> int:
    """N: all weights but the embedding tables; of experts, the share that one token is sent to."""
    embedding = backbone.model.get_input_embeddings().weight
    head = backbone.model.get_output_embeddings().weight
    total = backbone.parameters - embedding.numel() - (0 if head is embedding else head.numel())
    return int(total - _unused(backbone, ""))


def passed_parameters(backbone: Backbone, within: str) -> int:
    """Weights that one token passes in the part of the model whose parameters' names begin so, as `body_parameters`."""
    inside = sum(p.numel() for name, p in backbone.model.named_parameters() if name.startswith(within))
    return int(inside - _unused(backbone, within))


def _unused(backbone: Backbone, within: str) -> int:
    """Weights of the experts that a token is not sent to."""
    config = backbone.model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    used = getattr(config, "num_experts_per_tok", None)
    if not (experts and used):
        return 0
    named = backbone.model.named_parameters()
    inside = sum(p.numel() for name, p in named if ".experts." in name and name.startswith(within))
    unused: int = round(inside * (1 - used / experts))
    return unused


def training_flops(backbone: Backbone, volume: Volume, *, adapter: int = 0, full: bool = False) -> float:
    """Forward and backward; `adapter` numbers are trained beside frozen weights, or with `full` the weights are."""
    head, per_weight = backbone.vocabulary * backbone.width, 6.0 if full else 4.0
    weights = per_weight * (body_parameters(backbone) * volume.tokens + head * volume.labels)
    return weights + 6.0 * adapter * volume.tokens + 3 * attention_flops(backbone, volume)


def forward_flops(backbone: Backbone, volume: Volume, *, adapter: int = 0) -> float:
    """Without the head."""
    return 2.0 * (body_parameters(backbone) + adapter) * volume.tokens + attention_flops(backbone, volume)


def attention_flops(backbone: Backbone, volume: Volume) -> float:
    """Scores and weighted values of one forward pass."""
    config = backbone.model.config.get_text_config()
    heads, layers = int(config.num_attention_heads), int(config.num_hidden_layers)
    width = int(getattr(config, "head_dim", None) or backbone.width // heads)
    pairs = layers * volume.pairs
    if backbone.kind == "seq2seq":
        decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or layers
        pairs = layers * volume.read + decoder * volume.written
    return 4.0 * heads * width * pairs
