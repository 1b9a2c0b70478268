"""XML that attacks: nothing outside the file is read, nothing grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinprompt.corpora.xml_source import parse_xml
from clinprompt.errors import CorpusError


def parse(folder: Path, content: str) -> object:
    path = folder / "x.xml"
    path.write_text(content, encoding="utf-8")
    return parse_xml(path)


def test_entity_bomb_is_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    with pytest.raises(CorpusError):
        parse(tmp_path, f'<!DOCTYPE x [<!ENTITY e0 "boom">{entities}]><x>&e11;</x>')


@pytest.mark.parametrize("place", ["<x>&secret;</x>", '<x a="1">text</x>'])
def test_external_entity_is_refused(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("private")
    with pytest.raises(CorpusError, match="entities") as caught:
        parse(tmp_path, f'<!DOCTYPE x [<!ENTITY secret SYSTEM "{secret.as_uri()}">]>{place}')
    assert "private" not in str(caught.value)


def test_external_document_type_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "x.dtd").write_text('<!ENTITY late "loaded">')
    parse(tmp_path, '<!DOCTYPE x SYSTEM "x.dtd"><x>ok</x>')
    with pytest.raises(CorpusError):
        parse(tmp_path, '<!DOCTYPE x SYSTEM "x.dtd"><x>&undefined;</x>')


@pytest.mark.parametrize(("content", "line"), [("<x>\n<y>\n</x>", 3), ("<x>\n&\n</x>", 2), ("", None)])
def test_malformed_names_the_line(tmp_path: Path, content: str, line: int | None) -> None:
    with pytest.raises(CorpusError) as caught:
        parse(tmp_path, content)
    assert line is None or caught.value.line == line
    assert caught.value.cure


def test_comments_and_instructions_do_not_cut_text(tmp_path: Path) -> None:
    root = parse(tmp_path, "<x>left<!-- note -->mid<?pi data?>right<![CDATA[<&>]]></x>")
    assert root.text == "leftmidright<&>"  # type: ignore[attr-defined]
