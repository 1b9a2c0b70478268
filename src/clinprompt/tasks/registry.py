"""From a task definition to its codec."""

from __future__ import annotations

from clinprompt.records import Record
from clinprompt.tasks.codec import Codec, TokenLength
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.ner import NerCodec
from clinprompt.tasks.nli import NliCodec
from clinprompt.tasks.qa import OptionForm, QaCodec
from clinprompt.tasks.relation import RelationCodec
from clinprompt.tasks.room import Room
from clinprompt.tasks.summarization import SummarizationCodec
from clinprompt.tasks.triples import TripleCodec


def codec_for(task: TaskDefinition, length: TokenLength, budget: int, *, option_form: OptionForm = "text") -> Codec:
    """The codec of a task. `length` counts the tokens of a text, `budget` is the most a source may have.

    `option_form`: qa options are answered by their text, or by their letter (for models large enough to bind a letter
    to an option). Raises TaskError if the instruction alone exhausts the budget.
    """
    room = Room(length, budget)
    match task.type:
        case "ner":
            return NerCodec(task, room)
        case "relation":
            return RelationCodec(task, room) if task.entities == "given" else TripleCodec(task, room)
        case "qa":
            return QaCodec(task, room, option_form)
        case "nli":
            return NliCodec(task, room)
        case "summarization":
            return SummarizationCodec(task, room)


def blind(task: TaskDefinition, record: Record) -> Record:
    """The record as the model may see it at evaluation: without gold, but with the entities a relation task gives."""
    return record.without_gold(keep_entities=task.type == "relation" and task.entities == "given")
