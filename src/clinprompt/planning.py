"""What a training will cost, before it starts: tokens, FLOPs, memory and time, with the formulas they come from.

With N = weights outside the embedding tables (of a mixture of experts: those one token uses), V·d = the head:

    prompt training   4·N per token  (2·N forward, 2·N back through the activations; weights get no gradient)
                    + 4·V·d per label token (the head is applied where an answer is predicted and nowhere else)
    LoRA            + 6·P per token for its P numbers (forward, back through activations, gradient)
    MixLoRA         + 4·F per token for every expert but the first (F = weights of the feed-forward blocks)
    all weights       6·N per token + 6·V·d per label token
    teacher states    2·N per token (forward only)
    validation        2·N per token + 2·V·d per label token
    distillation    + 2·V·d per label token (the teachers' logits, from their stored states)
    attention       + 4·layers·a per forward pass for each pair of a token and one it sees, a = heads · head width;
                      twice that backward. A prefix adds its m keys to what every token sees, and no tokens. In an
                      encoder-decoder a text's tokens see each other, an answer's those before and the text.

Padding is not counted. Time is the FLOPs
over a rate: one that the user gives, or one measured on a forward and backward pass over real examples. Memory is a
rule of thumb, within about a factor of two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from clinprompt.adapters.files import JOINT
from clinprompt.adapters.lora import lora_parameters
from clinprompt.adapters.mixlora import MixLoraSettings, passed_numbers
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.flops import Volume, body_parameters, forward_flops, training_flops, volume_of
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.methods.generated import generated_numbers
from clinprompt.methods.mpt import stored_numbers
from clinprompt.prompts.bank import DirectBank
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.training.banks import PREFIXES
from clinprompt.training.batching import TaskExamples, chunks
from clinprompt.training.costs import trained_numbers
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.multitask_banks import adapter_settings, multitask_parameters
from clinprompt.training.sampling import SIZE_CAP
from clinprompt.training.search import SearchSettings
from clinprompt.training.settings import AdaptSettings, ExtendSettings, LearnSettings, LoopSettings, Method
from clinprompt.training.starts import judged_examples, start_of

FORMULA = "4·N per token + 4·V·d per label + attention (training), half of it (teacher states, validation)"


@dataclass(frozen=True)
class Stage:
    """One part of a run. `parameters` are trained numbers, `tokens` the sequence positions computed (prompt included),
    in training; `flops` of training and validation together."""

    name: str
    parameters: int
    steps: int
    tokens: int
    flops: float


@dataclass(frozen=True)
class Estimate:
    """A whole run. `rate` is in FLOP/s, None if it is not known; `memory` in bytes."""

    stages: tuple[Stage, ...]
    examples: dict[str, int]
    backbone_parameters: int
    body_parameters: int
    memory: int
    rate: float | None = None
    measured: bool = False
    notes: tuple[str, ...] = field(default=())
    memory_parts: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        return self.flops / self.rate if self.rate else None

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "examples": self.examples,
            "backbone_parameters": self.backbone_parameters,
            "body_parameters": self.body_parameters,
            "trained_parameters": self.stages[-1].parameters,
            "tokens": sum(stage.tokens for stage in self.stages),
            "flops": self.flops,
            "formula": FORMULA,
            "memory_bytes": self.memory,
            "memory_parts": self.memory_parts,
            "flops_per_second": self.rate,
            "rate_measured": self.measured,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def plan_learn(backbone: Backbone, examples: Sequence[TaskExamples], length: int, settings: LearnSettings) -> Estimate:
    """The three stages of `learn` on these encoded tasks; without students the first alone."""
    tasks, width = len(examples), backbone.width
    every = _sum(volume_of(e.train, length) for e in examples)
    validation = _sum(volume_of(e.validation[: settings.teacher.validation_limit], length) for e in examples)
    teacher = _rows(examples, length, settings.teacher)
    distilled = settings.students and bool(settings.weight_logits or settings.weight_hidden)
    source = _mixed(examples, length).times(settings.source.batch_size * settings.source.steps)
    student_flops = training_flops(backbone, source) + _validation_flops(backbone, validation, settings.source)
    if settings.weight_logits:
        student_flops += 2 * backbone.vocabulary * width * source.labels
    teacher_flops = training_flops(backbone, teacher) + _validation_flops(backbone, validation, settings.teacher)
    student = stored_numbers("group", length, width, settings.rank, tasks)
    if settings.architecture is not None:
        student += generated_numbers(settings.architecture, length, width) - length * width
    stages = [Stage("teachers", tasks * length * width, settings.teacher.steps, round(teacher.tokens), teacher_flops)]
    if distilled:
        stages.append(Stage("teacher states", 0, 0, round(every.tokens), forward_flops(backbone, every)))
    if settings.students:
        stages.append(Stage("metaprompt", student, settings.source.steps, round(source.tokens), student_flops))
    micro = max(settings.teacher.micro_tokens, settings.source.micro_tokens)
    held = every.labels * len(settings.layers) * width * _bytes(backbone) if distilled else 0.0
    return _estimate(backbone, examples, stages, micro, tasks * length * width, held)


def plan_extend(
    backbone: Backbone,
    known: Sequence[TaskExamples],
    fresh: Sequence[TaskExamples],
    length: int,
    settings: ExtendSettings,
) -> Estimate:
    """The stages of `learn --extend`: teachers of the new tasks, then new vectors (freeze) or all of them (replay)."""
    replayed = list(known) if settings.keep == "replay" else []
    tasks, width, old, loop = [*replayed, *fresh], backbone.width, len(replayed), settings.source
    teacher = _rows(fresh, length, settings.teacher)
    validation = _sum(volume_of(e.validation[: settings.teacher.validation_limit], length) for e in fresh)
    stages = [
        Stage(
            "teachers",
            len(fresh) * length * width,
            settings.teacher.steps,
            round(teacher.tokens),
            training_flops(backbone, teacher) + _validation_flops(backbone, validation, settings.teacher),
        )
    ]
    distilled = bool(settings.weight_logits or settings.weight_hidden)
    every = _sum(volume_of(e.train, length) for e in tasks)
    if distilled:
        stages.append(Stage("teacher states", 0, 0, round(every.tokens), forward_flops(backbone, every)))
    shares = [(replayed, settings.replay if old else 0.0), (list(fresh), 1 - settings.replay if old else 1.0)]
    source = _sum(_mixed(group, length).times(share * loop.batch_size * loop.steps) for group, share in shares)
    validation = _sum(volume_of(e.validation[: loop.validation_limit], length) for e in tasks)
    flops = training_flops(backbone, source) + _validation_flops(backbone, validation, loop)
    if settings.weight_logits:
        flops += 2 * backbone.vocabulary * width * source.labels
    trained = stored_numbers("group" if old else "vectors", length, width, settings.rank, len(tasks))
    stages.append(Stage("metaprompt", trained, loop.steps, round(source.tokens), flops))
    held = every.labels * len(settings.layers) * width * _bytes(backbone) if distilled else 0.0
    micro = max(settings.teacher.micro_tokens, loop.micro_tokens)
    return _estimate(backbone, tasks, stages, micro, len(tasks) * length * width, held)


def _mixed(examples: Sequence[TaskExamples], length: int, ahead: int = 0) -> Volume:
    """The mean example of examples-proportional mixing."""
    shares = [min(len(e.train), SIZE_CAP) for e in examples]
    return _sum(_mean(e.train, length, ahead).times(n / sum(shares)) for e, n in zip(examples, shares, strict=True))


def plan_adapt(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    length: int,
    settings: AdaptSettings,
    method: Method,
    rank: int = 1,
    sources: int = 0,
) -> Estimate:
    """Training one row per task. `length`: of the prompt or prefix, 0 for lora and full; `rank` and `sources`: of the
    metaprompt. Looking for a start among the sources is a stage of its own, before the training."""
    tasks, loop = len(examples), settings.loop
    trained = trained_numbers(backbone, settings, method, length, rank=rank, tasks=tasks, sources=sources)
    computed, ahead = (0, length) if method in PREFIXES else (length, 0)
    adapter = 0
    if method in ("lora", *JOINT):
        adapter = lora_parameters(backbone, settings.lora.rank, settings.lora.targets)
    volume = _rows(examples, computed, loop, ahead)
    validation = _sum(volume_of(e.validation[: loop.validation_limit], computed, ahead) for e in examples)
    flops = training_flops(backbone, volume, adapter=adapter, full=method == "full")
    flops += _validation_flops(backbone, validation, loop, adapter=adapter)
    steps = loop.steps if any(e.train for e in examples) else 0
    name = f"adapt ({method}, {settings.mode})" if method == "mpt" else f"adapt ({method})"
    stage = Stage(name, trained, steps, round(volume.tokens) if steps else 0, flops if steps else 0.0)
    state = max(trained, length * backbone.width * tasks) if method in ("pt", "mpt", "spot") else trained
    stages = [*_start_stage(backbone, examples, length, settings, method, sources), stage]
    return _estimate(backbone, examples, stages, loop.micro_tokens, state, 0.0)


def _start_stage(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    length: int,
    settings: AdaptSettings,
    method: Method,
    sources: int,
) -> list[Stage]:
    """Every source's prompt on some training examples, forward only; none where the start is not looked for."""
    most = judged_examples(settings, method)
    volume = _sum(volume_of(e.train[:most], length) for e in examples).times(sources)
    if not volume.tokens:
        return []
    flops = forward_flops(backbone, volume) + 2.0 * backbone.vocabulary * backbone.width * volume.labels
    return [Stage(f"start ({start_of(settings, method)} of the sources)", 0, 0, round(volume.tokens), flops)]


