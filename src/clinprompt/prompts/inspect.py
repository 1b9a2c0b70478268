"""What a prompt is, in numbers a person can look at: nearest words, norms, how tasks differ, and what a file holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Metaprompt, read_card
from clinprompt.prompts.files import tensor_digest

CHUNK = 8192  # vocabulary rows compared at once: 128 MiB at width 4,096


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A vocabulary token near a prompt position; `cosine` in [-1, 1]."""

    token: str
    id: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Departure:
    """How far a task's vectors moved from the unit start, and where they changed the prompt most.

    `u` and `v` are root mean squares of `u − 1` and `v − 1` (rank one; further ranks count in full), so prompts of
    different lengths and widths compare. `product` is the root mean square of `u vᵀ − 1`, which has no scale left to
    trade between the factors. Positions and dimensions are (index, change) with the largest change first.
    """

    task: str
    u: float
    v: float
    product: float
    positions: tuple[tuple[int, float], ...]
    dimensions: tuple[tuple[int, float], ...]


@torch.no_grad()
def nearest_tokens(backbone: Backbone, prompt: Tensor, k: int = 5) -> list[list[Neighbour]]:
    """For each of the l positions of a prompt (l, d), the k vocabulary tokens with the highest cosine similarity.

    Tokens that share one embedding row value (tied duplicates) are all listed. The embedding matrix is read in
    chunks; nothing of the size of the vocabulary times the prompt is kept.
    """
    weights = backbone.model.get_input_embeddings().weight
    known = min(len(weights), len(backbone.tokenizer))  # rows behind the vocabulary are padding of the matrix
    queries = functional.normalize(prompt.to(weights.device, torch.float32), dim=1)
    best = torch.empty(len(prompt), 0, device=weights.device)
    found = torch.empty(len(prompt), 0, dtype=torch.long, device=weights.device)
    for begin in range(0, known, CHUNK):
        part = functional.normalize(weights[begin : min(begin + CHUNK, known)].float(), dim=1)
        ids = torch.arange(begin, begin + len(part), device=weights.device).expand(len(prompt), -1)
        best, kept = torch.cat([best, queries @ part.T], dim=1).topk(min(k, best.shape[1] + len(part)), dim=1)
        found = torch.cat([found, ids], dim=1).gather(1, kept)
    return [
        [Neighbour(_shown(backbone, i), i, round(c, 4)) for i, c in zip(ids, cosines, strict=True)]
        for ids, cosines in zip(found.tolist(), best.tolist(), strict=True)
    ]


def _shown(backbone: Backbone, index: int) -> str:
    """The token as text; byte-level tokens that are no whole character as the tokenizer writes them."""
    text = str(backbone.tokenizer.decode([index]))
    return text if text and "�" not in text else str(backbone.tokenizer.convert_ids_to_tokens(index))


def task_similarity(metaprompt: Metaprompt, *, centred: bool = True) -> tuple[list[str], list[list[float]]]:
    """Cosine similarity of the source tasks' composed prompts: names and a T × T matrix.

    All tasks share P*, so raw similarities are close to 1 everywhere; `centred` subtracts their mean first, which
    leaves what distinguishes the tasks. Prompts that are all equal have similarity 0 then (1 with themselves).
    """
    prompts = torch.stack([metaprompt.prompt(name) for name in metaprompt.names]).flatten(1).double()
    if centred:
        prompts = prompts - prompts.mean(dim=0)
    unit = functional.normalize(prompts, dim=1)
    matrix = (unit @ unit.T).clamp(-1, 1).fill_diagonal_(1.0)
    return metaprompt.names, [[round(x, 4) for x in row] for row in matrix.tolist()]


