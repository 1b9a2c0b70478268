"""`clinprompt report` from end to end on made-up results whose effects are known."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.experiments.board import lay_out
from clinprompt.experiments.document import Table
from clinprompt.experiments.report import Written, compose, report
from clinprompt.experiments.results import Cell, Line, MetaLine, Results, Trial, line_text
from clinprompt.experiments.tuning_section import at_edges, tuning_section
from tests.experiments import board as made
from tests.experiments.test_document import check_page

N = 40  # test records
SKILLS = {"zero-shot": 0.2, "pt": 0.35, "mpt": 0.5, "mpt-vectors": 0.48, "lora": 0.5, "full": 0.6}
ABLATED = {"mpt-no-distillation": 0.35, "mpt-no-decomposition": 0.5}


def meta(seed: int) -> MetaLine:
    sources = tuple(f"source-{i}" for i in range(21))
    digest = made.digest("metaprompt", "mpt", seed)
    return MetaLine(variant="mpt", seed=seed, digest=digest, sources=sources, seconds=900.0, flops=6e13)


def whole() -> list[Line]:
    """Ten targets, three seeds, ablations, few-shot draws; `full` is missing on one target, one run of `lora` too."""
    cells = made.grid({**SKILLS, **ABLATED}, n=N)
    cells += made.grid(
        {"pt": 0.4, "mpt": 0.5}, shots=(0, 1, 5), draws=range(3), seeds=(0,), n=N, learns=lambda k: -0.2 / (1 + k)
    )
    cells = [c for c in cells if (c.target, c.method) != ("nli4ct", "full")]
    cells = [c for c in cells if c.key != ("phee", "lora", "full", 0, 2)]
    return [*cells, *(meta(s) for s in range(3)), *(made.test_set(t, N) for t in made.TARGETS)]


def write(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(line_text(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder / "results.jsonl", whole())
    return folder


@pytest.fixture(scope="module")
def written(place: Path) -> Written:
    return report([place / "results.jsonl"], place / "out", resamples=300)


def rows(place: Path, name: str) -> list[dict[str, str]]:
    with (place / "out" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_parts_are_there(place: Path, written: Written) -> None:
    names = {path.name for path in written.files}
    assert {
        "report.html",
        "report.md",
        "main.csv",
        "comparisons.csv",
        "few-shot.csv",
        "ablation.csv",
        "costs.csv",
    } <= names
    assert {"worth.csv", "tuning.csv", "errors-ner.csv", "published.csv", "few-shot.svg", "parameters.svg"} <= names
    assert names == {path.name for path in (place / "out").iterdir()}
    text = (place / "out" / "report.md").read_text(encoding="utf-8")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "What came out", "Scores with all training examples", "Beside the paper", "Few examples", "Ablations",
        "What a target costs", "What the metaprompt costs, and what it saves", "Tuning", "Errors",
        "Where the numbers come from",
    ]  # fmt: skip


def test_the_words_say_what_was_put_in(written: Written) -> None:
    said = " ".join(written.conclusions)
    assert "4 are missing: 3 of full with all training examples, 1 of lora" in said
    assert "Average over the 9 targets that all methods have, highest first: full" in said
    sure = next(s for s in written.conclusions if s.startswith("With all training examples, significant"))
    unsure = next(s for s in written.conclusions if s.startswith("With all training examples, not significant"))
    assert "mpt is ahead of pt by +" in sure and "full is ahead of mpt by +" in sure and "lora" not in sure
    assert "lora (" in unsure and "mpt-vectors (" in unsure
    assert "mpt is ahead of mpt-no-distillation" in said and "against mpt-no-decomposition" in said
    assert "against pt: never" in said and "against lora: after 31 targets" in said
    assert "10 of 10 targets were scored on a fixed sample" in said


def test_the_main_table_is_the_mean_over_runs(place: Path, written: Written) -> None:
    cells = [line for line in whole() if isinstance(line, Cell)]
    values = [c.value for c in cells if c.target == "scinli" and c.method == "mpt" and c.shots == "full"]
    (row,) = [r for r in rows(place, "main") if r["target"] == "scinli" and r["method"] == "mpt"]
    assert float(row["mean"]) == pytest.approx(sum(values) / 3) and row["runs"] == "3" and row["p"] == ""
    (absent,) = [r for r in rows(place, "main") if r["target"] == "nli4ct" and r["method"] == "full"]
    assert absent["mean"] == "" and absent["runs"] == "0"
    text = (place / "out" / "report.md").read_text(encoding="utf-8")
    assert "**average of all 10**" in text and "**average of 9 shared**" in text and "– (9 targets)" in text
    assert "zero-shot (k = 0)" in text


def test_the_papers_figures_stand_beside_ours_with_what_differs(place: Path, written: Written) -> None:
    text = (place / "out" / "report.md").read_text(encoding="utf-8")
    assert "| `scinli` | F1 | 86.5 |" in text and "| `headqa` | accuracy | 64.4 |" in text and "| 68.9 |" in text
    assert "backbone (here `embedded`) and split differ" in text and "| +6.1 to +6.6 |" in text


def test_errors_give_ids_and_no_text(place: Path, written: Written) -> None:
    found = [r for r in rows(place, "error-examples") if "e3c" in r["target"]]
    assert {r["error"] for r in found} == {"missed", "spurious"}
    assert all("`e3c-" in r["for example"] and int(r["records"]) > 0 for r in found)
    assert {r["method"] for r in rows(place, "errors-ner")} >= {"mpt", "pt"}


def test_tuning_budgets(place: Path, written: Written) -> None:
    text = (place / "out" / "report.md").read_text(encoding="utf-8")
    assert "Every trained method had 4 trials." in text and "0.01, 0.03, 0.1, 0.3" in text
    cells = made.grid({"mpt": 0.5, "pt": 0.4}, targets=("e3c", "headqa"), n=N)
    fewer = [c.model_copy(update={"trials": c.trials[:2]}) if c.method == "pt" else c for c in cells]
    unequal = compose(lay_out(Results(fewer)), draw=False, resamples=50)
    assert "**not equal**" in str(unequal.sections[0].blocks) and "`pt` 2" in str(unequal.sections)


def test_a_method_that_ends_at_an_edge_of_its_grid_is_named() -> None:
    """Per choice, not per run that inherits it; of all records and of few apart, whose grids may differ."""

    def cell(target: str, shots: Any, seed: int, rates: tuple[float, ...], taken: int, method: str = "lora") -> Cell:
        trials = tuple(Trial(values={"loop.learning_rate": r}, score=1.0, on="loss") for r in rates)
        return made.cell(target, method, 0.5, shots=shots, seed=seed, n=8, trials=trials, chosen=trials[taken].values)

    targets = ("e3c", "headqa", "scinli", "phee", "open-i")
    high = [cell(t, "full", seed, (0.001, 0.003), int(t != "e3c")) for t in targets for seed in (0, 1, 2)]
    inside = [cell(t, 5, 0, (0.1, 0.2, 0.3), 1) for t in targets]
    mixed = [cell(t, "full", 0, (0.1, 0.2), i % 2, "pt") for i, t in enumerate(targets)]
    board = lay_out(Results([*high, *inside, *mixed]))
    assert at_edges(board) == ["`lora`, all records: the highest loop.learning_rate in 4 of 5"]
    table = next(b for b in tuning_section(board).blocks if isinstance(b, Table))
    edges = {row[:2]: row[-1] for row in table.rows}
    assert edges == {
        ("`lora`", "all records"): "highest 4, lowest 1 of 5",
        ("`lora`", "5 shots"): "highest 0, lowest 0 of 5",
        ("`pt`", "all records"): "highest 2, lowest 3 of 5",
    }
    assert "1 of the rows under Tuning" in str(compose(board, draw=False, resamples=20).sections[0].blocks)


def test_the_page_is_self_contained(place: Path, written: Written) -> None:
    page = written.page.read_text(encoding="utf-8")
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in check_page(page))
    assert page.count("data:image/svg+xml;base64,") == 6


def test_figures_are_vectors_with_text_and_no_date(place: Path, written: Written) -> None:
    pictures = [path for path in written.files if path.suffix == ".svg"]
    assert len(pictures) == 6
    for path in pictures:
        text = path.read_text(encoding="utf-8")
        tree = ElementTree.fromstring(text)
        assert tree.tag.endswith("svg") and "<image" not in text and "dc:date" not in text
        assert any(node.tag.endswith("}text") for node in tree.iter())
    few = (place / "out" / "few-shot.svg").read_text(encoding="utf-8")
    for label in ("Entities", "Relations", "Question answering", "Inference", "Summarization", "training examples k"):
        assert label in few


def test_few_shot_panels_have_curves_where_a_type_has_targets_without_few_shot_runs(tmp_path: Path) -> None:
    """Two targets of a type, few-shot runs of one: its panel names that one and shows every method."""
    cells: list[Line] = [*made.grid(SKILLS, n=10), *(made.test_set(t, 10) for t in made.TARGETS)]
    cells += made.grid(
        {"pt": 0.4, "mpt": 0.5}, targets=("e3c", "open-i"), shots=(0, 5), draws=range(2), seeds=(0,), n=10
    )
    report([write(tmp_path / "r.jsonl", cells)], tmp_path / "out", resamples=100)
    few = (tmp_path / "out" / "few-shot.svg").read_text(encoding="utf-8")
    for label in ("Entities: e3c", "Summarization: open-i", ">pt<", ">mpt<"):
        assert label in few
    assert "Inference" not in few


def test_a_rerun_gives_the_same_files(tmp_path: Path) -> None:
    """In another process with another order of hashing and a user's own plot style."""
    cells: list[Line] = [*made.grid({"mpt": 0.5, "pt": 0.4}, targets=("e3c", "open-i"), shots=(1, 5, "full"), n=10)]
    results = write(tmp_path / "r.jsonl", cells)
    once = report([results], tmp_path / "once", resamples=100)
    assert sum(path.suffix == ".svg" for path in once.files) == 4
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: pink\nfont.size: 20\n", encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from clinprompt.experiments.report import report\n"
        "report([Path(sys.argv[1])], Path(sys.argv[2]), resamples=100)"
    )
    environment: dict[str, str] = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7", "PATH": ""}
    arguments = [str(results), str(tmp_path / "again")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=200, env=environment)
    for path in once.files:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_single_run_of_two_methods_is_a_report_too(tmp_path: Path) -> None:
    cells: list[Line] = [made.cell("e3c", m, 0.5, n=N) for m in ("mpt", "pt")]
    found = report([write(tmp_path / "r.jsonl", cells)], tmp_path / "out", draw=False, resamples=50)
    said = " ".join(found.conclusions)
    assert "All 2 cells are there" in said and "One run only, so no deviation: pt, mpt" in said
    assert "cannot give p below 1" in said and not list((tmp_path / "out").glob("*.svg"))