def plan_multitask(backbone: Backbone, examples: Sequence[TaskExamples], settings: MultitaskSettings) -> Estimate:
    """One adapter for all these tasks. What is trained at a backbone's own experts is counted for all of them, though
    a token may use few; MixLoRA's feed-forward blocks are counted once per expert that it sends a token to."""
    tasks, name, loop = len(examples), settings.method, settings.loop
    chosen: Any = adapter_settings(name, settings.adapter)
    trained = multitask_parameters(backbone, tasks, name, settings.adapter)
    ahead = chosen.length if name == "prefix" else chosen.positions if name in JOINT else 0
    again = 0  # frozen weights that a token passes beyond once
    if isinstance(chosen, MixLoraSettings):
        used, again = passed_numbers(backbone, chosen)
    elif name in ("prefix", *JOINT):
        used = 0 if name == "prefix" else lora_parameters(backbone, chosen.rank, chosen.targets)
    else:
        used = multitask_parameters(backbone, 1, name, settings.adapter)  # what is shared, and one task's own
    volume = _mixed(examples, 0, ahead).times(loop.batch_size * loop.steps)
    validation = _sum(volume_of(e.validation[: loop.validation_limit], 0, ahead) for e in examples)
    flops = training_flops(backbone, volume, adapter=used) + 4.0 * again * volume.tokens
    flops += _validation_flops(backbone, validation, loop, adapter=used + again)
    stage = Stage(f"learn ({name})", trained, loop.steps, round(volume.tokens), flops)
    return _estimate(backbone, examples, [stage], loop.micro_tokens, trained, 0.0)


