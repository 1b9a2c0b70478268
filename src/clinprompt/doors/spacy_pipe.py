"""clinprompt as a spaCy component (extra: spacy); spaCy finds it by entry point, nothing needs to be imported.

    nlp.add_pipe("clinprompt", config={"tasks": ["drugs.safetensors", "problems.safetensors"]})

Written into a Doc, per task:

``doc.spans[task]``     one Span per mention, one per *fragment* of a discontinuous mention; `span.id_` is the mention's
                        id, and the group's ``attrs["discontinuous"]`` lists the ids whose fragments belong together.
``doc._.relations``     tuples (task, type, head, tail), head and tail being the spans of the two mentions.
``doc.cats``            ``task/label`` → probability, for labels and options.
``doc._.clinprompt``    task → everything, with character offsets: the JSON of `clinprompt predict`, and `misaligned`,
                        the fragments that do not begin and end at token borders.

spaCy imports this module whenever a pipeline is made, so what needs torch is imported when a component is made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.util import minibatch

from clinprompt.corpora.jsonl import record_from_dict
from clinprompt.errors import ArtifactError, TaskError
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition

if TYPE_CHECKING:
    from clinprompt.prompts.artifact import TaskPrompt

logger = logging.getLogger(__name__)
ALIGNMENTS = ("expand", "contract", "strict")
INPUT_FIELDS = ("question", "options", "hypothesis", "entities")
CONFIG = "config.json"


class DocRelation(NamedTuple):
    """A relation between mentions of a Doc; a mention is the spans of its fragments."""

    task: str
    type: str
    head: tuple[Span, ...]
    tail: tuple[Span, ...]


@dataclass
class ClinpromptPipe:
    """Several tasks on one frozen backbone, asked in the order given.

    The backbone is loaded when the first Doc comes. Not for `n_process` > 1: one process with large batches is faster.
    """

    name: str
    tasks: list[str]
    backbone: str | None = None
    metaprompt: str | None = None
    device: str | None = None
    dtype: str | None = None
    entities: str = "ents"
    alignment: str = "expand"
    files: list[TaskPrompt] = field(default_factory=list)
    missing: str = ""

    def __post_init__(self) -> None:
        if self.alignment not in ALIGNMENTS:
            raise TaskError(f"clinprompt: `alignment` is one of {', '.join(ALIGNMENTS)}, not {self.alignment!r}.")
        self._ready: list[tuple[TaskDefinition, Callable[[Sequence[Record]], list[Prediction]]]] = []
        self._errors: Callable[..., None] = _raise
        _register_extensions()
        absent = [task for task in self.tasks if task.endswith(".safetensors") and not Path(task).is_file()]
        if absent:
            # A saved pipe brings its own copies, which `from_disk` reads after this; else the first Doc will complain.
            self.missing = f"clinprompt: no such task file: {', '.join(absent)}. Correct `tasks`."
            logger.info(self.missing)
        else:
            self._use(self.tasks, self.metaprompt)

    def _use(self, tasks: Sequence[str], metaprompt: str | None) -> None:
        from clinprompt.doors.task_files import task_file

        files = [task_file(task, metaprompt) for task in tasks]
        names = [file.task.name for file in files]
        if not names or len(set(names)) < len(names):
            raise TaskError(
                f"clinprompt: `tasks` names one task or more, each once; it has: {', '.join(names) or '-'}."
            )
        self.files, self.missing, self._ready = files, "", []

    # -- documents -----------------------------------------------------------------------------------------------------

    def __call__(self, doc: Doc) -> Doc:
        """Answer all tasks about one Doc."""
        try:
            self._annotate([doc])
        except Exception as error:
            self._errors(self.name, self, [doc], error)
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 32) -> Iterator[Doc]:
        """Answer in batches; the Docs come back in order."""
        for docs in minibatch(stream, size=batch_size):
            try:
                self._annotate(docs)
            except Exception as error:
                self._errors(self.name, self, docs, error)
            yield from docs

    def set_error_handler(self, error_handler: Callable[..., None]) -> None:
        """What is done with a batch that fails; spaCy's default raises."""
        self._errors = error_handler

    def get_error_handler(self) -> Callable[..., None]:
        """The handler in use."""
        return self._errors

    def _annotate(self, docs: Sequence[Doc]) -> None:
        for task, answer in self._answers():
            records = [self._record(task, doc) for doc in docs]
            asked = [i for i, record in enumerate(records) if task.type != "relation" or not _lacks_pairs(task, record)]
            found = iter(answer([records[i] for i in asked]))
            for i, doc in enumerate(docs):
                write_doc(doc, task, next(found) if i in asked else Prediction(records[i]), self.alignment)

    def _answers(self) -> list[tuple[TaskDefinition, Callable[[Sequence[Record]], list[Prediction]]]]:
        if self.missing:
            raise ArtifactError(self.missing)
        if not self._ready:
            from clinprompt import api
            from clinprompt.backbone.model import load_backbone

            name = self.backbone or api.backbone_of(self.files[0])
            model = load_backbone(name, dtype=self.dtype, device=self.device)
            self._ready = [(file.task, api.answerer(model, file).ready()) for file in self.files]
        return self._ready

    def _record(self, task: TaskDefinition, doc: Doc) -> Record:
        """A Doc as the task's input: its text, and from ``doc._.clinprompt_input`` what else the task asks for."""
        given = dict(doc._.clinprompt_input or {})
        if unknown := sorted(set(given) - set(INPUT_FIELDS)):
            raise TaskError(f"doc._.clinprompt_input has {unknown}; known: {', '.join(INPUT_FIELDS)}.")
        lacks = {"nli": "hypothesis", "qa": "question"}.get(task.type)
        if lacks and not given.get(lacks):
            raise TaskError(f"task {task.name!r} needs doc._.clinprompt_input = {{'{lacks}': …}} before it is asked.")
        if isinstance(given.get("options"), dict):
            given["options"] = [[key, text] for key, text in given["options"].items()]
        record = record_from_dict({"id": "doc", "text": doc.text, **given})
        if task.type == "relation" and task.entities == "given" and not record.entities:
            return Record("doc", doc.text, tuple(_entities(doc, self.entities)))
        return record

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the configuration and a copy of every task's file, which then needs no metaprompt beside it.

        `exclude` is part of spaCy's protocol; there is nothing here to leave out.
        """
        from clinprompt.doors.task_files import save_whole

        folder = Path(path)
        if self.missing:
            raise ArtifactError(self.missing)
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{place}-{file.task.name}.safetensors" for place, file in enumerate(self.files)]
        for name, file in zip(names, self.files, strict=True):
            save_whole(file, folder / name)
        (folder / CONFIG).write_text(json.dumps(self._settings() | {"tasks": names}, indent=1), encoding="utf-8")

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> ClinpromptPipe:
        """Read what `to_disk` wrote. The backbone is found by its name; it is not in the folder."""
        folder = Path(path)
        try:
            settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tasks = [folder / str(name) for name in settings.pop("tasks")]
            for key in self._settings():
                setattr(self, key, settings[key])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{folder / CONFIG}: not a saved clinprompt component ({type(error).__name__})."
            ) from None
        self._use([str(task) for task in tasks], None)
        return self

    def _settings(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("backbone", "device", "dtype", "entities", "alignment")}


@Language.factory(
    "clinprompt",
    default_config={
        "backbone": None,
        "metaprompt": None,
        "device": None,
        "dtype": None,
        "entities": "ents",
        "alignment": "expand",
    },
)
def make_pipe(
    nlp: Language,
    name: str,
    tasks: list[str],
    backbone: str | None,
    metaprompt: str | None,
    device: str | None,
    dtype: str | None,
    entities: str,
    alignment: str,
) -> ClinpromptPipe:
    """The factory behind ``nlp.add_pipe("clinprompt", config=…)``.

    `tasks`: paths of task files, or names of source tasks of `metaprompt` (``embedded`` or a path; there the metaprompt
    of a file with vectors only is looked for, too). `backbone`: default the one named in the first task's card.
    `entities`: what a relation task is given: a key of ``doc.spans``, or ``ents``. `alignment`: how a mention that
    begins or ends inside a token becomes a Span: ``expand`` to whole tokens, ``contract``, or ``strict``: no Span.
    """
    return ClinpromptPipe(name, list(tasks), backbone, metaprompt, device, dtype, entities, alignment)


def write_doc(doc: Doc, task: TaskDefinition, prediction: Prediction, alignment: str) -> None:
    """Put one task's prediction into a Doc, in the places that this module's first lines list."""
    line = answer_line(task, prediction)
    line = {key: value for key, value in line.items() if key not in ("id", "task")} | {"type": task.type}
    entities = prediction.record.entities if task.type in ("ner", "relation") else ()
    spans: list[Span] = []
    misaligned: list[dict[str, Any]] = []
    for entity in entities:
        for start, end in entity.spans:
            exact = doc.char_span(start, end, label=entity.type, span_id=entity.id)
            placed = exact or _aligned(doc, entity, (start, end), alignment)
            spans += [placed] if placed is not None else []
            if exact is None:
                misaligned.append(
                    {"id": entity.id, "type": entity.type, "span": [start, end], "placed": placed is not None}
                )
    if task.type in ("ner", "relation"):
        discontinuous = [entity.id for entity in entities if len(entity.spans) > 1]
        doc.spans[task.name] = SpanGroup(doc, name=task.name, spans=spans, attrs={"discontinuous": discontinuous})
    for label, probability in prediction.probabilities.items():
        doc.cats[f"{task.name}/{label}"] = float(probability)
    doc._.clinprompt = {**(doc._.clinprompt or {}), task.name: line | {"misaligned": misaligned}}


def _aligned(doc: Doc, entity: Entity, span: tuple[int, int], alignment: str) -> Span | None:
    """The Span by spaCy's own alignment; None where it has no whole token (contract) or must be exact (strict)."""
    if alignment == "strict":
        return None
    return doc.char_span(*span, label=entity.type, span_id=entity.id, alignment_mode=alignment)


