"""The command, and the other forms of a baked model: GGUF by a converter, embeddings for vLLM's door."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from clinprompt.adapters.files import description
from clinprompt.adapters.lora import LoraBank, lora_bank
from clinprompt.adapters.prefix import prefix_bank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import inject
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.cli import app
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_task
from clinprompt.records import Record
from clinprompt.serving import bake as baking
from clinprompt.serving import gguf, prompt_embeds
from clinprompt.serving.baked import open_baked
from tests.serving.baking import SOURCES, loaded, save_model, save_tasks

CONVERTER = """
import argparse, json, pathlib
from conversion.base import TextModel
parser = argparse.ArgumentParser()
parser.add_argument("model"); parser.add_argument("--outfile"); parser.add_argument("--outtype")
given = parser.parse_args()
config = json.loads((pathlib.Path(given.model) / "config.json").read_text())
model = TextModel(pathlib.Path(given.model))
model.prepare_metadata(vocab_only=False)
written = [given.outtype, config["vocab_size"], model.get_vocab_base_pre(None), model.kv_data[-1]]
pathlib.Path(given.outfile).write_text(json.dumps(written))
"""
BASE = """
class TextModel:
    def __init__(self, folder):
        self.dir_model, self.gguf_writer, self.kv_data = folder, self, [{}]
    def add_array(self, key, value):
        assert key not in self.kv_data[0]
        self.kv_data[0][key] = value
    def prepare_metadata(self, vocab_only):
        """
KNOWS = "    def get_vocab_base_pre(self, tokenizer):\n        "
SUPPRESSES = f"self.add_array({gguf.SUPPRESSED!r}, [7])\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", bos=True)


def command(*arguments: object, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["bake", *map(str, arguments)], input=stdin)


def test_the_command_from_files_to_requests(base: Path, tmp_path: Path) -> None:
    one, two = save_tasks(tmp_path / "tasks", loaded(base), ("one", "two"))
    model, note = tmp_path / "model", tmp_path / "note.jsonl"
    note.write_text(json.dumps({"id": "n", "text": "She is ill.", "hypothesis": "She is well."}))
    first = command(one, "--out", model, "--backbone", base)
    assert first.exit_code == 0 and "1 tasks" in first.stdout
    added = command(two, "--out", model, "--add", "--json")
    assert [task["task"] for task in json.loads(added.stdout)["tasks"]] == ["one", "two"]
    assert "two" in command("--out", model, "--list").stdout
    asked = command(note, "--out", model, "--request", "two")
    [request] = open_baked(model).requests("two", Record("n", "She is ill.", hypothesis="She is well."))
    assert json.loads(asked.stdout) == json.loads(json.dumps(asdict(request)))
    removed = command("--out", model, "--remove", "one")
    assert removed.exit_code == 0 and open_baked(model).manifest.names == ["two"]
    assert json.loads(command("--out", model, "--check", "--json").stdout)["ok"] is True
    (model / "config.json").write_text("{}")
    broken = command("--out", model, "--check")
    assert broken.exit_code == 2 and "config.json" in broken.stdout


def test_tasks_are_exchanged_or_nothing_is_removed(base: Path, tmp_path: Path) -> None:
    one, two = save_tasks(tmp_path / "tasks", loaded(base), ("one", "two"))
    [wide] = save_tasks(tmp_path / "long", loaded(base), ("wide",), length=500)
    model, foreign = tmp_path / "model", tmp_path / "foreign.safetensors"
    assert command(one, "--out", model, "--backbone", base).exit_code == 0
    card = load_task(one).card
    other = card.backbone.model_copy(update={"fingerprint": "0"})
    save_task(TaskPrompt(load_task(one).tensors, card.model_copy(update={"backbone": other})), foreign)
    for arguments, said in (
        ([two, "--remove", "one"], "--remove with task files needs --add"),
        ([tmp_path / "absent.safetensors", "--remove", "one", "--add"], "no such file"),
        (["--remove", "one", "--add"], "no task file given"),
        ([foreign, "--remove", "one", "--add"], "made for backbone"),
        ([wide, "--remove", "one", "--add"], "500 rows are needed"),
        ([two, "--remove", "one", "--remove", "absent", "--add"], "absent"),
    ):
        refused = command(*arguments, "--out", model)
        assert refused.exit_code == 2 and said in refused.stderr
        assert open_baked(model).manifest.names == ["one"]
    done = command(two, "--out", model, "--remove", "one", "--add")
    assert done.exit_code == 0 and "exchanged: 1 tasks" in done.stdout
    assert open_baked(model).manifest.names == ["two"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x"], "nothing to do"),
        (["--out", "x", "--as", "onnx"], "Known: hf, gguf"),
        (["--out", "x", "--list"], "not a baked model"),
        (["--out", "x", "--as", "gguf", "--add"], "model folders"),
        (["missing.safetensors", "--out", "x"], "no such file"),
        (["--out", "x", "--as", "gguf"], "name it with .gguf"),
    ],
)
def test_the_command_refuses(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = command(*arguments)
    assert run.exit_code == 2
    assert said in run.stderr


# --- GGUF -------------------------------------------------------------------------------------------------------------


def fake_llama_cpp(folder: Path, body: str, prepare: str = "pass\n") -> Path:
    (folder / "conversion").mkdir(parents=True)
    (folder / "conversion" / "base.py").write_text(BASE + prepare + KNOWS + body + "\n")
    (folder / gguf.CONVERTER).write_text(CONVERTER)
    return folder


@pytest.mark.parametrize(
    ("body", "splitting", "pre"), [("return 'x'", "own", "x"), ("raise NotImplementedError", "gpt-2", "gpt-2")]
)
def test_the_converter_is_run_on_the_baked_folder(
    body: str, splitting: str, pre: str, base: Path, tmp_path: Path
) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    llama, out = fake_llama_cpp(tmp_path / "llama.cpp", body), tmp_path / "out" / "model.gguf"
    assert gguf.bake_gguf(files, out, llama_cpp=llama, backbone=str(base)) == splitting
    tables = open_baked(gguf.requests_folder(out)).manifest.tables
    new = list(range(tables.rows, tables.rows + tables.room))
    assert json.loads(out.read_text()) == ["f32", 259 + tables.room, pre, {gguf.SUPPRESSED: new}]
    assert "num_predict 12" in out.with_suffix(".Modelfile").read_text()
    assert sorted(p.name for p in out.parent.iterdir()) == ["model.Modelfile", "model.gguf", "model.requests"]
    with pytest.raises(ArtifactError, match="exists"):
        gguf.bake_gguf(files, out, llama_cpp=llama, backbone=str(base))


def test_tokens_that_the_converter_suppresses_by_itself_are_not_listed_twice(base: Path, tmp_path: Path) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    llama = fake_llama_cpp(tmp_path / "llama.cpp", "return 'x'", SUPPRESSES)
    gguf.bake_gguf(files, tmp_path / "m.gguf", llama_cpp=llama, backbone=str(base))
    assert json.loads((tmp_path / "m.gguf").read_text())[-1] == {gguf.SUPPRESSED: [7]}


def test_requests_for_a_gguf_file_come_from_the_folder_beside_it(base: Path, tmp_path: Path) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one", "two"))
    llama, out, note = fake_llama_cpp(tmp_path / "l", "return 'x'"), tmp_path / "m.gguf", tmp_path / "note.jsonl"
    note.write_text(json.dumps({"id": "n", "text": "She is ill.", "hypothesis": "She is well."}))
    made = command(*files, "--as", "gguf", "--llama-cpp", llama, "--out", out, "--backbone", base, "--json")
    assert made.exit_code == 0 and json.loads(made.stdout)["splitting"] == "own"
    baking.bake(files, tmp_path / "folder", backbone=str(base))
    asked = [command(note, "--out", where, "--request", "two").stdout for where in (out, tmp_path / "folder")]
    assert asked[0] == asked[1] and json.loads(asked[0])["prompt"]
    assert "two" in command("--out", out, "--list").stdout
    assert json.loads(command("--out", out, "--check", "--json").stdout)["ok"] is True
    out.write_text("another")
    broken = command("--out", out, "--check")
    assert broken.exit_code == 2 and "m.gguf: not as it was written" in broken.stdout


def test_a_text_that_llama_cpp_would_split_otherwise_is_given_as_token_ids_only(tmp_path: Path) -> None:
    backbone = load_backbone("embedded")
    [file] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    llama, out = fake_llama_cpp(tmp_path / "l", "raise NotImplementedError"), tmp_path / "m.gguf"
    assert gguf.bake_gguf([file], out, llama_cpp=llama, backbone="embedded") == "gpt-2"
    baked = open_baked(gguf.requests_folder(out))
    alike, unlike = "He doesn't take 50 mg of 'it'.", "The 5'terminal end."  # GPT-2 reads 't in both
    assert baked.prompt("one", alike).endswith(alike)
    with pytest.raises(ArtifactError, match="token ids"):
        baked.prompt("one", unlike)
    baking.bake([file], tmp_path / "folder", backbone="embedded")
    assert open_baked(tmp_path / "folder").prompt("one", unlike).endswith(unlike)


def test_a_converter_that_fails_or_is_missing_is_explained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    llama = fake_llama_cpp(tmp_path / "llama.cpp", "raise ValueError('no such architecture')")
    with pytest.raises(BackboneError, match="no such architecture"):
        gguf.bake_gguf(files, tmp_path / "m.gguf", llama_cpp=llama, backbone=str(base))
    monkeypatch.delenv(gguf.FOLDER_VARIABLE, raising=False)
    with pytest.raises(BackboneError, match="clone llama"):
        gguf.bake_gguf(files, tmp_path / "m.gguf", backbone=str(base))
    assert not list(tmp_path.glob("*m.*"))


# --- LoRA -------------------------------------------------------------------------------------------------------------


def lora_file(backbone: Backbone, prompt: Path, name: str, size: float = 1.0) -> tuple[Path, LoraBank]:
    """A LoRA task file with random values, and its bank; `prompt`: a task file whose card it takes over."""
    bank = lora_bank(backbone, [0], rank=2, alpha=4.0)
    random = torch.Generator().manual_seed(0)
    tensors = {name: size * torch.randn(values.shape[1:], generator=random) for name, values in bank.values().items()}
    bank.restore({name: tensor[None] for name, tensor in tensors.items()})
    card = load_task(prompt).card.model_copy(update={"method": "lora", "adapter": description(bank)})
    file = prompt.with_name(f"{name}.safetensors")
    save_task(TaskPrompt(tensors, card), file)
    return file, bank


def test_lora_files_become_folders_that_peft_loads(base: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    backbone = loaded(base)
    [prompt] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    file, bank = lora_file(backbone, prompt, "tuned")
    assert command(file, "--out", tmp_path / "adapters", "--as", "peft", "--backbone", base).exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(3, 40)[None]
    plain = model(ids).logits
    tuned = peft.PeftModel.from_pretrained(model, tmp_path / "adapters" / "tuned")(ids).logits
    with bank.inside(backbone, [0], None):
        ours = backbone.model(ids).logits
    assert torch.allclose(tuned, ours, atol=1e-4) and not torch.allclose(tuned, plain, atol=1e-2)
    assert "--as peft" in command(file, "--out", tmp_path / "x", "--backbone", base).stderr
    assert "not lora" in command(prompt, "--out", tmp_path / "x", "--as", "peft", "--backbone", base).stderr


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_lora_file_becomes_one_merged_model(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = save_model(tmp_path / "base", kind, bos=True)
    backbone = loaded(base)
    [prompt] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    file, bank = lora_file(backbone, prompt, "tuned", 0.1)
    run = command(file, "--out", tmp_path / "merged", "--as", "merged", "--backbone", base, "--json")
    assert run.exit_code == 0 and json.loads(run.stdout)["dtype"] == "float32"
    ids = torch.arange(3, 40)[None]
    plain, merged = backbone.model(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    with bank.inside(backbone, [0], None):
        ours = backbone.model(ids).logits
    assert torch.allclose(merged, ours, atol=1e-5) and not torch.allclose(merged, plain, atol=1e-3)
    again = loaded(tmp_path / "merged")  # its tokenizer came along
    assert again.tokenizer("She is ill.")["input_ids"] == backbone.tokenizer("She is ill.")["input_ids"]
    assert json.loads((tmp_path / "merged" / "clinprompt-task.json").read_text())["tasks"][0]["name"] == "one"
    assert "exists" in command(file, "--out", tmp_path / "merged", "--as", "merged", "--backbone", base).stderr


def test_what_cannot_be_merged_is_explained(base: Path, tmp_path: Path) -> None:
    backbone = loaded(base)
    [prompt] = save_tasks(tmp_path / "tasks", backbone, ("one",))
    file, _ = lora_file(backbone, prompt, "tuned")
    bank = prefix_bank(backbone, torch.randn(1, 3, backbone.width))
    card = load_task(prompt).card.model_copy(update={"method": "prefix", "adapter": description(bank)})
    prefix = prompt.with_name("prefix.safetensors")
    save_task(TaskPrompt({name: values[0] for name, values in bank.values().items()}, card), prefix)
    options = ["--out", tmp_path / "x", "--as", "merged", "--backbone", base]
    for files, said in (([file, file], "answers one task"), ([prompt], "holds a prompt"), ([prefix], "no sum")):
        run = command(*files, *options)
        assert run.exit_code == 2 and said in run.stderr
    assert not (tmp_path / "x").exists()


# --- prompt-embeds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("position", ["start", "front", "end"])
def test_embeddings_are_those_the_model_sees(kind: str, position: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", kind, bos=True)
    backbone = loaded(base)
    [file] = save_tasks(tmp_path / "tasks", backbone, ("one",), position=position)
    run = command(file, "--out", tmp_path / "embeds", "--as", "prompt-embeds", "--backbone", base)
    assert run.exit_code == 0
    opened = prompt_embeds.open_embeds(tmp_path / "embeds")
    example = encode(backbone, [SOURCES[0]], None, position)[0]  # type: ignore[arg-type]
    rows = backbone.embed(torch.from_numpy(example.ids).long()[None])
    expected = inject(rows, load_task(file).prompt[None], torch.tensor([example.insert_at]))[0]
    assert torch.equal(opened.embeds("one", SOURCES[0]), expected)
    request = opened.request("one", SOURCES[0])
    sent = torch.load(io.BytesIO(base64.b64decode(str(request["prompt_embeds"]), validate=True)), weights_only=True)
    assert torch.equal(sent, expected) and request["max_tokens"] == 12


def test_a_changed_file_and_an_unknown_task_are_refused(base: Path, tmp_path: Path) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    prompt_embeds.export(files, tmp_path / "embeds", backbone=str(base))
    with pytest.raises(ArtifactError, match="known: one"):
        prompt_embeds.open_embeds(tmp_path / "embeds").embeds("two", "x")
    with pytest.raises(ArtifactError, match="exists"):
        prompt_embeds.export(files, tmp_path / "embeds", backbone=str(base))
    (tmp_path / "embeds" / "one.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not as it was written"):
        prompt_embeds.open_embeds(tmp_path / "embeds")
    with pytest.raises(ArtifactError, match="prompt-embeds"):
        prompt_embeds.open_embeds(base)


def test_an_interrupted_export_leaves_no_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save_tasks(tmp_path / "tasks", loaded(base), ("one",))
    monkeypatch.setattr(prompt_embeds, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prompt_embeds.export(files, tmp_path / "embeds", backbone=str(base))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tasks"]
    assert baking.load_all(files, ())[0][0] == "one"
