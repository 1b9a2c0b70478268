"""Answers under way on a causal backbone: a batch that sequences join and leave between two steps.

Every row of the batch is one sequence; its keys and values end at the same column as everybody's and begin where they
begin (padding on the left is masked). Rows of different tasks, prompt lengths and ages thus take every step together,
and the distance of two tokens in columns is their distance in the sequence, so sliding windows stay right. Keys and
values lie in buffers with a little room to spare: a step writes one column, a row that leaves is overwritten by the
last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from clinprompt.adapters.mixed import Inside
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.injection import inject
from clinprompt.backbone.model import Backbone, LayerStates

BLOCK = 64  # columns by which buffers grow


@dataclass(frozen=True, slots=True)
class Reading:
    """A sequence to be read. `prefix`: keys and values of what stands before `ids` (one row); `prompt` (l, d): a soft
    prompt that stands inside, at `ids.insert_at`; `inside`: how the model is changed while it is read and answered."""

    ids: Encoded
    prefix: LayerStates | None = None
    prompt: Tensor | None = None
    inside: Inside | None = None

    @property
    def read(self) -> int:
        """Tokens to be read."""
        return len(self.ids.ids) + (0 if self.prompt is None else int(self.prompt.shape[0]))

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.read + (int(self.prefix[0][0].shape[2]) if self.prefix else 0)


@dataclass(frozen=True, slots=True)
class Read:
    """B sequences that were read: last hidden states (B, d), keys and values per layer, each (B, heads, S, width) and
    ending at column S, and lengths (B,)."""

    hidden: Tensor
    layers: LayerStates
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, S): 1 where a sequence is."""
        columns = int(self.layers[0][0].shape[2])
        return (torch.arange(columns, device=self.lengths.device)[None] >= columns - self.lengths[:, None]).long()


def read(backbone: Backbone, readings: Sequence[Reading]) -> Read:
    """Read sequences in one forward pass, whatever their prompts are."""
    device = backbone.device
    texts = [_embedded(backbone, reading) for reading in readings]
    counts = torch.tensor([len(text) for text in texts], device=device)
    before = torch.tensor([reading.length - reading.read for reading in readings], device=device)
    embeddings = pad_sequence(texts, batch_first=True)  # (B, E, d)
    cache, width = _stacked(readings)
    columns = torch.arange(width + embeddings.shape[1], device=device)[None]
    begin, end = (width - before)[:, None], (width + counts)[:, None]
    with backbone.precision():
        run = backbone.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=((columns >= begin) & (columns < end)).long(),
            position_ids=before[:, None] + torch.arange(embeddings.shape[1], device=device)[None],
            past_key_values=cache,
            use_cache=True,
        )
    last = run.last_hidden_state[torch.arange(len(texts), device=device), counts - 1]
    layers = _aligned(run.past_key_values, columns.shape[1] - end[:, 0])
    longest = int((before + counts).max())
    return Read(last, [(key[:, :, -longest:], value[:, :, -longest:]) for key, value in layers], before + counts)


def _embedded(backbone: Backbone, reading: Reading) -> Tensor:
    """(n, d) input embeddings."""
    ids = torch.from_numpy(reading.ids.ids).to(backbone.device).long()[None]
    tokens = backbone.embed(ids)
    if reading.prompt is not None:
        place = torch.tensor([reading.ids.insert_at], device=backbone.device)
        tokens = inject(tokens, reading.prompt[None].to(backbone.device), place)
    return tokens[0]


def _stacked(readings: Sequence[Reading]) -> tuple[DynamicCache, int]:
    """The prefixes of all sequences as one cache, ending at the same column; and its columns."""
    prefixes = [reading.prefix for reading in readings]
    known = [prefix for prefix in prefixes if prefix]
    if not known:
        return DynamicCache(), 0
    width = max(int(prefix[0][0].shape[2]) for prefix in known)
    layers = []
    for index, (key, value) in enumerate(known[0]):
        stacked = []
        for part, model in enumerate((key, value)):
            states = model.new_zeros(len(readings), model.shape[1], width, model.shape[3])
            for row, prefix in enumerate(prefixes):
                if prefix:
                    states[row, :, width - prefix[index][part].shape[2] :] = prefix[index][part][0]
            stacked.append(states)
        layers.append((stacked[0], stacked[1]))
    return DynamicCache(layers), width


def _aligned(cache: Any, by: Tensor) -> LayerStates:
    """Keys and values moved right by `by[i]` columns in row i; what comes in from the left is masked by its reader."""
    layers = [(entry[0], entry[1]) for entry in cache]
    if not bool(by.any()):
        return layers
    columns = torch.arange(layers[0][0].shape[2], device=by.device)[None]
    source = (columns - by[:, None]).clamp(min=0)[:, None, :, None]

    def moved(states: Tensor) -> Tensor:
        index = source.to(states.device).expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)

    return [(moved(key), moved(value)) for key, value in layers]


