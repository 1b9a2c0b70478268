"""Files that are complete or absent, and places where none can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from clinprompt import api
from clinprompt.errors import ArtifactError
from clinprompt.prompts.files import read_file, require_folder, write_atomically

TENSORS = {"x": torch.ones(2)}


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"file/x\.safetensors: cannot be written \(.*the disk has room"):
        write_atomically(TENSORS, {}, tmp_path / "file" / "x.safetensors")
    out = tmp_path / "out.safetensors"
    (tmp_path / f".{out.name}.{os.getpid()}.tmp").mkdir()  # what safetensors itself then cannot open
    with pytest.raises(ArtifactError, match=r"out\.safetensors: cannot be written"):
        write_atomically(TENSORS, {}, out)
    assert not out.exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.safetensors"
    write_atomically(TENSORS, {"a": 1}, out)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="No space left on device"):
            write_atomically({}, {"a": 2}, out)
    assert read_file(out)[1] == {"a": 1} and list(tmp_path.iterdir()) == [out]


def test_the_place_is_checked_before_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="file: is a file, and a folder is needed"):
        api.require_out(tmp_path / "file" / "deep" / "x.safetensors", 1)
    with pytest.raises(ArtifactError, match="file: is a file, and a folder is needed"):
        api.require_out(tmp_path / "file", 2)
    require_folder(tmp_path / "not" / "yet")
    require_folder(Path())
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(os, "access", lambda place, _: place != tmp_path)  # root may write anywhere
    with pytest.raises(ArtifactError, match="not a folder you may write to"):
        api.require_out(tmp_path / "not" / "yet.safetensors", 1)
