"""`/v1/teach`: a task learned from a handful of notes while the server runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record, Relation
from clinprompt.serving.access import allowed
from clinprompt.serving.problems import ALWAYS, TooLarge, responses
from clinprompt.serving.service import Service
from clinprompt.serving.teach_schemas import Lesson, TaughtNote, Teaching, TeachRequest
from clinprompt.serving.teaching import Teacher
from clinprompt.tasks.definition import TaskDefinition, parse_task

QUESTION = "Which label fits this note?"
FEWEST_LABELS = {
    "entities": (1, "name at least one"),
    "relations": (1, "name at least one type of entity"),
    "labels": (2, "a choice needs at least two labels"),
}


def router(service: Service, teacher: Teacher) -> APIRouter:
    """The routes of a teacher; with keys, for those that may `manage`."""
    routes = APIRouter(prefix="/v1/teach", tags=["teach"])
    reads, manages = allowed(service, "predict"), allowed(service, "manage")

    @routes.get("", responses=responses(*ALWAYS), dependencies=[Depends(reads)])
    async def teaching() -> Teaching:
        """Whether tasks can be taught, and within which limits."""
        return teacher.about()

    @routes.post("", status_code=202, responses=responses(*ALWAYS), dependencies=[Depends(manages)])
    async def teach(asked: TeachRequest, request: Request) -> Lesson:
        """Begin to learn a task; ask for the lesson by its id until it is done. The notes are kept in memory only
        (unless the operator named a folder for them) and forgotten when the lesson ends."""
        # Not only served ones: a metaprompt of that name in the folder must not be written over either.
        if asked.name in service.engine.tasks() or service.library.path(asked.name).exists():
            raise TaskError("name: a file of this name is in the server's folder. Choose another name.")
        if asked.steps is not None and asked.steps > teacher.settings.most_steps:
            raise TooLarge(f"steps: a lesson may have {teacher.settings.most_steps} of them.")
        task = definition_of(asked)
        records = records_of(asked, teacher)
        begun = teacher.start(task, records, steps=asked.steps, score=asked.score)
        if service.audit is not None:
            key, texts = getattr(request.state, "key", "-"), [record.text for record in records]
            service.audit.write(
                request=request.state.request_id, key=key, tasks=[task.name], inputs=texts, outcome="taught"
            )
        return begun

    @routes.get("/{lesson}", responses=responses(*ALWAYS, 404), dependencies=[Depends(manages)])
    async def lesson(lesson: str, since: Annotated[int, Query(ge=0)] = 0) -> Lesson:
        """How far a lesson is; `since`: the first step whose loss is wanted."""
        return teacher.lesson(lesson, since)

    @routes.delete("/{lesson}", responses=responses(*ALWAYS, 404), dependencies=[Depends(manages)])
    async def cancel(lesson: str) -> Lesson:
        """Stop a lesson and forget its notes; one that has ended stays as it is."""
        return await teacher.cancel(lesson)

    return routes


def definition_of(asked: TeachRequest) -> TaskDefinition:
    """The task that is taught. Raises TaskError for what its kind needs and the request lacks."""
    raw: dict[str, Any] = {"name": asked.name, "licence": "taught on this server"}
    least, lacks = FEWEST_LABELS.get(asked.kind, (0, ""))
    if len(asked.labels) < least:
        raise TaskError(f"labels: {lacks}.")
    match asked.kind:
        case "entities":
            return parse_task(raw | {"type": "ner", "labels": asked.labels})
        case "relations":
            if not asked.relations:
                raise TaskError("relations: name at least one.")
            return parse_task(raw | {"type": "relation", "entities": "predicted", "labels": asked.relations})
        case "summary":
            return parse_task(raw | {"type": "summarization"})
        case "answer" if not asked.question.strip():
            raise TaskError("question: say what is asked of each note.")
    # The question is the same for every note; it stands in the description, where whoever asks the task finds it.
    raw |= {"type": "qa", "description": question_of(asked)}
    return parse_task(
        raw | ({"answers": "free"} if asked.kind == "answer" else {"answers": "labels", "labels": asked.labels})
    )


def question_of(asked: TeachRequest) -> str:
    return asked.question.strip() or QUESTION


def records_of(asked: TeachRequest, teacher: Teacher) -> list[Record]:
    """The notes as records, numbered, so that no message repeats a word of them. Raises TaskError, TooLarge."""
    limits = teacher.settings
    if len(asked.notes) > limits.notes:
        raise TooLarge(f"notes: a lesson may have {limits.notes} of them.")
    found = []
    for number, note in enumerate(asked.notes):
        if len(note.text) > limits.characters:
            raise TooLarge(f"notes.{number}: a note may have {limits.characters} characters.")
        found.append(_record(asked, number, note))
    if asked.kind == "entities" and not any(record.entities for record in found):
        raise TaskError("notes: nothing is marked in any of them; mark at least one entity.")
    if asked.kind == "relations" and not any(record.relations for record in found):
        raise TaskError("notes: no relation is marked in any of them; mark at least one.")
    return found


def _record(asked: TeachRequest, number: int, note: TaughtNote) -> Record:
    name = f"{number:03}"
    match asked.kind:
        case "labels":
            if note.label not in asked.labels:
                raise TaskError(f"notes.{number}.label: needs one of the task's labels.")
            return Record(name, note.text, question=question_of(asked), answer=note.label)
        case "answer" | "summary":
            if not note.wanted:
                raise TaskError(f"notes.{number}.wanted: the {asked.kind} that is wanted is missing.")
            if asked.kind == "summary":
                return Record(name, note.text, summary=note.wanted)
            return Record(name, note.text, question=question_of(asked), answer=note.wanted)
    try:
        return Record(
            name, note.text, entities=_entities(asked, number, note), relations=_relations(asked, number, note)
        )
    except ValueError:
        raise TaskError(
            f"notes.{number}.entities: spans are [start, end) with start < end, within the text; those of one entity "
            "are sorted and do not overlap."
        ) from None


def _entities(asked: TeachRequest, number: int, note: TaughtNote) -> tuple[Entity, ...]:
    if any(mark.type not in asked.labels for mark in note.entities):
        raise TaskError(f"notes.{number}.entities: each needs one of the task's labels as its type.")
    return tuple(Entity(f"T{place}", mark.type, tuple(mark.spans)) for place, mark in enumerate(note.entities))


def _relations(asked: TeachRequest, number: int, note: TaughtNote) -> tuple[Relation, ...]:
    known, place = len(note.entities), f"notes.{number}.relations"
    if asked.kind == "entities" and note.relations:
        raise TaskError(f"{place}: a task of entities has none; teach relations for that.")
    for relation in note.relations:
        if relation.type not in asked.relations:
            raise TaskError(f"{place}: each needs one of the task's relations as its type.")
        if max(relation.head, relation.tail) >= known or relation.head == relation.tail:
            raise TaskError(f"{place}: head and tail are the places of two different entities in the note's list.")
    return tuple(
        Relation(relation.type, f"T{relation.head}", f"T{relation.tail}", id=f"R{place}")
        for place, relation in enumerate(note.relations)
    )
