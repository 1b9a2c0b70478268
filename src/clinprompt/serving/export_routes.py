"""`POST /v1/export/{format}`: answers of this server as files other programs read. Nothing is asked of the model."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Literal

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from clinprompt.corpora.writers import brat_annotations
from clinprompt.doors.fhir import bundle
from clinprompt.doors.fhir_mapping import load_mapping
from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record, Relation
from clinprompt.serving.access import allowed
from clinprompt.serving.documents import record_of
from clinprompt.serving.problems import ALWAYS, responses
from clinprompt.serving.schemas import Document, PredictRequest, TaskAnswer
from clinprompt.serving.service import Service
from clinprompt.tasks.codec import Prediction

ZIP, FHIR = "application/zip", "application/fhir+json"


class ExportRequest(PredictRequest):
    """A document and what tasks of this server answered about it."""

    documents: list[Document | str] = Field(min_length=1, max_length=1)
    answers: list[TaskAnswer] = Field(min_length=1, max_length=64)


def router(service: Service) -> APIRouter:
    """The route of a service."""
    routes = APIRouter(tags=["predict"])

    @routes.post(
        "/v1/export/{format}",
        responses={200: {"content": {ZIP: {}, FHIR: {}}, "description": "the file"}, **responses(*ALWAYS, 404)},
        response_class=Response,
        dependencies=[Depends(allowed(service, "predict"))],
    )
    async def export(format: Literal["brat", "fhir"], asked: ExportRequest) -> Response:
        """brat: a zip with a .txt/.ann pair per task with entities. fhir: one R4 bundle of all that was answered."""
        record = record_of(0, asked.documents[0])
        tasks = [service.task(answer.task) for answer in asked.answers]
        said = [prediction_of(record, answer) for answer in asked.answers]
        if format == "fhir":
            found = bundle([(t.definition, p) for t, p in zip(tasks, said, strict=True)], load_mapping())
            return _file(json.dumps(found, indent=1).encode(), FHIR, "note.fhir.json")
        pairs = [
            (task.name, prediction.record)
            for task, prediction in zip(tasks, said, strict=True)
            if task.definition.type in ("ner", "relation")
        ]
        if not pairs:
            raise TaskError("answers: BRAT holds entities and relations, and none of these tasks finds any.")
        return _file(brat_zip(pairs), ZIP, "note.brat.zip")

    return routes


def prediction_of(record: Record, answer: TaskAnswer) -> Prediction:
    """An answer as it was before it was sent. Raises TaskError for one that contradicts itself or the text."""
    try:
        entities = tuple(Entity(e.id, e.type, tuple(e.spans)) for e in answer.entities or ())
        found = Record(
            "note",
            record.text,
            entities=entities,
            relations=tuple(Relation(r.type, r.head, r.tail) for r in answer.relations or ()),
            label=answer.label,
            answer=answer.answer,
            summary=answer.summary,
            question=record.question,
            hypothesis=record.hypothesis,
            options=record.options,
        )
    except ValueError:
        raise TaskError("answers: their spans do not fit the text. Send the document they were given for.") from None
    return Prediction(
        found,
        ungrounded=tuple((one.type, one.text) for one in answer.ungrounded or ()),
        malformed=tuple(answer.malformed or ()),
        probabilities=answer.probabilities or {},
        omitted=answer.omitted_characters or 0,
    )


def brat_zip(pairs: list[tuple[str, Record]]) -> bytes:
    """A folder per task, with note.txt and note.ann in it; made in memory."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in pairs:
            archive.writestr(f"{name}/note.txt", record.text.encode("utf-8", "backslashreplace"))
            archive.writestr(f"{name}/note.ann", brat_annotations(record)[0].encode("utf-8", "backslashreplace"))
    return content.getvalue()


def _file(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
