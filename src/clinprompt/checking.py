"""What is wrong with a task before anything trains on it: `check_task` reads everything and reports all it finds.

Messages name files, lines, record ids and labels, never the text of a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from clinprompt.corpora.tolerant import read_tolerantly
from clinprompt.errors import ClinpromptError, TaskError
from clinprompt.records import Record
from clinprompt.suites import load_task_data, resolve_task, task_paths
from clinprompt.tasks.definition import SPLITS, TaskDefinition
from clinprompt.tasks.pairs import coverage

Severity = Literal["error", "warning"]
Length = Callable[[str], int]

EXAMPLES = 5  # places named per finding
READ_ERRORS = 50  # per split; a file with more is wrong as a whole
SHIFTED = 0.2  # share of mentions that begin or end within a word above which the offsets themselves are suspect
LEAK = 0.01  # share of an evaluation split that training repeats, above which a figure on it means nothing
FEW = 10  # records


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem in one split: how often, and where first (``file:line`` or record ids)."""

    severity: Severity
    code: str
    message: str
    split: str = ""
    count: int = 1
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.split}: " if self.split else ""
        listed = f" [{', '.join(self.places)}{', …' if self.count > len(self.places) else ''}]" if self.places else ""
        return f"{self.severity}: {where}{self.message}{listed}"


