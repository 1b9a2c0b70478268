"""Prompt tuning with PEFT + Hugging Face Trainer against ours: same prompt, same data, same batches, same optimiser.

    python -m benchmarks.training --model embedded --out benchmarks/results/training-embedded.json
    python -m benchmarks.training --model wide     --out benchmarks/results/training-wide.json

Each contender runs in its own process, in turn. Throughput is counted from the end of the second step; memory is what
the training needed above the loaded model. The two loss curves must be one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import contest, models
from benchmarks.machine import MIB, PeakMemory, describe, matrix_peak, synchronise
from benchmarks.streams import stream
from clinprompt.backbone.model import Backbone
from clinprompt.methods.pt import prompt_rates
from clinprompt.prompts.bank import DirectBank
from clinprompt.prompts.initialisation import from_vocabulary
from clinprompt.training.batching import TaskExamples
from clinprompt.training.loop import Problem, fit
from clinprompt.training.sampling import RowSampler
from clinprompt.training.settings import LoopSettings

SKIPPED = 2  # steps before the clock starts: allocations, kernel choice, caches


def settings(options: argparse.Namespace) -> LoopSettings:
    """The one set of hyper-parameters both sides get."""
    return LoopSettings(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        schedule="linear",
        micro_tokens=options.micro_tokens,
        checkpoint_every=options.steps,
    )


def contend(options: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process: losses of all steps, seconds of the timed ones, peak memory."""
    if options.threads:
        torch.set_num_threads(options.threads)
    backbone = models.load(options.model, options.device, options.dtype)
    loop = settings(options)
    task = stream(options.examples, backbone.vocabulary, backbone.end_ids[0], seed=options.seed)
    start = from_vocabulary(backbone, options.prompt_length, seed=options.seed)
    sampler = RowSampler([0], [len(task.train)], ["benchmark"], [options.seed], loop.batch_size)
    ordered = [task.train[p.example] for step in range(loop.steps) for p in sampler.step(step, [0])]
    memory = PeakMemory(options.device)
    run = _ours if options.contender == "ours" else _peft
    losses, clock = run(backbone, start, task, sampler, ordered, loop)
    count = len(ordered) // loop.steps
    timed = ordered[SKIPPED * count :]
    tokens = sum(len(e.ids) + options.prompt_length for e in timed)
    return {
        "losses": losses,
        "seconds": clock[-1] - clock[SKIPPED - 1],
        "examples": len(timed),
        "tokens": tokens,
        "labels": sum(e.labels for e in timed),
        "floor_flops": models.floor_flops(backbone, tokens, sum(e.labels for e in timed)),
        "peak_bytes": memory.above(),
        "backbone": backbone.name,
        "parameters": backbone.parameters,
    }


def _ours(
    backbone: Backbone, start: torch.Tensor, task: TaskExamples, sampler: RowSampler, ordered: Any, loop: LoopSettings
) -> tuple[list[float], list[float]]:
    bank = DirectBank(start.to(backbone.device))
    problem = Problem(bank, [task], sampler, prompt_rates(bank, loop.learning_rate), row_tasks=[0])
    clock: list[float] = []

    def tick(step: int, steps: int, loss: float) -> None:
        clock.append(time.perf_counter())

    result = fit(backbone, problem, loop, progress=tick)
    synchronise(backbone.device.type)
    clock[-1] = time.perf_counter()
    return result.history[:, 0].tolist(), clock


