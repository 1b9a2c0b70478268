"""Artifacts: exact round trips, and every kind of wrong file refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import (
    BackboneNote,
    Card,
    DataNote,
    Metaprompt,
    TaskPrompt,
    artifact_kind,
    load_metaprompt,
    load_task,
    read_card,
    require_backbone,
    save_metaprompt,
    save_task,
)
from clinprompt.tasks.definition import TaskDefinition
from tests.models import tiny
from tests.prompts.cards import definition, metaprompt_for, task_for

NOTE = BackboneNote(name="b", fingerprint="f" * 16, width=7)


def vectors_of(metaprompt: Metaprompt, row: int = 0) -> TaskPrompt:
    """A `vectors` task file that starts from one source task."""
    card = metaprompt.card.model_copy(
        update={"kind": "task", "tasks": metaprompt.card.tasks[:1], "metaprompt": metaprompt.digest, "mode": "vectors"}
    )
    return TaskPrompt({"u": metaprompt.u[row], "v": metaprompt.v[row]}, card, metaprompt.shared)


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    """The file with another card or other tensors, as somebody else's program would write it."""
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["clinprompt"])
    save_file(tensors or load_file(path), path, metadata={"clinprompt": json.dumps({**card, **changes})})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, length: int, width: int, tasks: int, rank: int, seed: int, own: bool
) -> None:
    folder = tmp_path_factory.mktemp("files")
    random = torch.Generator().manual_seed(seed)
    card = Card(
        kind="metaprompt",
        backbone=BackboneNote(name="b", fingerprint="0", width=width),
        position="end",
        tasks=tuple(definition(f"t{i}") for i in range(tasks)),
        settings={"seed": seed, "nested": {"rate": 0.1}},
        data=(DataNote(task="t0", licence="CC BY 4.0", permissive=True, records=3, examples=4, digest="d"),),
        metrics={"f1": 0.5},
    )
    shapes = ((length, width), (tasks, length, rank), (tasks, width, rank))
    shared, u, v = (torch.randn(*shape, generator=random) for shape in shapes)
    saved = save_metaprompt(Metaprompt(shared, u, v, card), folder / "a.metaprompt.safetensors")
    read = load_metaprompt(folder / "a.metaprompt.safetensors")
    assert read.card == saved.card == card.model_copy(update={"digest": saved.digest})
    assert torch.equal(read.shared, shared) and torch.equal(read.u, u) and torch.equal(read.v, v)
    task = vectors_of(read)
    if own:
        task = TaskPrompt({"prompt": task.prompt}, task.card)
    save_task(task, folder / "t.safetensors")
    back = load_task(folder / "t.safetensors")
    assert torch.equal(back.prompt, task.prompt) and back.card.tasks == task.card.tasks
    assert torch.allclose(back.prompt, read.prompt("t0"), atol=1e-6)


def test_a_task_file_of_an_8b_model_is_kilobytes(tmp_path: Path) -> None:
    """l = 100, d = 4,096, rank one, fp32: 4,196 numbers beside the card."""
    metaprompt = replace(metaprompt_for(tiny()), shared=torch.randn(100, 4096))
    shape = Metaprompt(metaprompt.shared, torch.randn(3, 100, 1), torch.randn(3, 4096, 1), metaprompt.card)
    task = vectors_of(shape)
    save_task(task, tmp_path / "v.safetensors")
    save_task(TaskPrompt({"prompt": task.prompt}, task.card), tmp_path / "p.safetensors")
    assert 4 * 4196 < (tmp_path / "v.safetensors").stat().st_size < 4 * 4196 + 2048 < 19 * 1024
    assert (tmp_path / "p.safetensors").stat().st_size > 1600 * 1024


