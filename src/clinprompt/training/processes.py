"""One training over several processes, through Accelerate.

Every process holds the same bank and the same optimiser state, computes its share of a step's micro-batches, and the
gradients are summed: the update is the one a single process would make, to rounding. Start with
`torchrun --nproc-per-node N -m clinprompt …` or, on GPUs, `accelerate launch --num_processes N -m clinprompt …` (on
CPUs that launcher needs MPI and without it silently starts one process); started plainly, there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

P = TypeVar("P")


@dataclass
class Processes:
    """This process's place among all; `accelerator` is None for a single process."""

    rank: int = 0
    count: int = 1
    accelerator: Any = None
    sharded: bool = False  # the backbone's layers are split over the processes: all must make every pass together

    @property
    def main(self) -> bool:
        return self.rank == 0

    def own(self, parts: Sequence[P]) -> list[tuple[P, float]]:
        """The parts that this process computes, with 1.0. With a sharded backbone every process makes equally many
        passes: where one has none left, it repeats the last part, with 0.0 for what that contributes."""
        own = [(part, 1.0) for part in parts[self.rank :: self.count]]
        if self.sharded and parts:
            own += [(parts[-1], 0.0)] * (-(-len(parts) // self.count) - len(own))
        return own

    def total(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.accelerator is None:
            return tensor
        # Losses are counted on the CPU, and the backend of GPU processes (NCCL) adds GPU tensors only.
        summed: Tensor = self.accelerator.reduce(tensor.to(self.accelerator.device), reduction="sum")
        return summed.to(tensor.device)

    def wait(self) -> None:
        """Return when every process got here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def current_processes() -> Processes:
    """Join the processes that `accelerate launch` or `torchrun` started, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from accelerate import Accelerator

    accelerator = Accelerator()
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator)
