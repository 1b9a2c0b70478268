"""Public corpora of texts and their summaries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clinprompt.corpora.source import read_text
from clinprompt.corpora.splits import Splits, by_hash, carve_validation, text_group
from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError
from clinprompt.records import Record


def meqsum(folder: Path) -> Splits:
    """Consumer health questions with a one-line form; some questions are there twice and stay together."""
    columns = {"text": "CHQ", "summary": "Summary"}
    records = read_tabular(folder / "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx", columns)
    return by_hash(replace(_stripped(record), group=text_group(record.text)) for record in records)


def cochrane(folder: Path) -> Splits:
    """Abstracts and plain-language summaries in parallel lines; the validation file is training."""
    root = folder / "data" / "data-1024"
    return carve_validation(_parallel_lines(root, "val"), _parallel_lines(root, "test"))


def _parallel_lines(root: Path, name: str) -> list[Record]:
    columns = [read_text(root / f"{name}.{kind}").split("\n") for kind in ("doi", "source", "target")]
    if len({len(column) for column in columns}) > 1:
        raise CorpusError(root / f"{name}.source", None, "not as many lines as its .target.", "Download both again.")
    rows = zip(*columns, strict=True)
    return [
        Record(doi.strip(), source.strip(), summary=target.strip(), group=doi.strip())
        for doi, source, target in rows
        if source.strip()
    ]


# --- notes from conversations -----------------------------------------------------------------------------------------

_ACI_FILES = {
    "train": ("train",),
    "validation": ("valid",),
    "test": ("clinicalnlp_taskB_test1", "clinicalnlp_taskC_test2", "clef_taskC_test3"),
}
_ACI_DIVISIONS = {
    "subjective": "subjective",
    "objective_exam": "objective, physical examination",
    "objective_results": "objective, results",
    "assessment_and_plan": "assessment and plan",
}


def aci_bench(folder: Path) -> Splits:
    """A visit's dialogue and one division of its note; `question` names the division."""
    root = folder / "data" / "challenge_data_json"
    return {
        split: [
            record
            for part in parts
            for division in _ACI_DIVISIONS
            for record in _aci_file(root / f"{part}_{division}.json", division)
        ]
        for split, parts in _ACI_FILES.items()
    }


def _aci_file(path: Path, division: str) -> list[Record]:
    columns = {"id": "file", "text": "src", "summary": "tgt"}
    return [
        replace(_stripped(record), question=_ACI_DIVISIONS[division], group=record.id.partition("-")[0])
        for record in read_tabular(path, columns, items="data")
    ]


_MTS_FILES = {
    "train": ("TrainingSet",),
    "validation": ("ValidationSet",),
    "test": ("TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023"),
}
_MTS_SECTIONS = {
    "ALLERGY": "allergies",
    "ASSESSMENT": "assessment",
    "CC": "chief complaint",
    "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition",
    "EDCOURSE": "emergency department course",
    "EXAM": "physical examination",
    "FAM/SOCHX": "family and social history",
    "GENHX": "history of present illness",
    "GYNHX": "gynecologic history",
    "IMAGING": "imaging",
    "IMMUNIZATIONS": "immunizations",
    "LABS": "laboratory results",
    "MEDICATIONS": "medications",
    "OTHER_HISTORY": "other history",
    "PASTMEDICALHX": "past medical history",
    "PASTSURGICAL": "past surgical history",
    "PLAN": "plan",
    "PROCEDURES": "procedures",
    "ROS": "review of systems",
}


def mts_dialog(folder: Path) -> Splits:
    """A dialogue and one section of the note; `question` names the section in words, `meta` keeps its code."""
    columns = {"id": "ID", "text": "dialogue", "summary": "section_text", "meta.section": "section_header"}
    splits: Splits = {}
    for split, parts in _MTS_FILES.items():
        splits[split] = []
        for part in parts:
            path = folder / "Main-Dataset" / f"MTS-Dialog-{part}.csv"
            splits[split] += [_mts_record(path, part, record) for record in read_tabular(path, columns)]
    return splits


def _mts_record(path: Path, part: str, record: Record) -> Record:
    code = record.meta["section"]
    if code not in _MTS_SECTIONS:
        raise CorpusError(path, None, f"unknown section {code!r}.", "The file is not the one the catalog pins.")
    identifier = f"{part}:{record.id}"
    return replace(_stripped(record), id=identifier, question=_MTS_SECTIONS[code], group=text_group(record.text))


def open_i(folder: Path) -> Splits:
    """Findings and impression of the reports that have both."""
    columns = {"id": "uid", "group": "uid", "text": "findings", "summary": "impression"}
    records = (_stripped(record) for record in read_tabular(folder / "indiana_reports.csv", columns))
    return by_hash(record for record in records if record.text and record.summary)


def _stripped(record: Record) -> Record:
    return replace(record, text=record.text.strip(), summary=(record.summary or "").strip())
