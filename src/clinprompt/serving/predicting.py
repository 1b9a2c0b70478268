"""Records into predictions through an engine: the codecs and parsers of offline prediction, with confidences."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clinprompt.records import Record
from clinprompt.serving import confidence
from clinprompt.serving.constraint import constraint_for
from clinprompt.serving.engine import Engine, Generated, Question, ServedTask
from clinprompt.serving.problems import TooLarge
from clinprompt.tasks.choices import choose
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.pairs import each_candidate, is_concept_level, mention_index
from clinprompt.tasks.registry import blind

# Of one document, our choice: all pairs of concepts are looked at, and in each pair all mentions of the two.
CONCEPTS, COMPARED = 2_000, 1_000_000
TOO_MANY = (
    "this request comes to more questions (windows, pairs) than one may; send fewer documents or entities at once."
)


@dataclass(frozen=True)
class Asked:
    """A record put to a task: what the model will be asked."""

    task: ServedTask
    record: Record
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Answer:
    """A prediction and how sure the model was (`clinprompt.serving.confidence`).

    `entities` and `relations` run beside those of the prediction's record, `ungrounded` beside its ungrounded mentions;
    an entity that was given, not found, has none. `confidence` is that of a single answer: label, option, text.
    `written`: tokens generated.
    """

    prediction: Prediction
    confidence: float | None = None
    entities: tuple[float | None, ...] = ()
    relations: tuple[float | None, ...] = ()
    ungrounded: tuple[float, ...] = ()
    written: int = 0


async def ask(engine: Engine, task: ServedTask, record: Record, *, most: int | None = None) -> Asked:
    """Render a record; gold is hidden from the model.

    `most`: questions it may come to; pairs are counted before one of them is rendered. Raises TooLarge beyond it, and
    TaskError for a record the task cannot be asked about.
    """
    hidden = blind(task.definition, record)
    examples = await engine.desk.run(lambda: _rendered(task, hidden, most))
    return Asked(task, hidden, tuple(examples))


def _rendered(task: ServedTask, record: Record, most: int | None) -> list[Example]:
    if most is None:
        return task.codec.render(record)
    if task.definition.type == "relation" and task.definition.entities == "given":
        _require_pairs(task, record, most)
    examples = task.codec.render(record)
    if len(examples) > most:
        raise TooLarge(TOO_MANY)
    return examples


def _require_pairs(task: ServedTask, record: Record, most: int) -> None:
    """Pairs grow with the square of what is given, and each costs a rendering of its own."""
    if is_concept_level(task.definition, record):
        concepts = {concept for entity in record.entities for concept in entity.concepts}
        if len(concepts) > CONCEPTS:
            raise TooLarge(f"the entities of a document may have {CONCEPTS:,} different concepts; send fewer.")
    known = mention_index(record)
    compared = 0
    for pairs, (head, tail) in enumerate(each_candidate(task.definition, record), start=1):
        compared += len(known[head]) * len(known[tail])
        if pairs > most:
            raise TooLarge(TOO_MANY)
        if compared > COMPARED:
            raise TooLarge(f"the concepts of a document may come to {COMPARED:,} pairs of mentions; send fewer.")


async def answer(engine: Engine, asked: Asked, *, constrained: bool = False) -> Answer:
    """Put all examples of a record to the engine at once and read the answers."""
    async with asyncio.TaskGroup() as group:
        going = [group.create_task(_one(engine, asked.task, example, constrained)) for example in asked.examples]
    said = [task.result() for task in going]
    return await engine.desk.run(lambda: _read(asked, said))


Said = tuple[Output, Generated | None]


async def _one(engine: Engine, task: ServedTask, example: Example, constrained: bool) -> Said:
    if example.choices:
        scores = await engine.score(Question(task, example.source, choices=example.choices))
        best = max(range(len(scores)), key=scores.__getitem__)
        return Output(example.choices[best], scores), None
    constraint = constraint_for(task.definition, example) if constrained else None
    generated = await engine.answer(Question(task, example.source, limit=task.limit, constraint=constraint))
    return Output(generated.text), generated


def _read(asked: Asked, said: Sequence[Said]) -> Answer:
    codec, record = asked.task.codec, asked.record
    prediction = codec.parse(record, asked.examples, [output for output, _ in said])
    written = sum(len(generated.pieces) for _, generated in said if generated)
    kind = asked.task.definition.type
    if kind == "relation" and asked.task.definition.entities == "given":
        return Answer(prediction, relations=_chosen(asked, said, prediction))
    if kind in ("ner", "relation"):
        return _of_lists(asked, said, prediction, written)
    if prediction.probabilities:
        return Answer(prediction, max(prediction.probabilities.values()))
    return Answer(prediction, _of_text(said, prediction), written=written)


def _of_lists(asked: Asked, said: Sequence[Said], prediction: Prediction, written: int) -> Answer:
    found = [
        confidence.of_list(asked.task.codec, asked.record, example, generated.pieces)
        for example, (_, generated) in zip(asked.examples, said, strict=True)
        if generated is not None
    ]
    entities = {key: value for one in reversed(found) for key, value in one.entities.items()}
    relations = {key: value for one in reversed(found) for key, value in one.relations.items()}
    return Answer(
        prediction,
        entities=tuple(entities.get(key) for key in confidence.of_entities(prediction.record)),
        relations=tuple(relations.get(key) for key in confidence.of_relations(prediction.record)),
        ungrounded=tuple(value for one in found for value in one.ungrounded),
        written=written,
    )


def _chosen(asked: Asked, said: Sequence[Said], prediction: Prediction) -> tuple[float | None, ...]:
    """The probability of each relation's label among the choices of its pair."""
    sure = {}
    for example, (output, _) in zip(asked.examples, said, strict=True):
        sure[example.arguments] = max(choose(example.choices, [output]).probabilities, default=None)
    return tuple(sure.get((relation.head, relation.tail)) for relation in prediction.record.relations)


def _of_text(said: Sequence[Said], prediction: Prediction) -> float | None:
    """Of free text: of the window whose answer was taken, or over all windows of a summary."""
    record = prediction.record
    taken = [generated for _, generated in said if generated is not None]
    if record.summary is None:
        taken = [generated for generated in taken if generated.text.removeprefix("\\") == record.answer][:1]
    sure = [value for generated in taken if (value := confidence.whole(generated.pieces)) is not None]
    return math.exp(sum(math.log(max(value, 1e-30)) for value in sure) / len(sure)) if sure else None
