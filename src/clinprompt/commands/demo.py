"""`clinprompt demo`: the whole path on synthetic text, in minutes, without a corpus or a download."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import counter, duration, print_json, print_table, remark, say, size, stage_bars, steps
from clinprompt.version import __version__

if TYPE_CHECKING:
    from clinprompt.backbone.model import Backbone
    from clinprompt.backbone.presets import BackbonePreset
    from clinprompt.commands.output import StageBar
    from clinprompt.prompts.artifact import Metaprompt, TaskPrompt
    from clinprompt.suites import TaskData
    from clinprompt.training.settings import AdaptSettings, LearnSettings

COMPARED = ("constant", "zero-shot", "pt", "mpt")
SYNTHETIC = "All numbers are on synthetic text made by rule; they say nothing about real notes."


@dataclass(frozen=True)
class DemoSize:
    """Everything that decides how long the demo takes. MPT and PT get the same shots, steps, batches and rate."""

    train: int = 100
    validation: int = 16
    test: int = 80
    scored: int = 40
    teacher_steps: int = 60
    teacher_batch: int = 4
    source_steps: int = 120
    source_batch: int = 24
    shots: int = 20
    adapt_steps: int = 80
    adapt_batch: int = 8
    learning_rate: float = 0.05
    vector_learning_rate: float = 0.05


NORMAL = DemoSize()
FAST = DemoSize(
    train=24,
    validation=4,
    test=12,
    scored=6,
    teacher_steps=4,
    source_steps=6,
    source_batch=8,
    adapt_steps=4,
    adapt_batch=4,
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the metaprompt, the task files and the scores.")] = Path(
        "runs/demo"
    ),
    fast: Annotated[bool, typer.Option("--fast", help="A few steps only, to see that everything runs.")] = False,
    backbone: o.BackboneName = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """From nothing to predictions in minutes, on synthetic clinical text.

    Learns a metaprompt on 12 tasks, adapts it to 5 unseen ones with 20 examples each, compares with single-task prompt
    tuning on the same budget, with no prompt at all and with one constant answer, and annotates a note. At most five
    minutes on two cores; run again, it continues or shows what is there.
    """
    from clinprompt import api
    from clinprompt.task_lookup import sample_tasks

    began, sizes = time.monotonic(), FAST if fast else NORMAL
    model = o.ModelChoice(backbone).load(api.EMBEDDED)
    tasks = sample_tasks(sizes.train, sizes.validation, sizes.test)
    sources = [t for t in tasks if t.role == "source"]
    targets = [t for t in tasks if t.role == "target"]
    folder = out / _run_name(model, sizes, seed)
    remark(f"Synthetic data: {len(sources)} source tasks, {len(targets)} unseen target tasks.", quiet or as_json)
    with stage_bars(not (quiet or as_json)) as bar:
        metaprompt = _learn(model, sources, sizes, folder, seed, bar)
        files = _adapt(model, metaprompt, targets, sizes, folder, seed, bar)
        rows = _score(model, targets, files, sizes, folder, seed, bar)
    note, line = _annotate(model, files, targets)
    found = {
        "synthetic": True,
        "note": SYNTHETIC,
        "settings": asdict(sizes),
        "seconds": round(time.monotonic() - began, 1),
        "metaprompt": {"file": str(folder / "metaprompt.safetensors"), "parameters": _numbers(metaprompt)},
        "tasks": rows,
        "example": line,
    }
    if as_json:
        print_json(found)
    else:
        _print(found, note, folder, sizes)


def _run_name(model: Backbone, sizes: DemoSize, seed: int) -> str:
    """One folder per backbone, size and settings, so that none of them meets another's checkpoints."""
    settings = [
        choose(model.preset, sizes, seed).model_dump(mode="json") for choose in (learn_settings, adapt_settings)
    ]
    text = json.dumps([model.fingerprint, asdict(sizes), settings, __version__])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _learn(
    model: Backbone, sources: list[TaskData], sizes: DemoSize, folder: Path, seed: int, bar: StageBar | None
) -> Metaprompt:
    from clinprompt import api

    settings = learn_settings(model.preset, sizes, seed)
    return api.learn(sources, folder, backbone=model, settings=settings, progress=bar).metaprompt