def plan_search(backbone: Backbone, examples: Sequence[TaskExamples], settings: SearchSettings) -> Estimate:
    """All trials of a search at its longest prefix: a step is a pass for the weights and one for the architecture."""
    relax, ahead = settings.relax, max(settings.lengths)
    used = lora_parameters(backbone, relax.lora.rank, relax.lora.targets)
    passes = 2 * settings.trials * relax.loop.batch_size * relax.loop.steps
    volume = _mixed(examples, 0, ahead).times(passes)
    validation = _sum(volume_of(e.validation[: relax.loop.validation_limit], 0, ahead) for e in examples)
    judging = forward_flops(backbone, validation, adapter=used)
    judging += 2.0 * backbone.vocabulary * backbone.width * validation.labels
    flops = training_flops(backbone, volume, adapter=used) + 2 * settings.trials * judging
    stage = Stage("search", used, settings.trials * relax.loop.steps, round(volume.tokens), flops)
    return _estimate(backbone, examples, [stage], relax.loop.micro_tokens, used, 0.0)


def with_rate(estimate: Estimate, rate: float, *, measured: bool) -> Estimate:
    """The estimate with a time."""
    return Estimate(**{**_fields(estimate), "rate": rate, "measured": measured})


def calibrate(backbone: Backbone, examples: Sequence[Encoded], length: int, *, most_tokens: int = 2048) -> float:
    """FLOP/s reached by a forward and a backward pass over some of these examples (the second of two passes)."""
    part = chunks([len(e.ids) + length for e in examples], most_tokens)[len(examples) // 1024]
    chosen = [examples[i] for i in part]
    bank = DirectBank(initial_prompts(backbone, length, "vocabulary", [0]).to(backbone.device))
    rows = torch.zeros(len(chosen), dtype=torch.long, device=backbone.device)
    volume = volume_of(chosen, length)
    began = 0.0
    for _ in range(2):
        began = time.perf_counter()
        batch = collate(backbone, chosen)
        loss = token_losses(backbone, label_states(backbone, batch, bank.compose(rows))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for an accelerator
    return training_flops(backbone, volume) / (time.perf_counter() - began)


def _estimate(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    stages: Sequence[Stage],
    micro_tokens: int,
    prompts: int,
    held: float,
) -> Estimate:
    labels = [e.labels / max(1, len(e.ids)) for task in examples for e in task.train]
    share = sum(labels) / len(labels) if labels else 0.0
    config = backbone.model.config.get_text_config()
    layers = int(getattr(config, "num_hidden_layers", 1))
    inner = int(getattr(config, "intermediate_size", 0) or getattr(config, "d_ff", 0) or 4 * backbone.width)
    activations = micro_tokens * layers * (10 * backbone.width + 4 * inner) * _bytes(backbone)
    logits = micro_tokens * share * backbone.vocabulary * 4 * 3
    state = prompts * 4 * 5  # values, gradient, two moments, best values
    parts = weight_bytes(backbone) | {
        f"activations of {micro_tokens:,} tokens": round(activations),
        "logits at label positions": round(logits),
        "prompts: values, gradient, two moments, best": round(state),
        "teacher states (on the CPU)": round(held),
    }
    notes = [f"{e.name}: {e.skipped} examples longer than the context are left out" for e in examples if e.skipped]
    if backbone.kind == "seq2seq":
        notes.append("encoder-decoder: every token is counted as passing all weights, an upper bound")
    return Estimate(
        stages=tuple(stages),
        examples={e.name: len(e.train) for e in examples},
        backbone_parameters=backbone.parameters,
        body_parameters=body_parameters(backbone),
        memory=sum(parts.values()),
        notes=tuple(notes),
        memory_parts={name: count for name, count in parts.items() if count},
    )


def weight_bytes(backbone: Backbone) -> dict[str, int]:
    """Bytes of the frozen weights by how they are stored; packed 4-bit weights are two to a byte."""
    found: dict[str, int] = {}
    for parameter in backbone.model.parameters():
        kind = "4 bits" if parameter.dtype == torch.uint8 else str(parameter.dtype).removeprefix("torch.")
        found[f"weights in {kind}"] = found.get(f"weights in {kind}", 0) + parameter.numel() * parameter.element_size()
    return found


def _fields(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in Estimate.__dataclass_fields__}


def _bytes(backbone: Backbone) -> int:
    return 2 if backbone.autocast or backbone.preset.dtype == "bfloat16" else 4


def _mean(examples: Sequence[Encoded], length: int, ahead: int = 0) -> Volume:
    return volume_of(examples, length, ahead).times(1 / max(1, len(examples)))


def _rows(examples: Sequence[TaskExamples], length: int, loop: LoopSettings, ahead: int = 0) -> Volume:
    """Every row draws its own batch each step; early stopping is not foreseen."""
    return _sum(_mean(e.train, length, ahead).times(min(loop.batch_size, len(e.train)) * loop.steps) for e in examples)


def _sum(volumes: Any) -> Volume:
    return sum(volumes, Volume())


def _validation_flops(backbone: Backbone, volume: Volume, loop: LoopSettings, *, adapter: int = 0) -> float:
    times = math.ceil(loop.steps / loop.evaluate_every) if loop.evaluate_every else 0
    head = backbone.vocabulary * backbone.width
    return times * (forward_flops(backbone, volume, adapter=adapter) + 2.0 * head * volume.labels)
