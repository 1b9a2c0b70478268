"""Where is a prompt lost: in the rate, the steps, the start? Validation losses of methods under the plan of a sweep.

    python -m benchmarks.validation_losses --config configs/benchmarks/open-clinical-embedded.yaml --data-dir DATA \\
        --work runs/evidence/work --methods pt mpt --rates 0.03 0.1 0.3 1.0 --autocast \\
        --out benchmarks/results/validation-losses.jsonl

No test record is read: this is how to look for a better setting without spending the test split. Every method sees the
same examples; with `--shots 20 --draws 3` the draws of the sweep. Metaprompts are those that the sweep has learned
(`clinprompt benchmark --work`). `--learn source.steps=450` changes how they are learned (or `prompt_length=64` how long
prompts are, `suite=FILE` from which sources): what is not there is learned first, and stands beside the plan's own.
`--adapt own_length=16` changes how targets are trained. One JSON line per method, target, rate, draw and change; a line
that is there is not computed again. The table at the end averages each method's best rate per target over targets, with
how often it beats the first method named, draw by draw. With `--score N` what was trained also answers N validation
records, and a second table has loss and headline metric for every rate: whether the better loss is the better answer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml

from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.errors import ClinpromptError
from clinprompt.evaluation.answerer import of_task
from clinprompt.evaluation.evaluate import evaluate_records
from clinprompt.experiments.metaprompts import job_of, require
from clinprompt.experiments.protocol import FULL, Shots, flattened, load_protocol
from clinprompt.experiments.store import Store
from clinprompt.experiments.workbench import Workbench
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.settings import AdaptSettings, changed, read_mapping

EMBEDDED = "embedded"
TARGETS = ("e3c", "phee", "headqa", "scinli", "open-i")
"""One of each task type, with short texts."""
IDENTITY = ("method", "target", "rate", "vector_rate", "steps", "shots", "draw")
Line = dict[str, Any]
Rates = tuple[float, float]
"""Learning rate of prompts (of P*, of adapters), and of u and v."""
Item = tuple[str, Rates, int]
"""Target, rates, draw."""


@dataclass(frozen=True)
class Change:
    """KEY=VALUE changes of a plan: of how its metaprompts are learned, of how its targets are trained."""

    learn: tuple[str, ...] = ()
    adapt: tuple[str, ...] = ()

    def note(self) -> dict[str, str]:
        """What a line says of it; nothing of a plan as it is."""
        return {name: " ".join(of) for name, of in (("learn", self.learn), ("adapt", self.adapt)) if of}


def asked_changes(args: argparse.Namespace) -> list[Change]:
    """The plan as it is, then each change that was asked for."""
    learned, adapted = [Change(learn=tuple(c)) for c in args.learn], [Change(adapt=tuple(c)) for c in args.adapt]
    return [Change(), *learned, *adapted]


def parsed(changes: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE with values as YAML reads them."""
    return {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in changes)}


def workbench(args: argparse.Namespace, backbone: Backbone, shots: Shots, learn: Sequence[str]) -> Workbench:
    """The plan of a sweep, with these methods at these shots alone, and KEY=VALUE changes of `learn`; `suite` among
    them has other sources (and the same targets)."""
    given: dict[str, Any] = {
        "methods": tuple(args.methods),
        "shots": (shots,),
        "targets": TARGETS,
        "target_limits": {},
        "trials": 1,
    }
    changes = parsed(learn)
    if suite := changes.pop("suite", None):
        given["suite"] = str(suite)
    given["learn"] = flattened(read_mapping(args.config).get("learn") or {}) | changes
    return Workbench(load_protocol(args.config, given), backbone, Store(args.work), args.data_dir)