def learn_settings(preset: BackbonePreset, sizes: DemoSize, seed: int) -> LearnSettings:
    """How a demo of this size learns its metaprompt."""
    from clinprompt import api
    from clinprompt.training.settings import LearnSettings

    overrides = {
        "limit": sizes.train,
        "validation_records": sizes.validation,
        "seed": seed,
        "teacher.steps": sizes.teacher_steps,
        "teacher.batch_size": sizes.teacher_batch,
        "teacher.evaluate_every": 0,
        "source.steps": sizes.source_steps,
        "source.batch_size": sizes.source_batch,
        "source.evaluate_every": 0,
        "teacher.learning_rate": sizes.learning_rate,
        "source.learning_rate": sizes.learning_rate,
        "source.vector_learning_rate": sizes.vector_learning_rate,
    }
    return api.settings_for(LearnSettings, preset, None, overrides)


def _adapt(
    model: Backbone,
    metaprompt: Metaprompt,
    targets: list[TaskData],
    sizes: DemoSize,
    folder: Path,
    seed: int,
    bar: StageBar | None,
) -> dict[tuple[str, str], Path]:
    """MPT and PT task files of all targets; the five of a method are rows of one training."""
    from clinprompt import api

    settings = adapt_settings(model.preset, sizes, seed)
    files = {}
    for method, start in (("mpt", metaprompt), ("pt", None)):
        result = api.adapt_all(
            start,
            targets,
            backbone=model,
            settings=settings,
            prompt_length=metaprompt.shared.shape[0],
            checkpoint=folder / f"adapt-{method}.checkpoint.safetensors",
            progress=steps(bar, f"adapt ({method}), {len(targets)} tasks at once"),
        )
        for file in result.tasks:
            path = folder / "tasks" / f"{file.task.name}.{method}.safetensors"
            api.write_task(file, path)
            files[file.task.name, method] = path
    return files


def adapt_settings(preset: BackbonePreset, sizes: DemoSize, seed: int) -> AdaptSettings:
    """How a demo of this size adapts to a target, with either method."""
    from clinprompt import api
    from clinprompt.training.settings import AdaptSettings

    overrides = {
        "mode": "full",  # as published, and with as many positions as prompt tuning
        "shots": sizes.shots,
        "seed": seed,
        "loop.steps": sizes.adapt_steps,
        "loop.batch_size": sizes.adapt_batch,
        "loop.evaluate_every": 0,
        "loop.learning_rate": sizes.learning_rate,
        "loop.vector_learning_rate": sizes.vector_learning_rate,
    }
    return api.settings_for(AdaptSettings, preset, None, overrides)


def _score(
    model: Backbone,
    targets: list[TaskData],
    files: dict[tuple[str, str], Path],
    sizes: DemoSize,
    folder: Path,
    seed: int,
    bar: StageBar | None,
) -> list[dict[str, Any]]:
    """Headline scores on test records; those of an earlier run with the same prompts are read back."""
    from clinprompt import api

    kept = folder / "scores.json"
    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    rows = []
    for data in targets:
        name = data.task.name
        row: dict[str, Any] = {"task": name, "type": data.task.type, "n": min(sizes.scored, len(data.splits["test"]))}
        for method in COMPARED:
            file = _loaded(files, name, method)
            key = f"{name} {method} {file.card.digest if file else ''} {row['n']}"
            if key not in known:
                progress = counter(bar, f"score {name} ({method})")
                if method == "constant":
                    known[key] = _constant(model, data, sizes, seed)
                else:
                    known[key] = _evaluate(model, data, file, files, sizes.scored, progress)
                _write_json(kept, known)
            row |= {"metric": known[key]["headline"], method: known[key]["score"]}
            if file:
                path = files[name, method]
                row[f"{method}_file"], row[f"{method}_bytes"] = str(path), path.stat().st_size
        row["parameters"] = {m: api.load_artifact(files[name, m]).prompt.numel() for m in ("pt", "mpt")}  # type: ignore[union-attr]
        rows.append(row)
    return rows


