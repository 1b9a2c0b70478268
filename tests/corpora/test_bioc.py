"""BioC XML and JSON, against files written by the `bioc` package and by hand, and files that are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bioc
import pytest
from bioc import biocjson, biocxml

from clinprompt.corpora.bioc_format import read_bioc
from clinprompt.errors import CorpusError
from clinprompt.records import Record, Relation


def xml(documents: str, before: str = "") -> str:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n' + before
    return f"{head}<collection><source>s</source><date>d</date><key>k</key>\n{documents}\n</collection>"


PASSAGES = """<document><id>7</id><infon key="year">1999</infon>
<passage><infon key="type">title</infon><offset>0</offset><text>Oral &amp; nasal lesions</text>
 <annotation id="1"><infon key="type">Disease</infon><infon key="MESH">D1,D2</infon>
  <location offset="0" length="4"/><location offset="13" length="7"/><text>Oral lesions</text></annotation>
</passage>
<passage><offset>24</offset>
 <sentence><offset>24</offset><text>After aspirin.</text>
  <annotation id="2"><infon key="type">Chemical</infon><infon key="identifier">D9</infon>
   <location offset="30" length="7"/><text>aspirin</text></annotation>
 </sentence>
 <sentence><offset>39</offset><text>Gone.</text></sentence>
 <relation id="R0"><infon key="type">CID</infon><infon key="novel">No</infon>
  <node refid="1" role="object"/><node refid="2" role="subject"/></relation>
</passage>
<relation id="R1"><infon key="entity1">D9</infon><infon key="entity2">D1,D2</infon>
 <infon key="type">Association</infon></relation>
