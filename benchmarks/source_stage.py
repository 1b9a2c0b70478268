"""How near do MPT's students come to their teachers, and is that worth anything on a new task? On the synthetic sample.

    python -m benchmarks.source_stage --vector-rates 0.05 0.2 --autocast --work runs/source-stage \\
        --out benchmarks/results/source-stage.jsonl

Teachers of the 12 sources are trained once; a metaprompt is distilled from them per learning rate of the task vectors
(P* keeps its own). Two kinds of lines: the validation loss of every source under the vocabulary, its teacher and its
student (P* ∘ u vᵀ), and the validation loss of the five unseen targets after 20 examples, prompt tuning beside MPT from
each metaprompt, at the same steps and rate. No test record is read. Sizes are those of `clinprompt demo`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clinprompt.api import source_task
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.commands.demo import NORMAL, adapt_settings, learn_settings
from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.initialisation import from_vocabulary
from clinprompt.suites import TaskData
from clinprompt.task_lookup import sample_tasks
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import Learned, learn
from clinprompt.training.loop import prompt_loss
from clinprompt.training.settings import changed

VALIDATION = 48
Line = dict[str, Any]


def learned(backbone: Backbone, sources: Sequence[TaskData], work: Path, vector_rate: float, seed: int) -> Learned:
    """A metaprompt whose task vectors were trained at this rate; teachers lie in `work` for all of them."""
    sizes = replace(NORMAL, validation=VALIDATION, vector_learning_rate=vector_rate)
    settings = changed(learn_settings(backbone.preset, sizes, seed), {"start": "teachers"})  # as the committed lines
    given = [source_task(data) for data in sources]
    return learn(backbone, given, settings, work / f"{vector_rate:g}-{seed}", teachers_folder=work / f"teachers-{seed}")


def on_sources(backbone: Backbone, found: Learned, vector_rate: float, seed: int) -> list[Line]:
    """A line per source: its validation loss before, with and after the teacher."""
    metaprompt, teachers = found.metaprompt, found.teachers.prompt.detach()
    before = from_vocabulary(backbone, teachers.shape[1], seed=seed)[0]
    lines = []
    for row, examples in enumerate(found.examples):
        prompts = {"vocabulary": before, "teacher": teachers[row], "student": metaprompt.prompt(metaprompt.names[row])}
        losses = {name: round(prompt_loss(backbone, examples.validation, p), 4) for name, p in prompts.items()}
        lines.append({"kind": "source", "task": examples.name, "vector_rate": vector_rate, "seed": seed} | losses)
    return lines


def on_targets(
    backbone: Backbone, targets: Sequence[TaskData], metaprompt: Metaprompt | None, length: int, seed: int
) -> list[float]:
    """Validation loss of every target after 20 examples: MPT from the metaprompt, else prompt tuning."""
    changes = {
        "method": "mpt" if metaprompt else "pt",
        "judged": True,
        "validation_records": VALIDATION,
        "loop.validation_limit": VALIDATION,
        "loop.evaluate_every": NORMAL.adapt_steps,
    }
    settings = changed(adapt_settings(backbone.preset, NORMAL, seed), changes)
    plans = [Plan(source_task(data), settings) for data in targets]
    return adapt(backbone, metaprompt, plans, prompt_length=None if metaprompt else length).fit.validation.tolist()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vector-rates", nargs="+", type=float, default=[0.05, 0.2], help="of u and v, at the sources")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--work", type=Path, required=True, help="teachers and metaprompts; a second run continues")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("embedded", autocast=args.autocast)
    tasks = sample_tasks(NORMAL.train, VALIDATION, NORMAL.test)
    sources, targets = ([t for t in tasks if t.role == role] for role in ("source", "target"))
    lines: list[Line] = []

    def told(label: str, vector_rate: float | None, losses: Sequence[float]) -> None:
        for data, loss in zip(targets, losses, strict=True):
            own = {"kind": "target", "task": data.task.name, "method": label, "vector_rate": vector_rate}
            lines.append(own | {"seed": args.seed, "loss": round(loss, 4)})
        print(f"targets, {label} {vector_rate or ''}: {sum(losses) / len(losses):.3f}", flush=True)

    for rate in args.vector_rates:
        found = learned(backbone, sources, args.work, rate, args.seed)
        own = on_sources(backbone, found, rate, args.seed)
        means = {name: sum(line[name] for line in own) / len(own) for name in ("vocabulary", "teacher", "student")}
        print(f"sources, vectors at {rate:g}: " + ", ".join(f"{n} {x:.3f}" for n, x in means.items()), flush=True)
        lines += own
        length = found.teachers.length
        told("mpt", rate, on_targets(backbone, targets, found.metaprompt, length, args.seed))
    told("pt", None, on_targets(backbone, targets, None, length, args.seed))
    with args.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
