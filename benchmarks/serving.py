"""Serving ten tasks with mixed traffic: ours in process and baked on vLLM, against vLLM's multi-LoRA and PEFT.

    python -m benchmarks.serving --vllm-python ENVIRONMENT/bin/python --out benchmarks/results/serving-embedded.json

All requests are there at once, in mixed order; each is answered greedily with exactly 24 tokens, whatever they are.
Contenders run one after the other, each in its own process with the same number of threads, asked in process: no HTTP
on any side. vLLM is stock, in fp32, eager, prefix cache on. Prompts and adapters are random: speed does not depend on
what they say. `--report FILE` prints the table of a report again and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks import contest, machine
from benchmarks.serving_contenders import contend
from benchmarks.serving_report import compared, markdown, measured
from benchmarks.serving_sizes import on_paper

LENGTHS = (100, 16)
CONTENDERS = (
    "plain",
    *(f"baked-{length}" for length in LENGTHS),
    "lora",
    *(f"ours-{length}" for length in LENGTHS),
    "peft-single",
    "peft-grouped",
)
OPTIONS = (
    "vllm_python",
    "tasks",
    "requests",
    "slow_requests",
    "new",
    "text_tokens",
    "rank",
    "rows",
    "passes",
    "alone",
    "threads",
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given_python = os.environ.get("CLINPROMPT_VLLM_PYTHON")
    found.add_argument(
        "--vllm-python", default=given_python, help="interpreter of vLLM's environment (CLINPROMPT_VLLM_PYTHON)"
    )
    found.add_argument("--tasks", type=int, default=10)
    found.add_argument("--requests", type=int, default=200)
    found.add_argument("--slow-requests", type=int, default=50, help="for PEFT one request at a time")
    found.add_argument("--new", type=int, default=24, help="tokens of an answer")
    found.add_argument("--text-tokens", type=int, default=32, help="least tokens of a text")
    found.add_argument("--rank", type=int, default=16, help="of the LoRA adapters, on all linear layers but the head")
    found.add_argument("--rows", type=int, default=64, help="answers under way at once")
    found.add_argument(
        "--passes", type=int, default=3, help="of all requests; the median counts (slow contenders: one)"
    )
    found.add_argument("--alone", type=int, default=10, help="requests asked of an idle engine, one by one")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--only", nargs="*", choices=CONTENDERS, help="these contenders alone")
    found.add_argument("--out", type=Path, help="the report as JSON")
    found.add_argument("--report", type=Path, help="print the table of this report")
    found.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    found.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return found


def main(words: list[str] | None = None) -> None:
    given = parser().parse_args(words)
    if given.report is not None:
        print(markdown(json.loads(given.report.read_text(encoding="utf-8"))))
        return
    if given.contender is not None:
        given.result.write_text(json.dumps(contend(given)), encoding="utf-8")
        return
    if given.vllm_python is None:
        raise SystemExit("name an interpreter that has vLLM with --vllm-python (see docs/serving-baked.md)")
    options = {name: getattr(given, name) for name in OPTIONS}
    raw = {}
    for name in given.only or CONTENDERS:
        raw[name] = contest.run("benchmarks.serving", name, options)
        print(f"{name}: {measured(raw[name])['requests_per_second']} requests/s", flush=True)
    report: dict[str, Any] = {
        "machine": machine.describe("cpu", "float32") | {"threads": given.threads},
        "vllm": next((one["version"] for one in raw.values() if "version" in one), None),
        "settings": {name: value for name, value in options.items() if name not in ("vllm_python", "threads")},
        "values": "prompts and adapters are random numbers",
        "contenders": {name: measured(one) for name, one in raw.items()},
        "equal_answers": compared(raw),
        "on_paper": on_paper("8b", rank=given.rank, lengths=LENGTHS),
    }
    contest.write(report, given.out)
    print(markdown(report))


if __name__ == "__main__":
    main()
