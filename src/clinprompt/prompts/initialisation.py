"""Where a soft prompt starts: at real token embeddings, never at noise.

On a public benchmark, random initialisation reached 23 % where vocabulary initialisation reached 34 % at the same
learning rate (METHODS §2); prompts at noise scale are also far from anything the backbone has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.prompts.artifact import artifact_kind, load_metaprompt, load_task, require_backbone
from clinprompt.prompts.practised import fitted, practised_of

VOCABULARY = "vocabulary"
TEXT = "text:"
PRACTISED = "practised"


def initial_prompts(backbone: Backbone, length: int, start: str, seeds: Sequence[int]) -> Tensor:
    """(rows, l, d) prompts to start from, one per seed.

    `start`: "vocabulary" (a sample of real tokens per seed), "text: …" (the tokens of that text), "practised" (the mean
    of the backbone's practised prompts; `training.starts` finds the nearest one), or the path of a metaprompt (its P*)
    or task file (its prompt). Raises TrainingError for a prompt of another length.
    """
    if start == PRACTISED:
        mean = practised_of(backbone).prompts.mean(dim=0, keepdim=True)
        return torch.cat([fitted(mean, from_vocabulary(backbone, length, seed=seed)[0]) for seed in seeds])
    if start == VOCABULARY:
        return torch.cat([from_vocabulary(backbone, length, seed=seed) for seed in seeds])
    if start.startswith(TEXT):
        return from_text(backbone, length, start.removeprefix(TEXT).strip()).expand(len(seeds), -1, -1)
    return from_file(backbone, length, Path(start)).expand(len(seeds), -1, -1)


def from_file(backbone: Backbone, length: int, path: Path) -> Tensor:
    """(1, l, d) the prompt of a task file, or the P* of a metaprompt. Raises ArtifactError, BackboneError."""
    if artifact_kind(path) == "metaprompt":
        metaprompt = load_metaprompt(path)
        prompt, card = metaprompt.shared, metaprompt.card
    else:
        task = load_task(path)
        prompt, card = task.prompt, task.card
    require_backbone(card, backbone, path)
    if len(prompt) != length:
        raise TrainingError(
            f"{path}: holds a prompt of {len(prompt)} tokens; set the prompt length to that, not {length}."
        )
    return prompt[None]


def from_vocabulary(backbone: Backbone, length: int, *, seed: int, rows: int = 1) -> Tensor:
    """(rows, l, d) embeddings of tokens drawn without replacement from the real (not special) vocabulary."""
    usable = _plain_tokens(backbone)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.stack([usable[torch.randperm(len(usable), generator=generator)[:length]] for _ in range(rows)])
    return _embeddings(backbone, chosen)


def from_text(backbone: Backbone, length: int, text: str) -> Tensor:
    """(1, l, d) embeddings of a text's tokens, repeated or cut to the prompt's length."""
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise TrainingError("the text to initialise a prompt from has no tokens")
    repeated = (ids * (length // len(ids) + 1))[:length]
    return _embeddings(backbone, torch.tensor([repeated]))


def _plain_tokens(backbone: Backbone) -> Tensor:
    """Ids with an embedding row that are not special; the first 5,000 of them (the frequent ones in a BPE)."""
    special = set(backbone.tokenizer.all_special_ids)
    limit = min(len(backbone.tokenizer), backbone.model.get_input_embeddings().weight.shape[0])
    usable = [i for i in range(limit) if i not in special]
    return torch.tensor(usable[:5000] if len(usable) >= 5000 else usable)


def _embeddings(backbone: Backbone, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.embed(ids.to(backbone.device)).float().cpu()
