"""Public corpora of premises and hypotheses."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinprompt.corpora.splits import Splits, by_hash, carve_validation, text_group
from clinprompt.corpora.tabular import read_tabular
from clinprompt.corpora.xml_source import line_of, parse_xml
from clinprompt.errors import CorpusError
from clinprompt.records import Record


def mediqa_rqe(folder: Path) -> Splits:
    """A consumer's question is the premise, the frequently asked one the hypothesis."""
    names = {
        "train": "MEDIQA2019-Task2-RQE-TrainingSet-AMIA2016.xml",
        "validation": "MEDIQA2019-Task2-RQE-ValidationSet-AMIA2016.xml",
        "test": "MEDIQA2019-Task2-RQE-TestSet-wLabels.xml",
    }
    return {split: _rqe_file(folder / "MEDIQA_Task2_RQE" / name, split) for split, name in names.items()}


def _rqe_file(path: Path, split: str) -> list[Record]:
    labels = {"true": "entailment", "false": "not_entailment"}
    records = []
    for pair in parse_xml(path).iter("pair"):
        question, asked, value = pair.findtext("chq"), pair.findtext("faq"), pair.get("value", "")
        if question is None or asked is None or value not in labels:
            raise CorpusError(path, line_of(pair), "not a labelled pair.", "The file is not the pinned one.")
        text = question.strip()
        records.append(
            Record(
                f"{split}:{pair.get('pid')}",
                text,
                hypothesis=asked.strip(),
                label=labels[value],
                group=text_group(text),
            )
        )
    return records


def mqp(folder: Path) -> Splits:
    """Two pairs per first question, one similar and one different; both stay together."""
    columns = {"text": "1", "hypothesis": "2", "label": "3"}
    names = {"1": "similar", "0": "different"}
    records = read_tabular(folder / "mqp.csv", columns, header=False, label_names=names)
    return by_hash(replace(record, group=text_group(record.text)) for record in records)


def healthver(folder: Path) -> Splits:
    """Evidence and claim; the development file is training, and a claim stays on one side."""
    columns = {"id": "id", "text": "evidence", "hypothesis": "claim", "label": "label"}
    train, test = (
        [
            replace(record, id=f"{name}:{record.id}", group=text_group(record.hypothesis or ""))
            for record in read_tabular(folder / "data" / f"healthver_{name}.csv", columns)
        ]
        for name in ("dev", "test")
    )
    return carve_validation(train, test)


def covidfact(folder: Path) -> Splits:
    """Evidence and claim; the published header of the development file names the label column differently."""
    names = {"train": "train.tsv", "validation": "dev.tsv", "test": "test1.tsv"}
    columns = {"text": "1", "hypothesis": "2", "label": "3"}
    splits = {}
    for split, name in names.items():
        records = read_tabular(folder / "RTE-covidfact" / name, columns)
        splits[split] = [replace(record, group=text_group(record.text)) for record in records]
    return splits


def scinli(folder: Path) -> Splits:
    """The development file is training; official test."""
    columns = {"id": "id", "text": "sentence1", "hypothesis": "sentence2", "label": "label"}
    train, test = (
        [replace(record, group=text_group(record.text)) for record in read_tabular(folder / f"{name}.jsonl", columns)]
        for name in ("dev", "test")
    )
    return carve_validation(train, test)


# --- NLI4CT -----------------------------------------------------------------------------------------------------------

_ROOT = "Complete_dataset/"


def nli4ct(folder: Path) -> Splits:
    """Statements about one section of one or two trial reports; that section, a line per entry, is the premise."""
    path = folder / "Complete_dataset.zip"
    names = {"train": "train", "validation": "dev", "test": "Gold_test"}
    try:
        with zipfile.ZipFile(path) as archive:
            return {split: _nli4ct_part(path, archive, f"{name}.json") for split, name in names.items()}
    except zipfile.BadZipFile:
        raise CorpusError(path, None, "not a zip archive.", "Download it again.") from None


def _nli4ct_part(path: Path, archive: zipfile.ZipFile, name: str) -> list[Record]:
    statements = _member(path, archive, name)
    trials: dict[str, Mapping[str, Any]] = {}
    for item in statements.values():
        for key in ("Primary_id", "Secondary_id"):
            if key in item and item[key] not in trials:
                trials[item[key]] = _member(path, archive, f"CT json/{item[key]}.json")
    return [
        Record(
            identifier,
            _premise(item, trials),
            hypothesis=item["Statement"].strip(),
            label=item["Label"],
            group=item["Primary_id"],
        )
        for identifier, item in statements.items()
    ]


def _premise(item: Mapping[str, Any], trials: Mapping[str, Mapping[str, Any]]) -> str:
    section = item["Section_id"]
    primary = _section("Primary trial", section, trials[item["Primary_id"]])
    if "Secondary_id" not in item:
        return primary
    return primary + "\n\n" + _section("Secondary trial", section, trials[item["Secondary_id"]])


def _section(title: str, section: str, trial: Mapping[str, Any]) -> str:
    return "\n".join((f"{title}, {section}:", *(line.rstrip() for line in trial[section] if line.strip())))


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(archive.read(_ROOT + name))
    except (KeyError, ValueError):
        raise CorpusError(path / name, None, "missing or not JSON.", "The archive is not the pinned one.") from None
