"""Relaxation, the choice at its end, its file and its diagram."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clinprompt.architecture.diagram import cell_svg
from clinprompt.architecture.discrete import argmax_operations, load_architecture, pruned, save_architecture
from clinprompt.architecture.network import Architecture, start_network
from clinprompt.architecture.relaxed import Relaxation, annealed, entropies, gumbel, one_hot
from clinprompt.architecture.space import OPERATIONS
from clinprompt.errors import TrainingError


def logits(*rows: list[float]) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(rows))


def test_straight_through_computes_with_one_and_learns_as_gumbel_does() -> None:
    gradients = []
    noise = gumbel(torch.Size([1, 3]), 0, 0)
    aim = torch.tensor([[1.0, -2.0, 0.5]])
    for rule in ("gumbel", "straight-through"):
        chosen = Relaxation(logits([0.2, 0.1, -0.3]), rule, temperature=0.7, noise=noise)  # type: ignore[arg-type]
        weights = chosen.weights()
        if rule == "straight-through":
            torch.testing.assert_close(weights.detach(), one_hot(weights))
        else:
            assert 0 < float(weights.detach().min()) < 1
        (weights * aim).sum().backward()
        gradients.append(chosen.logits.grad)
    torch.testing.assert_close(*gradients)


def test_noise_hangs_on_seed_and_step_only_and_favours_by_softmax() -> None:
    assert torch.equal(gumbel(torch.Size([2, 3]), 1, 5), gumbel(torch.Size([2, 3]), 1, 5))
    assert not torch.equal(gumbel(torch.Size([2, 3]), 1, 5), gumbel(torch.Size([2, 3]), 1, 6))
    shown = (torch.tensor([1.0, 0.0, -1.0]) + gumbel(torch.Size([20_000, 3]), 0, 0)).argmax(-1)
    shares = torch.bincount(shown, minlength=3) / len(shown)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0, -1.0]).softmax(-1), atol=0.02, rtol=0)


def test_temperature_falls_to_its_end_and_sharpens() -> None:
    assert annealed(1.0, 0.1, 0.0) == 1.0 and annealed(1.0, 0.1, 1.0) == pytest.approx(0.1)
    warm, cold = (Relaxation(logits([1.0, 0.0]), temperature=t).weights().detach()[0, 0] for t in (1.0, 0.1))
    assert float(cold) > float(warm) > 0.5


def test_entropy_is_one_when_undecided_and_falls() -> None:
    values = entropies(torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [100.0, 0.0, 0.0]]))
    assert values[0] == pytest.approx(1.0) and values[0] > values[1] > values[2] >= 0
    assert entropies(torch.zeros(2, 1)) == [0.0, 0.0]


def test_the_largest_logit_is_chosen_and_only_its_weights_stay() -> None:
    slots = [("linear", "zero"), ("linear", "norm")]
    assert argmax_operations(slots, torch.tensor([[0.1, 0.2], [0.0, 3.0]])) == ("zero", "norm")
    parameters = start_network(slots, 4, 2, 3, [0]) | {"projection": torch.zeros(1)}
    kept = set(pruned(parameters, ("zero", "norm")))
    assert kept == {"embeddings", "slot1.norm.scale", "slot1.norm.shift", "projection"}


@given(
    st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=4),
    st.integers(1, 4096),
    st.integers(1, 4096),
    st.integers(1, 1024),
)
def test_an_architecture_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], width: int, hidden: int, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "architecture.yaml"
    whole = Architecture(operations=tuple(names), width=width, hidden=hidden, length=length, search={"trials": 2})
    save_architecture(whole, path)
    assert load_architecture(path) == whole
    save_architecture(whole.bare(), path)
    assert load_architecture(path) == whole.bare() and "search" not in path.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("operations: [mlp-gel]", "unknown operation 'mlp-gel'"),
        ("operations: [zero, zero, zero, zero, zero]", "at most 4"),
        ("width: 0", "`width`"),
        ("wdth: 3", "`wdth`.*Known: operations, width, hidden, length"),
        ("[1, 2]", "a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=said) as caught:
        load_architecture(path)
    assert "mine.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.yaml: no such architecture file"):
        load_architecture(tmp_path / "none.yaml")


def test_the_diagram_is_svg_with_the_cell_and_its_weights() -> None:
    chosen = Architecture(operations=("attention", "zero"), length=7, width=9)
    svg = cell_svg(chosen, [[0.7, 0.3], [0.4, 0.6]], ("attention", "zero"), [0.88, 0.97])
    texts = [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert "embeddings 7 × 9" in texts and "attention 0.70" in texts and "entropy 0.97 of 1" in texts
    bare = [node.text for node in ElementTree.fromstring(cell_svg(chosen)).iter() if node.tag.endswith("text")]
    assert bare == ["embeddings 7 × 9", "attention", "zero", "+ embeddings", "keys and values of every layer"]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs" / "architectures").glob("*.yaml")))
def test_architectures_of_the_repository_are_read_and_say_what_they_cost(path: Path) -> None:
    found = load_architecture(path)
    assert found.search["seconds"] > 0 and found.search["tasks"]
    assert found.search["gap"] == pytest.approx(found.search["discrete_loss"] - found.search["relaxed_loss"], abs=2e-4)
