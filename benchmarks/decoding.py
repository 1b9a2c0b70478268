"""How long does an answer take? One greedy answer of 100 tokens under a soft prompt, one document, one core.

    OMP_NUM_THREADS=1 python -m benchmarks.decoding --out benchmarks/results/decoding-embedded.json

Our decoder (the prompt's keys and values from the cache) against Transformers' `generate` on the same input
embeddings. Ending tokens are made unreachable on both sides, so that every answer has all its tokens; texts are random
tokens, for time does not depend on which. Both must give the same tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.decoding import Decoder


def endless(backbone: Backbone) -> Backbone:
    """The backbone whose answers never end by themselves."""
    ends = list(backbone.end_ids)

    def head(hidden: Tensor) -> Tensor:
        logits = backbone.head(hidden).clone()
        logits[..., ends] = float("-inf")
        return logits

    return replace(backbone, head=head)


def texts(backbone: Backbone, count: int, length: int, seed: int) -> list[Encoded]:
    """`count` documents of `length` random ordinary tokens."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(64, backbone.vocabulary, size=(count, length), dtype=np.int32)
    return [Encoded(row, length, 0) for row in ids]


def ours(backbone: Backbone, prompt: Tensor, limit: int) -> Callable[[Encoded], str]:
    decoder = Decoder(endless(backbone), prompt[None])
    return lambda example: decoder.generate([example], [0], limit)[0]


def transformers(backbone: Backbone, prompt: Tensor, limit: int) -> Callable[[Encoded], str]:
    @torch.inference_mode()
    def answer(example: Encoded) -> str:
        inputs = torch.cat([prompt, backbone.embed(torch.from_numpy(example.ids).long())])[None]  # (1, l + n, d)
        ids = backbone.model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
            min_new_tokens=limit,
            max_new_tokens=limit,
            do_sample=False,
        )
        text: str = backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        return text.strip()

    return answer


def timed(answer: Callable[[Encoded], str], examples: Sequence[Encoded]) -> tuple[list[float], list[str]]:
    """Seconds and text of each answer; the first call is for warming up and not counted."""
    answer(examples[0])
    seconds: list[float] = []
    found: list[str] = []
    for example in examples:
        began = time.perf_counter()
        found.append(answer(example))
        seconds.append(time.perf_counter() - began)
    return seconds, found


def measure(backbone: Backbone, args: argparse.Namespace) -> dict[str, Any]:
    examples = texts(backbone, args.documents, args.text_tokens, args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    ids = torch.randint(64, backbone.vocabulary, (args.prompt_length,), generator=generator)
    prompt = backbone.embed(ids).detach()  # (l, d)
    report: dict[str, Any] = {
        "answer_tokens": args.answer_tokens,
        "text_tokens": args.text_tokens,
        "prompt_length": args.prompt_length,
        "documents": args.documents,
    }
    answers: dict[str, list[str]] = {}
    for name, make in (("clinprompt", ours), ("transformers", transformers)):
        seconds, answers[name] = timed(make(backbone, prompt, args.answer_tokens), examples)
        report[name] = {"median_seconds": round(statistics.median(seconds), 4), "worst": round(max(seconds), 4)}
    report["same_answers"] = sum(map(str.__eq__, answers["clinprompt"], answers["transformers"]))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--text-tokens", type=int, default=300)
    parser.add_argument("--answer-tokens", type=int, default=100)
    parser.add_argument("--prompt-length", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    backbone = load_backbone(args.backbone)
    report = measure(backbone, args)
    report |= {"backbone": backbone.fingerprint, "machine": describe("cpu", "float32")}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
