"""XML from elsewhere, parsed without reaching outside the file: no network, no external or declared entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lxml import etree

from clinprompt.corpora.source import read_bytes
from clinprompt.errors import CorpusError


def parse_xml(path: Path, raw: bytes | None = None) -> etree._Element:
    """The root element of an XML file (or of `raw`, read from it); elements know their line (`sourceline`).

    Raises CorpusError for malformed XML, with the line, and for documents that declare entities: an entity can
    include another file or grow to gigabytes, and no annotation format needs one.
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        recover=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(read_bytes(path) if raw is None else raw, parser)
    except etree.XMLSyntaxError as error:
        # libxml2 quotes names of elements and entities but no content in these messages.
        line, reason = error.lineno or None, _reason(error)
        raise CorpusError(
            path, line, f"not well-formed XML: {reason}.", "Repair the file, or export it again."
        ) from None
    except ValueError:
        raise CorpusError(path, None, "empty file where XML is expected.", "Export it again.") from None
    dtd: Any = root.getroottree().docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise CorpusError(path, None, "declares XML entities, which are refused.", "Remove the <!ENTITY …> lines.")
    for reference in root.iter(etree.Entity):  # defined by a DTD that is not loaded: the text would miss a piece
        problem = f"uses the entity {reference.text}, whose definition lies outside the file."
        raise CorpusError(path, line_of(reference), problem, "Write the character itself.")
    return root


def _reason(error: etree.XMLSyntaxError) -> str:
    log: Any = error.error_log
    name = str(log.last_error.type_name) if log is not None and log.last_error is not None else "syntax error"
    return name.removeprefix("ERR_").replace("_", " ").lower()


def line_of(element: etree._Element) -> int | None:
    """1-based line of an element's start tag."""
    line: Any = element.sourceline
    return None if line is None else int(line)
