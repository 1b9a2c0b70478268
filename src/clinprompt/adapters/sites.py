"""The places in a model that LoRA and its family change: linear layers, and each expert's projections in a mixture.

"All linear layers" means every linear layer but the output head; in gpt-oss-type models also the two projections of
every expert of the feed-forward mixture (three-dimensional tensors there, one site per expert), not its router [O].
Mixtures of other model classes are refused unless layers are named, so that no part of a model is left out silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from clinprompt.adapters.linear import target_modules
from clinprompt.backbone.lean_llama import places
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TrainingError

SiteTargets = Literal["all-linear", "attention", "ffn"] | tuple[str, ...]
Compute = Callable[[str, Tensor, "Positions | None"], Tensor]  # site, its input (…, in), whose positions → (…, out)
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Site:
    """One projection, in → out; `expert` numbers it within the mixture's tensor `weight` of `module`."""

    inside: int
    outside: int
    module: str
    weight: str = "weight"
    expert: int | None = None


@dataclass(frozen=True)
class Positions:
    """Whose positions an input (…, in) holds: `owner` numbers each one's example, `rows` (B,) each example's task."""

    rows: Tensor
    owner: Tensor  # (…), or (B, 1) for (B, S, in)

    @property
    def tasks(self) -> Tensor:
        """The task of each position, shaped as `owner`."""
        return self.rows[self.owner]

    def each(self, values: Tensor) -> Tensor:
        """The tasks' values (T, n) at every position: (…, n)."""
        return torch.nn.functional.embedding(self.tasks, values)

    def transformed(self, values: Tensor, matrices: Tensor) -> Tensor:
        """Values (…, r) through each position's own matrix of (T, q, r): (…, q)."""
        if values.ndim == 3:
            return values @ matrices.index_select(0, self.rows).transpose(1, 2)
        return torch.einsum("nr,nqr->nq", values, matrices.index_select(0, self.tasks))


def sites(backbone: Backbone, targets: SiteTargets = "all-linear") -> dict[str, Site]:
    """The sites by name. `targets`: all of them, those of attention or of the feed-forward blocks, or the last parts of
    names ("q_proj", "gate_up_proj"). Raises TrainingError for unknown names, BackboneError for unknown mixtures."""
    every = every_site(backbone)
    if isinstance(targets, str):
        _check_mixtures(backbone)
        return {name: site for name, site in every.items() if targets in ("all-linear", _block(name))}
    found = {name: site for name, site in every.items() if any(_called(name, site, target) for target in targets)}
    for target in targets:
        if not any(_called(name, site, target) for name, site in every.items()):
            known = sorted(
                {(site.weight if site.expert is not None else n.rpartition(".")[2]) for n, site in every.items()}
            )
            raise TrainingError(f"targets: no linear layer is called {target!r}. Known: {', '.join(known)}.")
    return found


def every_site(backbone: Backbone) -> dict[str, Site]:
    """All sites that are known, by name."""
    return {name: Site(*sizes, name) for name, sizes in target_modules(backbone).items()} | _expert_sites(backbone)


def expert_sites(backbone: Backbone, names: Iterable[str]) -> dict[str, Site]:
    """Those of the names that are experts' projections."""
    if not any(".experts." in name for name in names):
        return {}
    every = _expert_sites(backbone)
    return {name: every[name] for name in names if name in every}