def departures(metaprompt: Metaprompt, most: int = 5) -> list[Departure]:
    """Per source task, where its vectors left the unit start (`u = v = 1`, a task that is P* itself)."""
    result = []
    for name, u, v in zip(metaprompt.names, metaprompt.u, metaprompt.v, strict=True):
        start = torch.zeros(u.shape[1])
        start[0] = 1.0
        of_u, of_v = u - start, v - start
        change = u @ v.T - 1
        result.append(
            Departure(
                name,
                round(_rms(of_u), 5),
                round(_rms(of_v), 5),
                round(_rms(change), 5),
                _largest(change.square().mean(dim=1).sqrt(), most),
                _largest(change.square().mean(dim=0).sqrt(), most),
            )
        )
    return result


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _largest(values: Tensor, most: int) -> tuple[tuple[int, float], ...]:
    top = values.topk(min(most, len(values)))
    return tuple((i, round(x, 5)) for i, x in zip(top.indices.tolist(), top.values.tolist(), strict=True))


@torch.no_grad()
def norms(backbone: Backbone, prompt: Tensor) -> dict[str, Any]:
    """Euclidean norm of every position (l, d), with the vocabulary's mean and largest norm to judge them by."""
    vocabulary = backbone.model.get_input_embeddings().weight.float().norm(dim=1)
    return {
        "positions": [round(x, 4) for x in prompt.float().norm(dim=1).tolist()],
        "vocabulary_mean": round(float(vocabulary.mean()), 4),
        "vocabulary_largest": round(float(vocabulary.max()), 4),
    }


def describe(path: Path) -> dict[str, Any]:
    """Everything a metaprompt or task file says of itself, ready for JSON; needs no backbone and no metaprompt.

    `intact` is whether the values still have the digest in the card. Raises ArtifactError for other files.
    """
    tensors, card = read_card(path)
    digest = tensor_digest(tensors)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "digest": digest,
        "intact": digest == card.digest,
        "numbers": sum(t.numel() for t in tensors.values()),
        "tensors": {name: _tensor_facts(tensor) for name, tensor in sorted(tensors.items())},
        "card": card.model_dump(mode="json"),
    }


def _tensor_facts(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "bytes": tensor.numel() * tensor.element_size(),
        "rms": round(_rms(tensor.float()), 6) if tensor.numel() else 0.0,
    }


# -- the heat map ----------------------------------------------------------------------------------------

CELL, MARGIN, SIZE = 44, 12, 12  # pixels
BLUE, ORANGE = (33, 102, 172), (230, 97, 1)  # told apart with every common colour vision deficiency


def heat_map_svg(names: list[str], matrix: list[list[float]], title: str = "Similarity of tasks") -> str:
    """A matrix of values in [-1, 1] as one self-contained SVG: blue below 0, white at 0, orange above, with numbers."""
    label = MARGIN + 7 * max((len(name) for name in names), default=1)
    side = CELL * len(names)
    width, height = label + side + MARGIN, 30 + label + side + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="{SIZE}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="20" font-size="15">{escape(title)}</text>',
    ]
    top = 30 + label
    for i, name in enumerate(names):
        middle = CELL * i + CELL // 2 + SIZE // 3
        parts.append(f'<text x="{label - 6}" y="{top + middle}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text transform="translate({label + middle},{top - 6}) rotate(-90)">{escape(name)}</text>')
        for j, value in enumerate(matrix[i]):
            parts.append(_cell(label + CELL * j, top + CELL * i, value, f"{name} / {names[j]}"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: int, y: int, value: float, what: str) -> str:
    strength = min(1.0, abs(value))
    red, green, blue = (round(255 + (c - 255) * strength) for c in (ORANGE if value > 0 else BLUE))
    ink = "white" if strength > 0.6 and value < 0 else "black"
    middle = f'x="{x + CELL // 2}" y="{y + CELL // 2 + 4}" text-anchor="middle"'
    return (
        f'<g><title>{escape(what)}: {value:.2f}</title><rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" '
        f'fill="rgb({red},{green},{blue})" stroke="white"/><text {middle} fill="{ink}">{value:.2f}</text></g>'
    )