def _loaded(files: dict[tuple[str, str], Path], name: str, method: str) -> TaskPrompt | None:
    from clinprompt.prompts.artifact import load_task

    return load_task(files[name, method]) if (name, method) in files else None


def _evaluate(
    model: Backbone,
    data: TaskData,
    file: TaskPrompt | None,
    files: dict[tuple[str, str], Path],
    limit: int,
    progress: Any,
) -> dict[str, Any]:
    """Zero-shot answers may be as long as those of the adapted prompt."""
    from clinprompt.evaluation.answerer import of_task, zero_shot
    from clinprompt.evaluation.evaluate import evaluate_records

    longest = of_task(model, _loaded(files, data.task.name, "mpt") or file).limit  # type: ignore[arg-type]
    who = of_task(model, file) if file else zero_shot(model, data.task, longest)
    found = evaluate_records(replace(who, limit=longest), data.splits["test"], limit=limit, progress=progress)
    return {"headline": found.headline, "score": asdict(found.value)}


def _constant(model: Backbone, data: TaskData, sizes: DemoSize, seed: int) -> dict[str, Any]:
    """One answer to every question, the best one on the examples that the others train on."""
    from clinprompt.evaluation.answerer import one_answer
    from clinprompt.evaluation.evaluate import evaluate_records
    from clinprompt.training.few_shot import draw_shots

    drawn = draw_shots(data.task, data.splits["train"], sizes.shots, seed=seed)
    found = evaluate_records(one_answer(model, data.task, drawn), data.splits["test"], limit=sizes.scored)
    return {"headline": found.headline, "score": asdict(found.value)}


def _annotate(
    model: Backbone, files: dict[tuple[str, str], Path], targets: list[TaskData]
) -> tuple[str, dict[str, Any]]:
    """The first NER target's prompt on a synthetic note: the note and the answer."""
    from clinprompt import api
    from clinprompt.corpora.sample import sample_note
    from clinprompt.evaluation.answer_line import answer_line

    task = next(t.task for t in targets if t.task.type == "ner")
    note = sample_note()
    prediction = api.predict(files[task.name, "mpt"], [note.without_gold()], backbone=model)[0]
    return note.text, answer_line(task, prediction)


def _print(found: dict[str, Any], note: str, folder: Path, sizes: DemoSize) -> None:
    print_table(
        f"{sizes.shots} examples each, scored on unseen synthetic records (0-100, 95 % interval)",
        ("task", "metric", "constant", "zero-shot", "prompt tuning", "MPT", "n", "file"),
        [
            (
                row["task"],
                row["metric"],
                f"{row['constant']['value']:.1f}",
                *(_shown(row[m]) for m in COMPARED[1:]),
                row["n"],
                size(row["mpt_bytes"]),
            )
            for row in found["tasks"]
        ],
        caption=SYNTHETIC,
    )
    first = next(row for row in found["tasks"] if row["type"] == "ner")
    say(f"Prediction of {first['task']} on a synthetic note:")
    say(f"  {note}")
    for entity in found["example"]["entities"]:
        start, end = entity["spans"][0][0], entity["spans"][-1][1]
        say(f"  → {entity['type']}: {entity['text']} ({start}-{end})")
    if not found["example"]["entities"]:
        say("  → no entity found")
    for item in found["example"]["ungrounded"]:
        say(f"  → not in the text, so counted as an error: {item['type']}: {item['text']}")
    say(f"Files: {folder} (metaprompt.safetensors, tasks/, scores.json); {duration(found['seconds'])} in all")
    say(f"Next: clinprompt inspect {found['metaprompt']['file']}")
    say(f"      clinprompt predict {first['mpt_file']} YOUR-NOTE.txt")


def _shown(score: dict[str, float]) -> str:
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


def _numbers(metaprompt: Metaprompt) -> int:
    return sum(t.numel() for t in (metaprompt.shared, metaprompt.u, metaprompt.v))


def _write_json(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
    partial.replace(path)
