"""Choosing where a prompt starts by looking at the training examples (as SPoT does, arXiv 2110.07904, §3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone
from clinprompt.methods.mpt import Start
from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.initialisation import PRACTISED, from_vocabulary, initial_prompts
from clinprompt.prompts.practised import fitted, practised_of
from clinprompt.training.identity import examples_digest
from clinprompt.training.loop import prompt_loss
from clinprompt.training.settings import AdaptSettings, FactorSettings, Method

FIRST, ROUND, MOST = 4, 4, 64
"""Examples of the first round, the factor by which they grow and candidates shrink, and most examples of a round."""
BEST, SIMILAR = "best", "similar"
"""Starts that are found by the loss of every source's prompt on the target's training examples."""
DEFAULT_START: Mapping[Method, str] = {"mpt": "mean", "spot": BEST}
JUDGED = 32
"""Training examples that the best source is found by, at most. Our choice."""


def first_prompts(
    backbone: Backbone,
    length: int,
    initials: Sequence[str],
    seeds: Sequence[int],
    examples: Sequence[Sequence[Encoded]],
) -> Tensor:
    """(rows, l, d): where each row starts, by its `initial` and seed, and if "practised" by its training examples.

    Rows with the same seed start at the same values (unless practised): teachers that leave from one point can be
    averaged into P*.
    """
    found: dict[tuple[str, str, int], Tensor] = {}
    keys = []
    for initial, seed, seen in zip(initials, seeds, examples, strict=True):
        nearest = initial == PRACTISED
        key = (initial, examples_digest(seen) if nearest else "", seed)
        if key not in found:
            if nearest:
                found[key] = nearest_practised(backbone, seen, length, seed)
            else:
                found[key] = initial_prompts(backbone, length, initial, [seed])[0]
        keys.append(key)
    return torch.stack([found[key].to(backbone.device) for key in keys])


def nearest_practised(backbone: Backbone, examples: Sequence[Encoded], length: int, seed: int) -> Tensor:
    """(l, d): the practised prompt under which the training examples have the lowest loss.

    Successive halving (our choice): all candidates on four examples, the best quarter on four times as many, and so on.
    Without examples the mean of all practised prompts. Raises BackboneError for a backbone without any.
    """
    if not examples:
        return initial_prompts(backbone, length, PRACTISED, [seed])[0]
    free = from_vocabulary(backbone, length, seed=seed)[0]
    candidates = fitted(practised_of(backbone).prompts, free)  # (n, l, d)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    left, count = list(range(len(candidates))), FIRST
    while True:
        held = [examples[i] for i in order[:count]]
        losses = {c: prompt_loss(backbone, held, candidates[c]) for c in left}
        left = sorted(left, key=lambda c: losses[c])[: max(1, len(left) // ROUND)]
        if len(left) == 1 or count >= min(len(examples), MOST):
            return candidates[left[0]]
        count *= ROUND


def source_starts(
    backbone: Backbone,
    metaprompt: Metaprompt,
    method: Method,
    settings: Sequence[AdaptSettings],
    examples: Sequence[Sequence[Encoded]],
) -> list[Start]:
    """Where each row starts among the sources. Zero shots have nothing to judge them by: the mean then.

    Rows that look at the same examples share the answer.
    """
    losses: dict[str, Tensor] = {}
    found: list[Start] = []
    for one, seen in zip(settings, examples, strict=True):
        start, held = start_of(one, method), list(seen[: judged_examples(one, method)])
        if start not in (BEST, SIMILAR):
            found.append(start)
            continue
        if not held:
            found.append("mean")
            continue
        key = examples_digest(held)
        if key not in losses:
            losses[key] = source_losses(backbone, metaprompt, held)
        if start == BEST:
            found.append(metaprompt.names[int(losses[key].argmin())])
        else:
            found.append(similar(losses[key], (one.factors or FactorSettings()).temperature))
    return found


def start_of(settings: AdaptSettings, method: Method) -> str:
    """Where a row starts: the settings', else the method's own; "" for methods that start from no metaprompt."""
    return (settings.start or DEFAULT_START[method]) if method in DEFAULT_START else ""


def require_start(settings: AdaptSettings, method: Method, metaprompt: Metaprompt | None) -> None:
    """Raises ArtifactError for a start that is no source task of the metaprompt it is to be found in."""
    start = start_of(settings, method)
    if metaprompt is not None and start not in ("", "mean", BEST, SIMILAR):
        metaprompt.row(start)


def judged_examples(settings: AdaptSettings, method: Method) -> int:
    """How many training examples are looked at to find the start, at most; 0 where it is not looked for."""
    start = start_of(settings, method)
    if start == SIMILAR:
        return (settings.factors or FactorSettings()).examples
    return JUDGED if start == BEST else 0


def source_losses(backbone: Backbone, metaprompt: Metaprompt, examples: Sequence[Encoded]) -> Tensor:
    """(T,) mean loss per label of these examples under the prompt of every source."""
    losses = [prompt_loss(backbone, examples, metaprompt.prompt(name)) for name in metaprompt.names]
    return torch.tensor(losses, dtype=torch.float64)


def similar(losses: Tensor, temperature: float) -> Tensor:
    """(T,) weights of the sources: softmax of their losses (T,), lower ones heavier (our choice)."""
    return (-losses / temperature).softmax(dim=0).float()
