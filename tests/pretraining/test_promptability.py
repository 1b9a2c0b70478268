"""The development measure: what is frozen stays frozen, both methods learn, answers are read and scored as defined."""

from __future__ import annotations

import pytest
import torch
from pretraining.model import Model, ModelConfig
from pretraining.packing import EOS_ID
from pretraining.promptability import Sample, adapted, f1, fit, generate, prefix, read_answer

TINY = ModelConfig(vocabulary=40, hidden=32, layers=2, heads=2, intermediate=48, context=64, codes=5)


@pytest.mark.parametrize(("method", "rate"), [("prompt", 0.1), ("lora", 0.01)])
def test_only_the_added_parameters_change_and_the_loss_falls(method: str, rate: float) -> None:
    weights = Model(TINY, seed=1).state_dict()
    weights["model.embed_tokens.weight"] *= 10  # a head that can tell words apart at all
    before = {name: tensor.clone() for name, tensor in weights.items()}
    model, trained = adapted(weights, TINY, method, 0)
    data = [Sample([2 + i, 9, 10], [20, 21, EOS_ID], ()) for i in range(16)]
    first = fit(model, trained, data, rate, 1, 0)
    last = fit(model, trained, data, rate, 60, 0)
    assert last < first - 0.1  # a random model is hard to steer
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert {id(p) for p in model.parameters() if p.requires_grad} <= {id(p) for p in trained}
    assert len(prefix(model)) == (20 if method == "prompt" else 0)


def test_low_rank_change_starts_at_nothing() -> None:
    weights = Model(TINY, seed=1).state_dict()
    plain, _ = adapted(weights, TINY, "prompt", 0)
    changed, _ = adapted(weights, TINY, "lora", 0)
    ids = torch.arange(2, 12)[None]
    assert torch.equal(plain(ids), changed(ids))


def test_generated_answers_do_not_depend_on_the_batch() -> None:
    model, _ = adapted(Model(TINY, seed=2).state_dict(), TINY, "prompt", 0)
    data = [Sample([3, 4, 5, 6, 7, 8], [], ()), Sample([9, 10], [], ())]
    together = generate(model, data, most=6)
    assert together == [generate(model, [sample], most=6)[0] for sample in data]


def test_scores_count_repeated_mentions() -> None:
    assert read_answer(" a; b c; a") == ("a", "b c", "a")
    assert read_answer(" none") == () == read_answer("")
    assert f1([("a", "a", "x")], [("a", "b")]) == pytest.approx(2 * 1 / 5)
    assert f1([()], [()]) == 0.0