def measure(
    bench: Workbench, method: str, shots: Shots, wanted: Mapping[Item, AdaptSettings], most: int, scored: int
) -> list[Line]:
    """Train the wanted items of a method, `most` rows at a time: a line each, with the score on `scored` records."""
    if not wanted:
        return []
    spec = bench.spec(method)
    if spec.needs_metaprompt:
        require(bench, [job_of(bench, spec, 0)])
    metaprompt = bench.metaprompt(spec, 0)
    length = None if spec.needs_metaprompt else bench.prompt_length()
    items, lines = list(wanted), []
    for first in range(0, len(items), most):
        part = items[first : first + most]
        plans = [Plan(bench.trainee(item[0]), wanted[item]) for item in part]
        adapted = adapt(bench.backbone, metaprompt, plans, prompt_length=length)
        for item, file, loss in zip(part, adapted.tasks, adapted.fit.validation.tolist(), strict=True):
            line = _identity(method, shots, wanted[item], item)
            lines.append(line | {"loss": round(loss, 4)} | (score(bench, item[0], file, scored) if scored else {}))
    return lines


def score(bench: Workbench, target: str, file: TaskPrompt, most: int) -> Line:
    """The headline metric on validation records, 0 to 100."""
    found = evaluate_records(of_task(bench.backbone, file), bench.trainee(target).validation, limit=most)
    return {"metric": found.headline, "score": round(found.value.value, 2), "records": found.n}


def of_settings(
    bench: Workbench, method: str, shots: Shots, steps: int | None, item: Item, adapt: Sequence[str]
) -> AdaptSettings:
    """The plan's settings of a method for an item, with KEY=VALUE changes."""
    _, rates, draw = item
    changes: dict[str, Any] = {"loop.learning_rate": rates[0], "loop.vector_learning_rate": rates[1]}
    settings = bench.settings(method, shots, 0, draw, 0)
    return changed(settings, changes | ({"loop.steps": steps} if steps else {}) | parsed(adapt))


def _identity(method: str, shots: Shots, settings: AdaptSettings, item: Item) -> Line:
    name, rates, draw = item
    return dict(zip(IDENTITY, (method, name, *rates, settings.loop.steps, shots, draw), strict=True))


def _key(line: Line) -> tuple[Any, ...]:
    """Identity of a line; those without `learn` and `adapt` follow the plan, those without `backbone` are embedded."""
    return *(line[key] for key in IDENTITY), *(line.get(key, "") for key in ("learn", "adapt", "backbone"))


def label(line: Line) -> str:
    """How a line's method is called in the tables."""
    return " ".join(filter(None, (line["method"], line.get("learn"), line.get("adapt"), line.get("backbone"))))


def table(lines: Sequence[Line]) -> str:
    """Markdown: per method each target's loss at its best rate, mean over draws, and wins over the first method."""
    methods = list(dict.fromkeys(label(line) for line in lines))
    targets = list(dict.fromkeys(line["target"] for line in lines))
    best = {(m, t): _best(lines, m, t) for m in methods for t in targets}
    rows = [f"| method | {' | '.join(targets)} | mean | better than {methods[0]} |", "|---" * (len(targets) + 3) + "|"]
    for method in methods:
        means = [_mean(best[method, t]) for t in targets]
        pairs = [(best[method, t][d], best[methods[0], t][d]) for t in targets for d in best[methods[0], t]]
        wins = "" if method == methods[0] else f"{sum(a < b for a, b in pairs)} of {len(pairs)}"
        rows.append(f"| {method} | {' | '.join(f'{x:.3f}' for x in means)} | {sum(means) / len(means):.3f} | {wins} |")
    return "\n".join(rows)


