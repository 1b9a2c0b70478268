"""i2b2 2010, 2012 and 2014, on small files of ours in the releases' formats."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clinprompt.corpora.i2b2_2010 import read_i2b2_2010
from clinprompt.corpora.i2b2_xml import read_i2b2_2012, read_i2b2_2014
from clinprompt.errors import CorpusError
from clinprompt.records import Record, Relation

# -- 2010 --------------------------------------------------------------------------------------------------------------

TEXT = (
    "Admission Date :\nShe denied chest pain .\n\nCT  of the Head showed no bleeding , she got Aspirin\nfor her pain ."
)
CON = """c="chest pain" 2:2 2:3||t="problem"
c="ct of the head" 4:0 4:3||t="test"
c="bleeding" 4:6 4:6||t="problem"
c="aspirin" 4:10 4:10||t="treatment"
c="her pain" 5:1 5:2||t="problem"
c="aspirin for her pain" 4:10 5:2||t="problem"
"""
REL = """c="ct of the head" 4:0 4:3||r="TeRP"||c="bleeding" 4:6 4:6
c="aspirin" 4:10 4:10||r="TrAP"||c="her pain" 5:1 5:2
"""
AST = """c="chest pain" 2:2 2:3||t="problem"||a="absent"
c="her pain" 5:1 5:2||t="problem"||a="present"
"""


def release(folder: Path, text: str = TEXT, con: str = CON, rel: str | None = REL, ast: str | None = AST) -> Path:
    """The folders of the release: txt, concept, rel and ast beside each other."""
    files = (("txt", ".txt", text), ("concept", ".con", con), ("rel", ".rel", rel), ("ast", ".ast", ast))
    for name, suffix, content in files:
        if content is not None:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"record-1{suffix}").write_bytes(content.encode())
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_2010(tmp_path: Path, newline: str) -> None:
    text = TEXT.replace("\n", newline)
    (record,) = read_i2b2_2010(release(tmp_path, text, *(part.replace("\n", newline) for part in (CON, REL, AST))))
    assert record.id == "txt/record-1" and record.text == text
    assert [(e.type, " ".join(e.text_in(text).split())) for e in record.entities] == [
        ("problem", "chest pain"),
        ("test", "CT of the Head"),
        ("problem", "bleeding"),
        ("treatment", "Aspirin"),
        ("problem", "her pain"),
        ("problem", "Aspirin for her pain"),
    ]
    assert record.relations == (Relation("TeRP", "T2", "T3", "R1"), Relation("TrAP", "T4", "T5", "R2"))
    assert record.meta["assertions"] == {"T1": "absent", "T5": "present"}


def test_2010_assertions_as_types(tmp_path: Path) -> None:
    (record,) = read_i2b2_2010(release(tmp_path), assertions=True)
    assert [e.type for e in record.entities][:3] == ["problem=absent", "test", "problem"]


def test_2010_concepts_alone(tmp_path: Path) -> None:
    (record,) = read_i2b2_2010(release(tmp_path, rel=None, ast=None))
    assert len(record.entities) == 6 and record.relations == () and record.meta == {}


def test_2010_two_types_at_one_place(tmp_path: Path) -> None:
    con = (
        'c="aspirin" 4:10 4:10||t="problem"\nc="aspirin" 4:10 4:10||t="treatment"\nc="her pain" 5:1 5:2||t="problem"\n'
    )
    rel = 'c="aspirin" 4:10 4:10||r="TrIP"||c="her pain" 5:1 5:2\n'
    (record,) = read_i2b2_2010(release(tmp_path, con=con, rel=rel, ast=None))
    assert record.relations == (Relation("TrIP", "T2", "T3", "R1"),)


def test_2010_empty_tokens_may_count(tmp_path: Path) -> None:
    """Some annotations count the empty token between two blanks."""
    (record,) = read_i2b2_2010(release(tmp_path, con='c="bleeding" 4:7 4:7||t="problem"\n', rel=None, ast=None))
    assert record.entities[0].text_in(record.text) == "bleeding"


@pytest.mark.parametrize(
    ("part", "content", "name", "line", "problem"),
    [
        ("con", CON + 'c="chest pain" 2:2 2:4||t="problem"\n', "record-1.con", 7, "does not select"),
        ("con", CON + 'c="x" 9:0 9:0||t="problem"\n', "record-1.con", 7, "the text has 5 lines"),
        ("con", CON + 'c="x" 2:9 2:9||t="problem"\n', "record-1.con", 7, "that line has 5 tokens"),
        ("con", CON + 'c="chest pain" 2:2 2:3|t="problem"\n', "record-1.con", 7, "not a .con line"),
        ("rel", REL + 'c="she" 4:8 4:8||r="PIP"||c="her pain" 5:1 5:2\n', "record-1.rel", 3, "4:8 4:8, where"),
        ("rel", REL + "nothing\n", "record-1.rel", 3, "not a .rel line"),
        ("ast", AST + 'c="she" 4:8 4:8||t="problem"||a="absent"\n', "record-1.ast", 3, "4:8 4:8, where"),
    ],
)
def test_2010_broken_lines(tmp_path: Path, part: str, content: str, name: str, line: int, problem: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_i2b2_2010(release(tmp_path, **{part: content}))
    assert (caught.value.path.name, caught.value.line) == (name, line)
    assert problem in caught.value.problem and "chest pain" not in str(caught.value)


def test_2010_mismatch_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    con = CON.replace('"her pain" 5:1 5:2', '"her pain" 5:1 5:3')
    rel, ast = REL.replace("5:1 5:2", "5:1 5:3"), AST.replace("5:1 5:2", "5:1 5:3")
    with caplog.at_level(logging.WARNING):
        (record,) = read_i2b2_2010(release(tmp_path, con=con, rel=rel, ast=ast), mismatch="skip")
    assert len(record.entities) == 5 and [r.type for r in record.relations] == ["TeRP"]
    assert record.meta["assertions"] == {"T1": "absent"} and "left out 1 concepts" in caplog.text


def test_2010_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no \.con files"):
        read_i2b2_2010(tmp_path)
    release(tmp_path)
    (tmp_path / "txt" / "record-2.txt").write_text("")
    with pytest.raises(CorpusError, match=r"record-2.txt: has no \.con file"):
        read_i2b2_2010(tmp_path)
    (tmp_path / "concept" / "record-2.con").write_text("")
    with pytest.raises(CorpusError, match=r"record-2.txt: has no \.rel file"):
        read_i2b2_2010(tmp_path)
    (tmp_path / "txt" / "record-2.txt").unlink()
    with pytest.raises(CorpusError, match=r"record-2.con: has no \.txt file"):
        read_i2b2_2010(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record-1.txt").write_text("")
    with pytest.raises(CorpusError, match=r"another \.txt file of this name"):
        read_i2b2_2010(tmp_path)


# -- 2012 --------------------------------------------------------------------------------------------------------------

NOTE = "Admission Date :\n09/29/1993\nHISTORY :\nShe had R&D < pain\nfor two days ."


def tag_2012(text: str, surface: str, base: int, rest: str, name: str = "EVENT") -> str:
    start = text.index(surface) + base
    quoted = surface.replace("\n", " ")
    return f'<{name} start="{start}" end="{start + len(surface)}" text="{quoted}" {rest} />\n'


def xml_2012(base: int = 1, text: str = NOTE, links: str | None = None) -> str:
    tags = (
        tag_2012(text, "Admission", base, 'id="E0" modality="FACTUAL" polarity="POS" type="OCCURRENCE"')
        + tag_2012(text, "R&D < pain", base, 'id="E1" modality="POSSIBLE" polarity="NEG" type="PROBLEM"')
        + tag_2012(text, "two days", base, 'id="T0" type="DURATION" val="P2D" mod="NA"', "TIMEX3")
        + tag_2012(text, "09/29/1993", base, 'id="S0" type="ADMISSION" dvalue="1993-09-29"', "SECTIME")
    )
    if links is None:
        links = (
            '<TLINK id="TL0" fromID="E1" fromText="R&D < pain" toID="T0" toText="two days" type="OVERLAP" />\n'
            '<TLINK id="TL1" fromID="E1" fromText="R&D < pain" toID="S0" toText="09/29/1993" type="BEFORE" />\n'
        )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<ClinicalNarrativeTemporalAnnotation>\n'
        f"<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{tags}{links}</TAGS>\n</ClinicalNarrativeTemporalAnnotation>\n"
    )


def read_2012(folder: Path, content: str, **options: object) -> Record:
    (folder / "101.xml").write_text(content, encoding="utf-8")
    (record,) = read_i2b2_2012(folder, **options)  # type: ignore[arg-type]
    return record


@pytest.mark.parametrize("base", [1, 0])
@pytest.mark.parametrize("text", [NOTE, "\n" + NOTE])
def test_2012_with_unescaped_attributes(tmp_path: Path, base: int, text: str) -> None:
    record = read_2012(tmp_path, xml_2012(base, text))
    assert (record.id, record.text) == ("101", text)
    assert [(e.id, e.type, e.text_in(text)) for e in record.entities] == [
        ("E0", "OCCURRENCE", "Admission"),
        ("E1", "PROBLEM", "R&D < pain"),
        ("T0", "DURATION", "two days"),
        ("S0", "ADMISSION", "09/29/1993"),
    ]
    assert record.relations == (Relation("OVERLAP", "E1", "T0", "TL0"), Relation("BEFORE", "E1", "S0", "TL1"))
    assert record.meta["attributes"]["E1"] == {"modality": "POSSIBLE", "polarity": "NEG"}
    assert record.meta["attributes"]["T0"] == {"val": "P2D", "mod": "NA"}


def test_2012_quotation_marks_inside_an_attribute(tmp_path: Path) -> None:
    text = 'A "large" mass & more.'
    content = xml_2012(text=NOTE).replace(NOTE, text)
    start = content.index("<EVENT")
    content = content[:start] + tag_2012(text, 'A "large" mass', 1, 'id="E0" type="PROBLEM"') + "</TAGS>\n"
    record = read_2012(tmp_path, content + "</ClinicalNarrativeTemporalAnnotation>\n")
    assert record.entities[0].text_in(record.text) == 'A "large" mass' and record.text == text


def test_2012_without_section_times(tmp_path: Path) -> None:
    record = read_2012(tmp_path, xml_2012(), section_times=False)
    assert [e.id for e in record.entities] == ["E0", "E1", "T0"]
    assert [r.id for r in record.relations] == ["TL0"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('text="two days"', 'text="two weeks"', "does not select"),
        ('id="T0" type', 'id="E0" type', "appears twice"),
        ('toID="T0"', 'toID="T7"', "'T7', which this file does not annotate"),
        ('type="OVERLAP"', 'type=""', "has no `type`"),
        ('type="DURATION"', "", "has no `type`"),
        ("</TAGS>", "", "not well-formed"),
        ("<TEXT>", "<TEXTS>", "not well-formed"),
    ],
)
def test_2012_damage_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    content = xml_2012()
    assert old in content
    with pytest.raises(CorpusError) as caught:
        read_2012(tmp_path, content.replace(old, new, 1))
    assert problem in caught.value.problem and caught.value.line is not None
    assert "two days" not in str(caught.value)


def test_2012_wrong_start_is_named_with_its_line(tmp_path: Path) -> None:
    content = xml_2012().replace('start="1"', 'start="first"')
    with pytest.raises(CorpusError, match="no numeric attribute `start`") as caught:
        read_2012(tmp_path, content)
    assert caught.value.line == content[: content.index("first")].count("\n") + 1


def test_2012_skip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = xml_2012().replace('text="two days" id', 'text="two weeks" id').replace('type="BEFORE"', 'type=""')
    with caplog.at_level(logging.WARNING):
        record = read_2012(tmp_path, content, mismatch="skip")
    assert [e.id for e in record.entities] == ["E0", "E1", "S0"] and record.relations == ()
    assert "1 mentions" in caplog.text and "1 links without type" in caplog.text


# -- 2014 --------------------------------------------------------------------------------------------------------------

DEID = """<?xml version="1.0" encoding="UTF-8" ?>
<deIdi2b2>
<TEXT><![CDATA[

Record date: 2067-05-03
Seen by Dr. O'Hara & co in Boston]]></TEXT>
<TAGS>
<DATE id="P0" start="15" end="25" text="2067-05-03" TYPE="DATE" comment="" />
<NAME id="P1" start="38" end="44" text="O'Hara" TYPE="DOCTOR" comment="" />
<LOCATION id="P2" start="53" end="59" text="Boston" TYPE="CITY" comment="" />
</TAGS>
</deIdi2b2>
"""

RISK = """<?xml version="1.0" encoding="UTF-8" ?>
<root>
<TEXT><![CDATA[Has CAD, takes aspirin. Quit smoking.]]></TEXT>
<TAGS>
<CAD id="DOC0" time="before DCT" indicator="mention">
 <CAD id="C1" start="4" end="7" text="CAD" time="before DCT" indicator="mention" comment="" />
</CAD>
<MEDICATION id="DOC1" time="during DCT" type1="aspirin" type2=""/>
<MEDICATION id="M2" start="-1" end="-1" text="" time="after DCT" type1="aspirin" type2="" />
<SMOKER id="DOC2" status="past"/>
</TAGS>
</root>
"""


def read_2014(folder: Path, content: str, name: str = "110-01.xml", **options: object) -> Record:
    (folder / name).write_text(content, encoding="utf-8")
    (record,) = read_i2b2_2014(folder / name, **options)  # type: ignore[arg-type]
    return record


def test_2014_deidentification(tmp_path: Path) -> None:
    record = read_2014(tmp_path, DEID)
    assert record.text.startswith("\n\nRecord date") and (record.id, record.group) == ("110-01", "110")
    assert [(e.id, e.type, e.text_in(record.text)) for e in record.entities] == [
        ("P0", "DATE", "2067-05-03"),
        ("P1", "DOCTOR", "O'Hara"),
        ("P2", "CITY", "Boston"),
    ]
    coarse = read_2014(tmp_path, DEID, granularity="category")
    assert [e.type for e in coarse.entities] == ["DATE", "NAME", "LOCATION"]


def test_2014_risk_factors(tmp_path: Path) -> None:
    record = read_2014(tmp_path, RISK, label="SMOKER.status")
    assert record.label == "past"
    assert [(e.id, e.type, e.text_in(record.text)) for e in record.entities] == [("C1", "CAD", "CAD")]
    assert [(tag["tag"], tag.get("time")) for tag in record.meta["tags"]] == [
        ("CAD", "before DCT"),
        ("MEDICATION", "during DCT"),
        ("MEDICATION", "after DCT"),
        ("SMOKER", None),
    ]
    assert read_2014(tmp_path, RISK, label="FAMILY_HIST.indicator").label is None


def test_2014_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not select") as caught:
        read_2014(tmp_path, DEID.replace("O'Hara\" TYPE", 'OHara" TYPE'))
    assert caught.value.line == 9
    with pytest.raises(CorpusError, match=r"not `TAG\.attribute`"):
        read_2014(tmp_path, RISK, label="SMOKER")
    with pytest.raises(CorpusError, match="<TEXT> and <TAGS>"):
        read_2014(tmp_path, "<root/>")
    with pytest.raises(CorpusError, match=r"no \.xml files"):
        read_i2b2_2014(release(tmp_path) / "txt")
