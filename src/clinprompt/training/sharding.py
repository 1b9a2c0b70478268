"""A frozen backbone split over processes (fully sharded data parallel, PyTorch's `fully_shard`).

Each process keeps its share of every layer's weights and gathers a layer when it is computed, forward and back; the
embedding, the head and the prompt bank are whole in every process. No weight has a gradient, so nothing is scattered
back: gradients of the prompts are summed as in ordinary data parallel training.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.training.processes import Processes


def shard(backbone: Backbone, processes: Processes) -> Processes:
    """Split the backbone's layers in place over all processes; from then on every pass is made by all together.

    On accelerators the backbone is loaded on the CPU first; its shares move to this process's device. Raises
    TrainingError for a single process, and for a model whose layers are not known.
    """
    if processes.count < 2 or processes.accelerator is None:
        raise TrainingError("--shard needs several processes: start with torchrun --nproc-per-node N -m clinprompt …")
    layers = getattr(backbone.model.base_model, "layers", None)
    if layers is None or backbone.kind != "causal":
        raise TrainingError(f"{backbone.name}: its layers cannot be split; run it without --shard.")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device: torch.device = processes.accelerator.device
    mesh = init_device_mesh(device.type, (processes.count,))
    for layer in layers:
        # Said aloud: each layer is a root of its own here, and a root would keep its gathered weights.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    backbone.model.to(device)
    return replace(processes, sharded=True)


def held_share(backbone: Backbone) -> float:
    """Share of the backbone's weights that this process holds."""
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in backbone.model.parameters())
    return float(held) / backbone.parameters
