"""What a method trains and stores per task, in numbers."""

from __future__ import annotations

from clinprompt.adapters.files import JOINT
from clinprompt.adapters.lora import lora_parameters
from clinprompt.adapters.prefix import prefix_parameters
from clinprompt.backbone.model import Backbone
from clinprompt.methods.mpt import stored_numbers
from clinprompt.methods.peml import joint_kept, joint_parameters
from clinprompt.training.banks import network_of, own_positions
from clinprompt.training.settings import AdaptSettings, FactorSettings, Method

STORED_BYTES = 4  # task files hold fp32


def trained_numbers(
    backbone: Backbone,
    settings: AdaptSettings,
    method: Method,
    length: int,
    *,
    rank: int = 1,
    tasks: int = 1,
    sources: int = 0,
) -> int:
    """Numbers that training changes for `tasks` targets; `length` of the prompt (own positions and all) or prefix,
    `rank` and `sources` of a metaprompt."""
    if method == "mpt":
        factors = settings.factors or FactorSettings()
        own = own_positions(settings, method)
        return stored_numbers(
            settings.mode,
            length - own,
            backbone.width,
            factors.rank or rank,
            tasks,
            mixture=factors.mixture,
            sources=sources,
            own=own,
        )
    if method == "lora":
        return tasks * lora_parameters(backbone, settings.lora.rank, settings.lora.targets)
    if method == "prefix":
        return tasks * prefix_parameters(backbone, length)
    if method in JOINT:
        network = network_of(settings, method)
        return tasks * joint_parameters(backbone, length, network, settings.lora.rank, settings.lora.targets)
    return tasks * (backbone.parameters if method == "full" else length * backbone.width)


def kept_numbers(backbone: Backbone, settings: AdaptSettings, method: Method, length: int, *, rank: int = 1) -> int:
    """Numbers in one task's file. MPT collapses to one prompt, or keeps u and v; a network to its prefix; the others
    store what they train."""
    if method == "mpt":
        own = (settings.factors or FactorSettings()).rank or rank
        return (length + backbone.width) * own if settings.mode == "vectors" else length * backbone.width
    if method in JOINT:
        return joint_kept(backbone, length, settings.lora.rank, settings.lora.targets)
    return trained_numbers(backbone, settings, method, length, rank=rank)


def stored_bytes(backbone: Backbone, settings: AdaptSettings, method: Method, length: int, *, rank: int = 1) -> int:
    """Bytes of one task's numbers; its card adds one to three thousand."""
    return STORED_BYTES * kept_numbers(backbone, settings, method, length, rank=rank)
