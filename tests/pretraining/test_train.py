"""Killed and repeated = never killed; and the lean model is the model that Transformers loads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pretraining.corpus import Document
from pretraining.export import export
from pretraining.model import ChunkedCrossEntropy, Model, ModelConfig, document_mask, weighted_loss
from pretraining.packing import Piece, Shard, pack
from pretraining.tokenizer import save as save_tokenizer
from pretraining.tokenizer import train as train_tokenizer
from pretraining.train import HELD_OUT, Phase, Recipe, Schedule, load_state, rows_for, train

TINY = ModelConfig(vocabulary=300, hidden=32, layers=2, heads=2, intermediate=48, context=64, codes=8)


def shard(length: int, rows: int, seed: int) -> Shard:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 308, (rows, length), generator=generator, dtype=torch.int16)
    weights = torch.randint(0, 3, (rows, length), generator=generator, dtype=torch.uint8)
    weights[ids >= 300] = 0
    segments = (1 + torch.arange(length) // 7).expand(rows, length).to(torch.uint8).contiguous()
    return Shard(ids, segments, weights)


@pytest.fixture
def shards() -> dict[str, Shard]:
    return {"a": shard(16, HELD_OUT + 10, 0), "b": shard(32, HELD_OUT + 6, 1)}


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(TINY, [Phase(200, {"a": 3}, {"b": 2}, 2), Phase(1e9, {"a": 2}, {"b": 2}, 3)], warmup_steps=2)


def test_interrupted_run_ends_bit_identical(tmp_path: Path, shards: dict[str, Shard], recipe: Recipe) -> None:
    whole = train(recipe, shards, tmp_path / "whole", steps=12, curve_steps=5)
    for stop in (3, 4, None):
        parts = train(recipe, shards, tmp_path / "parts", steps=12, curve_steps=5, stop_after=stop)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    progress = [load_state(tmp_path / name / "latest.safetensors")[2] for name in ("whole", "parts")]
    assert progress[0].step == progress[1].step == 12
    assert progress[0].cursors == progress[1].cursors
    assert len((tmp_path / "whole" / "curve.csv").read_text().splitlines()) == 3


def test_checkpoint_of_another_shape_is_refused(tmp_path: Path, shards: dict[str, Shard], recipe: Recipe) -> None:
    train(recipe, shards, tmp_path, steps=1)
    other = Recipe(ModelConfig(vocabulary=300, hidden=16, layers=1, heads=1, codes=8), recipe.phases)
    with pytest.raises(SystemExit, match="another model shape"):
        train(other, shards, tmp_path, steps=2)


def test_training_learns(tmp_path: Path, recipe: Recipe) -> None:
    """A row that repeats one pair of tokens is predicted after a few steps."""
    ids = torch.tensor([5, 6] * 8, dtype=torch.int16).expand(HELD_OUT + 20, 16).contiguous()
    one = torch.ones_like(ids, dtype=torch.uint8)
    repeated = Shard(ids, one, one)
    model = train(recipe, {"a": repeated, "b": repeated}, tmp_path, steps=80, bf16=False)
    assert float(weighted_loss(model, ids[:1].int(), one[:1], one[:1]).detach()) < 0.5


def test_rows_walk_through_every_row_once_per_epoch_and_spare_the_held_out(shards: dict[str, Shard]) -> None:
    usable = len(shards["a"]) - HELD_OUT
    walked = torch.cat([rows_for(shards["a"], 4, cursor, 0) for cursor in range(0, 2 * usable, 4)])
    assert sorted(walked[:usable].tolist()) == list(range(HELD_OUT, HELD_OUT + usable))
    assert sorted(walked[usable:].tolist()) == sorted(walked[:usable].tolist())
    assert walked[:usable].tolist() != walked[usable:].tolist()


def test_schedule_rises_stays_and_falls_to_zero(recipe: Recipe) -> None:
    schedule = Schedule(recipe, 100, None, 0.0)
    rates = [schedule.multiplier(step) for step in range(100)]
    assert rates[0] == 0.5 and rates[1] == 1.0
    assert all(rate == 1.0 for rate in rates[1:70])
    assert rates[-1] < 0.05
    assert all(a >= b for a, b in pairwise(rates[1:]))


def test_chunked_cross_entropy_equals_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(20, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 20, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    loss = ChunkedCrossEntropy.apply(hidden, table, targets, weights, 4)
    loss.backward()
    gradients = hidden.grad, table.grad
    hidden.grad = table.grad = None
    plain = (weights * F.cross_entropy(hidden @ table.T, targets, reduction="none")).sum()
    plain.backward()
    assert torch.allclose(loss.double(), plain.double(), rtol=1e-6)
    assert gradients[0] is not None and torch.allclose(gradients[0], hidden.grad, atol=1e-6)
    assert gradients[1] is not None and torch.allclose(gradients[1], table.grad, atol=1e-6)


def test_documents_of_a_row_do_not_see_each_other() -> None:
    model = Model(TINY)
    ids = torch.randint(2, 300, (1, 12), generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([[1] * 5 + [2] * 7])
    together = model.logits(ids, document_mask(segments))
    # Rotary positions are relative, so the second document alone must give the same.
    assert torch.allclose(together[:, 5:], model.logits(ids[:, 5:]), atol=1e-5)
    assert torch.allclose(together[:, :5], model.logits(ids[:, :5]), atol=1e-5)


def test_pack_keeps_every_piece_whole() -> None:
    pieces = [Piece(list(range(n, n + size)), [1] * size) for n, size in enumerate((9, 3, 16, 5, 7, 2, 12))]
    packed = pack(pieces, 16)
    rows = zip(packed.ids.tolist(), packed.segments.tolist(), strict=True)
    found = []
    for ids, segments in rows:
        for number in sorted(set(segments) - {0}):
            found.append([i for i, s in zip(ids, segments, strict=True) if s == number])
    assert sorted(found) == sorted(piece.ids for piece in pieces)
    assert int(packed.weights.sum()) == sum(len(p.ids) for p in pieces)
    with pytest.raises(ValueError, match="does not fit"):
        pack([Piece([1] * 17, [1] * 17)], 16)


def test_export_gives_the_same_logits_in_transformers(tmp_path: Path, documents: list[Document]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer([d.text for d in documents], 300)
    save_tokenizer(tokenizer, tmp_path / "tokenizer", 64)
    model = Model(TINY, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # make attention and gates matter
    export(model.state_dict(), TINY, tmp_path / "tokenizer", tmp_path / "out", "float32")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, model.logits(ids), atol=1e-5)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Find: Drug.\nText: aspirin 75 mg – naïve\nAnswer:"
    assert read.decode(read(text)["input_ids"]) == text
    assert (read.pad_token_id, read.eos_token_id, read.bos_token) == (0, 1, None)