def ffn_block(name: str) -> str:
    """The feed-forward block (module name) that a site of one lies in."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("mlp" if "mlp" in parts else "DenseReluDense") + 1])


@contextmanager
def adapted(
    backbone: Backbone, chosen: Mapping[str, Site], rows: Sequence[int], compute: Compute, *, needs_positions: bool
) -> Iterator[None]:
    """While it is open, every chosen site adds `compute` of its input to its output.

    Raises BackboneError where positions are needed and cannot be told apart.
    """
    index = torch.tensor(list(rows), device=backbone.device)
    mixtures: dict[str, dict[int, dict[str, str]]] = {}
    handles, replaced = [], []
    try:
        for name, site in chosen.items():
            if site.expert is not None:
                mixtures.setdefault(site.module, {}).setdefault(site.expert, {})[site.weight] = name
                continue
            hook = _Update(name, index, compute, needs_positions)
            handles.append(backbone.model.get_submodule(name).register_forward_hook(hook))
        for module, experts in mixtures.items():
            mixture = backbone.model.get_submodule(module)
            replaced.append((mixture, vars(mixture).get("forward")))
            mixture.forward = _Mixture(mixture, experts, index, compute, needs_positions)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for mixture, before in replaced:
            restore_forward(mixture, before)


def restore_forward(module: nn.Module, before: Any) -> None:
    """Give a module back the `forward` it had of its own (None: its class's)."""
    if before is None:
        del module.forward
    else:
        module.forward = before


@dataclass(frozen=True)
class _Update:
    """Forward hook of one linear layer."""

    site: str
    rows: Tensor
    compute: Compute
    needs_positions: bool

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        at = _located(inputs[0], self.rows) if self.needs_positions else None
        return output + self.compute(self.site, inputs[0], at)


@dataclass(frozen=True)
class _Mixture:
    """`GptOssExperts.forward` with updates: positions (n, d) of all examples, one after the other."""

    mixture: Any
    experts: Mapping[int, Mapping[str, str]]
    rows: Tensor
    compute: Compute
    needs_positions: bool

    def __call__(self, hidden: Tensor, router_indices: Tensor, routing_weights: Tensor) -> Tensor:
        each = max(1, len(hidden) // len(self.rows))
        owner = torch.arange(len(hidden), device=hidden.device) // each
        mixed = torch.zeros_like(hidden)
        for expert in sorted(set(router_indices.flatten().tolist())):
            token, slot = torch.where(router_indices == expert)
            at = Positions(self.rows, owner[token]) if self.needs_positions else None
            up = self._projected("gate_up_proj", expert, hidden[token], at)
            gated: Tensor = self.mixture._apply_gate(up)
            down = self._projected("down_proj", expert, gated, at)
            mixed = mixed.index_add(0, token, (down * routing_weights[token, slot, None]).to(hidden.dtype))
        return mixed

    def _projected(self, weight: str, expert: int, values: Tensor, at: Positions | None) -> Tensor:
        own = getattr(self.mixture, weight)[expert], getattr(self.mixture, f"{weight}_bias")[expert]
        projected: Tensor = values @ own[0] + own[1]
        name = self.experts.get(expert, {}).get(weight)
        return projected if name is None else projected + self.compute(name, values, at)


def _located(values: Tensor, rows: Tensor) -> Positions:
    """Whose positions the input of a linear layer holds: (B, S, in), or the label positions of the lean LLaMA path."""
    if values.ndim == 3 and len(values) == len(rows):
        return Positions(rows, torch.arange(len(rows), device=rows.device)[:, None])
    at = places()
    if values.ndim == 2 and at is not None and len(at.owner) == len(values):
        return Positions(rows, at.owner)
    if values.ndim == 2 and len(rows) == 1:
        return Positions(rows, torch.zeros(len(values), dtype=torch.long, device=rows.device))
    raise BackboneError(
        "this model feeds a linear layer with positions of several examples at once, so tasks cannot be told apart "
        "there. Name other targets, or use a method without task ids (lora, multilora, mixlora)."
    )


def _expert_sites(backbone: Backbone) -> dict[str, Site]:
    found = {}
    for name, module in backbone.model.named_modules():
        if isinstance(module, GptOssExperts):
            for weight in ("gate_up_proj", "down_proj"):
                experts, inside, outside = getattr(module, weight).shape
                for expert in range(experts):
                    found[f"{name}.{weight}.{expert}"] = Site(inside, outside, name, weight, expert)
    return found


def _check_mixtures(backbone: Backbone) -> None:
    for name, module in backbone.model.named_modules():
        stacked = [p for p in module._parameters.values() if p is not None and p.ndim == 3]
        if stacked and not isinstance(module, GptOssExperts | nn.Conv1d):
            raise BackboneError(
                f"{backbone.name}: {name} ({type(module).__name__}) is a mixture of experts whose projections are not "
                "known here. Name the layers to adapt, for example targets: [q_proj, k_proj, v_proj, o_proj]."
            )


def _block(name: str) -> str:
    attends = any(mark in part.lower() for part in name.split(".") for mark in _ATTENTION)
    return "attention" if attends else "ffn"


def _called(name: str, site: Site, target: str) -> bool:
    plain = name if site.expert is None else name.rpartition(".")[0]
    return plain == target or plain.endswith("." + target)
