"""Writing a radiology report: findings, normal sentences and the impression that follows from them."""

from __future__ import annotations

from clinprompt.corpora.sample.imaging import EXAMINATIONS, PLACED, SEEN, Examination, Finding
from clinprompt.corpora.sample.writer import Writer

_SHOWN = (
    "Findings include {seen}.",
    "The study shows {seen}.",
    "Images demonstrate {seen}.",
    "Notable for {seen}.",
    "New {plain}.",
    "{seen}, unchanged from {date}.",
    "{seen}, new since {year}.",
    "{seen}, better seen than on {date}.",
)


def examination(writer: Writer) -> Examination:
    """Any examination, the richer ones more often."""
    weights = [len(SEEN[each.clear]) for each in EXAMINATIONS]
    return writer.rng.choices(EXAMINATIONS, weights)[0]


def findings(writer: Writer, of: Examination, count: int) -> list[Finding]:
    """Up to `count` different findings (never one in two places) that this split may use; fewer if it has no more."""
    placed, parts = PLACED[of.clear], SEEN[of.clear].parts
    count = min(count, len({placed[seen].normal for seen in parts["train"]}))
    chosen: list[Finding] = []
    while len(chosen) < count:
        finding = placed[writer.draw(SEEN[of.clear])]
        if all(finding.normal != other.normal for other in chosen):
            chosen.append(finding)
    return chosen


def plain(seen: str) -> str:
    """A noun phrase without its article."""
    return seen.removeprefix("a ").removeprefix("an ")


def shown(writer: Writer, finding: Finding) -> str:
    """A sentence that reports the finding."""
    return writer.fill(writer.pick(_SHOWN), seen=finding.seen, plain=plain(finding.seen)).text


def absent(writer: Writer, finding: Finding) -> str:
    """A sentence that reports that the finding is not there."""
    return finding.normal if writer.chance(0.6) else f"No {plain(finding.seen)}."
