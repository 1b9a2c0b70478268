"""Raw text for pretraining: read, clean, remove what repeats and what overlaps the suite's evaluation data.

``python -m pretraining.corpus --data DIR --out runs/pretraining/text.jsonl``

Only plain text is read. Files of source tasks contribute their *training* text without any annotation; nothing of a
target task enters, and a document that shares several twelve-word sequences with a target task (any split) or with a
source task's test split is dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import random
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHINGLE = 12
"""Words of a sequence that counts as shared with evaluation data."""
TOLERATED = 2
"""Shared sequences a document may have: stock phrases of trial reports repeat without being the same text."""

TARGETS = (
    "maccrobat-ner", "e3c", "phee", "medbullets", "headqa", "nli4ct", "scinli", "mts-dialog", "open-i",
)  # fmt: skip
SOURCE_TESTS = (
    "ncbi-disease/test.tsv", "ncbi-disease/devel.tsv", "bc5cdr/test.tsv", "bc5cdr/devel.tsv", "bc2gm/test.tsv",
    "bc2gm/devel.tsv", "psytar/all/test.txt", "psytar/all/dev.txt", "chemprot/test.txt", "chemprot/dev.txt",
    "biored/Test.PubTator", "biored/Dev.PubTator", "neurotrialner/bigbio/test.json", "neurotrialner/bigbio/dev.json",
    "cochrane/data/data-1024/test.source", "gad/1/test.tsv",
)  # fmt: skip
DROPPED_SECTIONS = re.compile(
    r"competing|contribution|publication history|supporting|abbreviation|registration|acknowledg|funding|conflict|"
    r"consent|ethic|availability|additional file|reference",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of raw text. `title`, `conclusion` and `question` are parts of the original that tasks may ask for."""

    source: str
    text: str
    title: str = ""
    conclusion: str = ""
    question: str = ""


