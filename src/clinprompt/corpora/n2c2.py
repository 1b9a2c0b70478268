"""n2c2 corpora in BRAT standoff: 2018 track 2 (adverse drug events) and 2022 track 2 (social determinants)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from clinprompt.corpora.brat import read_brat
from clinprompt.records import Record

# Labelled argument → the attribute that carries its value (Lybarger et al. 2023, SHAC annotation guideline).
_VALUE_ATTRIBUTES = ("StatusTimeVal", "StatusEmployVal", "TypeLivingVal")


def read_n2c2_2018(folder: Path, *, mismatch: Literal["error", "skip"] = "error") -> list[Record]:
    """Medication extraction: nine entity types (Drug, Strength, …, ADE), relations to Drug (Strength-Drug, …).

    `folder` holds .txt/.ann pairs, also in subfolders. Mentions that the release splits at a line end are joined.
    Raises CorpusError as `read_brat` does.
    """
    return read_brat(folder, join_line_breaks=True, mismatch=mismatch)


def read_n2c2_2022_sdoh(
    folder: Path, *, subtypes: bool = True, mismatch: Literal["error", "skip"] = "error"
) -> list[Record]:
    """Social history: triggers (Alcohol, Drug, Tobacco, Employment, LivingStatus) and their arguments.

    Each event becomes relations from trigger to argument, typed by role (Status, Duration, …). With `subtypes`, an
    argument that carries a value is typed by it: ``StatusTime=current``, ``StatusEmploy=employed``,
    ``TypeLiving=with_family``; without, the types are the spans' own. Attributes are in `meta["attributes"]` either
    way.
    Raises CorpusError as `read_brat` does.
    """
    records = read_brat(folder, join_line_breaks=True, mismatch=mismatch)
    return [_with_subtypes(record) for record in records] if subtypes else records


def _with_subtypes(record: Record) -> Record:
    attributes = record.meta.get("attributes", {})
    entities = []
    for entity in record.entities:
        values = attributes.get(entity.id, {})
        value = next((values[name] for name in _VALUE_ATTRIBUTES if name in values), None)
        entities.append(entity if value is None else replace(entity, type=f"{entity.type}={value}"))
    return replace(record, entities=tuple(entities))