class _Slab(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer in buffers (R, heads, C, width); `count` rows and `used` columns are in use."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.buffers = [key, value]
        self.count = self.used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the columns of a step; returns all that is in use."""
        begin, self.used = self.used, self.used + key_states.shape[2]
        key, value = (buffer[: self.count, :, : self.used] for buffer in self.buffers)
        key[:, :, begin:], value[:, :, begin:] = key_states, value_states
        return key, value

    def get_seq_length(self) -> int:
        return self.used

    def write(self, row: int, key: Tensor, value: Tensor) -> None:
        """Put a sequence (heads, L, width) into a row so that it ends at the last column in use."""
        for buffer, states in zip(self.buffers, (key, value), strict=True):
            buffer[row, :, self.used - states.shape[1] : self.used] = states

    def overwrite(self, row: int, by: int) -> None:
        for buffer in self.buffers:
            buffer[row, :, : self.used] = buffer[by, :, : self.used]

    def shift(self, by: int) -> None:
        """Move everything `by` columns to the right (negative: left)."""
        low, high = max(0, -by), self.used
        for buffer in self.buffers:
            buffer[: self.count, :, low + by : high + by] = buffer[: self.count, :, low:high].clone()
        self.used += by

    def reserve(self, rows: int, columns: int) -> None:
        """Buffers of this size; contents stay where they are. Zeros, because a masked NaN would still be one."""
        for index, old in enumerate(self.buffers):
            new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
            new[: self.count, :, : self.used] = old[: self.count, :, : self.used]
            self.buffers[index] = new


def _room(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns to hold where so many are in use. Growing costs a copy of what is in use, which every step reads
    anyway; a row to spare costs as much as the longest row."""
    return rows + 1 + rows // 4, columns + BLOCK


class Rows:
    """The batch. Row numbers are 0 … len − 1; when row i leaves, the last row becomes row i."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._slabs: list[_Slab] = []
        self._cache = Cache(layers=[])
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def columns(self) -> int:
        """Columns in use: the length of the longest row, and some that no row uses any more."""
        return self._slabs[0].used if self._slabs else 0

    def join(self, found: Read, which: Sequence[int]) -> None:
        """Append the sequences `which` of those just read."""
        lengths = [int(found.lengths[i]) for i in which]
        needed = max(lengths, default=0)
        if not self._slabs:
            shapes = [(k[:0, :, :0], v[:0, :, :0]) for k, v in found.layers]
            self._slabs = [_Slab(key.contiguous(), value.contiguous()) for key, value in shapes]
            self._cache = Cache(layers=list(self._slabs))
        self._make_room(len(self) + len(which), max(0, needed - self.columns))
        if needed > self.columns:
            self._shift(needed - self.columns)
        for slab, (key, value) in zip(self._slabs, found.layers, strict=True):
            for offset, (source, length) in enumerate(zip(which, lengths, strict=True)):
                slab.write(len(self) + offset, key[source, :, -length:], value[source, :, -length:])
            slab.count = len(self) + len(which)
        self._lengths += lengths

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
        last = self._lengths.pop()
        if row < len(self._lengths):
            self._lengths[row] = last
        for slab in self._slabs:
            if row < len(self._lengths):
                slab.overwrite(row, len(self._lengths))
            slab.count = len(self._lengths)
            if not slab.count:
                slab.used = 0
        spare = self.columns - max(self._lengths, default=0)
        if spare >= max(BLOCK, self.columns // 4):
            self._shift(-spare)
        self._give_back()

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; last hidden states (rows, d)."""
        self._make_room(len(self), 1)
        device = self._backbone.device
        lengths = torch.tensor(self._lengths, device=device)
        columns = self.columns + 1
        mask = torch.arange(columns, device=device)[None] >= (columns - 1 - lengths)[:, None]
        with self._backbone.precision():
            run = self._backbone.model.base_model(
                input_ids=torch.tensor(tokens, device=device)[:, None],
                attention_mask=mask.long(),
                position_ids=lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._lengths = [length + 1 for length in self._lengths]
        hidden: Tensor = run.last_hidden_state[:, -1]
        return hidden

    def _make_room(self, rows: int, columns: int) -> None:
        """Room for `rows` rows and `columns` more columns in every layer; what is copied for one is fitted in both."""
        held, _, width, _ = self._slabs[0].buffers[0].shape
        if rows > held or self.columns + columns > width:
            self._reserve(*_room(rows, self.columns + columns))

    def _give_back(self) -> None:
        """Smaller buffers when twice what is needed is held: many short rows and a few long ones, one after the other,
        would else end in room for many long ones."""
        held, _, width, _ = self._slabs[0].buffers[0].shape
        rows, columns = _room(len(self), self.columns)
        if held * width > 2 * rows * columns:
            self._reserve(rows, columns)

    def _reserve(self, rows: int, columns: int) -> None:
        for slab in self._slabs:
            slab.reserve(rows, columns)

    def _shift(self, by: int) -> None:
        for slab in self._slabs:
            slab.shift(by)
