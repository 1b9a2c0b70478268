"""Distributional word classes from raw text: directed co-occurrence → PPMI → SVD → k-means at several grains.

Words that stand in the same places ("aspirin", "ibuprofen", "diclofenac") fall into one class without anyone having
annotated them. Each class is later one extraction task.

``python -m pretraining.clusters --text runs/pretraining/text.jsonl --out runs/pretraining/classes.json``
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from pretraining import corpus

WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-'’][A-Za-z0-9]+)*|\d+(?:[.,]\d+)*|[^\sA-Za-z0-9]")
GRAINS = (60, 200, 600)
"""Numbers of classes: coarse, middle, fine."""

STOP = frozenset((
    "the", "a", "an", "of", "in", "to", "and", "or", "for", "with", "by", "on", "at", "from", "as", "is", "are",
    "was", "were", "be", "been", "being", "that", "which", "who", "this", "these", "those", "it", "its", "their",
    "his", "her", "he", "she", "they", "we", "our", "i", "you", "not", "no", "nor", "but", "if", "than", "then",
    "there", "where", "when", "while", "both", "each", "all", "any", "may", "can", "could", "should", "would",
    "will", "have", "has", "had", "do", "does", "did", "also", "between", "after", "before", "during", "into",
    "through", "over", "under", "per", "such", "other", "more", "most", "less", "very", "only", "however",
    "because", "due", "using", "used", "one", "two", "three", "within", "without", "versus", "vs", "et", "al",
    "compared", "showed", "shown", "found", "associated",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Class:
    """Words of one class, most frequent first, and the words that often stand before one of them as modifiers."""

    grain: int
    words: tuple[str, ...]
    modifiers: frozenset[str]
    members: frozenset[str]


def tokens(text: str) -> list[str]:
    return [m.group().lower() for m in WORD.finditer(text)]


def vectors(
    texts: Iterable[list[str]], vocabulary: list[str], contexts: int = 2500, dimensions: int = 96
) -> np.ndarray:
    """Unit vectors (words, dimensions) of `vocabulary`; contexts are the frequent words at distances -2, -1, 1, 2."""
    row = {word: i for i, word in enumerate(vocabulary)}
    column = {word: i for i, word in enumerate(vocabulary[:contexts])}
    rows: list[int] = []
    columns: list[int] = []
    for words in texts:
        for i, word in enumerate(words):
            target = row.get(word)
            if target is None:
                continue
            for slot, j in enumerate((i - 2, i - 1, i + 1, i + 2)):
                if 0 <= j < len(words) and (context := column.get(words[j])) is not None:
                    rows.append(target)
                    columns.append(slot * contexts + context)
    shape = (len(vocabulary), 4 * contexts)
    counts = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    counts.sum_duplicates()
    total = counts.sum()
    by_row = np.asarray(counts.sum(1)).ravel() + 1e-9
    by_column = np.asarray(counts.sum(0)).ravel() ** 0.75  # smoothing of rare contexts (Levy et al. 2015)
    by_column = by_column / by_column.sum() * total + 1e-9
    pairs = counts.tocoo()
    values = np.log(pairs.data * total / (by_row[pairs.row] * by_column[pairs.col]))
    positive = sparse.csr_matrix((np.maximum(values, 0), (pairs.row, pairs.col)), shape=shape)
    left, singular, _ = svds(positive, k=dimensions, random_state=0)
    result = left * np.sqrt(singular)
    return np.asarray(result / (np.linalg.norm(result, axis=1, keepdims=True) + 1e-9), np.float32)


def k_means(points: np.ndarray, count: int, seed: int, rounds: int = 12) -> np.ndarray:
    """Class number of each unit vector (spherical k-means, random start)."""
    draw = np.random.default_rng(seed)
    centres = points[draw.choice(len(points), count, replace=False)]
    assigned = np.zeros(len(points), np.int64)
    for _ in range(rounds):
        assigned = (points @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, assigned, points)
        centres = sums / (np.linalg.norm(sums, axis=1, keepdims=True) + 1e-9)
    return assigned


def word_classes(
    texts: list[list[str]], seed: int = 0, *, least: int = 10, most: int = 14000, dimensions: int = 96
) -> list[Class]:
    """Classes at every grain from tokenised texts. Stop words, numbers and punctuation belong to none."""
    counts = Counter(word for words in texts for word in words)
    vocabulary = [word for word, n in counts.most_common(most) if n >= least]
    points = vectors(texts, vocabulary, dimensions=dimensions)
    content = [i for i, word in enumerate(vocabulary) if word[0].isalpha() and len(word) > 2 and word not in STOP]
    followers: dict[str, Counter[str]] = {}
    for words in texts:
        for left, right in pairwise(words):
            if left[0].isalpha() and left not in STOP and right[0].isalpha():
                followers.setdefault(left, Counter())[right] += 1
    classes: list[Class] = []
    for grain in GRAINS:
        size = min(grain, max(2, len(content) // 8))
        assigned = k_means(points[content], size, seed + grain)
        named = {vocabulary[content[i]]: int(number) for i, number in enumerate(assigned)}
        modifiers = _modifiers(named, followers, counts)
        for number in range(size):
            members = [vocabulary[content[i]] for i in np.flatnonzero(assigned == number)]
            if len(members) >= 4:
                classes.append(Class(grain, tuple(members), modifiers.get(number, frozenset()), frozenset(members)))
    return classes


def _modifiers(
    assigned: dict[str, int], followers: dict[str, Counter[str]], counts: Counter[str]
) -> dict[int, frozenset[str]]:
    """For each class, the words of which at least one occurrence in eight stands right before a member."""
    found: dict[int, set[str]] = {}
    for word, after in followers.items():
        if counts[word] < 4:
            continue
        into: Counter[int] = Counter()
        for other, n in after.items():
            if other in assigned:
                into[assigned[other]] += n
        for number, n in into.items():
            if 8 * n >= counts[word]:
                found.setdefault(number, set()).add(word)
    return {number: frozenset(words) for number, words in found.items()}


def save(classes: list[Class], path: Path) -> None:
    rows = [{"grain": c.grain, "words": c.words, "modifiers": sorted(c.modifiers)} for c in classes]
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows), encoding="utf-8")
    temporary.replace(path)


def load(path: Path) -> list[Class]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Class(r["grain"], tuple(r["words"]), frozenset(r["modifiers"]), frozenset(r["words"])) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    texts = [tokens(document.text) for document in corpus.load(args.text) if document.source != "trial-body"]
    classes = word_classes(texts)
    save(classes, args.out)
    for grain in GRAINS:
        print(f"{grain}: {sum(c.grain == grain for c in classes)} classes")


if __name__ == "__main__":
    main()
