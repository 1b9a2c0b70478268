"""Two small corpora of one's own with their task YAMLs and a suite, for tests of the command line."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ["fever", "cough", "asthma", "gout", "rash", "pain", "sepsis", "anemia"]

FIND = """\
name: find-problems
type: ner
labels:
  Problem: a symptom or a disease
format: records
files: {train: find-train.jsonl, test: find-test.jsonl}
licence: CC0
"""
INFER = """\
name: infer
type: nli
labels: {"yes": it follows, "no": it does not}
format: records
files: {train: infer-train.jsonl, validation: infer-test.jsonl, test: infer-test.jsonl}
"""
SUITE = """\
name: mine
sources: [find.yaml, infer.yaml]
"""


def find_line(prefix: str, number: int) -> str:
    word = WORDS[number % len(WORDS)]
    text = f"Case {prefix} {number}: has {word} now."
    start = text.index(word)
    entity = {"id": "e1", "type": "Problem", "spans": [[start, start + len(word)]]}
    return json.dumps({"id": f"{prefix}-{number}", "text": text, "entities": [entity]}) + "\n"


def infer_line(prefix: str, number: int) -> str:
    word, other = WORDS[number % 8], WORDS[(number + 3) % 8]
    follows = number % 2 == 0
    record = {"id": f"{prefix}-{number}", "text": f"Case {prefix} {number}: he has {word}."}
    record |= {"hypothesis": f"He has {word if follows else other}.", "label": "yes" if follows else "no"}
    return json.dumps(record) + "\n"


def make(folder: Path) -> Path:
    """Write corpora, tasks and suite; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, line in (("find", find_line), ("infer", infer_line)):
        for split, count in (("train", 16), ("test", 6)):
            (folder / f"{name}-{split}.jsonl").write_text("".join(line(split, i) for i in range(count)))
    (folder / "find.yaml").write_text(FIND)
    (folder / "infer.yaml").write_text(INFER)
    (folder / "suite.yaml").write_text(SUITE)
    return folder
