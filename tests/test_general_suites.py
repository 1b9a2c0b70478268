"""The general benchmarks from end to end on small files of ours: averages, the command line, multi-task training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

import clinprompt
from clinprompt import suites
from clinprompt.checking import check_task
from clinprompt.cli import app
from clinprompt.corpora import hub_corpus
from clinprompt.corpora.catalog import catalog_entry, catalog_ids
from clinprompt.errors import TaskError
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.metrics import score
from clinprompt.training.learn import Learned
from clinprompt.training.settings import LearnSettings, LoopSettings
from tests import hub_samples

pytest.importorskip("pyarrow", reason="parquet needs the extra `suites`")

SUITES = ("glue", "superglue", "mmlu", "commonsense")


@pytest.fixture
def any_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples have fewer rows than the data sets."""
    monkeypatch.setattr(hub_corpus, "check_rows", lambda part, folder, found: None)


def files_of(name: str, folder: Path, count: int = 12) -> suites.Suite:
    suite = suites.load_suite(name)
    for task in suite.sources:
        hub_samples.write(task, folder, count)
    return suite


# --- averages ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_count")
@pytest.mark.parametrize("name", SUITES)
def test_a_perfect_model_has_an_average_of_100(name: str, tmp_path: Path) -> None:
    """Every metric an average names is one that scoring gives, and its best value is 100."""
    suite = files_of(name, tmp_path)
    assert set(suite.average) == set(suite.sources)
    values = {}
    for data in suites.suite_data(suite, tmp_path, splits=["test"]):
        test = data.splits["test"]
        scores = score(data.task, test, [Prediction(record) for record in test], resamples=0)
        values[data.task.name] = {metric: found.value for metric, found in scores.items()}
        assert not math.isnan(scores[data.task.metrics[0]].value)
    found = suites.suite_average(suite, values)
    stsb = found.tasks.get("glue-stsb", 100.0)  # rounded answers against exact numbers
    assert 99 < stsb <= 100 and found.value == pytest.approx(100, abs=0.2)
    assert set(found.tasks) == set(suite.sources)


def test_the_average_is_over_metrics_first_and_then_over_tasks() -> None:
    """Two metrics of one task weigh as much as the one of another: ((60 + 80) / 2 + 50) / 2."""
    suite = suites.Suite(name="s", sources=("a", "b"), average={"a": ("f1", "accuracy"), "b": ("accuracy",)})
    scores = {"a": {"f1": 60.0, "accuracy": 80.0, "other": 0.0}, "b": {"accuracy": 50.0}}
    found = suites.suite_average(suite, scores)
    assert found == suites.SuiteAverage(60.0, {"a": 70.0, "b": 50.0})
    with pytest.raises(TaskError, match=r"no score of b for accuracy.*all 2 tasks"):
        suites.suite_average(suite, {"a": scores["a"]})
    with pytest.raises(TaskError, match="defines no `average`"):
        suites.suite_average(suites.load_suite("open-clinical"), scores)


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_an_average_with_an_undefined_metric_is_undefined_and_says_which(nothing: float | None) -> None:
    """Constant answers have no correlation; `evaluate --json` writes null there."""
    suite = suites.Suite(name="s", sources=("a", "b"), average={"a": ("pearson", "spearman"), "b": ("accuracy",)})
    found = suites.suite_average(suite, {"a": {"pearson": nothing, "spearman": 3.0}, "b": {"accuracy": 50.0}})
    assert math.isnan(found.value) and math.isnan(found.tasks["a"]) and found.tasks["b"] == 50
    assert found.undefined == ("a: pearson",) and str(found) == "undefined (a: pearson)"
    whole = suites.suite_average(suite, {"a": {"pearson": 1.0, "spearman": 3.0}, "b": {"accuracy": 50.0}})
    assert whole.undefined == () and str(whole) == "26.0"


def test_glue_weighs_as_its_leaderboard() -> None:
    """Every task 0 but MRPC, whose F1 is 100 and accuracy 0: half a task of nine. MNLI's two parts are one task."""
    suite = suites.load_suite("glue")
    zeros = {task: dict.fromkeys(metrics, 0.0) for task, metrics in suite.average.items()}
    assert suites.suite_average(
        suite, zeros | {"glue-mrpc": {"class_f1/equivalent": 100.0, "accuracy": 0.0}}
    ).value == (pytest.approx(50 / 9))
    mnli = {"accuracy/matched": 80.0, "accuracy/mismatched": 90.0}
    assert suites.suite_average(suite, zeros | {"glue-mnli": mnli}).tasks["glue-mnli"] == 85


