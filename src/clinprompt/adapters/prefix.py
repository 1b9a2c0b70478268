"""Prefix tuning (Li & Liang, arXiv 2101.00190) in rows: m trained keys and values before every layer's own.

They are trained directly, without the paper's network that produces them (P-tuning v2, arXiv 2110.07602, finds it
unneeded), and start at the keys and values of a soft prompt, by default m real tokens: a prefix begins as that prompt
[O]. It stands before everything, BOS included, as PEFT's does. Keys are kept as attention uses them, with their rotary
positions. T5-type models have three kinds of attention and a prefix before each (`backbone.t5_prefix`): "layers" then
counts the encoder's, the decoder's, and the decoder's once more for cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.backbone import t5_prefix
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.prefix_cache import PrefixCache


class PrefixBank(AdapterBank):
    """Rows of prefixes: "keys" and "values", each (R, layers, heads, m, head width); heads are the key/value heads."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__({"keys": keys, "values": values})

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.parameters["keys"].shape[3]

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """Every layer sees keys and values (B, heads, m, head width) of each example's row, by `backbone.prefix` or, in
        T5 types, by its attention."""
        index = torch.tensor(list(rows), device=backbone.device)
        with placed(backbone, self.parameters["keys"], self.parameters["values"], index):
            yield


@contextmanager
def placed(backbone: Backbone, keys: Tensor, values: Tensor, rows: Tensor) -> Iterator[None]:
    """While it is open, example i sees row `rows[i]` of keys and values (R, layers, heads, m, head width) before it."""
    # Layers first, then rows: one backward pass per layer touches that layer alone.
    before = [layer.index_select(0, rows) for layer in keys.unbind(1)]
    after = [layer.index_select(0, rows) for layer in values.unbind(1)]
    states = list(zip(before, after, strict=True))
    if backbone.kind == "seq2seq":
        with t5_prefix.prefixed(backbone, states):
            yield
        return
    previous, backbone.prefix = backbone.prefix, states
    try:
        yield
    finally:
        backbone.prefix = previous


def prefix_bank(backbone: Backbone, prompts: Tensor) -> PrefixBank:
    """One row per prompt (R, m, d), starting at the keys and values that the backbone computes for it.

    Raises BackboneError for encoder-decoder models of other types than T5's.
    """
    if backbone.kind == "seq2seq":
        layers = t5_prefix.prompt_states(backbone, prompts)
        return PrefixBank(*(torch.stack([layer[part] for layer in layers], dim=1) for part in (0, 1)))
    cache = PrefixCache(backbone)
    rows = [cache.states(prompt, "front") for prompt in prompts.to(backbone.device)]
    keys, values = (torch.stack([torch.cat([layer[part] for layer in row]) for row in rows]).clone() for part in (0, 1))
    return PrefixBank(keys, values)


def layer_names(backbone: Backbone, layers: int) -> list[str]:
    """What the layers of a prefix are called: "layer 0", …; in T5 types "encoder 0", …, "decoder 0", …, "cross 0", …,
    as many as the model has. Raises BackboneError for encoder-decoder models of other types."""
    if backbone.kind == "seq2seq":
        return list(t5_prefix.attentions(backbone))
    return [f"layer {index}" for index in range(layers)]


def prefix_parameters(backbone: Backbone, length: int) -> int:
    """Numbers of one row: 2 · layers · key/value heads · head width · m. A T5 type has encoder + 2 · decoder layers.

    Raises as `layer_names`.
    """
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * len(layer_names(backbone, config.num_hidden_layers)) * heads * width * length)
