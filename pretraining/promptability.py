"""How well does a prompt steer the model? Soft prompt against LoRA on tasks that pretraining never announced.

``python -m pretraining.promptability --checkpoint runs/pretraining/embedded/latest.safetensors \\
--text runs/pretraining/text.jsonl --classes runs/pretraining/classes.json \\
--tokenizer runs/pretraining/tokenizer``

Three extraction tasks made by rule (`pretraining.extraction.held_out`); both methods get the same examples, batches and
number of steps. F1 of mention strings: soft prompt (20 input rows, the model frozen) and LoRA (rank 8 on every
matrix of every layer). A development measure, independent of the library's own training code; smaller than, and no
substitute for, its benchmarks.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pretraining import clusters, corpus
from pretraining.extraction import Definition, Window, held_out, index, windows
from pretraining.model import Model, ModelConfig, weighted_loss
from pretraining.packing import EOS_ID
from pretraining.selfsupervised import listing
from pretraining.train import load_state

PROMPT_LENGTH = 20
RATES = {"prompt": (0.03, 0.1), "lora": (1e-3, 3e-3)}
"""Two learning rates for each method; the one with the lower training loss counts (no test data is looked at)."""


@dataclass(frozen=True, slots=True)
class Sample:
    source: list[int]
    target: list[int]
    mentions: tuple[str, ...]


class LowRank(nn.Module):
    """W → W + 2 B A, with B = 0 at first."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 2.0 * self.b @ self.a


def samples(definition: Definition, pool: list[Window], tokenizer: Tokenizer, count: int, seed: int) -> list[Sample]:
    """Three windows with a mention to one without, in the format of a one-type task named "Entity"."""
    draw = random.Random(seed)
    holding = index(pool, [definition])[definition.key]
    inside = set(holding)
    without = [n for n in range(len(pool)) if n not in inside]
    draw.shuffle(holding)
    numbers = holding[: 3 * count // 4] + draw.sample(without, count - min(len(holding), 3 * count // 4))
    draw.shuffle(numbers)
    made = []
    for number in numbers:
        answer = listing(pool[number], [("Entity", definition)])
        if answer is not None:
            source = tokenizer.encode(f"Find: Entity.\nText: {pool[number].text}\nAnswer:").ids
            target = [*tokenizer.encode(f" {answer}").ids, EOS_ID]
            if len(source) + len(target) < 220:
                made.append(Sample(source, target, tuple(definition.mentions(pool[number]) or ())))
    return made


def adapted(
    weights: dict[str, Tensor], config: ModelConfig, method: str, seed: int
) -> tuple[Model, list[nn.Parameter]]:
    """The frozen model with either new input rows, drawn from its vocabulary, or low-rank changes of its matrices."""
    rows = PROMPT_LENGTH if method == "prompt" else 0
    model = Model(replace(config, codes=rows))
    generator = torch.Generator().manual_seed(seed)
    table = weights["model.embed_tokens.weight"]
    chosen = torch.randint(2, config.vocabulary, (rows,), generator=generator)
    model.load_state_dict({**weights, "codes.weight": table[chosen].clone()})
    model.requires_grad_(False)
    if method == "prompt":
        model.codes.weight.requires_grad_(True)
        return model, list(model.codes.parameters())
    trained: list[nn.Parameter] = []
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            change = LowRank(module.weight, 8, generator)
            parametrize.register_parametrization(module, "weight", change)
            trained += [change.a, change.b]
    return model, trained


def prefix(model: Model) -> list[int]:
    return list(range(model.config.vocabulary, model.config.vocabulary + model.config.codes))


def fit(model: Model, trained: list[nn.Parameter], data: list[Sample], rate: float, steps: int, seed: int) -> float:
    """Adam with linear decay, batches of 16; mean loss of the last tenth of the steps."""
    optimiser = torch.optim.Adam(trained, lr=rate)
    draw = random.Random(seed)
    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 10, (steps - step) / steps)
        chosen = draw.sample(data, min(16, len(data)))
        sequences = [prefix(model) + s.source + s.target for s in chosen]
        width = max(map(len, sequences))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
        weights = torch.zeros(ids.shape)
        for row, (sequence, sample) in enumerate(zip(sequences, chosen, strict=True)):
            weights[row, len(sequence) - len(sample.target) : len(sequence)] = 1
        with torch.autocast("cpu", torch.bfloat16):
            loss = weighted_loss(model, ids, torch.ones_like(ids), weights)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


@torch.no_grad()
def generate(model: Model, data: list[Sample], most: int = 40) -> list[list[int]]:
    """Greedy answers of a whole batch; each row grows at its own end, so that padding is never looked at."""
    rows = [prefix(model) + s.source for s in data]
    answers: list[list[int]] = [[] for _ in rows]
    for _ in range(most):
        open_rows = [i for i, answer in enumerate(answers) if not answer or answer[-1] != EOS_ID]
        if not open_rows:
            break
        sequences = [rows[i] + answers[i] for i in open_rows]
        width = max(map(len, sequences))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(ids)
        last = hidden[torch.arange(len(sequences)), torch.tensor([len(s) - 1 for s in sequences])]
        scores = F.linear(last.float(), model.model.embed_tokens.weight)
        for i, token in zip(open_rows, scores.argmax(-1).tolist(), strict=True):
            answers[i].append(token)
    return answers


def f1(predicted: list[tuple[str, ...]], gold: list[tuple[str, ...]]) -> float:
    """Micro F1 over mention strings, repeated ones counted as often as they stand."""
    right = sum(sum((Counter(p) & Counter(g)).values()) for p, g in zip(predicted, gold, strict=True))
    total = sum(map(len, predicted)) + sum(map(len, gold))
    return 2 * right / total if total else 0.0


def read_answer(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(";") if item.strip())
    return () if items == ("none",) else items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "text", "classes", "tokenizer"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    weights, _, progress, config = load_state(args.checkpoint)
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    draw = random.Random(args.seed)
    documents = [d for d in corpus.load(args.text) if d.source != "trial-body"]
    documents = draw.sample(documents, min(6000, len(documents)))
    pool = [w for n, d in enumerate(documents) for w in windows(d.text, n, draw, most=300)]
    ratios = []
    for definition in held_out(clusters.load(args.classes)):
        data = samples(definition, pool, tokenizer, args.train + args.test, args.seed)
        test, training = data[: args.test], data[args.test :]
        row: dict[str, float | str | int] = {
            "task": definition.key,
            "tokens_seen": progress.tokens,
            "steps": args.steps,
        }
        scores = {}
        for method, rates in RATES.items():
            tried = []
            for rate in rates:
                model, trained = adapted(weights, config, method, args.seed)
                tried.append((fit(model, trained, training, rate, args.steps, args.seed), rate, model))
            loss, rate, model = min(tried, key=lambda t: t[:2])
            answers = [tokenizer.decode(a) for a in generate(model, test)]
            scores[method] = f1([read_answer(a) for a in answers], [s.mentions for s in test])
            row |= {f"{method}_loss": round(loss, 3), f"{method}_rate": rate, f"{method}_f1": round(scores[method], 3)}
        ratios.append(scores["prompt"] / scores["lora"] if scores["lora"] else 0.0)
        print(json.dumps(row), flush=True)
    print(json.dumps({"mean_ratio": round(sum(ratios) / len(ratios), 3)}))


if __name__ == "__main__":
    main()
