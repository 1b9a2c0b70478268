"""The thread that runs the model: questions join the batch between two steps and leave it when they are answered.

A step appends one token to every answer under way, whatever their tasks. Between steps, waiting questions are read
together (at most `read_tokens` padded tokens at a time) and join; closed choices are scored from what was read and
never join. A question that comes to an idle engine waits up to `wait_seconds` for company.

Prompts, prefixes and LoRA share a pass. Adapters that cannot (`adapters.mixed`) have a lane each: a batch of their own
that takes its steps in turn with the others. So have answers that may become much longer than others: the keys and
values of a batch are as wide as its longest row, and one long answer would make every short one pay for its length.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.mixed import Inside, mixed
from clinprompt.backbone.model import Backbone
from clinprompt.evaluation.decoding import continued
from clinprompt.serving.choosing import choose_token
from clinprompt.serving.detokenizing import Detokenizer, Stopper
from clinprompt.serving.engine import EngineBusy, EngineClosed, EngineFailed, Finish, Load, Piece, Question
from clinprompt.serving.rows import Read, Reading, Rows, read

_Key = tuple[AdapterBank | None, int]
SHORT, LONGER = 512, 4
"""Places: questions of up to 512 share a lane, those of up to 2,048, of up to 8,192, … Our choice: most are short."""


@dataclass(frozen=True)
class BatchLimits:
    """Sizes of the batch. Defaults are ours, for a small model on a CPU or an 8B model on one GPU.

    rows: answers under way at once; tokens: places for their keys and values, answers not written yet included, each
    row as long as the longest of its lane (a question that needs more is answered alone); read_tokens: padded tokens
    read in one pass; waiting: questions in the queue; wait_seconds: how long a question that comes to an idle engine
    waits for company.
    """

    rows: int = 64
    tokens: int = 65_536
    read_tokens: int = 8_192
    waiting: int = 4_096
    wait_seconds: float = 0.002


@dataclass(eq=False)
class Ticket:
    """A question under way. `tell` is called in `loop` with pieces, a result (token ids and log-probabilities, or
    scores), or an error; nothing follows a result or an error."""

    question: Question
    reading: Reading
    choices: list[list[int]]
    limit: int
    loop: AbstractEventLoop
    tell: Callable[[Any], None]
    streams: bool = False
    arrived: float = 0.0
    cancelled: bool = False
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    words: Detokenizer | None = None
    stopper: Stopper | None = None
    generator: torch.Generator | None = None
    pending: float = 0.0  # log-probability of tokens whose text is held back

    @property
    def places(self) -> int:
        """Keys and values it may come to hold; closed choices are never generated."""
        return self.reading.length + (max(map(len, self.choices)) if self.choices else self.limit)

    @property
    def lane(self) -> _Key:
        """Questions of the same lane share a pass: those of one company that hold similarly many places."""
        company = None if self.reading.inside is None else self.reading.inside.company
        return company, max(0, math.ceil(math.log(self.places / SHORT, LONGER)))


@dataclass(eq=False)
class _Lane:
    """Answers that take their steps in one pass (`Ticket.lane`)."""

    rows: Rows
    active: list[Ticket] = field(default_factory=list)

    def leave(self, row: int) -> None:
        self.rows.leave(row)
        last = self.active.pop()
        if row < len(self.active):
            self.active[row] = last


@dataclass(frozen=True)
class Written:
    """A whole answer: token ids without the end, log-probabilities with it, and what ended it."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


