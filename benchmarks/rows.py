"""Many few-shot adaptations of one task: as rows of one training, one by one, and one by one with PEFT.

    python -m benchmarks.rows --out benchmarks/results/rows-embedded.json

Every contender trains the same prompts from the same starts on the same examples in the same order. PEFT is measured
on the first `--peft-rows` of them and extrapolated (say `--peft-rows 64` for all). A row must end where its twin ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import contest, models
from benchmarks.machine import MIB, PeakMemory, describe, matrix_peak, synchronise
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone
from clinprompt.corpora.sample import sample_suite
from clinprompt.prompts.initialisation import from_vocabulary
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.examples import prepare
from clinprompt.training.few_shot import draw_shots
from clinprompt.training.learn import SourceTask
from clinprompt.training.sampling import RowSampler
from clinprompt.training.settings import AdaptSettings, LoopSettings

RESERVE = 128  # tokens kept free for the answer
PASSED = (
    "model",
    "device",
    "dtype",
    "threads",
    "task",
    "rows",
    "shots",
    "steps",
    "batch_size",
    "micro_tokens",
    "prompt_length",
    "learning_rate",
)
Trained = tuple[torch.Tensor, torch.Tensor]  # losses (steps, rows), prompts (rows, l, d)


def plans(options: argparse.Namespace) -> list[Plan]:
    """`rows` adaptations of one sample task, each with its own draw of `shots` records and its own seed."""
    found = {t.name: t for t in sample_suite(train=max(200, 4 * options.shots), validation=0, test=0)}
    if options.task not in found:
        raise SystemExit(f"no sample task {options.task!r}; known: {', '.join(sorted(found))}")
    sample = found[options.task]
    target = SourceTask(TaskDefinition.model_validate(sample.definition), sample.splits["train"], permissive=True)
    loop = LoopSettings(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        micro_tokens=options.micro_tokens,
        checkpoint_every=options.steps,
    )
    return [
        Plan(target, AdaptSettings(shots=options.shots, draw=i, seed=i, target_reserve=RESERVE, loop=loop))
        for i in range(options.rows)
    ]


def ordered(backbone: Backbone, plan: Plan, length: int) -> list[Encoded]:
    """The examples an adaptation reads, step after step: what `adapt` does with this plan, spelt out for the peer."""
    settings, task = plan.settings, plan.target.task
    assert settings.shots is not None
    records = draw_shots(task, plan.target.train, settings.shots, draw=settings.draw, seed=settings.seed)
    position = backbone.preset.prompt_position
    examples = prepare(
        backbone, task, records, [], prompt_length=length, position=position, reserve=settings.target_reserve
    ).train
    sampler = RowSampler(
        [0], [len(examples)], [f"adapt {task.name} {settings.draw}"], [settings.seed], settings.loop.batch_size
    )
    return [examples[p.example] for step in range(settings.loop.steps) for p in sampler.step(step, [0])]


def _together(backbone: Backbone, chosen: list[Plan], length: int) -> Trained:
    result = adapt(backbone, None, chosen, prompt_length=length)
    return result.fit.history, torch.stack([t.prompt for t in result.tasks])


def _alone(backbone: Backbone, chosen: list[Plan], length: int) -> Trained:
    parts = [_together(backbone, [plan], length) for plan in chosen]
    return torch.cat([losses for losses, _ in parts], dim=1), torch.cat([prompts for _, prompts in parts])


def _peft(backbone: Backbone, chosen: list[Plan], length: int) -> Trained:
    from benchmarks.peers import train

    runs = []
    for plan in chosen:
        start = from_vocabulary(backbone, length, seed=plan.settings.seed)[0]
        runs.append(train(backbone, start, ordered(backbone, plan, length), plan.settings.loop))
    return torch.tensor([run.losses for run in runs]).T, torch.stack([run.prompt for run in runs])


CONTENDERS: dict[str, Callable[[Backbone, list[Plan], int], Trained]] = {
    "rows": _together,
    "alone": _alone,
    "peft": _peft,
}


def contend(options: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process, after a short warm-up: seconds for `count` adaptations, memory, what came out."""
    if options.threads:
        torch.set_num_threads(options.threads)
    backbone = models.load(options.model, options.device, options.dtype)
    train, chosen, length = CONTENDERS[options.contender], plans(options), options.prompt_length
    brief = chosen[0].settings.model_copy(
        update={"loop": chosen[0].settings.loop.model_copy(update={"steps": 2, "checkpoint_every": 2})}
    )
    train(backbone, [Plan(chosen[0].target, brief)], length)
    read = [ordered(backbone, plan, length) for plan in chosen]
    memory = PeakMemory(options.device)
    began = time.perf_counter()
    losses, prompts = train(backbone, chosen, length)
    synchronise(options.device)
    seconds = time.perf_counter() - began
    tokens = sum(len(e.ids) + length for examples in read for e in examples)
    labels = sum(e.labels for examples in read for e in examples)
    return {
        "seconds": seconds,
        "rows": len(chosen),
        "examples": sum(map(len, read)),
        "tokens": tokens,
        "floor_flops": models.floor_flops(backbone, tokens, labels),
        "peak_bytes": memory.above(),
        "losses": losses.T.tolist(),
        "prompts": prompts.tolist(),
        "backbone": backbone.name,
        "parameters": backbone.parameters,
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All contenders in turn; `repeats` times, the fastest of each counts."""
    passed = {name: getattr(options, name) for name in PASSED}
    if options.threads:
        torch.set_num_threads(options.threads)
    peak = matrix_peak(options.device, options.dtype, options.peak_seconds)
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
    counts = {"rows": options.rows, "alone": options.alone_rows or options.rows, "peft": options.peft_rows}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
    for _ in range(options.repeats):
        for name, count in counts.items():
            runs[name].append(contest.run("benchmarks.rows", name, {**passed, "rows": min(count, options.rows)}))
    best = {name: min(found, key=lambda r: r["seconds"]) for name, found in runs.items()}
    contenders = {}
    for name, found in best.items():
        contenders[name] = {
            "measured_rows": found["rows"],
            "seconds_per_run": [r["seconds"] for r in runs[name]],
            "seconds_for_all": found["seconds"] / found["rows"] * options.rows,
            "extrapolated": found["rows"] < options.rows,
            "examples_per_second": found["examples"] / found["seconds"],
            "floor_fraction": found["floor_flops"] / peak / found["seconds"],
            "peak_mib": min(r["peak_bytes"] for r in runs[name]) / MIB,
            "mean_final_loss": sum(row[-1] for row in found["losses"]) / found["rows"],
        }
    return {
        "benchmark": "rows",
        "options": passed,
        "backbone": best["rows"]["backbone"],
        "parameters": best["rows"]["parameters"],
        "machine": describe(options.device, options.dtype),
        "matrix_peak_gflops": peak / 1e9,
        "floor_seconds": best["rows"]["floor_flops"] / peak,
        "contenders": contenders,
        "speedup_over_peft": contenders["peft"]["seconds_for_all"] / contenders["rows"]["seconds_for_all"],
        "speedup_over_alone": contenders["alone"]["seconds_for_all"] / contenders["rows"]["seconds_for_all"],
        "largest_difference_from_twin": _difference(best["rows"], best["alone"]),
        "largest_difference_from_peft": _difference(best["rows"], best["peft"]),
    }


def _difference(crowd: dict[str, Any], others: dict[str, Any]) -> dict[str, float]:
    """Largest absolute differences of losses and of final prompts over the rows both trained."""
    found = {}
    for what in ("losses", "prompts"):
        ours, theirs = (torch.tensor(side[what], dtype=torch.float64) for side in (crowd, others))
        found[what] = float((ours[: len(theirs)] - theirs).abs().max())
    return found


def show(report: dict[str, Any]) -> str:
    """The report as people read it."""
    labels = {"peft": "PEFT + HF Trainer, one by one", "alone": "clinprompt, one by one", "rows": "clinprompt, rows"}
    rows = []
    for name, label in labels.items():
        c = report["contenders"][name]
        said = f"{c['seconds_for_all']:.1f}" + (f" (from {c['measured_rows']})" if c["extrapolated"] else "")
        rows.append(
            [
                label,
                said,
                f"{c['examples_per_second']:.1f}",
                f"{100 * c['floor_fraction']:.0f} %",
                f"{c['peak_mib']:.0f}",
                f"{c['mean_final_loss']:.4f}",
            ]
        )
    machine, options = report["machine"], report["options"]
    header = ["contender", f"seconds for {options['rows']}", "examples/s", "of the floor", "peak MiB", "final loss"]
    twin, peer = report["largest_difference_from_twin"], report["largest_difference_from_peft"]
    return "\n".join(
        [
            f"{options['rows']} adaptations of {options['task']}, {options['shots']} shots, {options['steps']} steps "
            f"of {options['batch_size']} examples; {report['backbone']}, {report['parameters'] / 1e6:.1f}M parameters, "
            f"{machine['dtype']}, {machine['accelerator'] or machine['processor']}, {machine['threads']} threads, "
            f"matrix products {report['matrix_peak_gflops']:.0f} GFLOP/s",
            "",
            contest.table(header, rows),
            "",
            f"Rows: {report['speedup_over_peft']:.2f} times as fast as PEFT, {report['speedup_over_alone']:.2f} times "
            f"as fast as one by one. Floor: {report['floor_seconds']:.1f} s.",
            f"Largest difference of a row from its twin: loss {twin['losses']:.1e}, prompt {twin['prompts']:.1e}; "
            f"from PEFT: loss {peer['losses']:.1e}, prompt {peer['prompts']:.1e}.",
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--model", choices=sorted(models.SHAPES), default="embedded")
    known.add_argument("--device", default="cpu")
    known.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    known.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    known.add_argument("--task", default="sample-events", help="a task of the sample suite")
    known.add_argument("--rows", type=int, default=64)
    known.add_argument("--alone-rows", type=int, default=0, help="twins trained one by one; 0: all")
    known.add_argument("--peft-rows", type=int, default=6, help="adaptations measured with PEFT, then extrapolated")
    known.add_argument("--shots", type=int, default=20)
    known.add_argument("--steps", type=int, default=20)
    known.add_argument("--batch-size", type=int, default=4)
    known.add_argument("--micro-tokens", type=int, default=LoopSettings().micro_tokens)
    known.add_argument("--prompt-length", type=int, default=20)
    known.add_argument("--learning-rate", type=float, default=0.03)
    known.add_argument("--repeats", type=int, default=1)
    known.add_argument("--peak-seconds", type=float, default=1.5, help="how long the matrix product is measured")
    known.add_argument("--out", type=Path, help="also write the report as JSON")
    known.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    known.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return known


def main(arguments: list[str] | None = None) -> None:
    """Run one contender (a child process) or the whole comparison."""
    options = parser().parse_args(arguments)
    if options.contender:
        options.result.write_text(json.dumps(contend(options)), encoding="utf-8")
        return
    report = compare(options)
    contest.write(report, options.out)
    print(show(report))


if __name__ == "__main__":
    main()
