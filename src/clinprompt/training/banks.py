"""What a method trains on its targets: a bank with one row per plan, where each row starts, and its learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.files import JOINT
from clinprompt.adapters.full import full_bank
from clinprompt.adapters.lora import lora_bank
from clinprompt.adapters.prefix import prefix_bank
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.methods.mpt import MOVES_VECTORS, OWN_SHARED, Start, decomposed_rates, target_bank
from clinprompt.methods.peml import joint_bank, rate_factor
from clinprompt.methods.pt import prompt_rates
from clinprompt.methods.registry import OWN_LENGTH
from clinprompt.methods.spot import spot_bank
from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.bank import Bank, DecomposedBank, DirectBank
from clinprompt.prompts.own_positions import OwnPositionsBank
from clinprompt.training.batching import TaskExamples
from clinprompt.training.settings import AdaptSettings, FactorSettings, JointSettings, Method
from clinprompt.training.starts import first_prompts, source_starts

ON_METAPROMPT: tuple[Method, ...] = ("mpt", "spot")
PREFIXES: tuple[Method, ...] = ("prefix", "lora+prefix", "peml")
"""Methods that put keys and values before everything."""


@dataclass(frozen=True)
class Room:
    """What a method takes of every sequence: the method, `length` positions of the context, and where they stand."""

    method: Method
    length: int
    position: PromptPosition


def method_of(settings: AdaptSettings, metaprompt: Metaprompt | None) -> Method:
    """The settings' method; by default mpt with a metaprompt, pt without.

    Raises TrainingError when the method needs a metaprompt and there is none.
    """
    method = settings.method or ("pt" if metaprompt is None else "mpt")
    if method in ON_METAPROMPT and metaprompt is None:
        raise TrainingError(
            f"method {method} starts from a metaprompt; give one, or choose pt, prefix, lora, lora+prefix, peml, full."
        )
    return method


def room_for(
    backbone: Backbone, settings: AdaptSettings, metaprompt: Metaprompt | None, prompt_length: int | None = None
) -> Room:
    """Positions that the method's prompt or prefix takes; none for lora and full.

    Soft prompts have the metaprompt's length and position where there is one, pt too: they are compared. Own positions
    come on top.
    """
    method = method_of(settings, metaprompt)
    position = metaprompt.card.position if metaprompt else backbone.preset.prompt_position
    length = metaprompt.shared.shape[0] if metaprompt else prompt_length or backbone.preset.prompt_length
    return Room(method, taken(backbone, settings, method, length), "front" if method in PREFIXES else position)


def taken(backbone: Backbone, settings: AdaptSettings, method: Method, prompt_length: int) -> int:
    """Positions of the context that a method takes: its prompt's or prefix's length, 0 for lora and full."""
    own = own_positions(settings, method)
    if method in ("lora", "full"):
        return 0
    if method not in PREFIXES:
        return prompt_length + own
    network = network_of(settings, method)
    return settings.prefix_length or (network.length if network else backbone.preset.prompt_length)


def own_positions(settings: AdaptSettings, method: Method) -> int:
    """Positions of the task's own beside the metaprompt's, or beyond the prompt length of pt. None before there is
    anything to learn them from: at zero shots a metaprompt answers as it is.

    Raises TrainingError for own positions that the method or mode cannot have.
    """
    frozen = method == "mpt" and settings.mode == "frozen"
    if settings.own_length is not None and method not in ("mpt", "pt"):
        raise TrainingError(f"`own_length` belongs to mpt and pt; {method} does not have it. Leave it out.")
    if settings.own_length is not None and method == "mpt" and settings.mode == "vectors":
        raise TrainingError("mode vectors keeps u and v alone: leave `own_length` out, or choose mode frozen.")
    return 0 if settings.shots == 0 else settings.own_length or (OWN_LENGTH if frozen else 0)


def network_of(settings: AdaptSettings, method: Method) -> Architecture | None:
    """The network that produces a method's prefix; None for plain keys and values.

    Raises TrainingError for an architecture that the method has no use for.
    """
    given = settings.joint.architecture if settings.joint else None
    if method == "peml":
        return given or Architecture()
    if given is not None:
        raise TrainingError(f"method {method} has no network: an architecture belongs to peml. Leave it out.")
    return None


def starting_bank(
    backbone: Backbone,
    room: Room,
    metaprompt: Metaprompt | None,
    settings: Sequence[AdaptSettings],
    examples: Sequence[TaskExamples],
) -> tuple[Bank, dict[str, Tensor]]:
    """The bank of a method with one row per settings, and its peak learning rates by parameter."""
    method, first = room.method, settings[0]
    seeds = [s.seed for s in settings]
    rates = torch.tensor([s.loop.learning_rate for s in settings])
    seen = [e.train for e in examples]
    if method in ON_METAPROMPT:
        assert metaprompt is not None
        starts = source_starts(backbone, metaprompt, method, settings, seen)
        if method == "mpt":
            bank, own_rates = _decomposed(backbone, metaprompt, starts, settings, rates)
            count = own_positions(first, method)
            if not count:
                return bank, own_rates
            own = first_prompts(backbone, count, [s.initial for s in settings], seeds, seen)
            return OwnPositionsBank(own, bank), {"own": rates.clone(), **own_rates}
        spot = spot_bank(metaprompt, starts).to(backbone.device)
        return spot, prompt_rates(spot, rates)
    if method == "pt" or method in PREFIXES:
        initials = [s.initial for s in settings]
        prompts = first_prompts(backbone, room.length, initials, seeds, seen)
        if method == "prefix":
            return _adapter(prefix_bank(backbone, prompts), rates)
        if method in JOINT:
            return _joint(backbone, prompts, settings, method, rates)
        free = DirectBank(prompts)
        return free, prompt_rates(free, rates)
    if method == "lora":
        lora = first.lora
        return _adapter(lora_bank(backbone, seeds, rank=lora.rank, alpha=lora.alpha, targets=lora.targets), rates)
    return _adapter(full_bank(backbone, len(seeds)), rates)


def _decomposed(
    backbone: Backbone,
    metaprompt: Metaprompt,
    starts: Sequence[Start],
    settings: Sequence[AdaptSettings],
    rates: Tensor,
) -> tuple[DecomposedBank, dict[str, Tensor]]:
    """Rows on a metaprompt. Raises TrainingError for factors that they cannot have."""
    first, known = settings[0], metaprompt.u.shape[2]
    factors = first.factors or FactorSettings()
    if first.mode not in MOVES_VECTORS and (factors.mixture or factors.rank):
        raise TrainingError(f"mode {first.mode} trains no vectors: leave `factors.rank` and `factors.mixture` out.")
    if factors.rank is not None and factors.rank < known:
        raise TrainingError(f"`factors.rank` {factors.rank} is below the metaprompt's, {known}; leave it out.")
    if factors.rank is not None and factors.mixture == "gates":
        raise TrainingError("`factors.mixture: gates` has no vectors of its own to widen: `residual`, or no rank.")
    bank = target_bank(
        metaprompt,
        starts,
        first.mode,
        rank=factors.rank,
        mixture=factors.mixture,
        seeds=[s.seed for s in settings],
    ).to(backbone.device)
    vectors = torch.tensor([s.loop.vector_learning_rate for s in settings])
    shared = rates if first.mode in OWN_SHARED else rates[:1]
    return bank, decomposed_rates(bank, shared, vectors, factors.gate_ratio)


def _adapter(bank: AdapterBank, rates: Tensor) -> tuple[Bank, dict[str, Tensor]]:
    """One learning rate per row for all its parameters."""
    return bank, {name: rates.clone() for name in bank.trainable()}


def _joint(
    backbone: Backbone, prompts: Tensor, settings: Sequence[AdaptSettings], method: Method, rates: Tensor
) -> tuple[Bank, dict[str, Tensor]]:
    first, seeds = settings[0], [s.seed for s in settings]
    network, ratio = network_of(first, method), (first.joint or JointSettings()).prefix_ratio
    lora = first.lora
    bank = joint_bank(backbone, prompts, seeds, network, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    return bank, {name: rates * rate_factor(name, network, ratio) for name in bank.trainable()}
