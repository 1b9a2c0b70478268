"""How well does a soft prompt steer a backbone? Prompt tuning against LoRA and all weights, task by task.

    python -m benchmarks.promptability --data-dir DATA --text runs/pretraining/text.jsonl \\
        --classes runs/pretraining/classes.json --autocast --out benchmarks/results/promptability.jsonl

NCBI-disease as text to text (1,000 training sentences, three quarters with an entity; 150 test sentences; batches of
16; strict span F1), and three development tasks that rules make from raw text and that pretraining never announced
(`pretraining.extraction.held_out`). Every adaptation sees the same examples and tries the same number of learning
rates; the validation loss chooses, nothing is chosen on test. One JSON line per task and adaptation; a line that is
there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.predict import predict_task
from clinprompt.records import Entity, Record
from clinprompt.suites import load_task_data
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import headline, score
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.examples import sample_records
from clinprompt.training.learn import SourceTask
from clinprompt.training.settings import AdaptSettings, changed

NCBI = "ncbi-disease"


@dataclass(frozen=True)
class Adaptation:
    """A row of the table: changes of `AdaptSettings`, the prompt's length, the steps, the learning rates tried."""

    name: str
    method: str
    steps: int
    rates: tuple[float, ...]
    length: int = 0
    initial: str = "vocabulary"


PROMPT_RATES, LORA_RATES, FULL_RATES = (0.03, 0.1), (1e-3, 3e-3), (5e-4, 1e-3)
ON_NCBI = (
    Adaptation("prompt of 20", "pt", 200, PROMPT_RATES, 20),
    Adaptation("prompt of 60", "pt", 600, PROMPT_RATES, 60),
    Adaptation("prompt of 60, practised start", "pt", 600, PROMPT_RATES, 60, "practised"),
    Adaptation("LoRA r = 16", "lora", 300, LORA_RATES),
    Adaptation("all weights", "full", 300, FULL_RATES),
)
ON_DEVELOPMENT = (
    Adaptation("prompt of 16, practised start", "pt", 120, PROMPT_RATES, 16, "practised"),
    Adaptation("LoRA r = 16", "lora", 120, LORA_RATES),
)


@dataclass(frozen=True)
class Material:
    source: SourceTask
    test: list[Record]


