"""n2c2 2018 and 2022, MedNLI and MIMIC-CXR, on small files of ours in their formats."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from clinprompt.corpora.clinical_pairs import read_mednli, read_mimic_cxr, sections
from clinprompt.corpora.n2c2 import read_n2c2_2018, read_n2c2_2022_sdoh
from clinprompt.errors import CorpusError
from clinprompt.records import Relation


def test_n2c2_2018_joins_mentions_broken_at_line_ends(tmp_path: Path) -> None:
    (tmp_path / "100035.txt").write_text("Continue warfarin\nsodium 5 mg daily.")
    (tmp_path / "100035.ann").write_text(
        "T1\tDrug 9 17;18 24\twarfarin sodium\nT2\tStrength 25 29\t5 mg\nR1\tStrength-Drug Arg1:T2 Arg2:T1\n"
    )
    (record,) = read_n2c2_2018(tmp_path)
    assert [(e.type, e.spans) for e in record.entities] == [("Drug", ((9, 24),)), ("Strength", ((25, 29),))]
    assert record.relations == (Relation("Strength-Drug", "T2", "T1", "R1"),)


SOCIAL = "SOCIAL HISTORY: Quit smoking 10 years ago, lives with wife, retired."


def test_n2c2_2022_events_and_values(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "uw"
    folder.mkdir(parents=True)
    (folder / "0001.txt").write_text(SOCIAL)
    (folder / "0001.ann").write_text(
        "T1\tTobacco 21 28\tsmoking\nT2\tStatusTime 16 20\tQuit\nT3\tHistory 29 41\t10 years ago\n"
        "E1\tTobacco:T1 Status:T2 History:T3\nA1\tStatusTimeVal T2 past\n"
        "T4\tLivingStatus 43 48\tlives\nT5\tTypeLiving 49 58\twith wife\nT6\tStatusTime 43 48\tlives\n"
        "E2\tLivingStatus:T4 Type:T5 Status:T6\nA2\tTypeLivingVal T5 with_family\nA3\tStatusTimeVal T6 current\n"
        "T7\tEmployment 60 67\tretired\nT8\tStatusEmploy 60 67\tretired\nE3\tEmployment:T7 Status:T8\n"
        "A4\tStatusEmployVal T8 retired\n"
    )
    (record,) = read_n2c2_2022_sdoh(tmp_path)
    assert record.id == "train/uw/0001"
    assert {e.id: e.type for e in record.entities} == {
        "T1": "Tobacco",
        "T2": "StatusTime=past",
        "T3": "History",
        "T4": "LivingStatus",
        "T5": "TypeLiving=with_family",
        "T6": "StatusTime=current",
        "T7": "Employment",
        "T8": "StatusEmploy=retired",
    }
    assert [(r.type, r.head, r.tail) for r in record.relations] == [
        ("Status", "T1", "T2"),
        ("History", "T1", "T3"),
        ("Type", "T4", "T5"),
        ("Status", "T4", "T6"),
        ("Status", "T7", "T8"),
    ]
    (plain,) = read_n2c2_2022_sdoh(tmp_path, subtypes=False)
    assert plain.entity("T2").type == "StatusTime"
    assert plain.meta["attributes"]["T2"] == {"StatusTimeVal": "past"}


def mednli_line(pair: str, premise: str, label: str) -> str:
    extra = {"sentence1_parse": "(ROOT)", "sentence2_binary_parse": "( )"}
    return json.dumps({"gold_label": label, "pairID": pair, "sentence1": premise, "sentence2": "She is ill."} | extra)


def test_mednli(tmp_path: Path) -> None:
    path = tmp_path / "mli_dev_v1.jsonl"
    rows = [("a", "Fever.", "entailment"), ("b", "Fever.", "neutral"), ("c", "Well.", "contradiction")]
    path.write_text("\n".join(mednli_line(*row) for row in rows))
    records = read_mednli(path)
    assert [(r.id, r.text, r.hypothesis, r.label) for r in records] == [
        (pair, premise, "She is ill.", label) for pair, premise, label in rows
    ]
    assert records[0].group == records[1].group != records[2].group
    path.write_text(mednli_line("a", "Fever.", "-"))
    with pytest.raises(CorpusError, match="pair 'a' has no label"):
        read_mednli(path)
    path.write_text(mednli_line("a", "Fever.", "neutral") + "\n{oops")
    with pytest.raises(CorpusError) as caught:
        read_mednli(path)
    assert caught.value.line == 2


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: ___F with cough

 FINDINGS:

 The lungs are clear.  Note: no effusion.

 IMPRESSION:

 No acute process.
"""


def test_mimic_cxr_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "files" / "p10" / "p10000032"
    folder.mkdir(parents=True)
    (folder / "s1.txt").write_text(REPORT)
    (folder / "s2.txt").write_text(REPORT.replace("IMPRESSION", "CONCLUSION").replace("\n", "\r\n"))
    (folder / "s3.txt").write_text(REPORT.replace("FINDINGS:", "COMPARISON:"))
    (folder / "s4.txt").write_text(REPORT.replace(" No acute process.\n", ""))
    with caplog.at_level(logging.INFO):
        records = read_mimic_cxr(tmp_path)
    assert [r.id for r in records] == ["files/p10/p10000032/s1", "files/p10/p10000032/s2"]
    assert {(r.text, r.summary, r.group) for r in records} == {
        ("The lungs are clear.  Note: no effusion.", "No acute process.", "p10000032")
    }
    assert "4 reports, 2 without findings or impression" in caplog.text and "lungs" not in caplog.text
    assert read_mimic_cxr(folder / "s1.txt")[0].id == "s1"


def test_mimic_cxr_table(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text('study,findings,impression\ns1,"Clear.\nSmall heart.",Normal.\ns2,,Normal.\ns3,Clear.,\n')
    (record,) = read_mimic_cxr(path, id_column="study")
    assert (record.id, record.text, record.summary) == ("s1", "Clear.\nSmall heart.", "Normal.")
    with pytest.raises(CorpusError, match="no column 'Findings'"):
        read_mimic_cxr(path, findings="Findings")


def test_mimic_cxr_without_any_section(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no \.txt reports"):
        read_mimic_cxr(tmp_path)
    (tmp_path / "a.txt").write_text("Lungs clear.")
    with pytest.raises(CorpusError, match="none of 1 reports"):
        read_mimic_cxr(tmp_path)


def test_sections_take_known_headings_only() -> None:
    report = " FINDINGS: Heart: normal. VIEW: one.\n LUNGS: clear.\n WET READ: ok\n"
    report += "IMPRESSION:\n1. None\n RECOMMENDATION(S): no"
    assert sections(report) == {
        "FINDINGS": "Heart: normal. VIEW: one.\n LUNGS: clear.",
        "WET READ": "ok",
        "IMPRESSION": "1. None",
        "RECOMMENDATION(S)": "no",
    }
