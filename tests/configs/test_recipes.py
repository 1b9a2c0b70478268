"""Every recipe runs, on a tiny model of its class; the suite of the paper's corpora fits our readers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from clinprompt.backbone.model import _quantisation
from clinprompt.cli import app
from clinprompt.corpora.formats import reader_named
from clinprompt.errors import BackboneError, ClinpromptError
from clinprompt.prompts.artifact import load_metaprompt
from clinprompt.suites import load_suite, load_task_data, resolve_task
from clinprompt.training.search import SearchSettings
from clinprompt.training.settings import LearnSettings, load_settings
from tests.backbone.folders import HARMONY_CHAT, HARMONY_MARKS, LLAMA_CHAT, LLAMA_MARKS, save_tiny
from tests.cli_workspace import make

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
DIALECT = {
    "llama-3.1-8b": ("llama", "", []),
    "meditron3-8b": ("llama", LLAMA_CHAT, LLAMA_MARKS),
    "gpt-oss-20b": ("gpt_oss", HARMONY_CHAT, HARMONY_MARKS),
}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs_on_a_tiny_model_of_its_class(recipe: str, corpora: Path, tmp_path: Path) -> None:
    model = recipe.removesuffix("-4bit")
    kind, template, marks = DIALECT[model]
    # A folder of the model's name gets its preset: chat template, answer prefix, learning rates.
    backbone = save_tiny(tmp_path / model, kind, template=template, marks=marks)
    config = CONFIGS / "recipes" / f"{recipe}.yaml"
    asked = ("learn", corpora / "suite.yaml", "--config", config, "--backbone", backbone, "--device", "cpu")
    small = ("--dtype", "float32", "--prompt-length", 4, "--teacher-steps", 2, "--steps", 2, "--limit", 4)
    plan = json.loads(run(*asked, *small, "--out", tmp_path / "x", "--dry-run", "--flops-per-second", "1e12", "--json"))
    assert plan["memory_parts"]["weights in float32"] == 4 * plan["backbone_parameters"]
    assert sum(plan["memory_parts"].values()) == plan["memory_bytes"]
    assert plan["seconds"] == pytest.approx(plan["flops"] / 1e12)
    found = json.loads(run(*asked, *small, "--out", tmp_path / "run", "--json"))
    assert [s["task"] for s in found["sources"]] == ["find-problems", "infer"]
    card = load_metaprompt(tmp_path / "run" / "metaprompt.safetensors").card
    named = yaml.safe_load(config.read_text())
    assert card.position == named.get("prompt_position", "start")
    assert card.settings["source"]["micro_tokens"] == named["source"]["micro_tokens"]
    assert card.settings["source"]["learning_rate"] == 0.03, "the preset's"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("learn-*.yaml")) + sorted((CONFIGS / "recipes").glob("*.yaml")))
def test_every_configuration_of_learning_is_valid(path: Path) -> None:
    settings = load_settings(LearnSettings, path)
    assert settings.prompt_length


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("search-*.yaml")))
def test_every_configuration_of_a_search_is_valid(path: Path) -> None:
    settings = load_settings(SearchSettings, path)
    assert settings.trials * len(settings.depths) * len(settings.lengths)


def test_a_configuration_says_in_its_name_what_it_is_for() -> None:
    assert {path.name.split("-")[0] for path in CONFIGS.glob("*.yaml")} == {"learn", "search"}


def test_recipes_are_there() -> None:
    assert RECIPES == [
        "gpt-oss-20b", "llama-3.1-8b", "llama-3.1-8b-4bit", "meditron3-8b", "meditron3-8b-4bit",
    ]  # fmt: skip


def test_the_papers_suite_names_readers_and_tells_what_is_missing() -> None:
    suite = load_suite(CONFIGS / "clinical-mpt" / "suite.yaml")
    own = [task for task, _ in suite.tasks if task.endswith(".yaml")]
    assert len(own) == 8 and {"scinli", "medbullets", "headqa"} <= set(suite.targets)
    for task in own:
        definition = resolve_task(task)
        reader = reader_named(definition.format or "")
        assert set(definition.reader) <= set(reader.options) and definition.licence
        with pytest.raises((ClinpromptError, FileNotFoundError)):
            load_task_data(task, splits=("test",))


def test_gpt_oss_is_unpacked_for_training() -> None:
    stored = SimpleNamespace(quantization_config={"quant_method": "mxfp4"})
    assert _quantisation(None, stored).dequantize is True
    with pytest.raises(BackboneError, match=r"stored quantised already \(mxfp4\)"):
        _quantisation("4bit", stored)
    assert _quantisation(None, SimpleNamespace()) is None
