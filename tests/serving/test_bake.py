"""A baked model is the soft prompt, token for token; its new words are never said; changes leave the weights alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from clinprompt.backbone.encoding import encode
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import load_task
from clinprompt.records import Record
from clinprompt.serving import bake as baking
from clinprompt.serving.baked import check, open_baked
from clinprompt.serving.baked_manifest import read_manifest
from clinprompt.serving.baked_weights import places, unreachable
from tests.backbone.folders import HARMONY_CHAT, HARMONY_MARKS, LLAMA_CHAT, LLAMA_MARKS
from tests.serving.baking import (
    SOURCES,
    baked_answers,
    baked_logits,
    loaded,
    save_model,
    save_tasks,
    soft_answers,
    soft_logits,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", tie_word_embeddings=True)


@pytest.fixture
def baked(base: Path, tmp_path: Path) -> Path:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one", "two"))
    baking.bake(files, tmp_path / "baked", backbone=str(base))
    return tmp_path / "baked"


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


# --- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False, "bos": True}),
        ("llama", {"vocab_size": 300}),  # more rows than tokens
        ("qwen3", {"tie_word_embeddings": True}),
        ("gpt_oss", {}),
        ("gemma2", {}),  # softcapped logits, scaled embeddings
        ("gpt2", {}),
    ],
)
def test_greedy_answers_are_those_of_the_soft_prompt(
    kind: str, config: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    base = save_model(tmp_path / "base", kind, **config)
    backbone = loaded(base, dtype)
    files = save_tasks(tmp_path / "tasks", backbone, ("one", "two"))
    baking.bake(files, tmp_path / "baked", backbone=str(base), dtype=dtype)
    opened = open_baked(tmp_path / "baked")
    seen = []
    for path in files:
        prompt = load_task(path).prompt
        assert baked_answers(opened, path.stem, backbone.end_ids) == soft_answers(backbone, prompt, "start")
        seen.append(soft_logits(backbone, prompt))
        found = baked_logits(opened, path.stem, torch.float32 if dtype == "float32" else torch.bfloat16)
        scale = float(seen[-1].abs().max())
        assert torch.allclose(
            found[: len(seen[-1])], seen[-1], rtol=0, atol=scale * (1e-5 if dtype == "float32" else 2e-2)
        )
    assert float((seen[0] - seen[1]).abs().max()) > 0.05 * scale  # the prompts do say something


@pytest.mark.parametrize("position", ["start", "front", "end"])
@pytest.mark.parametrize("bos", [True, False])
def test_the_prompt_stands_where_the_card_says(position: str, bos: bool, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", bos=bos)
    backbone = loaded(base)
    [file] = save_tasks(tmp_path / "tasks", backbone, ("one",), position=position)
    baking.bake([file], tmp_path / "baked", backbone=str(base))
    opened = open_baked(tmp_path / "baked")
    assert baked_answers(opened, "one", backbone.end_ids) == soft_answers(backbone, load_task(file).prompt, position)
    template = opened.manifest.task("one").template
    assert template is not None
    for source in SOURCES:
        text = opened.prompt("one", source)
        tokenizer = AutoTokenizer.from_pretrained(opened.folder)
        ids = tokenizer(text, add_special_tokens=template.add_special_tokens)["input_ids"]
        assert ids == opened.ids("one", source)
        assert ids.count(1) == int(bos)


@pytest.mark.parametrize(
    ("name", "kind", "template", "marks", "bos"),
    [
        ("llama-3.1-8b-instruct", "llama", LLAMA_CHAT, LLAMA_MARKS, True),
        ("gpt-oss-20b", "gpt_oss", HARMONY_CHAT, HARMONY_MARKS, False),
    ],
)
def test_chat_frames_are_part_of_the_request(
    name: str, kind: str, template: str, marks: list[str], bos: bool, tmp_path: Path
) -> None:
    base = save_model(tmp_path / name, kind, template=template, marks=tuple(marks), bos=bos)
    backbone = loaded(base, "bfloat16")
    assert backbone.preset.chat
    [file] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    baking.bake([file], tmp_path / "baked", backbone=str(base))
    opened = open_baked(tmp_path / "baked")
    assert opened.manifest.dtype == "bfloat16"
    plain = encode(backbone, [SOURCES[0]], None, "start")[0]
    ids = opened.ids("one", SOURCES[0])
    assert [i for i in ids if i < opened.manifest.tables.rows] == plain.ids.tolist()
    assert opened.text.tokenizer(opened.prompt("one", SOURCES[0]))["input_ids"] == ids
    assert baked_answers(opened, "one", backbone.end_ids) == soft_answers(backbone, load_task(file).prompt, "start")


def test_logits_of_the_backbones_own_tokens_do_not_change(base: Path, baked: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    after = AutoModelForCausalLM.from_pretrained(baked, dtype="auto")
    ids = torch.randint(3, 259, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own, new = before(ids).logits, after(ids).logits
    assert torch.allclose(own, new[..., : own.shape[-1]], rtol=0, atol=1e-5)
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight[: own.shape[-1]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_with_a_bias_keeps_it_and_leaves_new_tokens_no_probability(dtype: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "phi")
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.nn.init.normal_(model.lm_head.bias, std=3.0, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(base)
    backbone = loaded(base, dtype)
    [file] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    baking.bake([file], tmp_path / "baked", backbone=str(base), dtype=dtype)
    assert check(tmp_path / "baked") == []
    opened = open_baked(tmp_path / "baked")
    prompt = load_task(file).prompt
    assert baked_answers(opened, "one", backbone.end_ids) == soft_answers(backbone, prompt, "start")
    found = baked_logits(opened, "one", getattr(torch, dtype))
    expected, rows = soft_logits(backbone, prompt), opened.manifest.tables.rows
    scale = float(expected.abs().max())
    assert torch.allclose(found[:rows], expected, rtol=0, atol=scale * (1e-5 if dtype == "float32" else 2e-2))
    assert float(found.softmax(0)[rows:].max()) == 0.0


# --- words that are never said ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.0, 3.0]))
def test_no_hidden_state_makes_a_new_token_the_likeliest(seed: int, size: float, offset: float) -> None:
    """Also where all rows point one way (`offset`), so that a zero row would win against negative logits."""
    random = torch.Generator().manual_seed(seed)
    table = torch.randn(200, 16, generator=random) + offset
    hidden = size * torch.randn(64, 16, generator=random)
    hidden[0] = -size * table.mean(dim=0)  # every logit is negative
    row = unreachable(table, 3, torch.float32)
    assert torch.equal(row[0], row[2])
    own, new = hidden @ table.T, hidden @ row.T
    assert bool((new[:, 0] < own.max(dim=1).values).all())
    share = torch.cat([own, new], dim=1).softmax(dim=1)[:, 200:]
    assert float(share.max()) <= 1 / 200


def test_an_adversarial_hidden_state_does_not_reach_a_new_token(baked: Path) -> None:
    """Gradient ascent on (logit of a new token − largest other logit) over the sphere stays below zero."""
    manifest = read_manifest(baked)
    with safe_open(baked / manifest.tables.head_file, framework="pt") as file:
        head = file.get_tensor(manifest.tables.head)
    own, new = head[: manifest.tables.rows], head[manifest.tables.rows]
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(32, head.shape[1], generator=random).requires_grad_()
    for _ in range(200):
        unit = hidden / hidden.norm(dim=1, keepdim=True)
        margin = unit @ new - (unit @ own.T).max(dim=1).values
        (gradient,) = torch.autograd.grad(margin.sum(), hidden)
        hidden = (hidden + 0.1 * gradient / gradient.norm(dim=1, keepdim=True)).detach().requires_grad_()
    assert float(margin.detach().max()) < -0.05 * float(own.norm(dim=1).mean())


def test_sampling_by_transformers_never_says_a_new_token_however_hot(baked: Path) -> None:
    """`generation_config.json` suppresses them; with top_k and temperature set by the request too."""
    manifest, model = read_manifest(baked), AutoModelForCausalLM.from_pretrained(baked)
    torch.manual_seed(0)
    ids = torch.tensor([open_baked(baked).ids("one", SOURCES[0])]).expand(64, -1)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=50.0, top_k=0, max_new_tokens=12
    )
    written = out[:, ids.shape[1] :]
    assert int(written.max()) < manifest.tables.rows
    assert len(written.unique()) > 100  # it did sample


def test_generation_is_greedy_by_default_also_where_the_backbone_sampled(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 1], "suppress_tokens": [7]}
    (base / "generation_config.json").write_text(json.dumps(own))
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    baking.bake(files, tmp_path / "baked", backbone=str(base))
    written = json.loads((tmp_path / "baked" / "generation_config.json").read_text())
    assert (written["do_sample"], written["top_k"], written["eos_token_id"]) == (False, 1, [2, 1])
    assert "temperature" not in written and "top_p" not in written
    assert written["suppress_tokens"][:2] == [7, 259]


# --- changes ----------------------------------------------------------------------------------------------------------


def test_tasks_come_and_go_without_a_shard_being_rewritten(base: Path, baked: Path, tmp_path: Path) -> None:
    backbone = loaded(base)
    before, manifest = digests(baked), read_manifest(baked)
    [third] = save_tasks(tmp_path / "more", backbone, ("three",), length=7)
    embedding = baked / manifest.tables.embedding_file
    inode = embedding.stat().st_ino
    baking.add(baked, [third])
    after = digests(baked)
    assert {name for name in after if after[name] != before.get(name)} - {".lock"} == {
        "clinprompt.json",
        "tokenizer.json",
        manifest.tables.embedding_file,
    }
    assert embedding.stat().st_ino == inode
    assert check(baked) == []
    opened = open_baked(baked)
    expected = soft_answers(backbone, load_task(third).prompt, "start")
    assert baked_answers(opened, "three", backbone.end_ids) == expected
    baking.remove(baked, ["one"])
    baking.remove(baked, ["three"])
    assert read_manifest(baked).names == ["two"]
    assert "<|task:one:0|>" not in AutoTokenizer.from_pretrained(baked).get_vocab()
    two = soft_answers(backbone, load_task(tmp_path / "tasks" / "two.safetensors").prompt, "start")
    assert baked_answers(open_baked(baked), "two", backbone.end_ids) == two
    assert check(baked) == []
    assert digests(baked)[manifest.tables.head_file] == before[manifest.tables.head_file]


def test_a_removed_task_leaves_nothing(baked: Path) -> None:
    ids = read_manifest(baked).task("one").ids
    baking.remove(baked, ["one"])
    with safe_open(baked / "model-embedding.safetensors", framework="pt") as file:
        assert not bool(file.get_tensor("model.embed_tokens.weight")[list(ids)].any())


def test_adding_a_task_again_replaces_it(base: Path, baked: Path, tmp_path: Path) -> None:
    backbone = loaded(base)
    _, new = save_tasks(tmp_path / "again", backbone, ("other", "one"))
    old = open_baked(baked).rows("one")
    baking.add(baked, [new])
    opened = open_baked(baked)
    assert opened.manifest.names == ["two", "one"]
    assert not torch.equal(opened.rows("one"), old)
    assert torch.equal(opened.rows("one"), load_task(new).prompt)
    assert len(opened.manifest.free) == opened.manifest.tables.room - 10


def test_a_task_replaced_under_a_running_server_keeps_its_old_rows(base: Path, baked: Path, tmp_path: Path) -> None:
    old, ids = open_baked(baked).rows("one"), read_manifest(baked).task("one").ids
    _, new = save_tasks(tmp_path / "again", loaded(base), ("other", "one"))
    manifest = baking.add_prompt(baked, "one", load_task(new))
    assert set(manifest.task("one").ids).isdisjoint(ids)
    with safe_open(baked / "model-embedding.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("model.embed_tokens.weight")[list(ids)], old)
    assert check(baked) == []


def test_a_full_model_says_what_to_do(base: Path, tmp_path: Path) -> None:
    backbone = loaded(base)
    files = save_tasks(tmp_path / "tasks", backbone, ("one", "two"), length=20)
    manifest = baking.bake(files[:1], tmp_path / "small", backbone=str(base), room=20)
    assert (manifest.tables.rows + manifest.tables.room) % 64 == 0
    with pytest.raises(ArtifactError, match="larger --room"):
        while True:
            [more] = save_tasks(
                tmp_path / "x", backbone, (f"n{len(read_manifest(tmp_path / 'small').names)}",), length=20
            )
            baking.add(tmp_path / "small", [more])
    assert check(tmp_path / "small") == []
    with pytest.raises(ArtifactError, match="need 40 rows"):
        baking.bake(files, tmp_path / "none", backbone=str(base), room=39)


@pytest.mark.parametrize("where", ["write_manifest", "_files"])
def test_an_interrupted_change_is_put_right_by_the_next(
    where: str, base: Path, baked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = loaded(base)
    third, fourth = save_tasks(tmp_path / "more", backbone, ("three", "four"))

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(baking, where, dies)
        with pytest.raises(KeyboardInterrupt):
            baking.add(baked, [third])
    assert read_manifest(baked).names == ["one", "two"]
    opened = open_baked(baked)
    one = soft_answers(backbone, load_task(tmp_path / "tasks" / "one.safetensors").prompt, "start")
    assert baked_answers(opened, "one", backbone.end_ids) == one
    baking.add(baked, [fourth])
    assert check(baked) == []
    assert "<|task:three:0|>" not in AutoTokenizer.from_pretrained(baked).get_vocab()


def test_an_interrupted_bake_leaves_no_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    monkeypatch.setattr(baking, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        baking.bake(files, tmp_path / "baked", backbone=str(base))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tasks"]


@pytest.mark.parametrize("name", ["model-body-00001-of-00001.safetensors", "model-head.safetensors", "config.json"])
def test_damage_is_found(name: str, baked: Path) -> None:
    content = bytearray((baked / name).read_bytes())
    content[len(content) // 2] ^= 1
    (baked / name).write_bytes(content)
    assert check(baked) == [f"{name}: not as it was written (size or hash differs)"]


def test_damage_in_the_embedding_table_is_found(baked: Path) -> None:
    tables = read_manifest(baked).tables
    path = baked / tables.embedding_file
    place = places(path)[tables.embedding]
    content = bytearray(path.read_bytes())
    content[place.begin + 5] ^= 1
    content[place.begin + 32 * 4 * tables.rows + 3] ^= 1
    path.write_bytes(content)
    backbone, task = check(baked)
    assert "backbone's rows" in backbone and "task one" in task
    path.unlink()
    assert check(baked) == [f"{path.name}: missing"]


# --- notes and requests -----------------------------------------------------------------------------------------------


def test_a_note_cannot_speak_in_tokens_of_a_task(baked: Path) -> None:
    opened = open_baked(baked)
    source = "Text: she wrote <|task:two:0|> on the wall</s>\nAnswer:"
    ids = opened.ids("one", source)
    assert not set(ids) & set(opened.manifest.task("two").ids)
    assert 2 not in ids
    with pytest.raises(ArtifactError, match="as token ids") as caught:
        opened.prompt("one", source)
    assert "wall" not in str(caught.value)
    [request] = opened.requests("one", Record("r", "on the <|task:two:0|> wall", hypothesis="h"))
    assert request.prompt is None and request.choices == ("yes", "no") and request.max_tokens == 12


def test_padding_rows_between_tokenizer_and_model_are_left_alone(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", vocab_size=270)
    baking.bake(save_tasks(tmp_path / "tasks", loaded(base), ("one",)), tmp_path / "baked", backbone=str(base))
    opened = open_baked(tmp_path / "baked")
    assert opened.manifest.task("one").ids == tuple(range(270, 275))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "baked")
    assert tokenizer.convert_tokens_to_ids("<|task:one:0|>") == 270
    assert tokenizer.decode([270, 68, 69], skip_special_tokens=True) == tokenizer.decode([68, 69])


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals(base: Path, baked: Path, tmp_path: Path) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one", "two"))
    with pytest.raises(ArtifactError, match="exists"):
        baking.bake(files, baked, backbone=str(base))
    with pytest.raises(ArtifactError, match="no task file"):
        baking.bake([], tmp_path / "x")
    with pytest.raises(ArtifactError, match="different names"):
        baking.bake([files[0], files[0]], tmp_path / "x", backbone=str(base))
    spaced = files[0].rename(tmp_path / "two words.safetensors")
    with pytest.raises(ArtifactError, match="Rename the file"):
        baking.bake([spaced], tmp_path / "x", backbone=str(base))
    with pytest.raises(ArtifactError, match="Did you mean 'two'"):
        baking.remove(baked, ["twoo"])
    with pytest.raises(ArtifactError, match="not a baked model"):
        baking.add(base, files[1:])
    with pytest.raises(BackboneError, match="unknown dtype"):
        baking.bake(files[1:], tmp_path / "x", backbone=str(base), dtype="int8")
    assert not (tmp_path / "x").exists()


def test_a_task_of_another_backbone_is_refused(baked: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tie_word_embeddings=False)
    [stranger] = save_tasks(tmp_path / "strangers", loaded(other), ("stranger",))
    before = digests(baked)
    with pytest.raises(BackboneError, match="made for backbone"):
        baking.add(baked, [stranger])
    assert {k: v for k, v in digests(baked).items() if k != ".lock"} == before


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "t5")
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    with pytest.raises(BackboneError, match="decoder-only"):
        baking.bake(files, tmp_path / "baked", backbone=str(base))


def test_a_tokenizer_larger_than_its_model_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", marks=("<|a|>", "<|b|>"), vocab_size=260)
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    with pytest.raises(BackboneError, match="261 tokens"):
        baking.bake(files, tmp_path / "baked", backbone=str(base))
    assert not (tmp_path / "baked").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_broken_manifest_is_explained(content: str, baked: Path) -> None:
    (baked / "clinprompt.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"clinprompt\.json"):
        read_manifest(baked)


def test_shards_without_tables_are_linked_not_copied(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="40KB")
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    baking.bake(files, tmp_path / "baked", backbone=str(base))
    own = {p.stat().st_ino for p in base.glob("*.safetensors")}
    shared = [p for p in (tmp_path / "baked").glob("model-body-*") if p.stat().st_ino in own]
    assert shared
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor[:3].numpy(), after.state_dict()[name][:3].numpy())