class Batcher:
    """Owner of the model while it serves. `submit`, `cancel`, `call` and `load` may be called from any thread."""

    def __init__(self, backbone: Backbone, limits: BatchLimits) -> None:
        self._backbone, self._tokenizer, self.limits = backbone, backbone.tokenizer, limits
        self._ends = frozenset(backbone.end_ids)
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._closing = False
        self._lanes: dict[_Key, _Lane] = {}  # only those with answers under way
        self._news: list[tuple[Ticket, Any]] = []
        self._counts = {"read": 0, "written": 0, "passes": 0}
        self._busy = 0  # questions taken from the queue and not in the batch (being read)
        self._thread = threading.Thread(target=self._run, name="clinprompt-model", daemon=True)
        self._thread.start()

    # -- called from outside ----------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue a question. Raises EngineBusy or EngineClosed."""
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closing and takes no more questions.")
            if len(self._waiting) >= self.limits.waiting:
                raise EngineBusy
            ticket.arrived = time.monotonic()
            self._waiting.append(ticket)
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Forget a question: it leaves the queue now, or the batch before its next step."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def call(self, work: Callable[[], None]) -> None:
        """Run something in the model's thread, between two steps."""
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closing.")
            self._jobs.append(work)
            self._changed.notify()

    def load(self) -> Load:
        """How busy the model is, and what it has done."""
        with self._changed:
            counts = self._counts
            running = len(self._active()) + self._busy
            return Load(
                running, len(self._waiting), self.limits.waiting, counts["read"], counts["written"], counts["passes"]
            )

    def close(self) -> None:
        """Answer all that was accepted, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # -- the thread -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        while self._work_there():
            taken: list[Ticket] = []
            try:
                self._do_jobs()
                self._drop_cancelled()
                taken = self._take()
                for part in _by_lane(taken):
                    self._read(part)
                for lane in self._lanes.values():
                    self._step(lane)
                self._lanes = {key: lane for key, lane in self._lanes.items() if lane.active}
            except Exception as error:
                self._fail([*taken, *self._active()], error)
            self._busy = 0
            self._publish()

    def _work_there(self) -> bool:
        """Wait for work; False when closing and nothing is left."""
        with self._changed:
            while not (self._waiting or self._lanes or self._jobs):
                if self._closing:
                    return False
                self._changed.wait()
            if self._waiting and not self._lanes and not self._closing:
                until = self._waiting[0].arrived + self.limits.wait_seconds
                while len(self._waiting) < self.limits.rows and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
            return True

    def _do_jobs(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            job()

    def _active(self) -> list[Ticket]:
        """Answers under way."""
        return [ticket for lane in list(self._lanes.values()) for ticket in lane.active]

    def _drop_cancelled(self) -> None:
        for lane in self._lanes.values():
            for row in reversed(range(len(lane.active))):
                if lane.active[row].cancelled:
                    lane.leave(row)

    def _take(self) -> list[Ticket]:
        """The questions to read now: in order of arrival, as many as rows, places and one pass allow."""
        active = self._active()
        places: dict[_Key, list[int]] = {}
        for ticket in active:
            places.setdefault(ticket.lane, []).append(ticket.places)
        free, longest = self.limits.rows - len(active), 0
        taken: list[Ticket] = []
        with self._changed:
            while self._waiting and free > 0:
                ticket = self._waiting[0]
                longest = max(longest, ticket.reading.read)
                places.setdefault(ticket.lane, []).append(ticket.places)
                padded = sum(len(lane) * max(lane) for lane in places.values())
                pass_full = bool(taken) and longest * (len(taken) + 1) > self.limits.read_tokens
                batch_full = bool(taken or active) and padded > self.limits.tokens
                if pass_full or batch_full:
                    break
                taken.append(self._waiting.popleft())
                free -= 1
            self._busy = len(taken)
        return taken

    def _read(self, taken: Sequence[Ticket]) -> None:
        """Read questions of one lane."""
        with mixed(self._backbone, _insides(taken)):
            found = read(self._backbone, [ticket.reading for ticket in taken])
        with self._backbone.precision():
            logits = self._backbone.head(found.hidden)
        self._counts["passes"] += 1
        self._counts["read"] += sum(ticket.reading.read for ticket in taken)
        closed = [i for i, ticket in enumerate(taken) if ticket.choices]
        if closed:
            self._score(found, logits, closed, [taken[i] for i in closed])
        open_ = [i for i, ticket in enumerate(taken) if not ticket.choices]
        if open_:
            self._choose(logits[open_], [taken[i] for i in open_])
            going = [i for i in open_ if taken[i].finish is None]
            if going:
                lane = self._lanes.setdefault(taken[0].lane, _Lane(Rows(self._backbone)))
                lane.rows.join(found, going)
                lane.active += [taken[i] for i in going]

    def _step(self, lane: _Lane) -> None:
        if not lane.active:  # all were cancelled
            return
        with mixed(self._backbone, _insides(lane.active)):
            hidden = lane.rows.step([ticket.ids[-1] for ticket in lane.active])
        with self._backbone.precision():
            logits = self._backbone.head(hidden)
        self._counts["passes"] += 1
        self._choose(logits, lane.active)
        for row in reversed(range(len(lane.active))):
            if lane.active[row].finish is not None:
                lane.leave(row)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _choose(self, logits: Tensor, tickets: Sequence[Ticket]) -> None:
        """The next token of each answer, from logits (n, V)."""
        tokens = logits.argmax(dim=-1).tolist()
        logits = logits.float()
        totals = logits.logsumexp(dim=-1)
        for row, ticket in enumerate(tickets):
            question = ticket.question
            if question.constraint is not None or question.sampling.temperature > 0:
                tokens[row] = choose_token(logits[row], ticket, self._tokenizer, self._ends)
        places = torch.tensor(tokens, device=logits.device)[:, None]
        logprobs = (logits.gather(1, places).squeeze(1) - totals).tolist()
        self._counts["written"] += len(tickets)
        for ticket, token, logprob in zip(tickets, tokens, logprobs, strict=True):
            self._write(ticket, token, logprob)

    def _write(self, ticket: Ticket, token: int, logprob: float) -> None:
        ticket.logprobs.append(logprob)
        ended = token in self._ends
        if not ended:
            ticket.ids.append(token)
        if ended or len(ticket.ids) >= ticket.limit:
            ticket.finish = "stop" if ended else "length"
        if ticket.streams or ticket.question.stop:
            self._tell_text(ticket, None if ended else token, logprob)
        if ticket.finish is not None and not ticket.streams:
            self._news.append((ticket, Written(tuple(ticket.ids), tuple(ticket.logprobs), ticket.finish)))

    def _tell_text(self, ticket: Ticket, token: int | None, logprob: float) -> None:
        if ticket.words is None or ticket.stopper is None:
            ticket.words, ticket.stopper = Detokenizer(self._tokenizer), Stopper(ticket.question.stop)
        text = ticket.words.push(token) if token is not None else ""
        if ticket.finish is not None:
            text += ticket.words.rest()
        told = ticket.stopper.push(text)
        if ticket.stopper.stopped:
            ticket.finish = "stop"
        elif ticket.finish is not None:
            told += ticket.stopper.rest()
        if ticket.streams:
            self._news.append((ticket, Piece(told, logprob, ticket.finish)))

    def _score(self, found: Read, logits: Tensor, places: Sequence[int], tickets: Sequence[Ticket]) -> None:
        """Mean log-likelihood per token of every choice, as `Decoder.score` gives it."""
        first = logits.float().log_softmax(-1)
        flat = [(place, ids) for place, ticket in zip(places, tickets, strict=True) for ids in ticket.choices]
        inside = dict(zip(places, _insides(tickets), strict=True))
        mask = found.mask
        totals = np.zeros(len(flat))
        size = max(1, 2 * self.limits.read_tokens // mask.shape[1])
        for begin in range(0, len(flat), size):
            part = flat[begin : begin + size]
            owner = torch.tensor([place for place, _ in part], device=mask.device)
            ids = [tokens for _, tokens in part]
            start = first[owner, torch.tensor([tokens[0] for tokens in ids], device=mask.device)]
            with mixed(self._backbone, [inside[place] for place, _ in part]):
                rest = continued(self._backbone, found.layers, mask, found.lengths, owner, ids)
            totals[begin : begin + size] = (start + rest).double().cpu().numpy()
            self._counts["passes"] += 1
        done = 0
        for ticket in tickets:
            scores = [float(totals[done + i] / len(ids)) for i, ids in enumerate(ticket.choices)]
            done += len(scores)
            self._news.append((ticket, tuple(scores)))

    # -- news -------------------------------------------------------------------------------------------------------

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        """Tell everybody who was in the failed pass. The message is left out: it may hold what was read."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"the model failed with {type(error).__name__} ({place.name}, line {place.lineno}); ask again."
        for ticket in dict.fromkeys(tickets):
            self._news.append((ticket, EngineFailed(text)))
        self._lanes = {}

    def _publish(self) -> None:
        """Hand over the news of a pass, in one call per event loop."""
        news, self._news = self._news, []
        for loop in {ticket.loop for ticket, _ in news}:
            own = [(ticket, item) for ticket, item in news if ticket.loop is loop and not ticket.cancelled]
            if own and not loop.is_closed():
                loop.call_soon_threadsafe(_tell, own)


def _insides(tickets: Sequence[Ticket]) -> list[Inside | None]:
    return [ticket.reading.inside for ticket in tickets]


def _by_lane(tickets: Sequence[Ticket]) -> list[list[Ticket]]:
    """Questions that may be read in one pass, in order of arrival."""
    found: dict[_Key, list[Ticket]] = {}
    for ticket in tickets:
        found.setdefault(ticket.lane, []).append(ticket)
    return list(found.values())


def _tell(news: Sequence[tuple[Ticket, Any]]) -> None:
    for ticket, item in news:
        ticket.tell(item)
