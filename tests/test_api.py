"""The verbs as functions: the README's ten lines, and that names and objects are interchangeable."""

from __future__ import annotations

from pathlib import Path

import pytest

import clinprompt
from clinprompt import AdaptSettings, LearnSettings, LoopSettings
from tests.cli_workspace import make

LOOP = LoopSettings(steps=2, batch_size=2)


def test_learn_adapt_evaluate_predict_inspect(tmp_path: Path) -> None:
    folder = make(tmp_path)
    backbone = clinprompt.load_backbone("tiny")
    settings = LearnSettings(prompt_length=4, limit=8, teacher=LOOP, source=LOOP)
    clinprompt.learn(folder / "suite.yaml", folder / "run", backbone=backbone, settings=settings)
    meta = folder / "run" / "metaprompt.safetensors"

    task = clinprompt.load_task(folder / "find.yaml")
    adapted = AdaptSettings(loop=LOOP)
    file = clinprompt.adapt(meta, task, out=folder / "f.safetensors", shots=4, settings=adapted, backbone=backbone)
    assert isinstance(file, clinprompt.TaskPrompt) and file.card.settings["shots"] == 4

    found = clinprompt.evaluate(folder / "f.safetensors", task, limit=3)
    assert found.n == 3 and found.summary()["metrics"].keys() == found.scores.keys()
    same = clinprompt.evaluate(file, folder / "find.yaml", limit=3, backbone=backbone)
    assert same.summary() == found.summary()

    text = "He has fever now."
    by_text, by_record = clinprompt.predict(file, [text, clinprompt.Record("r", text)], backbone=backbone)
    assert by_text.record.entities == by_record.record.entities and by_text.record.text == text

    shown = clinprompt.inspect(meta, backbone=backbone, neighbours=2)
    assert shown["similarity"]["tasks"] == ["find-problems", "infer"]
    assert clinprompt.load_artifact(meta).card.kind == "metaprompt"


def test_prompt_tuning_needs_no_metaprompt(tmp_path: Path) -> None:
    task = clinprompt.load_task(make(tmp_path) / "infer.yaml")
    settings = AdaptSettings(loop=LOOP)
    file = clinprompt.adapt(None, task, shots=2, settings=settings, backbone="tiny")
    assert file.card.method == "pt" and tuple(file.prompt.shape) == (8, 64)


def test_preset_rates_yield_to_files_and_options(tmp_path: Path) -> None:
    from clinprompt.api import settings_for
    from clinprompt.backbone.presets import load_preset

    preset = load_preset("llama-3.1-8b")
    config = tmp_path / "c.yaml"
    config.write_text("loop: {vector_learning_rate: 0.5, steps: 7}\n")
    assert settings_for(AdaptSettings, preset).loop.vector_learning_rate == preset.vector_learning_rate == 0.04
    assert settings_for(AdaptSettings, preset, config).loop.vector_learning_rate == 0.5
    given = settings_for(AdaptSettings, preset, config, {"loop.vector_learning_rate": 0.7, "loop.steps": None})
    assert (given.loop.vector_learning_rate, given.loop.steps) == (0.7, 7)


def test_adapter_rates_are_the_presets_then_the_grids(tmp_path: Path) -> None:
    from clinprompt.api import settings_for
    from clinprompt.backbone.presets import BackbonePreset
    from clinprompt.methods.registry import METHODS

    told, silent = BackbonePreset(adapter_learning_rates={"lora": 0.02, "prefix": 0.2}), BackbonePreset()
    config = tmp_path / "c.yaml"
    config.write_text("method: lora\nloop: {learning_rate: 0.5}\n")
    for method, rate in told.adapter_learning_rates.items():
        given = {"method": method}
        assert settings_for(AdaptSettings, told, None, given).loop.learning_rate == rate
        first = METHODS[method].grid[0]["loop.learning_rate"]
        assert settings_for(AdaptSettings, silent, None, given).loop.learning_rate == first
        assert settings_for(AdaptSettings, told, None, {**given, "loop.learning_rate": 0.7}).loop.learning_rate == 0.7
    assert settings_for(AdaptSettings, told, config).loop.learning_rate == 0.5


def test_mpt_is_mpt_plus_unless_something_else_is_named(tmp_path: Path) -> None:
    from clinprompt.api import settings_for
    from clinprompt.backbone.presets import load_preset

    preset = load_preset("llama-3.1-8b")
    beyond, full = tmp_path / "beyond.yaml", tmp_path / "full.yaml"
    beyond.write_text("factors: {rank: 2}\n")
    full.write_text("mode: full\n")
    modes = [settings_for(AdaptSettings, preset, config).mode for config in (None, beyond, full)]
    assert modes == ["frozen", "full", "full"]
    given = [{"method": "mpt"}, {"mode": "vectors"}, {"method": "pt"}]
    assert [settings_for(AdaptSettings, preset, None, g).mode for g in given] == ["frozen", "vectors", "full"]


def test_public_names() -> None:
    for name in dir(clinprompt):
        assert getattr(clinprompt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        clinprompt.lern  # noqa: B018


def test_readme_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's Python block, word for word but for the names of backbone and metaprompt, and in two steps."""
    from clinprompt import api

    root = Path(__file__).resolve().parents[1]
    block = (root / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    script = (root / "examples" / "python_api.py").read_text(encoding="utf-8").split('"""')[2]
    assert block.strip() == script.strip()
    backbone = clinprompt.load_backbone("tiny")
    settings = LearnSettings(prompt_length=4, limit=4, teacher=LOOP, source=LOOP)
    suite = make(tmp_path / "corpora") / "suite.yaml"
    clinprompt.learn(suite, tmp_path / "run", backbone=backbone, settings=settings)
    metaprompt = tmp_path / "run" / "metaprompt.safetensors"
    monkeypatch.setattr(api, "packaged_metaprompt", lambda: metaprompt)
    monkeypatch.setattr(api, "settings_for", lambda *_: AdaptSettings(loop=LOOP))
    monkeypatch.setattr("clinprompt.backbone.model.load_backbone", lambda name: backbone)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(root / "examples")
    exec(compile(block, "README.md", "exec"), {})
    assert "strict_f1: " in capsys.readouterr().out and (tmp_path / "runs" / "problems.safetensors").is_file()