def clean(text: str) -> str:
    """Collapse white space, drop citation brackets and zero-width characters."""
    text = text.replace("\u00ad", "").replace("\u200b", "").replace("\u00a0", " ").replace("\u2009", " ")
    text = re.sub(r" ?\[\d+(?:\s*[-–,;]\s*\d+)*\]", "", text)
    text = re.sub(r"[ \t\r\f\v]+", " ", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def trial_papers(folder: Path, seed: int, body_characters: int = 5000) -> Iterator[Document]:
    """Abstract with title and conclusion, and one stretch of `body_characters` of the full text of each paper."""
    draw = random.Random(seed)
    for item in _lines(folder / "text" / "trial-papers.jsonl.xz"):
        title, conclusion = "", ""
        abstract: list[str] = []
        body: list[str] = []
        for section in item["text"].split("\n\n"):
            head, _, content = section.partition("\n")
            content = clean(content).replace("\n", " ")
            if head.startswith("TITLE"):
                title = content or clean(head.removeprefix("TITLE:"))
            elif not content or DROPPED_SECTIONS.search(head):
                continue
            elif head.startswith("ABSTRACT"):
                if "CONCLUSION" in head.upper() and not conclusion:
                    conclusion = content
                else:
                    abstract.append(content)
            else:
                body.append(content)
        if abstract:
            yield Document("trial-abstract", " ".join(abstract), title=title, conclusion=conclusion)
        if body:
            start = draw.randrange(len(body))
            passage = "\n".join(body[start:] + body[:start])[:body_characters]
            yield Document("trial-body", passage.rpartition(". ")[0] + ".", title=title)


def clinical_cases(folder: Path) -> Iterator[Document]:
    for item in _lines(folder / "text" / "clinical-cases.jsonl.xz"):
        yield Document("clinical-case", clean(item["text"]))


def medquad(folder: Path, limit: int = 3000) -> Iterator[Document]:
    """Answer as text, question beside it; answers are cut after `limit` characters (some run to pages of addresses)."""
    for item in _lines(folder / "text" / "medquad.jsonl.xz"):
        question = clean(item["question"]).replace(" ?", "?")
        answer = clean(item["text"].removeprefix(item["question"])).replace("\n", " ")
        if len(answer) > limit:
            answer = answer[:limit].rpartition(". ")[0] + "."
        if len(answer) > 60:
            yield Document("medquad", answer, question=question)


def conll(path: Path) -> Iterator[str]:
    """Sentences of a token-per-line file: the first column only, joined by spaces; labels are never looked at."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        token = line.split("\t")[0].strip()
        if token:
            words.append(token)
        elif words:
            yield " ".join(words)
            words = []
    if words:
        yield " ".join(words)


def source_text(folder: Path) -> Iterator[Document]:
    """Training text of source tasks whose licence allows redistribution of what is learned from it."""
    for name, path in (
        ("ncbi-disease", "train.tsv"), ("bc5cdr", "train.tsv"), ("bc2gm", "train.tsv"), ("psytar", "all/train.txt"),
    ):  # fmt: skip
        for sentence in conll(folder / name / path):
            yield Document(name, sentence)
    for line in (folder / "chemprot" / "train.txt").read_text(encoding="utf-8").splitlines():
        yield Document("chemprot", clean(re.sub(r"<< | >>|\[\[ | \]\]", "", json.loads(line)["text"])))
    pubmedqa = json.loads((folder / "pubmedqa" / "data" / "ori_pqal.json").read_text(encoding="utf-8"))
    tests = json.loads((folder / "pubmedqa" / "data" / "test_ground_truth.json").read_text(encoding="utf-8"))
    for key, item in pubmedqa.items():
        if key not in tests:
            yield Document("pubmedqa", clean(" ".join(item["CONTEXTS"])), title=clean(item["QUESTION"]))
    for line in (folder / "cochrane/data/data-1024/val.source").read_text(encoding="utf-8").splitlines():
        yield Document("cochrane", clean(line))
    for item in json.loads((folder / "neurotrialner/bigbio/train.json").read_text(encoding="utf-8")):
        title, summary = (clean(item[key] or "").strip(" |") for key in ("study_official_title", "study_brief_summary"))
        yield Document("neurotrialner", f"{title}. {summary}")
    for part in ("subjective", "objective_exam", "assessment_and_plan"):
        notes = folder / "aci-bench/data/challenge_data_json" / f"train_{part}.json"
        for item in json.loads(notes.read_text(encoding="utf-8"))["data"]:
            yield Document("aci-bench", item["src"].strip())


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def shingles(text: str, size: int = SHINGLE) -> set[int]:
    """Hashes of all sequences of `size` words (stable between processes)."""
    words = words_of(text)
    return {
        int.from_bytes(hashlib.blake2b(" ".join(words[i : i + size]).encode(), digest_size=8).digest())
        for i in range(len(words) - size + 1)
    }


def _raw_texts(path: Path) -> Iterator[str]:
    """Anything readable in an evaluation file, in whatever format: it is only compared, never kept."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith((".json", ".xml", ".txt")):
                    yield archive.read(name).decode("utf-8", "replace")
        return
    raw = path.read_text(encoding="utf-8", errors="replace")
    yield re.sub(r"<[^>]{1,200}>", " ", raw) if path.suffix == ".xml" else raw
    if path.suffix in (".tsv", ".txt"):
        yield from conll(path)


def evaluation_shingles(folder: Path) -> set[int]:
    """Sequences of every target task (all splits) and of the source tasks' development and test files."""
    suffixes = {".txt", ".tsv", ".csv", ".json", ".jsonl", ".xml", ".zip"}
    paths = [p for name in TARGETS for p in sorted((folder / name).rglob("*")) if p.suffix in suffixes]
    paths += [folder / name for name in SOURCE_TESTS]
    found: set[int] = set()
    for path in paths:
        for text in _raw_texts(path):
            found |= shingles(text)
    return found


def deduplicate(documents: Iterable[Document], forbidden: set[int]) -> Iterator[Document]:
    """Drop documents seen before (half or more of their sequences) and those that overlap evaluation data."""
    seen: set[int] = set()
    exact: set[str] = set()
    for document in documents:
        key = " ".join(words_of(document.text))
        own = shingles(document.text)
        if key in exact or len(own & forbidden) > TOLERATED or (own and len(own & seen) * 2 >= len(own)):
            continue
        exact.add(key)
        seen |= own
        yield document


def read(folder: Path, seed: int = 0) -> Iterator[Document]:
    """Every allowed document, rarest kinds first so that a repeated text is kept in its best form."""
    yield from source_text(folder)
    yield from clinical_cases(folder)
    yield from medquad(folder)
    yield from trial_papers(folder, seed)


def load(path: Path) -> list[Document]:
    with path.open(encoding="utf-8") as stream:
        return [Document(**json.loads(line)) for line in stream]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora, laid out as <root>/<task id>")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, list[int]] = {}
    temporary = args.out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        for document in deduplicate(read(args.data), evaluation_shingles(args.data)):
            stream.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
            count = counts.setdefault(document.source, [0, 0])
            count[0] += 1
            count[1] += len(document.text)
    temporary.replace(args.out)
    for source, (documents, characters) in counts.items():
        print(f"{source}: {documents} documents, {characters / 1e6:.2f} M characters")


if __name__ == "__main__":
    main()
