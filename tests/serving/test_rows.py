"""The batch: whatever joins and leaves when, every row is what it would have been alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.backbone.encoding import Encoded, encode
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.prefix_cache import PrefixCache
from clinprompt.evaluation.decoding import Decoder
from clinprompt.serving.rows import BLOCK, Reading, Rows, read
from tests.models import tiny

LIMIT = 12
POSITIONS = ("start", "end", "front")


def reading(backbone: Backbone, source: str, prompt: torch.Tensor, position: str) -> Reading:
    ids = encode(backbone, [source], None, position)[0]  # type: ignore[arg-type]
    if position == "end":
        return Reading(ids, prompt=prompt)
    rest = np.ascontiguousarray(ids.ids[ids.insert_at :])
    return Reading(Encoded(rest, len(rest), 0), PrefixCache(backbone).states(prompt, position))  # type: ignore[arg-type]


@torch.inference_mode()
def run_mixed(backbone: Backbone, readings: list[Reading], chance: random.Random) -> list[list[int]]:
    """Greedy answers of a batch that sequences join at random times and leave when they end."""
    rows, active, next_one = Rows(backbone), [], 0
    answers: list[list[int]] = [[] for _ in readings]
    while next_one < len(readings) or active:
        if next_one < len(readings) and (not active or chance.random() < 0.5):
            fresh = list(range(next_one, min(len(readings), next_one + chance.randint(1, 3))))
            next_one += len(fresh)
            found = read(backbone, [readings[i] for i in fresh])
            tokens = backbone.head(found.hidden).argmax(-1).tolist()
            going = [i for i, token in enumerate(tokens) if token not in backbone.end_ids]
            for i in going:
                answers[fresh[i]].append(tokens[i])
            rows.join(found, going)
            active += [fresh[i] for i in going]
        if not active:
            continue
        tokens = backbone.head(rows.step([answers[i][-1] for i in active])).argmax(-1).tolist()
        for row in reversed(range(len(active))):
            if tokens[row] in backbone.end_ids or len(answers[active[row]]) >= LIMIT:
                rows.leave(row)
                last = active.pop()
                if row < len(active):
                    active[row] = last
            else:
                answers[active[row]].append(tokens[row])
        assert len(rows) == len(active)
    return answers


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "qwen3", "gemma2", "gpt2"])
def test_mixed_equals_alone(kind: str) -> None:
    """gpt_oss has windows of 16 tokens: columns between a row's tokens would push text out of them."""
    for seed in range(2):
        chance = random.Random(seed)
        backbone = tiny(kind, bos=kind == "llama")
        sources = ["x" * chance.randint(1, 60) + f"{i} text" for i in range(9)]
        prompts = [
            torch.randn(chance.choice([3, 5, 9]), backbone.width, generator=torch.Generator().manual_seed(i))
            for i in range(9)
        ]
        places = [chance.choice(POSITIONS) for _ in sources]
        readings = [reading(backbone, *one) for one in zip(sources, prompts, places, strict=True)]
        mixed = run_mixed(backbone, readings, chance)
        for source, prompt, place, ids in zip(sources, prompts, places, mixed, strict=True):
            alone = Decoder(backbone, prompt[None], place).generate(  # type: ignore[arg-type]
                encode(backbone, [source], None, place),  # type: ignore[arg-type]
                [0],
                LIMIT,
            )
            assert backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() == alone[0]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_order_gives_the_same(sizes: list[int], chance: random.Random) -> None:
    backbone = tiny("llama", bos=True)
    prompt = torch.randn(4, backbone.width, generator=torch.Generator().manual_seed(1))
    readings = [reading(backbone, "y" * size, prompt, "start") for size in sizes]
    assert run_mixed(backbone, readings, chance) == run_mixed(backbone, readings, random.Random(0))


@torch.inference_mode()
def test_columns_of_rows_that_left_are_given_back() -> None:
    backbone = tiny("llama")
    prompt = torch.randn(2, backbone.width)
    long, short = (reading(backbone, "z" * size, prompt, "start") for size in (400, 3))
    rows = Rows(backbone)
    rows.join(read(backbone, [long, short]), [0, 1])
    assert rows.columns >= 400
    rows.leave(0)
    assert len(rows) == 1 and rows.columns < BLOCK
    rows.leave(0)
    assert rows.columns == 0


def held(rows: Rows) -> int:
    buffer = rows._slabs[0].buffers[0]
    return int(buffer.shape[0] * buffer.shape[2])


def test_room_follows_what_is_in_use() -> None:
    """Many short rows, then a few long ones: at no time is there room for many long ones."""
    backbone = tiny("llama")
    prompt = backbone.embed(torch.arange(4)).detach()
    short, long = (reading(backbone, text, prompt, "start") for text in ("a", "word " * 200))
    rows = Rows(backbone)

    with torch.inference_mode():
        rows.join(read(backbone, [short] * 64), range(64))
        for row in reversed(range(64)):
            rows.leave(row)
        assert held(rows) <= 64 * 2 * BLOCK
        found = read(backbone, [long])
        rows.join(found, [0])
        assert held(rows) < 64 * int(found.lengths[0]) / 3  # before: 64 rows, and more columns than the longest
        before = [buffer[:1, :, : rows.columns].clone() for slab in rows._slabs for buffer in slab.buffers]
        rows.join(read(backbone, [short] * 8), range(8))
        for row in reversed(range(1, 9)):
            rows.leave(row)
    after = [buffer[:1, :, : rows.columns] for slab in rows._slabs for buffer in slab.buffers]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@torch.inference_mode()
def test_room_stays_near_what_is_in_use_while_one_row_grows() -> None:
    """What a soak met: a wave of rows, one of which goes on and on while others come and go. Room for
    all rows that were ever there, as long as the longest, was half a gigabyte on the embedded backbone."""
    backbone = tiny("llama")
    short = reading(backbone, "a text", backbone.embed(torch.arange(4)).detach(), "start")
    rows, chance, most = Rows(backbone), random.Random(0), 0.0
    rows.join(read(backbone, [short] * 40), range(40))
    for _ in range(250):
        rows.step([5] * len(rows))
        while len(rows) > 1 and chance.random() < 0.4:
            rows.leave(len(rows) - 1)
        if chance.random() < 0.1:
            coming = chance.randint(1, 8)
            rows.join(read(backbone, [short] * coming), range(coming))
        most = max(most, held(rows) / ((len(rows) + 2) * (rows.columns + BLOCK)))
    assert rows.columns > 250
    assert most <= 2.6  # a quarter more rows, and twice that before anything is given back
