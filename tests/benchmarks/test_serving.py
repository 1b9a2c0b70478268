"""The serving benchmark and the soak: what they tell of made-up measurements, their traffic, PEFT both ways."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")
pytest.importorskip("psutil")

from benchmarks.serving_adapters import Peft, folder_bytes, random_adapters
from benchmarks.soak_clients import Soak, answer_only
from benchmarks.soak_summary import summary

from benchmarks import serving_report, serving_sizes, serving_traffic
from clinprompt.backbone.model import load_backbone


def test_sizes_on_paper_are_those_of_the_shapes() -> None:
    found = serving_sizes.on_paper("8b", rank=16, lengths=(100,))
    layer = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert found["adapter_bytes"] == 2 * 16 * 32 * layer
    assert found["prompt-100"]["prompt_bytes"] == 2 * 100 * 4096
    assert found["prompt-100"]["adapter_over_prompt"] == pytest.approx(16 * 32 * layer / (100 * 4096), abs=0.05)
    assert found["prompt-100"]["vectors_bytes"] == 2 * (100 + 4096)


def test_traffic_is_mixed_even_and_never_the_same_twice() -> None:
    backbone = load_backbone("embedded")
    passes = serving_traffic.passes(backbone, count=2, requests=20, tasks=5, tokens=12)
    assert [Counter(ask.task for ask in asked) for asked in passes] == [Counter(dict.fromkeys(range(5), 4))] * 2
    texts = [ask.source for asked in passes for ask in asked]
    assert len(set(texts)) == 40 and all(12 <= backbone.length(text) < 40 for text in texts)
    assert [ask.task for ask in passes[0]] != sorted(ask.task for ask in passes[0])
    assert passes == serving_traffic.passes(backbone, count=2, requests=20, tasks=5, tokens=12)


def test_peft_says_the_same_grouped_and_one_by_one(tmp_path: Path) -> None:
    backbone = load_backbone("embedded")
    folders = random_adapters(backbone, tmp_path, 3, rank=4)
    peft = Peft(backbone, folders[:2], new=5)
    [asked] = serving_traffic.passes(backbone, count=1, requests=6, tasks=2, tokens=10)
    single, grouped = peft.one_by_one(asked), peft.by_adapter(asked)
    assert single["texts"] == grouped["texts"] and len(set(single["texts"])) > 2
    assert all(
        0 < first <= last <= single["seconds"] for first, last in zip(single["first"], single["last"], strict=True)
    )
    peft.add(folders[2])
    assert folder_bytes(folders[2])["values"] == 4 * sum(
        4 * (inside + outside) for inside, outside in [(256, 256)] * 24 + [(256, 640)] * 12 + [(640, 256)] * 6
    )


def measurement(seconds: float, texts: list[str], size: int) -> dict[str, Any]:
    one = {"seconds": seconds, "first": [seconds / 4] * 4, "last": [seconds / 2] * 3 + [seconds], "texts": texts}
    alone = [{"first": [0.01], "last": [0.1]}, {"first": [0.03], "last": [0.3]}, {"first": [0.02], "last": [0.2]}]
    adding = one | {"add_seconds": 0.25}
    return {"passes": [one, one], "alone": alone, "adding": adding, "bytes": {"values": size, "files": size + 9}}


def test_report_of_made_up_measurements() -> None:
    said = ["a", "b", "c", "d"]
    raw = {"baked-100": measurement(1.0, said, 100), "lora": measurement(8.0, said, 1800)}
    raw |= {"ours-100": measurement(2.0, ["a", "b", "c", "x"], 100)}
    contenders = {name: serving_report.measured(one) for name, one in raw.items()}
    baked = contenders["baked-100"]
    assert (baked["requests_per_second"], baked["seconds_p50"], baked["seconds_p99"]) == (4.0, 0.5, 1.0)
    assert (baked["first_token_p50"], baked["alone_seconds"], baked["alone_first_token"]) == (0.25, 0.2, 0.02)
    assert serving_report.ratios(contenders) == {"(b)/(c)": 8.0}
    assert serving_report.compared(raw) == {"ours-100 = baked-100": "3 of 4"}
    text = serving_report.markdown(
        {
            "contenders": contenders,
            "settings": {"requests": 4, "tasks": 2, "new": 3, "text_tokens": 5},
            "machine": {"threads": 1, "processor": "P", "torch": "2", "peft": "0", "date": "D"},
            "vllm": "0",
            "equal_answers": serving_report.compared(raw),
            "on_paper": serving_sizes.on_paper("smoke", rank=2, lengths=(16,)),
        }
    )
    assert "- (b)/(c): 8.0" in text and "adapter bytes / prompt bytes, baked-100: 18.0" in text


METRICS = "\nclinprompt_defects_total {defects}\n"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"compared": 0}, "no answer was compared"),
        ({"wrong": ["a 1"]}, "1 answers differ"),
        ({"unexpected": ["right: 500"]}, "clients met"),
        ({"memory": [100] * 8 + [106] * 8}, "memory grew by 6.0%"),
        ({"held": {"running": 0, "waiting": 0, "held": 1}}, "places were not"),
        ({"defects": 1}, "1 defects"),
        ({"rounds": []}, "schemathesis ran no case"),
        ({"rounds": [{"exit_code": 1, "cases": 3, "failures": [], "errors": []}]}, "schemathesis found"),
    ],
)
def test_a_soak_fails_by_each_thing_alone(change: dict[str, Any], problem: str | None) -> None:
    soak = Soak("", 0, {}, [], compared=change.get("compared", 5))
    soak.wrong, soak.unexpected = change.get("wrong", []), change.get("unexpected", [])
    found = summary(
        soak,
        change.get("memory", [90] * 4 + [100] * 12),
        METRICS.format(defects=change.get("defects", 0)),
        change.get("held", {"running": 0, "waiting": 0, "held": 0}),
        change.get("rounds", [{"exit_code": 0, "cases": 3, "failures": [], "errors": []}]),
    )
    assert len(found["problems"]) == (problem is not None)
    assert problem is None or found["problems"][0].startswith(problem)


def test_answers_are_compared_without_what_rounding_may_change() -> None:
    served = {"id": "0", "task": "x", "entities": [{"id": "T1", "type": "A", "confidence": 0.5}], "ungrounded": []}
    assert answer_only(served) == {"entities": [{"id": "T1", "type": "A"}]}
