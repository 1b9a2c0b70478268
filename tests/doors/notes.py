"""Records as hypothesis strategies: any text, nested, overlapping and discontinuous mentions, relations, concepts."""

from __future__ import annotations

from hypothesis import strategies as st

from clinprompt.records import Entity, Record, Relation

TYPES = ("Problem", "Drug", "Dosage", "Reason", "Body part", "Lab_test", "Procedure", "Zodiac sign", "a,b=c %")
CONCEPTS = ("MESH:D003920", "RxNorm:6809", "C0011849", "OMOP:201826", "made-up:7", "omop:x", "SNOMEDCT: ", "a,=%:é")
TEXT = st.text(st.characters(codec="utf-8"), min_size=2, max_size=60)


@st.composite
def spans(draw: st.DrawFn, length: int) -> tuple[tuple[int, int], ...]:
    cuts = sorted(draw(st.sets(st.integers(0, length), min_size=2, max_size=min(length + 1, 14))))
    return tuple(zip(cuts[::2], cuts[1::2], strict=False))


@st.composite
def records(draw: st.DrawFn, identifiers: st.SearchStrategy[str] | None = None) -> Record:
    text = draw(TEXT)
    entities = tuple(
        Entity(
            f"T{n}",
            draw(st.sampled_from(TYPES)),
            draw(spans(len(text))),
            tuple(draw(st.sets(st.sampled_from(CONCEPTS), max_size=2))),
        )
        for n in range(draw(st.integers(0, 4)))
    )
    known = [e.id for e in entities] + [c for e in entities for c in e.concepts]
    pairs = (
        st.tuples(st.sampled_from(["treats", "dose", "ä"]), st.sampled_from(known), st.sampled_from(known))
        if known
        else st.nothing()
    )
    relations = tuple(Relation(*draw(pairs)) for _ in range(draw(st.integers(0, 4)) if known else 0))
    return Record(draw(st.text(max_size=12) if identifiers is None else identifiers), text, entities, relations)