</document>"""


def write(folder: Path, content: str, name: str = "corpus.xml") -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


def check(record: Record) -> None:
    assert record.text == "Oral & nasal lesions\n\n\n\nAfter aspirin. Gone."
    assert [(e.id, e.type, e.text_in(record.text)) for e in record.entities] == [
        ("1", "Disease", "Oral lesions"),
        ("2", "Chemical", "aspirin"),
    ]
    assert record.entity("1").concepts == ("D1", "D2", "D1,D2")  # R1 names the composite
    assert record.entity("2").concepts == ("D9",)
    assert set(record.relations) == {Relation("CID", "2", "1", "R0"), Relation("Association", "D9", "D1,D2", "R1")}
    assert record.mentions("D1,D2") == (record.entity("1"),)
    assert record.meta == {"infons": {"year": "1999"}, "relation_infons": {"R0": {"novel": "No"}}}


def test_xml(tmp_path: Path) -> None:
    doctype = '<!DOCTYPE collection SYSTEM "BioC.dtd">\n'
    (record,) = read_bioc(write(tmp_path, xml(PASSAGES, doctype)))
    assert record.id == "7"
    check(record)


def test_json_by_the_bioc_package(tmp_path: Path) -> None:
    collection = biocxml.loads(xml(PASSAGES))
    check(read_bioc(write(tmp_path, biocjson.dumps(collection), "corpus.json"))[0])
    document = json.loads(biocjson.dumps(collection))["documents"][0]
    check(read_bioc(write(tmp_path, json.dumps(document), "one.json"))[0])
    check(read_bioc(write(tmp_path, json.dumps({"PubTator3": [document]}), "export.json"))[0])
    second = document | {"id": "8"}
    lines = f"{json.dumps(document)}\n\n{json.dumps(second)}\n"
    assert [r.id for r in read_bioc(write(tmp_path, lines, "corpus.jsonl"))] == ["7", "8"]


def test_json_may_leave_out_optional_parts(tmp_path: Path) -> None:
    minimal = {"documents": [{"id": 1, "passages": [{"offset": 0, "text": "rash"}]}]}
    assert read_bioc(write(tmp_path, json.dumps(minimal), "corpus.json"))[0].text == "rash"


def test_type_and_concepts_from_other_infons(tmp_path: Path) -> None:
    document = PASSAGES.replace('key="type">Chemical', 'key="kind">Chemical').replace('key="type">D', 'key="kind">D')
    document = document.replace('key="type">', 'key="kind">').replace('key="identifier"', 'key="RxCUI"')
    (record,) = read_bioc(write(tmp_path, xml(document)), type_key="kind", concept_keys=["rxcui"])
    assert [(e.type, e.concepts) for e in record.entities] == [("Disease", ()), ("Chemical", ("D9",))]


def test_n_ary_relation_goes_from_its_first_node(tmp_path: Path) -> None:
    nodes = '<node refid="2" role="head"/><node refid="1" role="a"/><node refid="1" role="b"/>'
    old = '<node refid="1" role="object"/><node refid="2" role="subject"/>'
    (record,) = read_bioc(write(tmp_path, xml(PASSAGES.replace(old, nodes))))
    assert [(r.id, r.head, r.tail) for r in record.relations if r.type == "CID"] == [
        ("R0.1", "2", "1"),
        ("R0.2", "2", "1"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<text>aspirin</text>", "<text>ibuprofen</text>", "does not select"),
        ('offset="30" length="7"', 'offset="30" length="700"', "ends at 730"),
        ('offset="30" length="7"', 'offset="30" length="0"', "empty or negative"),
        ('offset="30" length="7"', 'offset="x" length="7"', "not a number"),
        ('<location offset="30" length="7"/>', "", "empty or negative"),
        ("<offset>39</offset>", "<offset>30</offset>", "overlaps"),
        ("<offset>39</offset>", "", "not a number"),
        ("<offset>39</offset>", "<offset>999999999999</offset>", "gap"),
        ('annotation id="2"', 'annotation id="1"', "appears twice"),
        ('refid="2"', 'refid="5"', "'5', which is not an annotation"),
        ('<infon key="type">CID</infon>', "", "needs a type"),
        ('<infon key="type">Chemical</infon>', "", "no infon 'type'"),
    ],
)
def test_damaged_documents_are_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in PASSAGES
    with pytest.raises(CorpusError) as caught:
        read_bioc(write(tmp_path, xml(PASSAGES.replace(old, new, 1))))
    assert problem in caught.value.problem
    assert caught.value.line is not None and "aspirin" not in str(caught.value)


def test_mismatch_can_be_left_out_with_its_relations(tmp_path: Path) -> None:
    content = xml(PASSAGES.replace("<text>aspirin</text>", "<text>ibuprofen</text>"))
    (record,) = read_bioc(write(tmp_path, content), mismatch="skip")
    assert [e.id for e in record.entities] == ["1"]
    assert [r.id for r in record.relations] == ["R1"]


def test_document_twice(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'7' appears twice"):
        read_bioc(write(tmp_path, xml(PASSAGES + PASSAGES)))


def test_not_bioc(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="root element is <html>"):
        read_bioc(write(tmp_path, "<html/>"))
    with pytest.raises(CorpusError, match="neither a BioC collection"):
        read_bioc(write(tmp_path, "{}", "c.json"))
    with pytest.raises(CorpusError, match=r"documents\[0\] is not a BioC document"):
        read_bioc(write(tmp_path, '{"documents": [{"id": 1}]}', "c.json"))
    with pytest.raises(CorpusError, match="not JSON") as caught:
        read_bioc(write(tmp_path, '{"id": "1", "passages": []}\n{', "c.jsonl"))
    assert caught.value.line == 2


def test_reads_what_the_bioc_package_writes(tmp_path: Path) -> None:
    """The package as an independent writer: our text and offsets are those it was given."""
    text = 'Fever <38°C & "chills"\r\n\U0001f912 then café'
    passage: Any = bioc.BioCPassage.of_text(text, 0)
    annotation: Any = bioc.BioCAnnotation()
    annotation.id, annotation.text = "a", "café"
    annotation.infons["type"] = "Place"
    annotation.add_location(bioc.BioCLocation(text.index("café"), 4))
    passage.add_annotation(annotation)
    document: Any = bioc.BioCDocument()
    document.id = "d"
    document.add_passage(passage)
    collection: Any = bioc.BioCCollection.of_documents(document)
    collection.encoding, collection.version, collection.standalone = "utf-8", "1.0", True
    for name, content in (("c.xml", biocxml.dumps(collection)), ("c.json", biocjson.dumps(collection))):
        (record,) = read_bioc(write(tmp_path, content, name))
        assert record.text == text and record.entities[0].text_in(record.text) == "café"
