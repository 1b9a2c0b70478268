"""One training over several processes, through Accelerate.

Every process holds the same bank and the same optimiser state, computes its share of a step's micro-batches, and the
gradients are summed: the update is the one a single process would make, to rounding. Start with
`accelerate launch --num_processes N -m clinprompt …`; started plainly, there is one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Processes:
    """This process's place among all; `accelerator` is None for a single process."""

    rank: int = 0
    count: int = 1
    accelerator: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.accelerator is None:
            return tensor
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed

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
