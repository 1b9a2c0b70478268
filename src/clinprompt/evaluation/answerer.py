"""What answers a task: a task file, one source task of a metaprompt, the bare instruction, or one constant answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from clinprompt.adapters.files import bank_of
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TaskError
from clinprompt.evaluation.decoding import Decoder
from clinprompt.evaluation.predict import DEFAULT_ANSWER_LIMIT, answer_records, answer_rows, as_bank, predict
from clinprompt.methods.constant import Constant, best_constant, constant_answers
from clinprompt.methods.in_context import InContext
from clinprompt.prompts.artifact import Card, Metaprompt, TaskPrompt, require_backbone
from clinprompt.prompts.bank import Bank, DirectBank
from clinprompt.records import Record
from clinprompt.tasks.codec import Codec, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.examples import answer_limit, balanced, encode_examples, sample_records, task_codec
from clinprompt.training.few_shot import draw_shots

LOOKED_AT = 1000  # training records at most that a constant answer is found in
DEFAULT_RESERVE = 256  # tokens kept free for an answer, where no card says otherwise


@dataclass(frozen=True)
class Answerer:
    """A task, its prompt (l, d), bank (first row) or None for zero-shot, and how long an answer may be."""

    backbone: Backbone
    task: TaskDefinition
    prompt: Tensor | Bank | None
    position: PromptPosition = "start"
    limit: int = DEFAULT_ANSWER_LIMIT
    reserve: int = DEFAULT_RESERVE
    window: int | None = None  # tokens of text per window (ner, relation); None: the preset's
    in_context: InContext | None = None  # solved examples that stand before every question

    def answers(
        self, records: Sequence[Record], progress: Callable[[int, int], None] | None = None
    ) -> list[Prediction]:
        """Predictions for all records at once, in order; `progress` counts examples (windows, pairs)."""
        return predict(
            self.backbone,
            self.task,
            records,
            self.prompt,
            position=self.position,
            limit=self.limit,
            reserve=self.reserve,
            window=self.window,
            progress=progress,
            in_context=self.in_context,
        )

    def stream(self, records: Iterable[Record], *, batch: int = 32) -> Iterator[tuple[Record, Prediction]]:
        """Predictions as they come, `batch` records at a time; the prompt's keys and values are computed once."""
        answer, source = self.ready(), iter(records)
        while portion := list(islice(source, batch)):
            yield from zip(portion, answer(portion), strict=True)

    def ready(self) -> Callable[[Sequence[Record]], list[Prediction]]:
        """What answers one portion of records after another; the prompt's keys and values are computed once for all."""
        bank = as_bank(self.backbone, self.prompt)
        decoder = Decoder(self.backbone, bank, self.position)
        codec = task_codec(self.backbone, self.task, bank.length, self.reserve, self.window)
        return lambda records: answer_records(
            decoder, codec, self.task, records, self.limit, in_context=self.in_context
        )


@dataclass(frozen=True)
class ConstantAnswerer:
    """One answer to every question of a task; no model is asked. `codec`: whose questions."""

    task: TaskDefinition
    codec: Codec
    constant: Constant
    in_context: None = None

    def answers(
        self, records: Sequence[Record], progress: Callable[[int, int], None] | None = None
    ) -> list[Prediction]:
        """Predictions for all records at once, in order; too fast for progress."""
        return constant_answers(self.task, self.codec, self.constant, records)


def answers_together(
    answerers: Sequence[Answerer], records: Sequence[Record], progress: Callable[[int, int], None] | None = None
) -> list[list[Prediction]]:
    """What each of several soft prompts of one task says about the records: their examples share batches, and the
    answers are those of each alone (to rounding). One answerer, of whatever kind, answers alone.

    Raises ValueError if they differ in more than their prompts.
    """
    first = answerers[0]
    if len(answerers) == 1:
        return [first.answers(records, progress)]
    prompts = [answerer.prompt for answerer in answerers if isinstance(answerer.prompt, Tensor)]
    alike = all(a.backbone is first.backbone and _asks(a) == _asks(first) for a in answerers)
    if len(prompts) < len(answerers) or not alike or first.in_context:
        raise ValueError("only soft prompts that are asked the same way can share batches")
    decoder = Decoder(first.backbone, DirectBank(torch.stack(prompts)).to(first.backbone.device), first.position)
    codec = task_codec(first.backbone, first.task, len(prompts[0]), first.reserve, first.window)
    rows = range(len(answerers))
    return answer_rows(decoder, codec, first.task, records, rows, first.limit, progress)


