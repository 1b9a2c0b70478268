"""Inspection against direct formulations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import clinprompt.prompts.inspect as inspection
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import Metaprompt, save_metaprompt, save_task
from clinprompt.prompts.bank import unit_vectors
from clinprompt.prompts.initialisation import from_text
from clinprompt.prompts.inspect import departures, describe, heat_map_svg, nearest_tokens, norms, task_similarity
from tests.models import tiny
from tests.prompts.cards import card, metaprompt_for, task_for


def test_nearest_tokens_equal_a_full_cosine_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    prompt = torch.randn(4, backbone.width, generator=torch.Generator().manual_seed(0))
    matrix = backbone.model.get_input_embeddings().weight.numpy()
    matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12)
    cosines = prompt.numpy() @ matrix.T / np.linalg.norm(prompt.numpy(), axis=1, keepdims=True)
    whole = nearest_tokens(backbone, prompt, k=7)
    for row, neighbours in zip(cosines, whole, strict=True):
        assert [n.id for n in neighbours] == np.argsort(-row)[:7].tolist()
        assert [n.cosine for n in neighbours] == pytest.approx(sorted(row, reverse=True)[:7], abs=1e-4)
    monkeypatch.setattr(inspection, "CHUNK", 10)
    assert nearest_tokens(backbone, prompt, k=7) == whole


def test_a_prompt_made_of_words_is_nearest_to_them() -> None:
    backbone = tiny()
    found = nearest_tokens(backbone, from_text(backbone, 5, "fever")[0], k=1)
    assert "".join(neighbours[0].token for neighbours in found) == "fever"
    assert all(neighbours[0].cosine == pytest.approx(1.0, abs=1e-4) for neighbours in found)


def test_similarity_against_numpy() -> None:
    metaprompt = metaprompt_for(tiny(), tasks=4)
    prompts = np.stack([metaprompt.prompt(n).numpy().ravel() for n in metaprompt.names])
    for centred in (False, True):
        x = prompts - prompts.mean(axis=0) if centred else prompts
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        names, matrix = task_similarity(metaprompt, centred=centred)
        assert names == metaprompt.names
        np.testing.assert_allclose(matrix, x @ x.T, atol=2e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_departures_find_the_changed_task_position_and_dimension(rank: int) -> None:
    backbone = tiny()
    u, v = unit_vectors(2, 5, backbone.width, rank)
    u[..., 1:] = 0
    u[1, 3, 0], v[1, 7, 0] = 3.0, 4.0
    metaprompt = Metaprompt(torch.ones(5, backbone.width), u, v, card(backbone, "metaprompt", ["still", "moved"]))
    still, moved = departures(metaprompt)
    assert (still.u, still.v, still.product) == (0, 0, 0)
    assert moved.positions[0][0] == 3 and moved.dimensions[0][0] == 7
    assert moved.u == pytest.approx(2 / np.sqrt(5 * rank), abs=1e-4)
    assert moved.v == pytest.approx(3.0 / np.sqrt(backbone.width * rank), abs=1e-4)
    change = u[1].numpy() @ v[1].numpy().T - 1
    assert moved.product == pytest.approx(np.sqrt((change**2).mean()), abs=1e-4)


def test_norms() -> None:
    backbone = tiny()
    prompt = torch.zeros(3, backbone.width)
    prompt[1, :2] = torch.tensor([3.0, 4.0])
    found = norms(backbone, prompt)
    lengths = np.linalg.norm(backbone.model.get_input_embeddings().weight.numpy(), axis=1)
    assert found["positions"] == [0, 5, 0]
    assert found["vocabulary_mean"] == pytest.approx(lengths.mean(), abs=1e-3)
    assert found["vocabulary_largest"] == pytest.approx(lengths.max(), abs=1e-3)


def test_description_is_json_and_true(tmp_path: Path) -> None:
    backbone = tiny()
    path = tmp_path / "meta.safetensors"
    saved = save_metaprompt(metaprompt_for(backbone, tasks=2), path)
    found = json.loads(json.dumps(describe(path)))
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and found["bytes"] == path.stat().st_size
    assert found["digest"] == saved.digest and found["intact"]
    assert found["tensors"]["u"]["shape"] == [2, 5, 1]
    assert found["numbers"] == 5 * backbone.width + 2 * (5 + backbone.width)
    assert [task["name"] for task in found["card"]["tasks"]] == ["task0", "task1"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert not describe(path)["intact"]


def test_a_task_of_vectors_is_described_without_its_metaprompt(tmp_path: Path) -> None:
    backbone = tiny()
    task = task_for(backbone)
    vectors = type(task)({"u": torch.ones(5, 1), "v": torch.ones(backbone.width, 1)}, task.card, torch.zeros(1))
    save_task(vectors, tmp_path / "task.safetensors")
    assert describe(tmp_path / "task.safetensors")["numbers"] == 5 + backbone.width


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match="not one of clinprompt's"):
        describe(tmp_path / "x.safetensors")


def test_heat_map_is_self_contained_and_escaped() -> None:
    svg = heat_map_svg(["a<b", "c&d"], [[1.0, -0.5], [-0.5, 1.0]], title="x > y")
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"a<b", "c&d", "x > y", "1.00", "-0.50"} <= set(texts)
    fills = [e.get("fill") for e in root.iter() if e.tag.endswith("rect")][1:]
    assert fills == ["rgb(230,97,1)", "rgb(144,178,214)", "rgb(144,178,214)", "rgb(230,97,1)"]
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