def _peft(
    backbone: Backbone, start: torch.Tensor, task: TaskExamples, sampler: RowSampler, ordered: Any, loop: LoopSettings
) -> tuple[list[float], list[float]]:
    from benchmarks.peers import train

    run = train(backbone, start[0], ordered, loop)
    return run.losses, run.clock


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both contenders in turn, `repeats` times; the fastest run of each counts."""
    passed = {
        name: getattr(options, name)
        for name in (
            "model",
            "device",
            "dtype",
            "threads",
            "steps",
            "batch_size",
            "micro_tokens",
            "examples",
            "prompt_length",
            "learning_rate",
            "seed",
        )
    }
    if options.threads:
        torch.set_num_threads(options.threads)
    peak = matrix_peak(options.device, options.dtype, options.peak_seconds)
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
    runs: dict[str, list[dict[str, Any]]] = {"peft": [], "ours": []}
    for _ in range(options.repeats):
        for name in runs:
            runs[name].append(contest.run("benchmarks.training", name, passed))
    best = {name: min(found, key=lambda r: r["seconds"]) for name, found in runs.items()}
    curves = [torch.tensor(best[name]["losses"], dtype=torch.float64) for name in ("ours", "peft")]
    contenders = {}
    for name, found in best.items():
        contenders[name] = {
            "examples_per_second": found["examples"] / found["seconds"],
            "tokens_per_second": found["tokens"] / found["seconds"],
            "seconds_per_run": [r["seconds"] for r in runs[name]],
            "peak_mib": min(r["peak_bytes"] for r in runs[name]) / MIB,
            "final_loss": found["losses"][-1],
            "floor_fraction": found["floor_flops"] / peak / found["seconds"],
            "losses": found["losses"],
        }
    return {
        "benchmark": "training",
        "options": passed,
        "backbone": best["ours"]["backbone"],
        "parameters": best["ours"]["parameters"],
        "machine": describe(options.device, options.dtype),
        "matrix_peak_gflops": peak / 1e9,
        "contenders": contenders,
        "speedup": best["peft"]["seconds"] / best["ours"]["seconds"],
        "memory_ratio": contenders["ours"]["peak_mib"] / max(1e-9, contenders["peft"]["peak_mib"]),
        "largest_loss_difference": float((curves[0] - curves[1]).abs().max()),
    }


def show(report: dict[str, Any]) -> str:
    """The report as people read it."""
    rows = []
    for name, label in (("peft", "PEFT + HF Trainer"), ("ours", "clinprompt")):
        c = report["contenders"][name]
        rows.append(
            [
                label,
                f"{c['examples_per_second']:.1f}",
                f"{c['tokens_per_second']:.0f}",
                f"{c['peak_mib']:.0f}",
                f"{c['final_loss']:.4f}",
                f"{100 * c['floor_fraction']:.0f} %",
            ]
        )
    header = ["contender", "examples/s", "tokens/s", "peak MiB", "final loss", "of the floor"]
    machine = report["machine"]
    return "\n".join(
        [
            f"{report['backbone']}, {report['parameters'] / 1e6:.1f}M parameters, {machine['dtype']}, "
            f"{machine['accelerator'] or machine['processor']}, {machine['threads']} threads, "
            f"matrix products {report['matrix_peak_gflops']:.0f} GFLOP/s",
            "",
            contest.table(header, rows),
            "",
            f"{report['speedup']:.2f} times as fast, {100 * report['memory_ratio']:.0f} % of the memory; "
            f"largest difference between the loss curves {report['largest_loss_difference']:.1e}",
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--model", choices=sorted(models.SHAPES), default="embedded")
    known.add_argument("--device", default="cpu")
    known.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    known.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    known.add_argument("--steps", type=int, default=30)
    known.add_argument("--batch-size", type=int, default=16)
    known.add_argument("--micro-tokens", type=int, default=LoopSettings().micro_tokens)
    known.add_argument("--examples", type=int, default=256)
    known.add_argument("--prompt-length", type=int, default=20)
    known.add_argument("--learning-rate", type=float, default=0.03)
    known.add_argument("--seed", type=int, default=0)
    known.add_argument("--repeats", type=int, default=1)
    known.add_argument("--peak-seconds", type=float, default=1.5, help="how long the matrix product is measured")
    known.add_argument("--out", type=Path, help="also write the report as JSON")
    known.add_argument("--contender", choices=("ours", "peft"), help=argparse.SUPPRESS)
    known.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return known


def main(arguments: list[str] | None = None) -> None:
    """Run one contender (a child process) or the whole comparison."""
    options = parser().parse_args(arguments)
    if options.steps <= SKIPPED:
        raise SystemExit(f"--steps must be more than {SKIPPED}: the first {SKIPPED} are not timed")
    if options.contender:
        options.result.write_text(json.dumps(contend(options)), encoding="utf-8")
        return
    report = compare(options)
    contest.write(report, options.out)
    print(show(report))
    if not math.isfinite(report["largest_loss_difference"]):
        raise SystemExit("a loss is not a number")


if __name__ == "__main__":
    main()