def relations(doc: Doc) -> list[DocRelation]:
    """Getter of ``doc._.relations``."""
    found = []
    for task, said in (doc._.clinprompt or {}).items():
        by_id: dict[str, list[Span]] = {}
        for span in doc.spans.get(task) or []:
            by_id.setdefault(span.id_, []).append(span)
        for relation in said.get("relations", []):
            head, tail = (tuple(by_id.get(relation[end], [])) for end in ("head", "tail"))
            found.append(DocRelation(task, relation["type"], head, tail))
    return found


def _register_extensions() -> None:
    for name in ("clinprompt", "clinprompt_input"):
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=None)
    if not Doc.has_extension("relations"):
        Doc.set_extension("relations", getter=relations)
    elif Doc.get_extension("relations")[2] is not relations:
        logger.warning("doc._.relations belongs to another component; ours are in doc._.clinprompt")


def _entities(doc: Doc, key: str) -> Iterator[Entity]:
    """Mentions for a relation task: from what a task of ours found (exact offsets), from a span group, or the ents."""
    if key in (doc._.clinprompt or {}):
        for item in doc._.clinprompt[key]["entities"]:
            yield Entity(item["id"], item["type"], tuple((start, end) for start, end in item["spans"]))
        return
    if key != "ents" and key not in doc.spans:
        raise TaskError(f"clinprompt: `entities` is {key!r}, but the Doc has no such span group.")
    for number, span in enumerate(doc.ents if key == "ents" else doc.spans[key], start=1):
        yield Entity(f"T{number}", span.label_, ((span.start_char, span.end_char),))


def _lacks_pairs(task: TaskDefinition, record: Record) -> bool:
    return task.entities == "given" and len(record.entities) < 2


def _raise(_name: str, _pipe: Any, _docs: list[Doc], error: Exception) -> None:
    raise error
