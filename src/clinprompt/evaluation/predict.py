"""Records in, structured predictions out: codec, decoder and grounding put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clinprompt.adapters.files import bank_of
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.evaluation.decoding import Decoder
from clinprompt.methods.in_context import InContext
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.bank import Bank, DirectBank
from clinprompt.records import Record
from clinprompt.tasks.codec import Codec, Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.registry import blind
from clinprompt.training.examples import task_codec

DEFAULT_ANSWER_LIMIT = 128  # tokens, when no training data tells how long answers are


def predict(
    backbone: Backbone,
    task: TaskDefinition,
    records: Sequence[Record],
    prompt: Tensor | Bank | None,
    *,
    position: PromptPosition = "start",
    limit: int = DEFAULT_ANSWER_LIMIT,
    reserve: int = 256,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    in_context: InContext | None = None,
) -> list[Prediction]:
    """Predictions for records, in order; gold is hidden from the model. `prompt` (l, d), a bank's first row, or None
    for zero-shot.

    Closed answers are chosen by likelihood, others generated with at most `limit` tokens per window.
    """
    bank = as_bank(backbone, prompt)
    decoder = Decoder(backbone, bank, position)
    codec = task_codec(backbone, task, bank.length, reserve, window)
    return answer_records(decoder, codec, task, records, limit, progress, in_context)


def as_bank(backbone: Backbone, prompt: Tensor | Bank | None) -> Bank:
    """A bank as it is, a prompt (l, d) as a bank of one row, nothing as a prompt of no length."""
    if prompt is None:
        prompt = torch.zeros(0, backbone.width)
    return DirectBank(prompt[None]).to(backbone.device) if isinstance(prompt, Tensor) else prompt


def answer_records(
    decoder: Decoder,
    codec: Codec,
    task: TaskDefinition,
    records: Sequence[Record],
    limit: int,
    progress: Callable[[int, int], None] | None = None,
    in_context: InContext | None = None,
) -> list[Prediction]:
    """Records through codec, decoder (its first row) and codec again, in order; gold is hidden from the model.

    With `in_context` solved examples stand before every question.
    """
    return answer_rows(decoder, codec, task, records, [0], limit, progress, in_context)[0]


def answer_rows(
    decoder: Decoder,
    codec: Codec,
    task: TaskDefinition,
    records: Sequence[Record],
    rows: Sequence[int],
    limit: int,
    progress: Callable[[int, int], None] | None = None,
    in_context: InContext | None = None,
) -> list[list[Prediction]]:
    """What each of these rows says about the records, as `answer_records`: rows share batches, not answers."""
    hidden = [blind(task, record) for record in records]
    rendered = [codec.render(record) for record in hidden]
    flat = [example for examples in rendered for example in examples]
    asked = in_context.before(flat) if in_context else flat
    owners = [row for row in rows for _ in asked]
    outputs = iter(answer(decoder, asked * len(rows), owners, limit, progress))
    return [
        [
            codec.parse(record, examples, [next(outputs) for _ in examples])
            for record, examples in zip(hidden, rendered, strict=True)
        ]
        for _ in rows
    ]


def answer(
    decoder: Decoder,
    examples: Sequence[Example],
    rows: Sequence[int],
    limit: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Output]:
    """What the backbone says to each example under its row's prompt: chosen where there are choices, else generated."""
    distinct = {id(e): e.source for e in examples}  # asked under several prompts, an example is encoded once
    ids = dict(zip(distinct, encode(decoder.backbone, list(distinct.values()), None, decoder.position), strict=True))
    encoded = [ids[id(e)] for e in examples]
    outputs = [Output("")] * len(examples)
    closed = [i for i, e in enumerate(examples) if e.choices]
    open_ = [i for i, e in enumerate(examples) if not e.choices]
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, len(examples))

    scores = decoder.score(
        [encoded[i] for i in closed], [rows[i] for i in closed], [examples[i].choices for i in closed], advance
    )
    for index, values in zip(closed, scores, strict=True):
        best = max(range(len(values)), key=values.__getitem__)
        outputs[index] = Output(examples[index].choices[best], values)
    texts = decoder.generate([encoded[i] for i in open_], [rows[i] for i in open_], limit, advance)
    for index, text in zip(open_, texts, strict=True):
        outputs[index] = Output(text)
    return outputs


def predict_task(
    backbone: Backbone,
    artifact: TaskPrompt,
    records: Sequence[Record],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predictions of a task file."""
    card = artifact.card
    return predict(
        backbone,
        artifact.task,
        records,
        bank_of(backbone, artifact),
        position=card.position,
        limit=card.answer_limit[0] if card.answer_limit else DEFAULT_ANSWER_LIMIT,
        reserve=int(card.settings.get("target_reserve", 256)),
        window=card.settings.get("window"),
        progress=progress,
    )
