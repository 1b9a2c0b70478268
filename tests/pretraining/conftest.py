"""The recipe lies beside the package, not in it: make it importable, and give it a small text of our own."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pretraining.corpus import Document  # noqa: E402

DRUGS = ("ibuprofen", "aspirin", "metformin", "heparin", "lisinopril", "warfarin")
ILLS = ("headache", "diabetes", "thrombosis", "hypertension", "arthritis", "asthma")


def sentence(draw: random.Random) -> str:
    drug, ill = draw.choice(DRUGS), draw.choice(ILLS)
    forms = (
        f"The patient with severe {ill} was treated with {drug} {draw.randint(1, 90)} mg daily for two weeks.",
        f"Treatment with {drug} reduced the risk of {ill} in {draw.randint(10, 99)} % of adult patients (p < 0.05).",
        f"A {draw.randint(20, 90)}-year-old woman had {ill} after {drug} for acute {draw.choice(ILLS)}.",
        f"Because of chronic {ill} she received {drug} and {draw.choice(DRUGS)}, yet her {draw.choice(ILLS)} grew.",
    )
    return draw.choice(forms)


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """A hundred made-up notes; nothing here comes from a corpus."""
    draw = random.Random(3)
    notes = [" ".join(sentence(draw) for _ in range(draw.randint(5, 9))) for _ in range(100)]
    return [
        Document("made-up", text, title=f"Note {i}", conclusion=sentence(draw), question=f"What is note {i}?")
        for i, text in enumerate(notes)
    ]
