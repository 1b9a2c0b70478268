"""Corpora of pairs under data use agreements: MedNLI (premise, hypothesis) and MIMIC-CXR (findings, impression)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from clinprompt.corpora.source import document_id, files_in, read_text
from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError
from clinprompt.records import Record

logger = logging.getLogger(__name__)

_MEDNLI_COLUMNS = {"id": "pairID", "text": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}

# A heading opens a line and ends in a colon. Only these names are headings (our choice): a line such as "LUNGS:" is
# part of the findings, and a rule for anything in capitals would cut the text there.
_NAMES = (
    r"FINAL REPORT|WET READ|PRELIMINARY REPORT|ADDENDUM|EXAM(?:INATION)?|STUDY|PROCEDURE|TYPE OF EXAM\w*|"
    r"(?:CLINICAL )?(?:INDICATIONS?|HISTORY|INFORMATION)|REASON FOR (?:EXAM|STUDY|THE EXAM)\w*|TECHNIQUE|VIEWS?|"
    r"COMPARISONS?|REFERENCE EXAM\w*|FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|RECOMMENDATIONS?(?:\(S\))?|"
    r"NOTIFICATIONS?(?:\(S\))?"
)
_HEADING = re.compile(rf"^[ \t]*({_NAMES})[ \t]*:", re.MULTILINE)
_FINDINGS = ("FINDINGS", "FINDING")
_IMPRESSION = ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS")


def read_mednli(path: Path) -> list[Record]:
    """MedNLI's JSON Lines (mli_train_v1.jsonl, …): `text` is sentence1, `hypothesis` sentence2, `label` gold_label.

    `group` is the premise's number within the file's premises: its three hypotheses stay on one side of a split.
    Raises CorpusError with the line.
    """
    path = Path(path)
    premises: dict[str, str] = {}
    records = []
    for record in read_tabular(path, _MEDNLI_COLUMNS, format="jsonl"):
        if record.label not in ("entailment", "contradiction", "neutral"):
            problem = f"pair {record.id!r} has no label of entailment, contradiction, neutral."
            raise CorpusError(path, None, problem, "MedNLI has no others; check the file.")
        group = premises.setdefault(record.text, f"premise-{len(premises) + 1}")
        records.append(replace(record, group=group))
    return records


def read_mimic_cxr(
    path: Path, *, findings: str = "findings", impression: str = "impression", id_column: str | None = None
) -> list[Record]:
    """Findings → impression from radiology reports: `text` and `summary`.

    `path` is a folder of reports (.txt, as in MIMIC-CXR's p10/p10000032/s50414267.txt) in which the sections are
    found by their headings, one report, or a CSV whose columns `findings`, `impression` (and `id_column`) name. Text
    is the section's, without the white space around it. `group` is the patient where a folder names one (p + 8
    digits). Reports that lack either section are left out; their number is logged (level INFO), never their text.
    Raises CorpusError when nothing is found.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".gz"):
        columns = {"text": findings, "summary": impression} | ({"id": id_column} if id_column else {})
        found = read_tabular(path, columns, format="csv")
    else:
        found = list(_reports(path))
    usable = [record for record in found if record.text.strip() and record.summary and record.summary.strip()]
    if found and not usable:
        problem = f"none of {len(found)} reports has both findings and impression."
        raise CorpusError(path, None, problem, "Headings are `FINDINGS:` and `IMPRESSION:` at the start of a line.")
    logger.info(
        "%s: %d reports, %d without findings or impression left out", path, len(found), len(found) - len(usable)
    )
    return usable


def sections(report: str) -> dict[str, str]:
    """Heading → text of each section (the last of a repeated heading); what precedes the first is left out."""
    headings = list(_HEADING.finditer(report))
    ends = [*(heading.start() for heading in headings), len(report)][1:]
    return {h[1].strip(): report[h.end() : end].strip() for h, end in zip(headings, ends, strict=True)}


def _reports(path: Path) -> Iterator[Record]:
    root = path if path.is_dir() else path.parent
    files = files_in(path, ".txt") if path.is_dir() else [path]
    if not files:
        raise CorpusError(path, None, "no .txt reports here.", "Name the folder of reports, or a CSV.")
    for file in files:
        parts = sections(read_text(file).replace("\r\n", "\n"))
        patients = [part for part in file.parts if re.fullmatch(r"p\d{8}", part)]
        yield Record(
            document_id(file, root),
            _first(parts, _FINDINGS),
            summary=_first(parts, _IMPRESSION) or None,
            group=patients[-1] if patients else "",
        )


def _first(parts: dict[str, str], names: tuple[str, ...]) -> str:
    return next((parts[name] for name in names if parts.get(name)), "")
