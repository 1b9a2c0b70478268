"""Learning a task from a handful of notes beside the serving: one lesson at a time, in a thread of its own.

The frozen model is shared with the engine; what is trained is a prompt. After every step the lesson gives way to
questions that are being answered. With the task, one further row of the same training is learned without each note
(without each tenth of them, if there are many), and what it says about the notes it has not seen is the score.

Notes are held in memory until the lesson ends. They go nowhere else, unless the operator named a folder for them.
"""

from __future__ import annotations

import asyncio
import copy
import math
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml

from clinprompt import api
from clinprompt.backbone.model import Backbone
from clinprompt.corpora.writers import write_jsonl
from clinprompt.errors import ArtifactError, ClinpromptError
from clinprompt.evaluation.decoding import Decoder
from clinprompt.evaluation.predict import answer
from clinprompt.prompts.artifact import (
    Metaprompt,
    TaskPrompt,
    artifact_kind,
    load_metaprompt,
    packaged_metaprompt,
    save_task,
)
from clinprompt.records import Record
from clinprompt.serving.engine import EngineBusy, UnknownTask
from clinprompt.serving.problems import Forbidden, note_defect
from clinprompt.serving.service import Service
from clinprompt.serving.teach_schemas import Lesson, TaughtScore, Teaching
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import headline, score
from clinprompt.tasks.registry import blind
from clinprompt.training.adapt import Adapted, Plan, adapt
from clinprompt.training.examples import task_codec
from clinprompt.training.learn import SourceTask
from clinprompt.training.settings import AdaptSettings

REMEMBERED = 32  # lessons whose end can still be asked for
GIVE_WAY = 0.25  # most seconds that a step waits for questions under way
SCORED = "leave-one-out"


@dataclass(frozen=True)
class TeachSettings:
    """Limits of teaching; the defaults are ours.

    notes: of one lesson; characters: of one note; steps: of a lesson that names none, and at most; batch: examples a
    step and row; folds: rows that each leave notes out; keep: folder for taught notes, None: they are forgotten;
    metaprompts: files to start from, the first that fits the backbone.
    """

    allowed: bool = True
    notes: int = 64
    characters: int = 20_000
    steps: int = 120
    most_steps: int = 1_000
    batch: int = 4
    folds: int = 10
    keep: Path | None = None
    metaprompts: tuple[Path, ...] = ()


class _Stop(Exception):
    """Raised inside a lesson that was cancelled."""


