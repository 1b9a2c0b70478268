"""What the serving benchmark tells: figures of each contender, ratios, whether they said the same, the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.contest import table

NAMES = {
    "plain": "vLLM, the bare backbone",
    "baked-100": "(b) vLLM, baked prompts of 100",
    "baked-16": "(b) vLLM, baked prompts of 16",
    "lora": "(c) vLLM multi-LoRA",
    "ours-100": "(a) ours in process, prompts of 100",
    "ours-16": "(a) ours in process, prompts of 16",
    "peft-single": "(d) PEFT, one request at a time",
    "peft-grouped": "(d) PEFT, grouped by adapter",
}
RATIOS = {
    "(b)/(c)": ("baked-100", "lora"),
    "(b)/plain": ("baked-100", "plain"),
    "(b) of 16/plain": ("baked-16", "plain"),
    "(a)/(d) one at a time": ("ours-100", "peft-single"),
    "(a)/(d) grouped": ("ours-100", "peft-grouped"),
}
SAME = (("ours-100", "baked-100"), ("ours-16", "baked-16"), ("lora", "peft-single"), ("lora", "peft-grouped"))
"""Contenders that hold the same prompts or adapters and must say the same."""


def measured(raw: dict[str, Any]) -> dict[str, Any]:
    """The figures of one contender. Seconds of latency are those from when all requests were there."""
    passes, alone = raw["passes"], raw["alone"]
    last = [value for one in passes for value in one["last"]]
    first = [value for one in passes for value in one["first"]]
    rates = [len(one["last"]) / one["seconds"] for one in passes]
    return {
        "requests": len(passes[0]["last"]),
        "requests_per_second": round(statistics.median(rates), 2),
        "all_passes": [round(rate, 2) for rate in rates],
        "seconds_p50": round(_percentile(last, 50), 3),
        "seconds_p99": round(_percentile(last, 99), 3),
        "first_token_p50": round(_percentile(first, 50), 3),
        "first_token_p99": round(_percentile(first, 99), 3),
        "alone_seconds": round(statistics.median(one["last"][0] for one in alone), 4),
        "alone_first_token": round(statistics.median(one["first"][0] for one in alone), 4),
        "bytes_per_task": raw["bytes"],
        "add_seconds": _rounded(raw["adding"]["add_seconds"]),
        "answered_while_adding": len(raw["adding"]["last"]),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def compared(raw: dict[str, Any]) -> dict[str, str]:
    """How many answers of the first pass were the same on two sides, of those that both gave."""
    found = {}
    for one, other in SAME:
        if one in raw and other in raw:
            pairs = list(zip(raw[one]["passes"][0]["texts"], raw[other]["passes"][0]["texts"], strict=False))
            found[f"{one} = {other}"] = f"{sum(a == b for a, b in pairs)} of {len(pairs)}"
    return found


def ratios(contenders: dict[str, Any]) -> dict[str, float]:
    """Requests per second of one over those of another."""
    rate = {name: one["requests_per_second"] for name, one in contenders.items()}
    return {name: round(rate[a] / rate[b], 2) for name, (a, b) in RATIOS.items() if a in rate and b in rate}


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: the table, the ratios, the checks."""
    found, said = report["contenders"], report["settings"]
    header = [
        "",
        "requests/s",
        "p50 s",
        "p99 s",
        "first token p50 s",
        "alone s",
        "alone first s",
        "bytes/task",
        "add s",
    ]
    rows = [[NAMES[name], *_cells(one)] for name, one in found.items()]
    head = (
        f"{said['requests']} requests over {said['tasks']} tasks, {said['new']} tokens each, texts of "
        f"{said['text_tokens']} tokens, {report['machine']['threads']} threads of {report['machine']['processor']}, "
        f"vLLM {report['vllm']}, torch {report['machine']['torch']}, PEFT {report['machine']['peft']}, "
        f"{report['machine']['date']}."
    )
    lines = [head, "", table(header, rows), ""]
    lines += [f"- {name}: {value}" for name, value in ratios(found).items()]
    lines += _bytes(found)
    lines += [f"- same answers, {pair}: {count}" for pair, count in report["equal_answers"].items()]
    return "\n".join([*lines, *_paper(report["on_paper"])])


def _cells(one: dict[str, Any]) -> list[str]:
    count = one["bytes_per_task"]["values"] if one["bytes_per_task"] else 0
    numbers = ("seconds_p50", "seconds_p99", "first_token_p50", "alone_seconds", "alone_first_token")
    added = "-" if one["add_seconds"] is None else f"{one['add_seconds']:.3f}"
    cells = [f"{one[name]:.3f}" for name in numbers]
    return [f"{one['requests_per_second']:.1f}", *cells, f"{count:,}" if count else "-", added]


def _bytes(found: dict[str, Any]) -> list[str]:
    if "lora" not in found:
        return []
    adapter = found["lora"]["bytes_per_task"]["values"]
    prompts = [(name, found[name]["bytes_per_task"]["values"]) for name in ("baked-100", "baked-16") if name in found]
    return [f"- adapter bytes / prompt bytes, {name}: {adapter / count:.1f}" for name, count in prompts]


def _paper(paper: dict[str, Any]) -> list[str]:
    lines = [
        f"- on paper at LLaMA 3.1 8B's shape, bf16: adapter of rank {paper['rank']} {paper['adapter_bytes']:,} bytes"
    ]
    for name, one in paper.items():
        if name.startswith("prompt-"):
            length = name.removeprefix("prompt-")
            lines.append(
                f"- prompt of {length}: {one['prompt_bytes']:,} bytes (the adapter is {one['adapter_over_prompt']:g} "
                f"times as large); as task vectors beside a metaprompt {one['vectors_bytes']:,} bytes "
                f"({one['adapter_over_vectors']:,g} times)"
            )
    return lines
