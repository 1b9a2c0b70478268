"""Every preset on a tiny random model of its own architecture class: adapt, save, load, predict."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import torch
import yaml

from clinprompt.backbone import presets
from clinprompt.backbone.encoding import _chat_frame, dated, encode, frame
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.backbone.presets import BackbonePreset, find_preset, known_presets, load_preset
from clinprompt.errors import BackboneError
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import ADAPTERS, load_task, save_task
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.settings import AdaptSettings, LoopSettings
from tests.backbone.folders import HARMONY_CHAT, HARMONY_MARKS, LLAMA_CHAT, LLAMA_MARKS, save_tiny
from tests.training.synthetic import ner_task, nli_task


def load_like(name: str, folder: Path) -> Backbone:
    """A tiny stand-in for a preset's model, saved as a folder called after it, and found by that."""
    kind, template, marks = {
        "llama-3.1-8b": ("llama", "", LLAMA_MARKS),
        "llama-3.1-8b-instruct": ("llama", LLAMA_CHAT, LLAMA_MARKS),
        "meditron3-8b": ("llama", LLAMA_CHAT, LLAMA_MARKS),
        "gpt-oss-20b": ("gpt_oss", HARMONY_CHAT, HARMONY_MARKS),
        "t5": ("t5", "", []),
    }[name]
    return load_backbone(save_tiny(folder / name, kind, template=template, marks=marks), dtype="float32")


CASES = ["llama-3.1-8b", "llama-3.1-8b-instruct", "meditron3-8b", "gpt-oss-20b", "t5"]


@pytest.mark.parametrize("position", ["start", "end"])
@pytest.mark.parametrize("name", CASES)
def test_adapt_save_load_predict(name: str, position: str, tmp_path: Path) -> None:
    backbone = load_like(name, tmp_path)
    backbone.preset = backbone.preset.model_copy(update={"prompt_position": position})
    loop = LoopSettings(steps=2, batch_size=3, evaluate_every=1)
    tasks = [ner_task(), nli_task()]
    plans = [Plan(task, AdaptSettings(target_reserve=32, loop=loop)) for task in tasks]
    adapted = adapt(backbone, None, plans, prompt_length=5)
    assert torch.isfinite(adapted.fit.history).all()
    for task, made in zip(tasks, adapted.tasks, strict=True):
        path = tmp_path / f"{task.task.name}.safetensors"
        save_task(made, path)
        read = load_task(path)
        assert read.card.position == position and read.card.backbone.fingerprint == backbone.fingerprint
        again = load_backbone(tmp_path / name, dtype="float32")
        one, other = (predict_task(b, read, task.train[:3]) for b in (backbone, again))
        assert one == other and len(one) == 3
    assert {p.record.label for p in one} <= {"yes", "no"}


@pytest.mark.parametrize("name", [*CASES[:4]])
def test_a_folder_called_after_a_model_speaks_its_preset(name: str, tmp_path: Path) -> None:
    backbone = load_like(name, tmp_path)
    assert backbone.preset == load_preset(name)
    assert bool(frame(backbone).tail) == backbone.preset.chat


def test_harmony_answers_in_the_final_channel(tmp_path: Path) -> None:
    backbone = load_like("gpt-oss-20b", tmp_path)
    example = encode(backbone, ["Text: fever"], ["none"], "end")[0]
    decode = backbone.tokenizer.decode
    read = decode(example.ids[: example.context])
    assert read.startswith("<|start|>system<|message|>You are ChatGPT.")
    assert read.endswith("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert decode(example.ids[example.context :]) == "none</s>"
    assert decode(example.ids[: example.insert_at]).endswith("<|start|>user<|message|>Text: fever")
    # The marks are single tokens, not their spelling.
    assert backbone.tokenizer.convert_tokens_to_ids("<|channel|>") in example.ids.tolist()


def test_llama_chat_has_one_bos_and_the_prompt_behind_it(tmp_path: Path) -> None:
    backbone = load_like("meditron3-8b", tmp_path)
    example = encode(backbone, ["Text: fever"], ["none"], "start")[0]
    assert example.ids.tolist().count(1) == 1 and example.ids[0] == 1 and example.insert_at == 1
    tail = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert backbone.tokenizer.decode(example.ids[: example.context]).endswith(f"Text: fever{tail}")


def test_frame_equals_the_whole_conversation_tokenised_at_once(tmp_path: Path) -> None:
    for name in ("meditron3-8b", "gpt-oss-20b"):
        backbone = load_like(name, tmp_path)
        tokenizer, source = backbone.tokenizer, "Text: fever and cough"
        turn = [{"role": "user", "content": source}]
        whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        whole = whole.replace(date.today().isoformat(), "2025-01-01")
        wanted = tokenizer(whole + backbone.preset.answer_prefix, add_special_tokens=False)["input_ids"]
        assert encode(backbone, [source], None, "start")[0].ids.tolist() == wanted


def test_the_date_in_a_template_does_not_pass(tmp_path: Path) -> None:
    """A training resumed after midnight, or a prompt used a year later, meets the text it was trained with."""
    text = (backbone := load_like("gpt-oss-20b", tmp_path)).tokenizer.decode(frame(backbone).head)
    assert "Current date: 2025-01-01" in text
    assert dated('{{ strftime_now( "%d %b %Y" ) }}{{ strftime_now(x) }}') == "{{ '01 Jan 2025' }}{{ strftime_now(x) }}"


def test_presets_for_chat_need_a_template(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama")
    backbone = load_backbone(folder, preset="meditron3-8b", dtype="float32")
    with pytest.raises(BackboneError, match="set chat: false"):
        frame(backbone)
    twice = save_tiny(tmp_path / "twice", "llama", template="{{ messages[0]['content'] }}{{ messages[0]['content'] }}")
    with pytest.raises(BackboneError, match="exactly once"):
        _chat_frame(load_backbone(twice, preset="meditron3-8b", dtype="float32").tokenizer, "")


# -- the files -------------------------------------------------------------------------------------------


def test_all_presets_are_valid_and_say_where_their_model_is() -> None:
    assert {"embedded", "tiny", "llama-3.1-8b", "meditron3-8b", "gpt-oss-20b"} <= set(known_presets())
    for name in known_presets():
        preset = load_preset(name)
        assert preset.name == name and preset.licence
        assert preset.repository.count("/") == (0 if name in ("embedded", "tiny") else 1)
        assert find_preset(name) == preset
        assert set(preset.adapter_learning_rates) <= set(ADAPTERS)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("OpenMeditron/meditron3-8B", "meditron3-8b"),
        ("/models/Llama-3.1-8B", "llama-3.1-8b"),
        ("/models/Meta/Llama-3.1-8B-Instruct/", "llama-3.1-8b-instruct"),
        ("/cache/models--openai--gpt-oss-20b/snapshots/0123abc", "gpt-oss-20b"),
        ("/gpt-oss-20b/fine-tuned", ""),
        ("someone/else", ""),
    ],
)
def test_presets_are_found_by_name_repository_and_folder(name: str, wanted: str) -> None:
    assert find_preset(name) == (load_preset(wanted) if wanted else BackbonePreset(name=name))


def test_unknown_presets_and_keys_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match=r"unknown backbone preset 'gpt-os-20b'\. Did you mean 'gpt-oss-20b'"):
        load_preset("gpt-os-20b")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    for name, content in {
        "spelt": {"prompt_lenght": 5},
        "range": {"prompt_length": 0},
        "place": {"dtype": "int8"},
        "adapter_learning_rates": {"adapter_learning_rates": {"lora": 0}},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(BackboneError, match=next(iter(content))):
            load_preset(name)
