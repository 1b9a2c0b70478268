"""`peml` and `lora+prefix` for several tasks: one prefix and one LoRA for all, no task id (arXiv 2605.14055)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from clinprompt.adapters.joint import Order, phases
from clinprompt.adapters.shared import SharedBank
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.model import Backbone
from clinprompt.methods.peml import joint_bank, joint_parameters, rate_factor
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.training.settings import LoraSettings


class JointLoraSettings(LoraSettings):
    """A prefix beside LoRA: `lora+prefix`."""

    length: int | None = Field(default=None, ge=1, description="of the prefix; default: 16, with a network its own")
    initial: str = Field(default="vocabulary", description="the prompt at whose keys and values the prefix starts")
    order: Order = Field(default="parallel", description="parallel, or sequential: the prefix first, then LoRA")
    prefix_ratio: float | None = Field(
        default=None, gt=0, description="learning rate of the prefix over LoRA's; default: 10, with a network 1 [O]"
    )

    @property
    def network(self) -> Architecture | None:
        """What produces the prefix; None: it is trained itself."""
        return None

    @property
    def positions(self) -> int:
        return self.length or 16


class PemlSettings(JointLoraSettings):
    """A network produces the prefix: `peml`."""

    architecture: Architecture = Field(default=Architecture(), description="the network; a search finds one")

    @property
    def network(self) -> Architecture:
        return self.architecture

    @property
    def positions(self) -> int:
        return self.length or self.architecture.length


def shared_joint(backbone: Backbone, tasks: int, chosen: JointLoraSettings, seed: int) -> SharedBank:
    """One row for all tasks, as it starts."""
    prompts = initial_prompts(backbone, chosen.positions, chosen.initial, [seed])
    bank = joint_bank(
        backbone, prompts, [seed], chosen.network, rank=chosen.rank, alpha=chosen.alpha, targets=chosen.targets
    )
    return SharedBank(bank, tasks)


def joint_size(backbone: Backbone, tasks: int, chosen: JointLoraSettings) -> int:
    """Numbers that training changes, for any number of tasks."""
    return joint_parameters(backbone, chosen.positions, chosen.network, chosen.rank, chosen.targets)


def joint_rate(chosen: JointLoraSettings, name: str) -> float:
    """What the loop's learning rate is multiplied by for this parameter."""
    return rate_factor(name, chosen.network, chosen.prefix_ratio)


def joint_phases(chosen: JointLoraSettings, names: Sequence[str], steps: int) -> dict[str, tuple[int, int]]:
    """The steps in which each parameter moves."""
    return phases(chosen.order, names, steps)