def test_averages_are_the_published_ones() -> None:
    """BERT-large as the leaderboards list it: 80.5 on GLUE, 69.0 on SuperGLUE (arXiv 1905.00537, table 3)."""
    rows = {
        "glue": [[60.5], [94.9], [89.3, 85.4], [87.6, 86.5], [72.1, 89.3], [86.7, 85.9], [92.7], [70.1], [65.1]],
        "superglue": [[77.4], [75.7, 83.6], [70.6], [70.0, 24.1], [72.0, 71.3], [71.7], [69.6], [64.4]],
    }
    for name, average in (("glue", 80.5), ("superglue", 69.0)):
        suite = suites.load_suite(name)
        scores = {
            task: dict(zip(metrics, values, strict=True))
            for (task, metrics), values in zip(suite.average.items(), rows[name], strict=True)
        }
        assert round(suites.suite_average(suite, scores).value, 1) == average


@pytest.mark.parametrize(
    ("average", "message"),
    [({"glue-cola": ["matthews"]}, "unknown task of the suite"), ({"mqp": []}, "mqp has no metrics")],
)
def test_averages_that_are_refused(average: dict[str, list[str]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"name": "mine", "sources": ["mqp"], "average": average}), encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        suites.load_suite(path)


def test_the_documented_table_is_the_catalogs() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "suites.md").read_text(encoding="utf-8")
    for corpus_id in catalog_ids("general"):
        entry = catalog_entry(corpus_id)
        assert entry.hub is not None
        counts = [f"{entry.expected[split]:,}" for split in ("train", "validation", "test")]
        counts[1] = "†" if entry.hub.carves else counts[1]
        assert f"| `{corpus_id}` | {entry.licence} | {' | '.join(counts)} |" in text, corpus_id
        assert f"[{entry.hub.repository}]" in text and f"`{entry.hub.revision}`" in text


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "140"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_data_list_has_a_line_per_suite_and_a_table_of_each(tmp_path: Path) -> None:
    hub_samples.write("glue-cola", tmp_path, 2)
    text = run("data", "list", "--data-dir", tmp_path)
    lines = [line for line in text.splitlines() if "1 of 9" in line]
    assert len(lines) == 1 and "cola, sst2" in lines[0] and "glue-cola" not in text and "mqp" in text
    table = run("data", "list", "--suite", "glue", "--data-dir", tmp_path)
    assert "8,551 / † / 1,043" in table and "that of the original data set *" in table and "mqp" not in table
    rows = json.loads(run("data", "list", "--suite", "glue", "--data-dir", tmp_path, "--json"))
    assert [row["id"] for row in rows if row["local"]] == ["glue-cola"]
    assert rows[0]["carved"] and rows[0]["bytes"] is None and rows[0]["collection"] == "general"


@pytest.mark.usefixtures("any_count")
def test_data_show_and_check(tmp_path: Path) -> None:
    hub_samples.write("superglue-wic", tmp_path, 40)
    shown = json.loads(run("data", "show", "superglue-wic", "--split", "test", "--data-dir", tmp_path, "--json"))
    assert shown[1]["answer"] == "same"
    for task in ("glue-cola", "piqa", "glue-mnli"):
        hub_samples.write(task, tmp_path, 40)
        assert not [f for f in check_task(task, tmp_path).findings if f.severity == "error"], task


# --- training ---------------------------------------------------------------------------------------------------------

LOOP = LoopSettings(steps=3, batch_size=4, checkpoint_every=2, validation_limit=4)


def learned(name: str, folder: Path, **changes: object) -> Learned:
    settings = LearnSettings.model_validate({"prompt_length": 4, "limit": 6, "teacher": LOOP, "source": LOOP} | changes)
    return clinprompt.learn(name, folder / "run", backbone="tiny", data_dir=folder, settings=settings)


@pytest.mark.usefixtures("any_count")
@pytest.mark.parametrize(
    "name", ["superglue", *(pytest.param(name, marks=pytest.mark.slow) for name in ("glue", "commonsense"))]
)
def test_many_tasks_learn_together(name: str, tmp_path: Path) -> None:
    """Eight task prompts from one run; the sampler of `learn` draws from all tasks."""
    suite = files_of(name, tmp_path)
    learned(name, tmp_path)
    described = json.loads(run("inspect", tmp_path / "run" / "metaprompt.safetensors", "--json"))
    assert described["similarity"]["tasks"] == list(suite.sources)
    file = tmp_path / "run" / "metaprompt.safetensors"
    how = ("--backbone", "tiny", "--data-dir", tmp_path, "--limit", 4, "--json")
    found = json.loads(run("evaluate", file, "--source", suite.sources[0], *how))
    assert 0 <= found["metrics"]["accuracy"]["value"] <= 100 and found["n"] == 4
