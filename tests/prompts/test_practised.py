"""Prompts of the pretraining as places to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts import practised as module
from clinprompt.prompts.files import write_atomically
from clinprompt.prompts.practised import Practised, fitted, load_practised, practised_of, save_practised
from clinprompt.training.examples import prepare
from clinprompt.training.loop import prompt_loss
from clinprompt.training.starts import nearest_practised
from tests.models import tiny
from tests.training.synthetic import nli_task


def test_they_stand_last_and_lose_their_first_rows_when_too_long() -> None:
    practised, free = torch.arange(12.0).view(2, 3, 2), torch.full((5, 2), -1.0)
    longer = fitted(practised, free)
    assert longer.shape == (2, 5, 2) and torch.equal(longer[:, 2:], practised) and (longer[:, :2] == -1).all()
    assert torch.equal(fitted(practised, free[:2]), practised[:, 1:])


def test_round_trip_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    save_practised(Practised(torch.ones(2, 3, 4), ("a", "b"), "f"), path)
    found = load_practised(path)
    assert found.names == ("a", "b") and found.fingerprint == "f" and torch.equal(found.prompts, torch.ones(2, 3, 4))
    other = tmp_path / "q.safetensors"
    write_atomically({"prompts": torch.ones(1)}, {}, other)
    with pytest.raises(ArtifactError, match=r"q\.safetensors"):
        load_practised(other)


def test_the_nearest_one_is_found_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    path = tmp_path / "p.safetensors"
    candidates = torch.randn(12, 3, backbone.width, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "packaged_practised", lambda: path)
    save_practised(Practised(candidates, tuple(map(str, range(12))), "another"), path)
    with pytest.raises(BackboneError, match="vocabulary"):
        practised_of(backbone)
    load_practised.cache_clear()
    save_practised(Practised(candidates, tuple(map(str, range(12))), backbone.fingerprint), path)
    source = nli_task()
    examples = prepare(backbone, source.task, source.train[:4], [], prompt_length=5, position="start", reserve=32).train
    chosen = nearest_practised(backbone, examples, 5, seed=3)
    losses = [prompt_loss(backbone, examples, torch.cat([chosen[:2], c.half().float()])) for c in candidates]
    assert torch.equal(chosen[2:], candidates[min(range(12), key=lambda i: losses[i])].half().float())
    load_practised.cache_clear()