def _asks(answerer: Answerer) -> tuple[object, ...]:
    """All that decides how an answerer asks, besides its prompt."""
    return (answerer.task, answerer.position, answerer.limit, answerer.reserve, answerer.window)


def of_task(backbone: Backbone, artifact: TaskPrompt, task: TaskDefinition | None = None) -> Answerer:
    """A task file as answerer; `task` replaces the definition in its card (another corpus of the same type)."""
    learned = bank_of(backbone, artifact)
    card = artifact.card
    limit = card.answer_limit[0] if card.answer_limit else DEFAULT_ANSWER_LIMIT
    prompt = learned if artifact.is_adapter else artifact.prompt
    return Answerer(backbone, task or artifact.task, prompt, card.position, limit, *room(card))


def of_source(backbone: Backbone, metaprompt: Metaprompt, name: str, task: TaskDefinition | None = None) -> Answerer:
    """One source task of a metaprompt as answerer. Raises ArtifactError for an unknown name."""
    require_backbone(metaprompt.card, backbone, "metaprompt")
    row, card = metaprompt.row(name), metaprompt.card
    limit = card.answer_limit[row] if card.answer_limit else DEFAULT_ANSWER_LIMIT
    return Answerer(backbone, task or card.tasks[row], metaprompt.prompt(name), card.position, limit, *room(card))


def zero_shot(backbone: Backbone, task: TaskDefinition, limit: int = DEFAULT_ANSWER_LIMIT) -> Answerer:
    """The frozen backbone with the instruction only."""
    return Answerer(backbone, task, None, limit=limit)


def one_answer(
    backbone: Backbone,
    task: TaskDefinition,
    train: Sequence[Record],
    *,
    reserve: int = DEFAULT_RESERVE,
    window: int | None = None,
) -> ConstantAnswerer:
    """The constant answer that scores best on these training records (a hashed sample of them, if there are many). The
    backbone's tokenizer and context decide where texts are cut into questions, nothing else. Raises TaskError without
    records."""
    if not train:
        raise TaskError(f"task {task.name}: no training records to find an answer in. Name `train` under `files`.")
    codec = task_codec(backbone, task, 0, reserve, window)
    return ConstantAnswerer(task, codec, best_constant(task, codec, sample_records(task.name, train, LOOKED_AT)))


def in_context(
    backbone: Backbone,
    task: TaskDefinition,
    train: Sequence[Record],
    shots: int,
    *,
    draw: int = 0,
    seed: int = 0,
    limit: int | None = None,
) -> Answerer:
    """The frozen backbone with solved examples before every question: those that training with `shots` would see.

    `limit`: most tokens of an answer; default: by the answers of these examples. Raises TaskError without records.
    """
    if not train:
        raise TaskError(f"task {task.name}: no training records to show as examples. Name `train` under `files`.")
    codec = task_codec(backbone, task, 0, DEFAULT_RESERVE)
    drawn = draw_shots(task, train, shots, draw=draw, seed=seed)
    examples = balanced(task.name, [example for record in drawn for example in codec.render(record)], None)
    most = answer_limit(encode_examples(backbone, examples, "start"), DEFAULT_RESERVE) if limit is None else limit
    return Answerer(backbone, task, None, limit=most, in_context=InContext(backbone, examples, DEFAULT_RESERVE))


def room(card: Card) -> tuple[int, int | None]:
    """Tokens kept free for an answer, and tokens of text per window, as in training."""
    return int(card.settings.get("target_reserve", DEFAULT_RESERVE)), card.settings.get("window")