def test_who_is_not_ahead_of_a_constant_answer_is_told(tmp_path: Path) -> None:
    constant = [made.cell(target, "constant", 0.5, n=200) for target in ("e3c", "headqa")]
    cells: list[Line] = [*constant, *(made.cell("e3c", m, s, n=200) for m, s in (("mpt", 0.9), ("pt", 0.1)))]
    same = constant[1].per_example  # as a method answers that has learned one answer
    cells += [made.cell("headqa", m, 0.5, n=200, per_example=same) for m in ("mpt", "pt")]
    found = report([write(tmp_path / "r.jsonl", cells)], tmp_path / "out", draw=False, resamples=300)
    said = " ".join(found.conclusions)
    assert "some method is significantly ahead on 1 of 2 targets: e3c." in said
    with (tmp_path / "out" / "constant.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["target"] for row in table] == ["`e3c`", "`headqa`"]
    assert [row["significantly ahead of it"] for row in table] == ["`mpt`", "–"]
    assert [row["significantly behind it"] for row in table] == ["`pt`", "–"]
    without = report([write(tmp_path / "w.jsonl", cells[2:])], tmp_path / "none", draw=False, resamples=50)
    assert "constant" not in " ".join(without.conclusions) and not (tmp_path / "none" / "constant.csv").exists()


def test_no_method_in_common_and_only_one_method(tmp_path: Path) -> None:
    apart: list[Line] = [made.cell("e3c", "mpt", 0.5, n=N), made.cell("headqa", "pt", 0.5, n=N)]
    found = report([write(tmp_path / "a.jsonl", apart)], tmp_path / "out", resamples=50)
    assert "No target has results of all methods" in " ".join(found.conclusions)
    alone: list[Line] = [made.cell("e3c", "zero-shot", 0.5, shots=0, n=N)]
    assert report([write(tmp_path / "b.jsonl", alone)], tmp_path / "one", resamples=50).page.is_file()


def test_a_contradiction_and_a_metric_that_cannot_be_resampled_are_told(tmp_path: Path) -> None:
    cell = made.cell("scinli", "mpt", 0.5, n=N)
    macro = cell.model_copy(update={"headline": "macro_f1", "metrics": {"macro_f1": (3.0, 2.0, 4.0)}})
    twice: list[Line] = [macro, macro.model_copy(update={"metrics": {"macro_f1": (9.0, 2.0, 10.0)}})]
    said = " ".join(report([write(tmp_path / "r.jsonl", twice)], tmp_path / "out", draw=False).conclusions)
    assert "1 cells were computed twice with different results" in said
    assert "The metric of scinli cannot be resampled" in said


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_command(place: Path, tmp_path: Path) -> None:
    results = write(tmp_path / "r.jsonl", list(made.grid({"mpt": 0.5, "pt": 0.4}, targets=("e3c", "headqa"), n=20)))
    found = json.loads(run(results, "--out", tmp_path / "out", "--no-figures", "--json").stdout)
    assert Path(found["page"]).is_file() and len(found["files"]) > 8 and found["conclusions"]
    assert "- All 12 cells are there." in run(results, "--out", tmp_path / "out", "--no-figures").stdout
    assert "Examples:" in CliRunner().invoke(app, ["report", "--help"]).output


def test_command_errors(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n", encoding="utf-8")
    assert "bad.jsonl:1: `id`: Field required" in run(tmp_path / "bad.jsonl", "--out", tmp_path / "o", code=2).output
    assert "no such file" in run(tmp_path / "none.jsonl", "--out", tmp_path / "o", code=2).output
    wrong = run(place / "results.jsonl", "--out", tmp_path / "o", "--reference", "mptt", code=2).output
    assert "Did you mean 'mpt'?" in wrong and not (tmp_path / "o").exists()