@dataclass(slots=True)
class Report:
    """All findings of one task, with its records and labels counted per split."""

    task: str
    type: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """No errors; warnings are allowed."""
        return not self.errors

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: ``{"task", "ok", "splits", "labels", "tokens", "findings": [{"severity", "code", …}]}``."""
        return {
            "task": self.task,
            "type": self.type,
            "ok": self.ok,
            "splits": self.counts,
            "labels": self.labels,
            "tokens": self.tokens,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """For people: counts, the label histogram, then errors and warnings."""
        records = ", ".join(f"{split} {count}" for split, count in self.counts.items())
        shown = [f"{self.task} ({self.type or 'unreadable'}): {records or 'no records'}"]
        names = list(dict.fromkeys(label for counts in self.labels.values() for label in counts))
        width = max(map(len, names), default=0)
        for name in names:
            numbers = "  ".join(f"{split} {counts.get(name, 0):>6}" for split, counts in self.labels.items())
            shown.append(f"  {name:<{width}}  {numbers}")
        shown += [str(finding) for finding in (*self.errors, *self.warnings)]
        shown.append(f"{len(self.errors)} errors, {len(self.warnings)} warnings")
        return shown


def check_task(
    name_or_path: str | Path,
    data_dir: Path | str | None = None,
    *,
    length: Length | None = None,
    window: int | None = None,
) -> Report:
    """Read all splits of a task YAML (or catalog task) and report what would spoil training or evaluation.

    `length` counts tokens and `window` is the most a model takes; without them, lengths are not checked. Nothing is
    raised for what a user can repair: it becomes a finding. Thresholds (SHIFTED, LEAK, FEW) are our choice.
    """
    report = Report(Path(name_or_path).stem)
    try:
        task = resolve_task(name_or_path)
    except TaskError as error:
        report.findings.append(Finding("error", "task-file", str(error)))
        return report
    report.task, report.type = task.name, task.type
    splits = _read_all(task, name_or_path, data_dir, report)
    if not splits:
        return report
    _describe(task, splits, report)
    for split, records in splits.items():
        report.findings += _check_split(task, split, records)
        if length is not None:
            _check_lengths(split, records, length, window, report)
    report.findings += _check_labels(task, splits, report)
    report.findings += _check_overlap(splits)
    return report


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_all(
    task: TaskDefinition, name_or_path: str | Path, data_dir: Path | str | None, report: Report
) -> dict[str, list[Record]]:
    if not task.files and not str(name_or_path).endswith((".yaml", ".yml")):
        try:
            return dict(load_task_data(name_or_path, data_dir).splits)
        except ClinpromptError as error:
            report.findings.append(Finding("error", "unreadable", str(error)))
            return {}
    if not task.files or task.format is None:
        missing = "files" if not task.files else "format"
        report.findings.append(Finding("error", "task-file", f"{name_or_path}: no `{missing}`: nothing can be read."))
        return {}
    splits = {}
    for split in [split for split in SPLITS if split in task.files]:
        try:
            splits[split] = _read_split(task, task_paths(task, Path(name_or_path), split), split, report)
        except TaskError as error:
            report.findings.append(Finding("error", "task-file", f"{name_or_path}: {error}"))
            return {}
    report.findings += _check_presence(task)
    return splits


def _check_presence(task: TaskDefinition) -> Iterator[Finding]:
    if "train" not in task.files:
        yield Finding("warning", "no-train", "no training files: the task can be evaluated, but not adapted to.")
    elif "validation" not in task.files:
        message = "no validation files: every eighth group of the training records (by hash) will be set aside."
        yield Finding("warning", "no-validation", message)
    if "test" not in task.files:
        yield Finding("warning", "no-test", "no test files: there will be nothing to evaluate on.")


def _read_split(task: TaskDefinition, paths: Sequence[Path], split: str, report: Report) -> list[Record]:
    """All records that can be read; what cannot becomes one finding per place."""
    records, errors = read_tolerantly(task.format or "", paths, task.columns or None, task.reader, limit=READ_ERRORS)
    report.findings += [Finding("error", "unreadable", str(error), split) for error in errors]
    if len(errors) >= READ_ERRORS:
        report.findings.append(Finding("error", "too-many", f"stopped after {READ_ERRORS} errors.", split))
    return records


# --- one split --------------------------------------------------------------------------------------------------------


def _check_split(task: TaskDefinition, split: str, records: Sequence[Record]) -> Iterator[Finding]:
    if not records:
        named = task.files.get(split, ())
        files = (named,) if isinstance(named, str) else tuple(named)
        yield Finding("error", "empty-split", "no records.", split, 0, files[:EXAMPLES])
        return
    if len(records) < FEW:
        yield Finding("warning", "few", f"only {len(records)} records.", split, len(records))
    for code, message, concerned in (
        ("empty-text", "records without text", [r for r in records if task.type != "qa" and not r.text.strip()]),
        ("no-input", f"records without {_INPUT.get(task.type)}", [r for r in records if _lacks_input(task, r)]),
        ("no-gold", f"records without {_GOLD.get(task.type)}", [r for r in records if _lacks_gold(task, r)]),
        ("bad-answer", "answers that are no option's key", [r for r in records if _answers_no_option(task, r)]),
        ("same-id", "records whose id another one has", _repeated(records, lambda record: record.id)),
    ):
        if concerned:
            yield _finding("error", code, message, split, concerned)
    yield from _check_duplicates(split, records)
    if task.type in ("ner", "relation"):
        yield from _check_mentions(split, records)
    if task.type == "relation":
        yield from _check_relations(task, split, records)


_INPUT = {"nli": "hypothesis", "qa": "question"}
_GOLD = {"nli": "label", "qa": "answer", "summarization": "summary"}


def _lacks_input(task: TaskDefinition, record: Record) -> bool:
    value = {"nli": record.hypothesis, "qa": record.question}.get(task.type, "-")
    return not (value or "").strip()


def _lacks_gold(task: TaskDefinition, record: Record) -> bool:
    value = {"nli": record.label, "qa": record.answer, "summarization": record.summary}.get(task.type, "-")
    return not (value or "").strip()


def _answers_no_option(task: TaskDefinition, record: Record) -> bool:
    if task.type != "qa" or task.answer_kind != "options" or record.answer is None:
        return False
    return record.answer not in dict(record.options)


def _repeated(records: Iterable[Record], key: Callable[[Record], Any]) -> list[Record]:
    seen: set[Any] = set()
    again = []
    for record in records:
        value = key(record)
        if value in seen:
            again.append(record)
        seen.add(value)
    return again


def _input(record: Record) -> tuple[Any, ...]:
    """All that a model is shown of a record, white space and case aside."""
    texts = (record.text, record.question, record.hypothesis, *(text for _, text in record.options))
    pairs = tuple((e.type, e.spans) for e in record.entities) if record.meta.get("pairs") else ()
    return (*(" ".join((text or "").split()).casefold() for text in texts), pairs)


def _check_duplicates(split: str, records: Sequence[Record]) -> Iterator[Finding]:
    filled = [record for record in records if any(_input(record)[:3])]
    twice = _repeated(filled, _input)
    if not twice:
        return
    yield _finding("warning", "duplicate", "records that repeat the whole input of an earlier one", split, twice)
    golds: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    for record in filled:
        golds[_input(record)].add(_gold(record))
    contradicting = [record for record in twice if len(golds[_input(record)]) > 1]
    if contradicting:
        message = "records with the same input as an earlier one and another answer"
        yield _finding("warning", "contradiction", message, split, contradicting)


def _gold(record: Record) -> tuple[Any, ...]:
    """What a record teaches, ids and order aside."""
    spans = {entity.id: entity.spans for entity in record.entities}
    mentions = frozenset((entity.type, entity.spans) for entity in record.entities)
    relations = frozenset((r.type, spans.get(r.head, r.head), spans.get(r.tail, r.tail)) for r in record.relations)
    return record.label, record.answer, record.summary, mentions, relations


def _check_mentions(split: str, records: Sequence[Record]) -> Iterator[Finding]:
    mentions = [(record, entity) for record in records for entity in record.entities]
    if not mentions:
        yield Finding("error", "no-entities", "no record has an entity.", split, 0)
        return
    off = [(r, e) for r, e in mentions if any(_is_off(r.text, start, end) for start, end in e.spans)]
    if not off:
        return
    share = len(off) / len(mentions)
    places = [f"{record.id}:{entity.start}-{entity.end}" for record, entity in off]
    if share > SHIFTED:
        message = f"{share:.0%} of the mentions begin or end within a word or at white space: offsets look shifted"
        yield Finding("error", "offsets", message, split, len(off), tuple(places[:EXAMPLES]))
    else:
        message = f"{len(off)} of {len(mentions)} mentions begin or end within a word or at white space"
        yield Finding("warning", "offsets", message, split, len(off), tuple(places[:EXAMPLES]))


def _is_off(text: str, start: int, end: int) -> bool:
    if text[start].isspace() or text[end - 1].isspace():
        return True
    return any(_is_letter(text[i - 1]) and _is_letter(text[i]) for i in (start, end) if 0 < i < len(text))


def _is_letter(character: str) -> bool:
    """Of a script that separates words by spaces, as far as letter case tells."""
    return character.islower() or character.isupper()


def _check_relations(task: TaskDefinition, split: str, records: Sequence[Record]) -> Iterator[Finding]:
    if not any(record.relations for record in records):
        yield Finding("error", "no-relations", "no record has a relation.", split, 0)
        return
    if task.entities == "predicted":
        return
    lost = [(record, number) for record in records if (number := coverage(task, record).uncovered)]
    if lost:
        count = sum(number for _, number in lost)
        message = (
            f"{count} gold relations that no candidate pair covers (`scope: {task.scope}`, `arguments`): "
            "they count as missed"
        )
        yield Finding("warning", "uncovered", message, split, count, tuple(r.id for r, _ in lost[:EXAMPLES]))


def _finding(severity: Severity, code: str, message: str, split: str, records: Sequence[Record]) -> Finding:
    places = tuple(record.id for record in records[:EXAMPLES])
    return Finding(severity, code, f"{len(records)} {message}", split, len(records), places)


# --- labels, lengths, overlap -----------------------------------------------------------------------------------------


def labels_of(task: TaskDefinition, record: Record) -> list[str]:
    """The labels a record's gold uses, as the task type means them."""
    if task.type == "ner":
        return [entity.type for entity in record.entities]
    if task.type == "relation":
        return [relation.type for relation in record.relations]
    if task.type == "nli":
        return [record.label] if record.label else []
    if task.type == "qa" and task.answer_kind != "free":
        return [record.answer] if record.answer else []
    return []


