"""The main job on real corpora: a metaprompt from the sources of a suite, adapted to one target of each type.

    python -m benchmarks.open_clinical --data-dir DATA --out benchmarks/results/open-clinical-embedded.jsonl

Four methods per target: zero-shot (the instruction alone), pt (single-task prompt tuning), mpt (mode full) and mpt
vectors. Prompt tuning and MPT get the same training records, steps, batch size, number of learning rates tried and the
same way of choosing among them (validation loss); nothing is chosen on test. One JSON line per target and method is
appended as it comes out; a line that is there is not computed again, and `learn` continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.predict import predict, predict_task
from clinprompt.prompts.artifact import Metaprompt, TaskPrompt
from clinprompt.suites import TaskData, load_suite, load_task_data, suite_data
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.metrics import headline, score
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.examples import sample_records
from clinprompt.training.learn import SourceTask, learn
from clinprompt.training.settings import AdaptSettings, LearnSettings, LoopSettings, load_settings

TARGETS = ("e3c", "phee", "headqa", "scinli", "mts-dialog")  # one of each type
METHODS = ("zero-shot", "pt", "mpt", "mpt-vectors")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--suite", default="open-clinical")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--config", type=Path, default=Path("configs/open-clinical-embedded.yaml"))
    parser.add_argument("--work", type=Path, default=Path("runs/open-clinical"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/open-clinical-embedded.jsonl"))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1], help="the tuning budget")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--train", type=int, default=400, help="training records per target (hashed sample)")
    parser.add_argument("--test", type=int, default=100, help="test records per target (hashed sample)")
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def as_source(data: TaskData) -> SourceTask:
    return SourceTask(data.task, data.splits["train"], data.splits["validation"], licence=data.licence)


def metaprompt_of(backbone: Backbone, args: argparse.Namespace) -> Metaprompt:
    settings = load_settings(LearnSettings, args.config, {"seed": args.seed})
    suite = load_suite(args.suite)
    sources = [
        as_source(data) for data in suite_data(suite, args.data_dir, roles=["source"], splits=["train", "validation"])
    ]
    began = time.monotonic()
    learned = learn(backbone, sources, settings, args.work / args.suite, progress=report)
    print(f"metaprompt of {len(sources)} sources ready after {time.monotonic() - began:.0f} s", flush=True)
    return learned.metaprompt


def report(stage: str, done: int, total: int, loss: float) -> None:
    if done % 10 == 0 or done == total:
        print(f"{stage} {done}/{total} loss {loss:.3f}", flush=True)


def tuned(
    backbone: Backbone, metaprompt: Metaprompt | None, data: TaskData, mode: str, args: argparse.Namespace
) -> tuple[TaskPrompt, dict[str, Any]]:
    """All learning rates as rows of one training; the one with the lowest validation loss."""
    loop = LoopSettings(steps=args.steps, batch_size=args.batch_size, evaluate_every=20, validation_limit=32)
    base = AdaptSettings(mode=mode, limit=args.train, target_reserve=192, loop=loop, seed=args.seed)  # type: ignore[arg-type]
    plans = [
        Plan(
            as_source(data),
            base.model_copy(update={"loop": loop.model_copy(update={"learning_rate": r, "vector_learning_rate": r})}),
        )
        for r in args.rates
    ]
    began = time.monotonic()
    result = adapt(backbone, metaprompt, plans)
    losses = result.fit.validation.tolist()
    best = min(range(len(plans)), key=lambda i: losses[i])
    chosen = result.tasks[best]
    return chosen, {
        "rates": dict(zip(map(str, args.rates), [round(x, 4) for x in losses], strict=True)),
        "rate": args.rates[best],
        "steps": args.steps,
        "batch_size": args.batch_size,
        "train_records": min(args.train, len(data.splits["train"])),
        "numbers_stored": sum(t.numel() for t in chosen.tensors.values()),
        "seconds_all_rates": round(time.monotonic() - began, 1),
    }


def run(
    backbone: Backbone, metaprompt: Metaprompt, data: TaskData, method: str, args: argparse.Namespace
) -> dict[str, Any]:
    test = sample_records(data.task.name, data.splits["test"], args.test)
    details: dict[str, Any] = {}
    if method == "zero-shot":
        predictions: Sequence[Prediction] = predict(backbone, data.task, test, None, reserve=192)
    else:
        mode = "vectors" if method == "mpt-vectors" else "full"
        prompt, details = tuned(backbone, None if method == "pt" else metaprompt, data, mode, args)
        predictions = predict_task(backbone, prompt, test)
    scores = score(data.task, test, predictions, seed=args.seed)
    return {
        "target": data.task.name,
        "type": data.task.type,
        "method": method,
        "headline": headline(data.task),
        "n": len(test),
        "n_all": len(data.splits["test"]),
        "metrics": {name: [round(s.value, 2), round(s.low, 2), round(s.high, 2)] for name, s in scores.items()},
        "ungrounded": sum(len(p.ungrounded) for p in predictions),
        "malformed": sum(len(p.malformed) for p in predictions),
        "seed": args.seed,
        "backbone": backbone.fingerprint,
        "metaprompt": metaprompt.digest if method.startswith("mpt") else "",
        **details,
    }


def finished(path: Path) -> set[tuple[str, str]]:
    if not path.is_file():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["target"], line["method"]) for line in lines}


def main() -> None:
    args = arguments()
    backbone = replace(load_backbone(args.backbone), autocast=args.autocast)
    metaprompt = metaprompt_of(backbone, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.targets:
        data = load_task_data(name, args.data_dir)
        for method in args.methods:
            if (data.task.name, method) in finished(args.out):
                continue
            torch.manual_seed(args.seed)
            line = run(backbone, metaprompt, data, method, args)
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            value, low, high = line["metrics"][line["headline"]]
            print(f"{name:12s} {method:12s} {line['headline']:12s} {value:6.2f} [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    main()
