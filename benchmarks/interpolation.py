"""Does a prompt between the metaprompt and what k examples made of it answer better than either? On validation records.

    python -m benchmarks.interpolation --config configs/benchmarks/open-clinical-embedded.yaml --data-dir DATA \\
        --work runs/evidence/work --shots 5 --draws 2 --autocast --out benchmarks/results/interpolation.jsonl

MPT is adapted to the draws of the sweep; then P(α) = P_0 + α (P - P_0), with P_0 the start (the mean source prompt of
the sweep's metaprompt, seed 0) and P what training left, answers up to --score validation records per target. α = 1 is
MPT. One JSON line per target, rate, draw and α; the table at the end has the mean over draws. No test record is read.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.validation_losses import TARGETS, Item, Line, of_settings, rates_table, score, workbench
from clinprompt.backbone.model import load_backbone
from clinprompt.errors import ClinpromptError
from clinprompt.experiments.workbench import Workbench
from clinprompt.training.adapt import Plan, adapt, plan_examples
from clinprompt.training.loop import prompt_loss

UNTRAINED = 1e-6  # a rate at which nothing moves: P_0


def measure(bench: Workbench, args: argparse.Namespace) -> list[Line]:
    """A line per target, rate, draw and α."""
    metaprompt = bench.metaprompt(bench.spec("mpt"), 0)
    rates = (UNTRAINED, *args.rates)
    items: list[Item] = [(t, (r, r), d) for t in args.targets for r in rates for d in range(args.draws)]
    plans = {i: Plan(bench.trainee(i[0]), of_settings(bench, "mpt", args.shots, None, i, ())) for i in items}
    files = dict(zip(items, adapt(bench.backbone, metaprompt, list(plans.values())).tasks, strict=True))
    length, position, lines = bench.prompt_length(), bench.prompt_position(), []
    for item in items:
        target, (rate, _), draw = item
        if rate == UNTRAINED:
            continue
        start = files[target, (UNTRAINED, UNTRAINED), draw].prompt
        held = plan_examples(bench.backbone, plans[item], length, position).validation
        for alpha in args.alphas:
            prompt = start + alpha * (files[item].prompt - start)
            line: Line = {"target": target, "rate": rate, "draw": draw, "alpha": alpha, "shots": args.shots}
            line["loss"] = round(prompt_loss(bench.backbone, held, prompt), 4)
            lines.append(line | score(bench, target, replace(files[item], tensors={"prompt": prompt}), args.score))
            print(json.dumps(lines[-1]), flush=True)
    return lines


def table(lines: list[Line]) -> str:
    """Markdown: loss and score by α and rate, mean over draws."""
    return rates_table([line | {"method": f"α = {line['alpha']}", "vector_rate": line["rate"]} for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="plan of `clinprompt benchmark`")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="work folder of a sweep that has the metaprompt")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.03, 0.1])
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.25, 0.5, 1.0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--score", type=int, default=64, metavar="N", help="validation records that are answered")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.methods = ["mpt"]
    torch.set_num_threads(args.threads)
    try:
        backbone = load_backbone("embedded", autocast=args.autocast)
        lines = measure(workbench(args, backbone, args.shots, []), args)
    except ClinpromptError as error:
        raise SystemExit(str(error)) from None
    with args.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    print(table(lines))


if __name__ == "__main__":
    main()