def _describe(task: TaskDefinition, splits: Mapping[str, Sequence[Record]], report: Report) -> None:
    for split, records in splits.items():
        counts = Counter(label for record in records for label in labels_of(task, record))
        order = {label: position for position, label in enumerate(task.labels)}
        names = sorted(counts, key=lambda label: (order.get(label, len(order)), label))
        report.counts[split] = len(records)
        if counts:
            report.labels[split] = {_printable(label): counts[label] for label in names}


def _printable(label: str) -> str:
    """A label as it is; a value too long to be one (a wrongly mapped column may hold a note) only by its length."""
    return label if len(label) <= 40 and len(label.split()) <= 4 else f"(a value of {len(label)} characters)"


def _check_labels(task: TaskDefinition, splits: Mapping[str, Sequence[Record]], report: Report) -> Iterator[Finding]:
    closed = task.type in ("ner", "relation", "nli") or (task.type == "qa" and task.answer_kind == "labels")
    if not closed:
        return
    known = set(task.labels)
    for split, records in splits.items():
        using: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for label in labels_of(task, record):
                if label not in known:
                    using[label].append(record.id)
        for label, ids in using.items():
            message = f"{len(ids)} times {_printable(label)!r}, which is not among `labels`"
            places = tuple(dict.fromkeys(ids))[:EXAMPLES]
            yield Finding("error", "unknown-label", message, split, len(ids), places)
    used = {label for records in splits.values() for record in records for label in labels_of(task, record)}
    unused = [label for label in task.labels if label not in used]
    if unused:
        yield Finding("warning", "unused-label", f"labels without any example: {', '.join(unused)}", count=len(unused))
    bare = [label for label, description in task.labels.items() if not description.strip()]
    if bare:
        message = f"labels without a description: {', '.join(bare)}"
        yield Finding("warning", "no-description", message, count=len(bare))


