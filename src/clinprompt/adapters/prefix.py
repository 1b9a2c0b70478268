"""Prefix tuning (Li & Liang, arXiv 2101.00190) in rows: m trained keys and values before every layer's own.

They are trained directly, without the paper's network that produces them (P-tuning v2, arXiv 2110.07602, finds it
unneeded), and start at the keys and values of a soft prompt, by default m real tokens: a prefix begins as that prompt
[O]. It stands before everything, BOS included, as PEFT's does. Keys are kept as attention uses them, with their rotary
positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.prefix_cache import PrefixCache
from clinprompt.errors import BackboneError


class PrefixBank(AdapterBank):
    """Rows of prefixes: "keys" and "values", each (R, layers, heads, m, head width); heads are the key/value heads."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__({"keys": keys, "values": values})

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.parameters["keys"].shape[3]

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """The backbone's `prefix` holds the layers' keys and values (B, heads, m, head width) of each example's row."""
        index = torch.tensor(list(rows), device=backbone.device)
        with placed(backbone, self.parameters["keys"], self.parameters["values"], index):
            yield


@contextmanager
def placed(backbone: Backbone, keys: Tensor, values: Tensor, rows: Tensor) -> Iterator[None]:
    """While it is open, example i sees row `rows[i]` of keys and values (R, layers, heads, m, head width) before it."""
    # Layers first, then rows: one backward pass per layer touches that layer alone.
    before = [layer.index_select(0, rows) for layer in keys.unbind(1)]
    after = [layer.index_select(0, rows) for layer in values.unbind(1)]
    previous, backbone.prefix = backbone.prefix, list(zip(before, after, strict=True))
    try:
        yield
    finally:
        backbone.prefix = previous


def prefix_bank(backbone: Backbone, prompts: Tensor) -> PrefixBank:
    """One row per prompt (R, m, d), starting at the keys and values that the backbone computes for it.

    Raises BackboneError for encoder-decoder models.
    """
    if backbone.kind == "seq2seq":
        raise BackboneError(
            f"{backbone.name}: a prefix (prefix, lora+prefix, peml, search) is made for decoder models here; an "
            "encoder-decoder would need one for each of its three kinds of attention. Use lora, a multi-task adapter "
            "without prefix, pt or mpt with this one."
        )
    cache = PrefixCache(backbone)
    rows = [cache.states(prompt, "front") for prompt in prompts.to(backbone.device)]
    keys, values = (torch.stack([torch.cat([layer[part] for layer in row]) for row in rows]).clone() for part in (0, 1))
    return PrefixBank(keys, values)


def prefix_parameters(backbone: Backbone, length: int) -> int:
    """Numbers of one row: 2 · layers · key/value heads · head width · m."""
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * length)
