"""Token rows of fixed length, with the borders of documents and the weight of each token as a target.

``python -m pretraining.packing --text runs/pretraining/text.jsonl --tokenizer runs/pretraining/tokenizer --out …``
packs plain text; self-supervised tasks are packed by `pretraining.selfsupervised` with the same functions.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from pretraining.corpus import Document, load

EOS_ID = 1
SHARES = {"trial-body": 0.5}
"""Share of the documents of a kind that is used; 1 unless named. Trial bodies are plenty and repetitive."""
REPEATS = {"clinical-case": 2, "aci-bench": 2}


@dataclass(frozen=True, slots=True)
class Piece:
    """A document as tokens; `weights` (0, 1 or more for each token) say how much it counts as a target."""

    ids: list[int]
    weights: list[int]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows (n, length): token ids, segment numbers (one per document in a row), target weights (0 for padding)."""

    ids: Tensor
    segments: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def pack(pieces: Iterable[Piece], length: int, open_rows: int = 64) -> Shard:
    """Best fit: each piece goes to the fullest open row that still holds it. Pieces must not exceed `length`."""
    rows: list[list[Piece]] = []
    filling: list[tuple[int, int]] = []  # (free, row)
    for piece in pieces:
        if len(piece.ids) > length:
            raise ValueError(f"a piece of {len(piece.ids)} tokens does not fit a row of {length}")
        fitting = [entry for entry in filling if entry[0] >= len(piece.ids)]
        if fitting:
            best = min(fitting)
            filling.remove(best)
        else:
            best = (length, len(rows))
            rows.append([])
        rows[best[1]].append(piece)
        filling.append((best[0] - len(piece.ids), best[1]))
        if len(filling) > open_rows:
            filling.remove(min(filling))
    ids = torch.zeros(len(rows), length, dtype=torch.int16)
    segments = torch.zeros(len(rows), length, dtype=torch.uint8)
    weights = torch.zeros(len(rows), length, dtype=torch.uint8)
    for r, row in enumerate(rows):
        position = 0
        for number, piece in enumerate(row, start=1):
            end = position + len(piece.ids)
            ids[r, position:end] = torch.tensor(piece.ids, dtype=torch.int16)
            segments[r, position:end] = number
            weights[r, position:end] = torch.tensor(piece.weights, dtype=torch.uint8)
            position = end
    return Shard(ids, segments, weights)


def save_shard(shard: Shard, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({"ids": shard.ids, "segments": shard.segments, "weights": shard.weights}, str(temporary))
    temporary.replace(path)


def load_shard(path: Path) -> Shard:
    tensors = load_file(str(path))
    return Shard(tensors["ids"], tensors["segments"], tensors["weights"])


def plain(document: Document) -> str:
    """A document as running text: question or title, body, conclusion."""
    return "\n".join(part for part in (document.question or document.title, document.text, document.conclusion) if part)


def chunks(ids: list[int], length: int) -> Iterator[Piece]:
    """Consecutive stretches of at most `length` tokens; the end of the text carries the end token."""
    ids = [*ids, EOS_ID]
    for start in range(0, len(ids), length):
        part = ids[start : start + length]
        if len(part) > 16:
            yield Piece(part, [1] * len(part))


def text_shards(documents: list[Document], tokenizer: Tokenizer, lengths: tuple[int, int], seed: int) -> list[Shard]:
    """Shuffled plain text: half of the long documents as rows of the greater length, all else of the smaller."""
    draw = random.Random(seed)
    chosen: list[Document] = []
    for document in documents:
        if draw.random() < SHARES.get(document.source, 1.0):
            chosen += [document] * REPEATS.get(document.source, 1)
    draw.shuffle(chosen)
    short: list[Piece] = []
    long: list[Piece] = []
    for encoding in tokenizer.encode_batch([plain(d) for d in chosen]):
        if len(encoding.ids) > 2 * lengths[0] and draw.random() < 0.5:
            long += chunks(encoding.ids, lengths[1])
        else:
            short += chunks(encoding.ids, lengths[0])
    return [pack(short, lengths[0]), pack(long, lengths[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", type=int, default=256)
    parser.add_argument("--long", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    lengths = (args.short, args.long)
    for shard, length in zip(text_shards(load(args.text), tokenizer, lengths, args.seed), lengths, strict=True):
        save_shard(shard, args.out / f"text-{length}.safetensors")
        filled = int((shard.segments > 0).sum())
        print(f"text-{length}: {len(shard)} rows, {filled / 1e6:.2f} M tokens, {filled / shard.ids.numel():.1%} filled")


if __name__ == "__main__":
    main()