@pytest.mark.parametrize("kind", ["metaprompt", "task"])
def test_one_flipped_byte_is_noticed(kind: str, tmp_path: Path) -> None:
    backbone, path = tiny(), tmp_path / "x.safetensors"
    save_metaprompt(metaprompt_for(backbone), path) if kind == "metaprompt" else save_task(task_for(backbone), path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in (start, (start + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArtifactError, match="the file is damaged"):
            load_metaprompt(path) if kind == "metaprompt" else load_task(path)
    path.write_bytes(whole[:-5])
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        load_metaprompt(path)


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    backbone = tiny()
    save_metaprompt(metaprompt_for(backbone), tmp_path / "m.safetensors")
    save_task(task_for(backbone), tmp_path / "t.safetensors")
    assert [artifact_kind(tmp_path / f"{x}.safetensors") for x in "mt"] == ["metaprompt", "task"]
    with pytest.raises(ArtifactError, match="this is a metaprompt file; a task file is needed"):
        load_task(tmp_path / "m.safetensors")
    with pytest.raises(ArtifactError, match="this is a task file; a metaprompt file is needed"):
        load_metaprompt(tmp_path / "t.safetensors")


def test_vectors_find_their_metaprompt_by_digest_only(tmp_path: Path) -> None:
    backbone = tiny()
    right, wrong = metaprompt_for(backbone), metaprompt_for(backbone, seed=1)
    save_task(vectors_of(right), tmp_path / "task.safetensors")
    save_metaprompt(wrong, tmp_path / "wrong.metaprompt.safetensors")
    with pytest.raises(ArtifactError, match=f"needs the metaprompt {right.digest}"):
        load_task(tmp_path / "task.safetensors")
    save_metaprompt(right, tmp_path / "elsewhere" / "any-name.safetensors")
    found = load_task(tmp_path / "task.safetensors", [tmp_path / "elsewhere" / "any-name.safetensors"])
    torch.testing.assert_close(found.prompt, right.prompt("task0"))
    for absent, problem in ((tmp_path / "absent", "no such file"), (tmp_path / "elsewhere", "is a folder")):
        with pytest.raises(ArtifactError, match=f"{absent}: {problem}"):
            load_task(tmp_path / "task.safetensors", [absent])
    save_metaprompt(right, tmp_path / "right.metaprompt.safetensors")
    assert torch.equal(load_task(tmp_path / "task.safetensors").prompt, found.prompt)


def test_a_file_beside_that_is_no_metaprompt_is_passed_over(tmp_path: Path) -> None:
    """Whatever its name says: the task file itself may be called so, and others may."""
    right = metaprompt_for(tiny())
    save_task(vectors_of(right), tmp_path / "phee-on-metaprompt.safetensors")
    (tmp_path / "a-metaprompt-half-copied.safetensors").write_bytes(b"no such file")
    save_file({"x": torch.zeros(1)}, tmp_path / "another-metaprompt.safetensors")
    with pytest.raises(ArtifactError, match=f"needs the metaprompt {right.digest}"):
        load_task(tmp_path / "phee-on-metaprompt.safetensors")
    save_metaprompt(right, tmp_path / "the.metaprompt.safetensors")
    found = load_task(tmp_path / "phee-on-metaprompt.safetensors")
    torch.testing.assert_close(found.prompt, right.prompt("task0"))


def test_another_backbone_is_refused_with_both_names() -> None:
    one, other = tiny(), tiny(seed=1)
    with pytest.raises(BackboneError, match=f"{one.fingerprint}, width 32.*not for .*{other.fingerprint}"):
        require_backbone(metaprompt_for(one).card, other, "m.safetensors")
    require_backbone(metaprompt_for(one).card, tiny(), "m.safetensors")


def test_newer_and_unknown_cards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_metaprompt(metaprompt_for(tiny()), path)
    rewrite(path, version=99)
    with pytest.raises(ArtifactError, match="newer clinprompt"):
        load_metaprompt(path)
    rewrite(path, version=99, surprise=True, kind="novelty")  # a newer format has what this one does not know
    for read in (load_metaprompt, read_card, artifact_kind):
        with pytest.raises(ArtifactError, match=r"newer clinprompt \(format 99\); update the package"):
            read(path)
    rewrite(path, version=1, kind="metaprompt", surprise=True)
    with pytest.raises(ArtifactError, match=r"unreadable card.*surprise"):
        load_metaprompt(path)
    save_file({"shared": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match="no card in its metadata"):
        load_metaprompt(path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 5, 1), "vectors for 2 and 3 tasks of rank 1 and 1, but its card names 3 tasks"),
        ("v", (3, 32, 2), "of rank 1 and 2"),
        ("u", (3, 6, 1), "u is for length 6"),
        ("shared", (5, 31), r"P\* is \(5, 31\)"),
        ("shared", (1, 5, 32), "2 finite dimensions"),
        ("u", None, "but `u` is needed"),
    ],
)
def test_a_metaprompt_whose_parts_do_not_fit(
    name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save_metaprompt(metaprompt_for(tiny()), path)
    tensors = load_file(path)
    del tensors[name]
    if shape:
        tensors[name] = torch.ones(shape)
    rewrite(path, tensors, digest="")
    with pytest.raises(ArtifactError, match=message):
        load_metaprompt(path)


def test_vectors_that_do_not_fit_their_metaprompt(tmp_path: Path) -> None:
    metaprompt = metaprompt_for(tiny())
    save_metaprompt(metaprompt, tmp_path / "m.metaprompt.safetensors")
    task = vectors_of(metaprompt)
    save_task(TaskPrompt({"u": torch.ones(6, 1), "v": task.tensors["v"]}, task.card), tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match=r"u \(6, 1\).*do not fit"):
        load_task(tmp_path / "t.safetensors")


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    task = task_for(tiny())
    save_task(TaskPrompt({"prompt": torch.full((5, 32), float("nan"))}, task.card), tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match="finite"):
        load_task(tmp_path / "t.safetensors")


def test_nothing_partial_is_ever_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while writing leaves the old file as it was."""
    path = tmp_path / "t.safetensors"
    save_task(task_for(tiny()), path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ArtifactError, match="disk full"):
        save_task(task_for(tiny(), seed=1), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert load_task(path).prompt.shape == (5, 32)


def test_unknown_source_tasks_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ArtifactError, match=r"unknown source task 'task9'\. Did you mean .*Known: task0, task1, task2"):
        metaprompt_for(tiny()).prompt("task9")


def test_the_definition_travels_whole(tmp_path: Path) -> None:
    task = TaskDefinition(
        name="find.it", type="ner", labels={"Drug": "a medicine", "Dose": ""}, instruction="Find.", language="de"
    )
    made = task_for(tiny())
    save_task(replace(made, card=made.card.model_copy(update={"tasks": (task,)})), tmp_path / "t.safetensors")
    assert load_task(tmp_path / "t.safetensors").task == task
    # The order of labels is their order in the instruction, so it is part of what a prompt was trained with.
    assert list(load_task(tmp_path / "t.safetensors").task.labels) == ["Drug", "Dose"]


@pytest.mark.parametrize("own", [True, False])
def test_a_prompt_is_as_wide_as_the_backbone_of_its_card(tmp_path: Path, own: bool) -> None:
    """Otherwise the model fails in the middle of a pass, where nobody knows which file was wrong."""
    card = Card(kind="task", backbone=NOTE, position="start", tasks=(definition("t"),))
    wide = torch.ones(2, NOTE.width + 1)
    if own:
        save_task(TaskPrompt({"prompt": wide}, card), tmp_path / "t.safetensors")
    else:
        whole = card.model_copy(update={"kind": "metaprompt"})
        u, v = torch.ones(1, 2, 1), torch.ones(1, NOTE.width + 1, 1)
        source = save_metaprompt(Metaprompt(wide, u, v, whole), tmp_path / "m.metaprompt.safetensors")
        save_task(vectors_of(source), tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match=rf"\(2, {NOTE.width + 1}\).*width {NOTE.width}"):
        load_task(tmp_path / "t.safetensors")


def test_an_artifact_of_another_width_is_refused_whatever_its_fingerprint() -> None:
    backbone = tiny("llama")
    note = BackboneNote(name=backbone.name, fingerprint=backbone.fingerprint, width=backbone.width + 1)
    card = Card(kind="task", backbone=note, position="start", tasks=(definition("t"),))
    with pytest.raises(BackboneError, match="another model"):
        require_backbone(card, backbone, "t")


def test_a_card_that_is_no_object_is_not_ours(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"clinprompt": "[]"})
    with pytest.raises(ArtifactError, match="not one of clinprompt's"):
        artifact_kind(tmp_path / "a.safetensors")