def _check_lengths(split: str, records: Sequence[Record], length: Length, window: int | None, report: Report) -> None:
    sizes = [length("\n".join(part for part in _input_texts(record) if part)) for record in records]
    if not sizes:
        return
    report.tokens[split] = {"median": sorted(sizes)[len(sizes) // 2], "longest": max(sizes)}
    long = [record for record, size in zip(records, sizes, strict=True) if window is not None and size > window]
    if long:
        message = (
            f"of {len(records)} records are longer than the context window of {window} tokens (the longest has "
            f"{max(sizes)}): they are shown in several windows"
        )
        report.findings.append(_finding("warning", "long", message, split, long))


def _input_texts(record: Record) -> Iterator[str]:
    yield record.text
    yield record.question or ""
    yield record.hypothesis or ""
    yield from (text for _, text in record.options)


def _check_overlap(splits: Mapping[str, Sequence[Record]]) -> Iterator[Finding]:
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if not splits.get(first) or not splits.get(second):
            continue
        inputs = {_input(record) for record in splits[first]}
        same = [record for record in splits[second] if any(_input(record)[:3]) and _input(record) in inputs]
        if same:
            severity: Severity = "error" if len(same) > LEAK * len(splits[second]) else "warning"
            yield _finding(severity, "overlap", f"records whose whole input is also in {first}", second, same)
        groups = {record.group for record in splits[first] if record.group}
        shared = [record for record in splits[second] if record.group in groups]
        if shared:
            message = f"records of a group (patient, document) that is also in {first}"
            yield _finding("error", "group-overlap", message, second, shared)