def thinned(name: str, records: Sequence[Record], count: int) -> list[Record]:
    """`count` records by a hashed order, three quarters of them with an entity."""
    full = sample_records(name, [r for r in records if r.entities], 3 * count // 4)
    return full + sample_records(name, [r for r in records if not r.entities], count - len(full))


def ncbi(data_dir: Path, train: int, test: int) -> Material:
    data = load_task_data(NCBI, data_dir)
    records = thinned(NCBI, data.splits["train"], train)
    held = sample_records(NCBI, data.splits["test"], test)
    return Material(SourceTask(data.task, records, data.splits["validation"]), held)


def development(text: Path, classes: Path, train: int, test: int, seed: int) -> list[Material]:
    """The tasks that pretraining left out, as records with offsets; documents of test are not those of training."""
    from pretraining.extraction import held_out, windows

    from pretraining import clusters, corpus

    draw = random.Random(seed)
    documents = [d for d in corpus.load(text) if d.source != "trial-body"]
    draw.shuffle(documents)
    pool = [w for n, d in enumerate(documents[:6000]) for w in windows(d.text, n, draw, most=300)]
    made = []
    for definition in held_out(clusters.load(classes)):
        name = definition.key.replace(":", "-")
        records: dict[bool, list[Record]] = {True: [], False: []}
        for number, window in enumerate(pool):
            spans = definition.find(window)
            entities = tuple(Entity(f"T{i}", "Entity", (span,)) for i, span in enumerate(spans))
            if len(spans) <= 12:
                records[window.document % 5 == 0].append(Record(f"{number}", window.text, entities))
        training = thinned(name, records[False], train + 64)
        draw.shuffle(training)
        task = TaskDefinition(name=name, type="ner", labels={"Entity": ""})
        made.append(Material(SourceTask(task, training[64:], training[:64]), thinned(name, records[True], test)))
    return made


def run(backbone: Backbone, material: Material, chosen: Adaptation, batch: int, seed: int) -> dict[str, Any]:
    """All learning rates as rows of one training (one by one where all weights are trained), then the best on test."""
    base = changed(
        AdaptSettings(seed=seed),
        {
            "method": chosen.method,
            "initial": chosen.initial,
            "target_reserve": 96,
            "loop.steps": chosen.steps,
            "loop.batch_size": batch,
            "loop.evaluate_every": max(25, chosen.steps // 6),
        },
    )
    plans = [Plan(material.source, changed(base, {"loop.learning_rate": rate})) for rate in chosen.rates]
    groups = [[plan] for plan in plans] if chosen.method == "full" else [plans]
    began = time.monotonic()
    tried = [adapt(backbone, None, group, prompt_length=chosen.length or None) for group in groups]
    losses = [loss for result in tried for loss in result.fit.validation.tolist()]
    files = [file for result in tried for file in result.tasks]
    best = min(range(len(files)), key=lambda i: losses[i])
    seconds = time.monotonic() - began
    predictions = predict_task(backbone, files[best], material.test)
    task = material.source.task
    figure = score(task, material.test, predictions, seed=seed)[headline(task)]
    return {
        "task": task.name,
        "adaptation": chosen.name,
        "method": chosen.method,
        "metric": headline(task),
        "score": round(figure.value, 2),
        "low": round(figure.low, 2),
        "high": round(figure.high, 2),
        "test_records": len(material.test),
        "train_records": len(material.source.train),
        "steps": chosen.steps,
        "batch_size": batch,
        "validation_losses": dict(zip(map(str, chosen.rates), [round(x, 4) for x in losses], strict=True)),
        "rate": chosen.rates[best],
        "numbers": sum(t.numel() for t in files[best].tensors.values()),
        "seconds": round(seconds, 1),
        "seed": seed,
        "backbone": backbone.fingerprint,
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row per task and adaptation, and the mean ratio of the better prompt to LoRA per backbone."""
    rows = ["| task | adaptation | steps | learning rate | validation loss | score |", "|---|---|---|---|---|---|"]
    ratios: list[float] = []
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        for line in own:
            loss = line["validation_losses"][str(line["rate"])]
            rows.append(
                f"| {task} | {line['adaptation']} | {line['steps']} | {line['rate']:g} | {loss:.2f} "
                f"| {line['score']:.1f} ({line['low']:.1f} to {line['high']:.1f}) |"
            )
        prompts = [line["score"] for line in own if line["method"] == "pt"]
        lora = [line["score"] for line in own if line["method"] == "lora"]
        if task != NCBI and prompts and lora and lora[0]:
            ratios.append(max(prompts) / lora[0])
    mean = f"{sum(ratios) / len(ratios):.2f} over {len(ratios)} development tasks" if ratios else "not measured"
    return "\n".join([*rows, "", f"Prompt / LoRA, the better prompt of each task: {mean}."])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--text", type=Path, help="cleaned text of the pretraining: measure the development tasks too")
    parser.add_argument("--classes", type=Path, help="word classes of the pretraining")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="names of adaptations")
    parser.add_argument("--tasks", nargs="+", help="names of tasks")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="what to call this backbone in its lines: the recipe, or the idea left out")
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    backbone = replace(load_backbone(args.backbone), autocast=args.autocast)
    work: list[tuple[Material, Adaptation]] = []
    material = ncbi(args.data_dir, args.train, args.test)
    work += [(material, adaptation) for adaptation in ON_NCBI]
    if args.text and args.classes:
        for material in development(args.text, args.classes, args.train, args.test, args.seed):
            work += [(material, adaptation) for adaptation in ON_DEVELOPMENT]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    done = {(line["task"], line["adaptation"], line["backbone"]) for line in lines}
    for material, adaptation in work:
        key = (material.source.task.name, adaptation.name, backbone.fingerprint)
        wanted = adaptation.name in (args.only or [adaptation.name]) and key[0] in (args.tasks or [key[0]])
        if key in done or not wanted:
            continue
        line = run(backbone, material, adaptation, args.batch_size, args.seed)
        line |= {"label": args.label} if args.label else {}
        line |= {"autocast": args.autocast, "machine": describe("cpu", "bfloat16" if args.autocast else "float32")}
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        lines.append(line)
        print(f"{line['task']}: {adaptation.name}: {line['score']} in {line['seconds']} s", flush=True)
    print(table([line for line in lines if line["backbone"] == backbone.fingerprint]))


if __name__ == "__main__":
    main()
