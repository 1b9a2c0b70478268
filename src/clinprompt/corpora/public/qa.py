"""Public corpora of questions and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinprompt.corpora.source import files_in, read_text
from clinprompt.corpora.splits import Splits, by_hash, carve_validation, text_group
from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError
from clinprompt.records import Record

_LETTERS = "ABCDE"


def pubmedqa(folder: Path) -> Splits:
    """The 1,000 labelled items: the 500 official test ids, validation carved from the rest."""
    columns = {"id": "@key", "group": "@key", "text": "CONTEXTS", "question": "QUESTION", "answer": "final_decision"}
    records = read_tabular(folder / "data" / "ori_pqal.json", columns)
    test_ids = set(_json(folder / "data" / "test_ground_truth.json"))
    train = [record for record in records if record.id not in test_ids]
    return carve_validation(train, [record for record in records if record.id in test_ids])


def medqa(folder: Path) -> Splits:
    """The official test questions, resplit."""
    path = folder / "rawdata" / "medqa" / "data_clean" / "questions" / "US" / "4_options"
    columns = {"question": "question", "options": "options", "answer": "answer_idx"}
    return by_hash(_grouped_by_question(read_tabular(path / "phrases_no_exclude_test.jsonl", columns)))


def medmcqa(folder: Path) -> Splits:
    """The single-answer questions of the official development file, resplit; `cop` counts the right option from 1."""
    columns = {"id": "id", "question": "question", "answer": "cop", "meta.choice": "choice_type"}
    columns |= {f"option.{letter}": f"op{letter.lower()}" for letter in "ABCD"}
    path = folder / "rawdata" / "medmcqa" / "data" / "dev.json"
    records = read_tabular(path, columns, format="jsonl", answer_base=1)
    single = (replace(record, meta={}) for record in records if record.meta["choice"] == "single")
    return by_hash(_grouped_by_question(single))


def bioasq_yesno(folder: Path) -> Splits:
    """Yes/no questions of the golden files, in order of file name, with their snippets (each once) as context."""
    records = []
    for path in files_in(folder / "rawdata" / "bioasq", ".json"):
        for item in _json(path)["questions"]:
            if item["type"] == "yesno":
                records.append(_bioasq_record(item))
    return by_hash(_grouped_by_question(records))


def _bioasq_record(item: dict[str, Any]) -> Record:
    snippets = dict.fromkeys(snippet["text"].strip() for snippet in item.get("snippets", ()))
    return Record(
        item["id"],
        "\n".join(snippets),
        question=item["body"].strip(),
        answer=item["exact_answer"].strip().lower(),
    )


# --- Medbullets -------------------------------------------------------------------------------------------------------

# Items whose question shares more than 30 % of its 8-grams with one question of MedQA's test file, by `overlapping`;
# a test recomputes the list where both corpora are.
OVERLAPPING_MEDQA = frozenset({"22", "52", "56", "101", "106", "137", "148", "178", "189", "247", "272"})


def medbullets(folder: Path) -> Splits:
    """The questions with 5 options that do not overlap MedQA; the file is a table stored by columns."""
    kept = [record for record in medbullets_items(folder) if record.id not in OVERLAPPING_MEDQA]
    return by_hash(_grouped_by_question(kept))


def medbullets_items(folder: Path) -> list[Record]:
    """All 308 questions, those that overlap MedQA included."""
    table = _json(folder / "medbullets" / "medbullets_op5.json")
    return [
        Record(
            key,
            "",
            question=question.strip(),
            options=tuple((letter, table[f"op{letter.lower()}"][key].strip()) for letter in _LETTERS),
            answer=table["answer_idx"][key],
        )
        for key, question in table["question"].items()
    ]


def overlapping(
    records: Iterable[Record], others: Iterable[Record], *, length: int = 8, share: float = 0.3
) -> set[str]:
    """Ids of the records that share more than `share` of their question's word n-grams with one other's question."""
    grams_of_others = [_grams(other.question or "", length) for other in others]
    found = set()
    for record in records:
        own = _grams(record.question or "", length)
        if any(len(own & grams) > share * len(own) for grams in grams_of_others):
            found.add(record.id)
    return found


def _grams(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


# --- HEAD-QA ----------------------------------------------------------------------------------------------------------


def headqa(folder: Path) -> Splits:
    """Official splits, without the questions that refer to an image."""
    names = {"train": "train", "validation": "dev", "test": "test"}
    root = folder / "data" / "HEAD_EN"
    return {split: _headqa_file(root / f"{name}_HEAD_EN.json") for split, name in names.items()}


def _headqa_file(path: Path) -> list[Record]:
    records = []
    for exam, content in _json(path)["exams"].items():
        for item in content["data"]:
            if item.get("image"):
                continue
            keys = {str(answer["aid"]): letter for answer, letter in zip(item["answers"], _LETTERS, strict=False)}
            options = tuple((keys[str(answer["aid"])], answer["atext"].strip()) for answer in item["answers"])
            records.append(
                Record(
                    f"{exam}:{item['qid']}",
                    "",
                    question=item["qtext"].strip(),
                    options=options,
                    answer=keys[item["ra"]],
                    group=exam,
                )
            )
    return records


# --- shared -----------------------------------------------------------------------------------------------------------


def _grouped_by_question(records: Iterable[Record]) -> list[Record]:
    """Grouped so that a question asked twice stays on one side of the split."""
    return [replace(record, group=text_group(record.question or "")) for record in records]


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise CorpusError(path, error.lineno, f"not JSON: {error.msg}.", "Download the file again.") from None