@dataclass
class _Going:
    """A lesson under way, or its end."""

    lesson: Lesson
    task: TaskDefinition
    began: float
    stop: threading.Event = field(default_factory=threading.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Teacher:
    """Learns tasks for a service. Its methods are called from the server's event loop."""

    def __init__(self, service: Service, settings: TeachSettings | None = None) -> None:
        self._service = service
        self.settings = settings or TeachSettings()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinprompt-teacher")
        self._lessons: OrderedDict[str, _Going] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._backbone: Backbone | None = None
        self._metaprompt: Metaprompt | None = None
        engine = service.engine
        if isinstance(engine, TransformersEngine):
            # Its own tokenizer: a tokenizer is not to be used by two threads at once.
            own = copy.deepcopy(engine.backbone.tokenizer)
            self._backbone = replace(engine.backbone, tokenizer=own, prefetches={})
            self._metaprompt = metaprompt_for(self._backbone, service.library.folder, self.settings.metaprompts)

    # -- what the routes ask ----------------------------------------------------------------------------------------

    def about(self) -> Teaching:
        """Whether tasks can be taught here, and within which limits."""
        going, reason, own = self._under_way(), self._refusal(), self.settings
        return Teaching(
            allowed=reason is None,
            reason=reason,
            method="mpt" if self._metaprompt else "pt",
            notes=own.notes,
            characters=own.characters,
            steps=own.steps,
            most_steps=own.most_steps,
            going=going.lesson.id if going else None,
        )

    def start(self, task: TaskDefinition, records: Sequence[Record], *, steps: int | None, score: bool) -> Lesson:
        """Begin a lesson. Raises Forbidden where teaching is off, EngineBusy while another one is under way."""
        reason = self._refusal()
        if reason is not None:
            raise Forbidden(reason)
        if self._under_way():
            raise EngineBusy(10.0)
        steps = steps or self.settings.steps
        method = "mpt" if self._metaprompt else "pt"
        lesson = Lesson(
            id=uuid.uuid4().hex, name=task.name, state="learning", notes=len(records), method=method, steps=steps
        )
        going = _Going(lesson, task, time.monotonic())
        self._lessons[lesson.id] = going
        while len(self._lessons) > REMEMBERED:
            self._lessons.popitem(last=False)
        running = asyncio.create_task(self._run(going, list(records), score))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return self.lesson(lesson.id)

    def lesson(self, identifier: str, since: int = 0) -> Lesson:
        """How far a lesson is, with the losses from step `since` on. Raises UnknownTask."""
        lesson = self._known(identifier).lesson
        return lesson.model_copy(update={"first": since, "losses": lesson.losses[since:]})

    async def cancel(self, identifier: str) -> Lesson:
        """Stop a lesson and forget its notes; returns when it has stopped."""
        going = self._known(identifier)
        going.stop.set()
        await going.ended.wait()
        return self.lesson(identifier)

    async def close(self) -> None:
        """Stop what is under way."""
        for going in self._lessons.values():
            going.stop.set()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._thread.shutdown(wait=True)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _refusal(self) -> str | None:
        if not self.settings.allowed:
            return "teaching is switched off on this server."
        if not self._service.settings.manage:
            return "this server's tasks are changed in its folder only, so none can be taught."
        if self._backbone is None:
            return "this server's engine answers and does not train; tasks are taught where the model is in process."
        return None

    def _under_way(self) -> _Going | None:
        return next((going for going in self._lessons.values() if not going.ended.is_set()), None)

    def _known(self, identifier: str) -> _Going:
        if identifier not in self._lessons:
            raise UnknownTask("no such lesson; the server forgets old ones, and all when it ends.")
        return self._lessons[identifier]

    async def _run(self, going: _Going, records: list[Record], scored: bool) -> None:
        """A lesson to its end, whichever it is."""
        lesson, loop = going.lesson, asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(self._thread, lambda: self._learned(going, records, scored))
            content = await asyncio.to_thread(_content, file)
            if going.stop.is_set():
                raise _Stop
            if self._service.library.path(lesson.name).exists():
                raise ArtifactError("a file of this name came into the folder meanwhile; choose another name.")
            await self._service.library.put(lesson.name, content)
            if self.settings.keep is not None:
                await asyncio.to_thread(keep_notes, self.settings.keep, going.task, records)
            lesson.bytes = len(content)
            lesson.state = "done"
        except _Stop:
            lesson.state = "cancelled"
        except ClinpromptError as error:
            lesson.state, lesson.reason = "failed", str(error)
        except Exception as error:
            note_defect(error, f"lesson {lesson.id}")
            lesson.state, lesson.reason = "failed", "a defect of the server; its log names the place."
        finally:
            lesson.seconds = round(time.monotonic() - going.began, 1)
            going.ended.set()

    def _learned(self, going: _Going, records: list[Record], scored: bool) -> TaskPrompt:
        """In the teacher's thread: the task file, with its score in the card."""
        assert self._backbone is not None
        task, lesson = going.task, going.lesson
        folds = min(len(records), self.settings.folds) if scored and len(records) > 1 else 0
        overrides = {
            "loop.steps": lesson.steps,
            "loop.batch_size": min(self.settings.batch, len(records)),
            "loop.evaluate_every": 0,
        }
        settings = api.settings_for(AdaptSettings, self._backbone.preset, None, overrides)
        left_out = folds_of(records, folds) if folds else []
        kept = [
            records,
            *([r for r, own in zip(records, left_out, strict=True) if own != fold] for fold in range(folds)),
        ]
        plans = [Plan(SourceTask(task, part), settings) for part in kept]

        def told(step: int, _: int, loss: float) -> None:
            lesson.step = step
            lesson.losses.append(round(loss, 5))
            lesson.seconds = round(time.monotonic() - going.began, 1)
            self._give_way(going)

        found = adapt(self._backbone, self._metaprompt, plans, progress=told)
        file = found.tasks[0]
        if not folds:
            if scored:
                lesson.reason = "No score: it takes two notes, one to learn from and one to be asked about."
            return file
        lesson.state = "scoring"
        lesson.score = self._score(going, found, records, folds)
        metrics = {SCORED: lesson.score.model_dump()}
        return TaskPrompt(file.tensors, file.card.model_copy(update={"metrics": metrics}), file.shared)

    def _score(self, going: _Going, found: Adapted, records: list[Record], folds: int) -> TaughtScore:
        """Every note answered by the row that was learned without it."""
        assert self._backbone is not None
        task, card = going.task, found.tasks[0].card
        prompts = torch.stack([file.prompt for file in found.tasks])
        codec = task_codec(
            self._backbone, task, prompts.shape[1], int(card.settings["target_reserve"]), card.settings["window"]
        )
        hidden = [blind(task, record) for record in records]
        rendered = [codec.render(record) for record in hidden]
        flat = [example for examples in rendered for example in examples]
        left_out = folds_of(records, folds)
        rows = [1 + fold for fold, examples in zip(left_out, rendered, strict=True) for _ in examples]
        decoder = Decoder(self._backbone, prompts, card.position, token_budget=2048)
        limit = max(file.card.answer_limit[0] for file in found.tasks)
        outputs = iter(answer(decoder, flat, rows, limit, lambda *_: self._give_way(going)))
        said = [
            codec.parse(record, examples, [next(outputs) for _ in examples])
            for record, examples in zip(hidden, rendered, strict=True)
        ]
        name = headline(task)
        value = score(task, records, said)[name]
        value_, low, high = (None if math.isnan(x) else round(x, 1) for x in (value.value, value.low, value.high))
        return TaughtScore(metric=name, value=value_, low=low, high=high, n=len(records), folds=folds)

    def _give_way(self, going: _Going) -> None:
        """Let questions under way go first, for a moment. Raises _Stop in a lesson that was cancelled."""
        until = time.monotonic() + GIVE_WAY
        while self._service.engine.load().running and time.monotonic() < until and not going.stop.is_set():
            time.sleep(0.01)
        if going.stop.is_set():
            raise _Stop


def folds_of(records: Sequence[Record], folds: int) -> list[int]:
    """The fold of each record, in which it is left out: as equal in size and in answers as can be.

    Dealt out answer by answer: were all notes of one fold of one label, the row that leaves them out would learn that
    this label is rare.
    """
    order = sorted(range(len(records)), key=lambda place: records[place].answer or "")
    found = [0] * len(records)
    for turn, place in enumerate(order):
        found[place] = turn % folds
    return found


def metaprompt_for(backbone: Backbone, folder: Path, given: Sequence[Path] = ()) -> Metaprompt | None:
    """The first metaprompt made for this backbone: of those given, of the folder of tasks, or the packaged one."""
    for path in [*given, *sorted(folder.glob("*.safetensors")), packaged_metaprompt()]:
        try:
            if path.is_file() and artifact_kind(path) == "metaprompt":
                found = load_metaprompt(path)
                if found.card.backbone.fingerprint == backbone.fingerprint:
                    return found
        except ArtifactError:
            continue  # the library reports files that cannot be read
    return None


def keep_notes(folder: Path, task: TaskDefinition, records: Sequence[Record]) -> None:
    """Taught notes where the operator wants them: as a task that `clinprompt adapt` learns again."""
    write_jsonl(records, folder / f"{task.name}.jsonl")
    described = task.model_copy(update={"format": "jsonl", "files": {"train": f"{task.name}.jsonl"}})
    text = yaml.safe_dump(described.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    (folder / f"{task.name}.yaml").write_text(text, encoding="utf-8")


def _content(file: TaskPrompt) -> bytes:
    """The bytes of a task file; nothing of the notes is in it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "task.safetensors"
        save_task(file, path)
        return path.read_bytes()
