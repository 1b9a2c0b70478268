"""Keys and values of a task's prompt, computed once and shared by every request for that task.

A prompt at `start` (behind BOS) or `front` is the same for all inputs of its task, so its keys and values are too.
They are kept per prompt and stacked into the cache of a batch, in which every example may have another task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from clinprompt.backbone.encoding import frame
from clinprompt.backbone.model import Backbone, LayerStates
from clinprompt.backbone.presets import PromptPosition


def prompt_digest(prompt: Tensor, position: PromptPosition) -> str:
    """Identity of a prompt by value, so that equal prompts share one cache entry."""
    values = prompt.detach().to(torch.float32).cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(position.encode() + values).hexdigest()[:16]


class PrefixCache:
    """Prompt keys and values by prompt; `stack` gives a batch its own growing copy."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._states: dict[str, LayerStates] = {}

    def stack(self, prompts: Sequence[Tensor], position: PromptPosition) -> tuple[DynamicCache, int]:
        """A cache holding each example's prefix (all of one length), and that length (BOS included)."""
        entries = [self.states(prompt, position) for prompt in prompts]
        layers = []
        for layer in range(len(entries[0])):
            layers.append(tuple(torch.cat([e[layer][part] for e in entries]) for part in (0, 1)))
        return DynamicCache(layers), int(layers[0][0].shape[2])

    def states(self, prompt: Tensor, position: PromptPosition) -> LayerStates:
        """Keys and values of [BOS] + prompt; runs the backbone only the first time a prompt is seen."""
        digest = prompt_digest(prompt, position)
        if digest not in self._states:
            self._states[digest] = self._compute(prompt, position)
            self.backbone.prefetches[digest] = self.backbone.prefetches.get(digest, 0) + 1
        return self._states[digest]

    def _compute(self, prompt: Tensor, position: PromptPosition) -> LayerStates:
        model = self.backbone.model
        embeddings = prompt[None].to(model.get_input_embeddings().weight.dtype)
        bos = frame(self.backbone).bos if position == "start" else ()
        if bos:
            ids = torch.tensor([bos], device=self.backbone.device)
            embeddings = torch.cat([self.backbone.embed(ids), embeddings], dim=1)
        with torch.inference_mode(), self.backbone.precision():
            # Plain layers, also for sliding-window models: their windows are applied by the mask, so that a prefix
            # longer than the window can still be selected and extended.
            run = model.base_model(inputs_embeds=embeddings, use_cache=True, past_key_values=DynamicCache())
        return [(entry[0], entry[1]) for entry in run.past_key_values]