def rates_table(lines: Sequence[Line]) -> str:
    """Markdown: per method and rates each target's loss and score, mean over draws."""
    targets = list(dict.fromkeys(line["target"] for line in lines))
    settings = list(dict.fromkeys((label(line), line["rate"], line["vector_rate"]) for line in lines))
    rows = [f"| method | rates | {' | '.join(targets)} |", "|---" * (len(targets) + 2) + "|"]
    for method, *rates in settings:
        of_target = [
            [x for x in lines if (label(x), x["rate"], x["vector_rate"], x["target"]) == (method, *rates, target)]
            for target in targets
        ]
        means = [[_mean({x["draw"]: x[what] for x in part}) for what in ("loss", "score")] for part in of_target]
        cells = [f"{loss:.3f}, {score:.1f}" for loss, score in means]
        rows.append(f"| {method} | {' / '.join(str(rate) for rate in rates)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _mean(by_draw: Mapping[int, float]) -> float:
    return sum(by_draw.values()) / len(by_draw)


def _best(lines: Sequence[Line], method: str, target: str) -> dict[int, float]:
    """Draw → loss, at the rates whose mean over draws is lowest."""
    found: dict[Any, dict[int, float]] = {}
    for line in lines:
        if (label(line), line["target"]) == (method, target):
            found.setdefault((line["rate"], line["vector_rate"], line["steps"]), {})[line["draw"]] = line["loss"]
    return min(found.values(), key=_mean)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="plan of `clinprompt benchmark`")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="work folder of a sweep that has the metaprompts")
    parser.add_argument("--methods", nargs="+", required=True, help="the first is what the others are compared with")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1])
    parser.add_argument("--vector-rates", nargs="+", type=float, help="of u and v, one per rate; default: the same")
    parser.add_argument(
        "--learn",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="also with these changes of the plan's `learn`; may be given several times",
    )
    parser.add_argument(
        "--adapt",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="also with these changes of how targets are trained; may be given several times",
    )
    parser.add_argument("--backbone", default=EMBEDDED, help="another one; its metaprompts are learned first")
    parser.add_argument("--preset", help="how a backbone in a folder is spoken to; default: by its name")
    parser.add_argument("--shots", default=FULL, help=f"examples per draw, or {FULL}")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--steps", type=int, help="default: the plan's")
    parser.add_argument("--score", type=int, default=0, metavar="N", help="also answer N validation records")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--rows", type=int, default=16, help="rows that train together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    shots: Shots = FULL if args.shots == FULL else int(args.shots)
    vectors = args.vector_rates or args.rates
    if len(vectors) != len(args.rates):
        raise SystemExit(f"--vector-rates: {len(vectors)} for {len(args.rates)} rates")
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    there = {_key(line): line for line in known if "score" in line or not args.score}
    grid: list[Item] = [
        (t, rates, d)
        for t in args.targets
        for rates in zip(args.rates, vectors, strict=True)
        for d in range(args.draws)
    ]
    lines: list[Line] = []
    try:
        backbone = load_backbone(args.backbone, preset=args.preset, autocast=args.autocast)
        other = {} if args.backbone == EMBEDDED else {"backbone": args.backbone}
        bench_of = cache(partial(workbench, args, backbone, shots))
        for change in asked_changes(args):
            bench, note = bench_of(change.learn), change.note() | other
            for method in args.methods:
                settings = {item: of_settings(bench, method, shots, args.steps, item, change.adapt) for item in grid}
                keys = [_key(_identity(method, shots, settings[item], item) | note) for item in grid]
                missing = {item: settings[item] for item, key in zip(grid, keys, strict=True) if key not in there}
                fresh = [line | note for line in measure(bench, method, shots, missing, args.rows, args.score)]
                with args.out.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line) + "\n" for line in fresh)
                there |= {_key(line): line for line in fresh}
                lines += [there[key] for key in keys]
                print(
                    f"{' '.join((method, *note.values()))}: {len(fresh)} computed, {len(grid) - len(fresh)} known",
                    flush=True,
                )
    except ClinpromptError as error:
        raise SystemExit(str(error)) from None
    print(table(lines))
    if args.score:
        print(f"\nLoss, and score of {args.score} validation records:\n{rates_table(lines)}")


if __name__ == "__main__":
    main()
