"""Every recipe runs, on a tiny model of its class; the suite of the paper's corpora fits our readers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


SUITE_WITH_A_TARGET = "name: mine\nsources: [find.yaml, infer.yaml]\ntargets: [other.yaml]\n"


def cut_down(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of a comparison with its methods, rates and place of the prompt, and few of all else."""
    loop = {"steps": 2, "batch_size": 2, "evaluate_every": 1}
    learn = {**plan["learn"], "prompt_length": 4, "limit": 4, "teacher": loop, "source": loop}
    return {**plan, "learn": learn, "limits": {"train": 4, "validation": 2, "test": 2}, "seeds": 1, "draws": 1}


@pytest.mark.parametrize(("plan", "model"), [("full-size", "llama-3.1-8b"), ("full-size-gpt-oss", "gpt-oss-20b")])
def test_the_full_size_comparison_runs_on_a_tiny_model_of_its_class(plan: str, model: str, tmp_path: Path) -> None:
    corpora = make(tmp_path / "corpora")
    (corpora / "other.yaml").write_text((corpora / "infer.yaml").read_text().replace("name: infer", "name: other"))
    (corpora / "suite.yaml").write_text(SUITE_WITH_A_TARGET)
    kind, template, marks = DIALECT[model]
    backbone = save_tiny(tmp_path / model, kind, template=template, marks=marks)
    named = yaml.safe_load((CONFIGS / "benchmarks" / f"{plan}.yaml").read_text())
    config, out = tmp_path / "plan.yaml", tmp_path / "r.jsonl"
    config.write_text(yaml.safe_dump(cut_down(named)))
    asked = ("benchmark", corpora / "suite.yaml", "--config", config, "--shots", "full,0,1", "--steps", 1, "--json")
    where = ("--backbone", backbone, "--device", "cpu", "--dtype", "float32", "--work", tmp_path / "w", "--out", out)
    foreseen = json.loads(run(*asked, *where, "--dry-run", "--flops-per-second", "1e12"))
    run(*asked, *where)
    cells = [line for line in map(json.loads, out.read_text().splitlines()) if line["kind"] == "cell"]
    assert len(cells) == foreseen["cells"] and {cell["method"] for cell in cells} == set(named["methods"])
    tried = {c["method"]: [t["values"]["loop.learning_rate"] for t in c["trials"]] for c in cells if c["trials"]}
    assert tried["lora"] == named["grids"]["lora"] and tried["pt"] == [0.03, 0.1, 0.01]
    places = {cell["settings"]["protocol"]["learn"].get("prompt_position", "start") for cell in cells}
    assert places == {named["learn"].get("prompt_position", "start")}


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


def test_the_full_size_plans_differ_in_the_place_of_the_prompt_alone() -> None:
    names = ("full-size", "full-size-gpt-oss")
    plain, end = (yaml.safe_load((CONFIGS / "benchmarks" / f"{name}.yaml").read_text()) for name in names)
    assert end["learn"].pop("prompt_position") == "end" and end == plain


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
