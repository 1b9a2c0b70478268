"""The multi-task LoRA family: each method against a few lines of NumPy, forward and gradient, and inside models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clinprompt.adapters.family import FamilyBank, family_bank
from clinprompt.adapters.family_files import FAMILY_BANKS
from clinprompt.adapters.merging import deltas, merged_weights
from clinprompt.adapters.mixlora import MixLoraBank
from clinprompt.adapters.sites import Positions, Site, sites
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TrainingError
from tests.adapters.support import losses
from tests.models import tiny

Array = NDArray[np.float64]
Numbers = dict[str, Array]
TASKS = [1, 0, 1]  # of three tasks, the third takes no part
SMALL: dict[str, dict[str, Any]] = {
    "mtl-lora": {"rank": 2, "alpha": 3.0, "temperature": 0.5},
    "multilora": {"rank": 2, "alpha": 3.0},
    "c-poly": {"rank": 2, "common": 2, "own": 2},
    "moelora": {"rank": 1, "alpha": 3.0, "experts": 3, "embedding": 4},
    "loramoe": {"rank": 2, "alpha": 3.0, "experts": 3},
    "mixlora": {"rank": 2, "alpha": 3.0, "experts": 3},
}


def bank_of(method: str, backbone: Backbone, *, shaken: bool = True, **settings: Any) -> FamilyBank:
    kind = FAMILY_BANKS[method]
    bank = family_bank(kind, backbone, 3, kind.settings_type(**SMALL[method] | settings), seed=5)
    if shaken:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in bank.parameters.values():
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return bank


# --- each method in NumPy: one position x (in,) of task t ----------------------------------------------------------


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def mtl_lora(p: Numbers, x: Array, t: int) -> Array:
    w = softmax(p["mix"][t] / 0.5)
    return np.asarray(3.0 / 2 * sum(w[i] * (p["ups"][0, i] @ (p["square"][t] @ (p["down"][0] @ x))) for i in range(3)))


def multilora(p: Numbers, x: Array, t: int) -> Array:
    return np.asarray(3.0 / 2 * sum(p["scales"][0, i] * (p["B"][0, i] @ (p["A"][0, i] @ x)) for i in range(3)))


def c_poly(p: Numbers, x: Array, t: int) -> Array:
    g = 1 / (1 + np.exp(-p["logits"][t]))
    common = sum(g[i] * (p["B"][0, i] @ p["A"][0, i] @ x) for i in range(2))
    return np.asarray(common + sum(p["weights"][t, j] * (p["own_B"][t, j] @ p["own_A"][t, j] @ x) for j in range(2)))


def moelora(p: Numbers, x: Array, t: int) -> Array:
    g = softmax(p["weight"][0] @ p["embedding"][t])
    return np.asarray(3.0 / 3 * sum(g[i] * (p["B"][0, i] @ p["A"][0, i] @ x) for i in range(3)))


def loramoe(p: Numbers, x: Array, t: int) -> Array:
    g = softmax(p["router"][0] @ x)
    return np.asarray(3.0 / 2 * sum(g[i] * (p["B"][0, i] @ p["A"][0, i] @ x) for i in range(3)))


FORMULAS: dict[str, Callable[[Numbers, Array, int], Array]] = {
    "mtl-lora": mtl_lora,
    "multilora": multilora,
    "c-poly": c_poly,
    "moelora": moelora,
    "loramoe": loramoe,
}


@pytest.mark.parametrize("method", sorted(FORMULAS))
@pytest.mark.parametrize("flat", [False, True])
def test_a_site_computes_what_the_equation_says(method: str, flat: bool) -> None:
    """Forward to 1e-12 and, by central differences of the NumPy formula, the gradient of every parameter."""
    kind, random = FAMILY_BANKS[method], np.random.default_rng(0)
    settings = kind.settings_type(**SMALL[method])
    plan = kind.plan({"s": Site(5, 4, "s")}, 3, settings, 5)
    numbers = {name: random.normal(size=shape) for name, (shape, _) in plan.items()}
    bank = kind({n: torch.from_numpy(v) for n, v in numbers.items()}, settings, {"s": Site(5, 4, "s")}, 3)
    x, direction = random.normal(size=(3, 2, 5)), random.normal(size=(3, 2, 4))
    rows = torch.tensor(TASKS)
    if flat:
        at, values = Positions(rows, torch.tensor([0, 0, 1, 1, 2, 2])), torch.from_numpy(x.reshape(6, 5))
    else:
        at, values = Positions(rows, torch.arange(3)[:, None]), torch.from_numpy(x)

    def expected() -> Array:
        p = {name.rpartition(".")[2]: v for name, v in numbers.items()}
        return np.array([[FORMULAS[method](p, x[b, s], TASKS[b]) for s in range(2)] for b in range(3)])

    found = bank.update("s", values, at)
    np.testing.assert_allclose(found.detach().numpy().reshape(3, 2, 4), expected(), atol=1e-12)
    (found * torch.from_numpy(direction).reshape(found.shape)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in bank.parameters.items():
        gradient = parameter.grad
        assert gradient is not None, name
        for place in np.ndindex(*numbers[name].shape):
            kept, step = numbers[name][place], 1e-6
            sides = []
            for side in (step, -step):
                numbers[name][place] = kept + side
                sides.append(float((expected() * direction).sum()))
            numbers[name][place] = kept
            assert abs((sides[0] - sides[1]) / (2 * step) - float(gradient[place])) < 1e-6, (name, place)


def test_mixlora_block_computes_what_the_equation_says() -> None:
    """A whole LLaMA block in NumPy: top-2 of the router, renormalised, each expert a block under its own LoRA; the
    gradient along a random direction by central differences."""
    backbone = tiny()
    backbone.model.double()
    start = bank_of("mixlora", backbone)
    bank = MixLoraBank({n: v.double() for n, v in start.parameters.items()}, start.settings, start.sites, 3)
    block, prefix = backbone.model.model.layers[0].mlp, "model.layers.0.mlp."
    p = {
        n.removeprefix(prefix): v.detach().numpy()[0].copy() for n, v in bank.parameters.items() if n.startswith(prefix)
    }
    w = {n.removesuffix(".weight"): v.numpy() for n, v in block.named_parameters()}
    random = np.random.default_rng(0)
    x, direction = random.normal(size=(6, 32)), random.normal(size=(6, 32))

    def expert(p: Numbers, i: int, v: Array) -> Array:
        wide = {n: w[n] + 1.5 * p[f"{n}.B"][i] @ p[f"{n}.A"][i] for n in w}
        gate = wide["gate_proj"] @ v
        return np.asarray(wide["down_proj"] @ (gate / (1 + np.exp(-gate)) * (wide["up_proj"] @ v)))

    def mixed(p: Numbers, v: Array) -> Array:
        q = softmax(p["router"] @ v)
        top = np.argsort(-q)[:2]
        return np.asarray(sum(q[i] / q[top].sum() * expert(p, int(i), v) for i in top))

    def expected(p: Numbers) -> Array:
        return np.array([mixed(p, v) for v in x])

    with bank.inside(backbone, [0, 1], None):
        found = block(torch.from_numpy(x).view(2, 3, 32))
        extra = bank.extra_loss()
    np.testing.assert_allclose(found.detach().numpy().reshape(6, 32), expected(p), rtol=1e-9, atol=1e-9)
    likely = np.array([softmax(p["router"] @ v) for v in x])
    shares = np.bincount(likely.argmax(1), minlength=3) / 6
    assert extra is not None
    np.testing.assert_allclose(extra.detach().numpy(), np.full(3, 0.01 * 3 * (shares * likely.mean(0)).sum()))
    (found.view(6, 32) * torch.from_numpy(direction)).sum().backward()
    for name in p:
        gradient = bank.parameters[prefix + name].grad
        assert gradient is not None and gradient.any(), name
        along = random.normal(size=p[name].shape)
        sides = [(expected(p | {name: p[name] + step * along}) * direction).sum() for step in (1e-6, -1e-6)]
        slope = float((gradient[0].numpy() * along).sum())
        assert abs((sides[0] - sides[1]) / 2e-6 - slope) < 1e-5 * max(1.0, abs(slope)), name


def test_loramoe_balance_is_the_variation_of_mean_weights() -> None:
    kind = FAMILY_BANKS["loramoe"]
    settings = kind.settings_type(**SMALL["loramoe"])
    generator = torch.Generator().manual_seed(0)
    start = {
        n: torch.randn(s, generator=generator)
        for n, (s, _) in kind.plan({"s": Site(5, 4, "s")}, 3, settings, 5).items()
    }
    bank = kind(start, settings, {"s": Site(5, 4, "s")}, 3)
    x = torch.randn(2, 3, 5, generator=generator)
    bank.update("s", x, Positions(torch.tensor([0, 2]), torch.arange(2)[:, None]))
    q = np.array([[softmax(start["s.router"][0].numpy() @ v) for v in e] for e in x.numpy()]).mean(1)
    extra = bank.extra_loss()
    assert extra is not None
    np.testing.assert_allclose(extra.detach().numpy(), np.full(3, 0.1 * q.var() / q.mean() ** 2), rtol=1e-5)
    extra[0].backward()  # type: ignore[no-untyped-call]
    assert bank.parameters["s.router"].grad is not None and bank.parameters["s.router"].grad.abs().max() > 0


# --- inside models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "t5"])
@pytest.mark.parametrize("method", sorted(FAMILY_BANKS))
def test_tasks_mixed_in_a_batch_are_computed_as_alone(method: str, kind: str) -> None:
    """And a fresh adapter is the backbone itself; every parameter of a task that takes part gets a gradient."""
    backbone = tiny(kind)
    fresh = bank_of(method, backbone, shaken=False)
    with torch.no_grad():
        plain = losses(backbone, _Nothing(), TASKS)  # type: ignore[arg-type]
        for one, other in zip(losses(backbone, fresh, TASKS), plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
        bank = bank_of(method, backbone)
        mixed = losses(backbone, bank, TASKS)
        for i, row in enumerate(TASKS):
            alone = losses(backbone, bank, [row], [i])[0]
            torch.testing.assert_close(mixed[i], alone, atol=5e-5, rtol=1e-4)
            assert not torch.allclose(mixed[i], plain[i], atol=1e-2)
    torch.cat(losses(backbone, bank, TASKS)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in backbone.model.parameters())
    for name, parameter in bank.parameters.items():
        if bank.own(name):
            assert parameter.grad is None or not parameter.grad[2].any(), name
    reached = [name for name, p in bank.parameters.items() if p.grad is not None and p.grad.any()]
    # A mixture's expert that no position chose gets none; everything outside mixtures does.
    assert {name for name in bank.parameters if ".mlp.experts." not in name and ".mlp." not in name} <= set(reached)
    assert any(".experts." in name for name in reached) == (kind == "gpt_oss" and method != "mtl-lora")


class _Nothing:
    """No adapter at all."""

    def applied(self, backbone: Backbone, rows: list[int], tasks: object = None) -> Any:
        from contextlib import nullcontext

        return nullcontext(torch.zeros(len(rows), 0, backbone.width))


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "t5", "gpt2"])
@pytest.mark.parametrize("method", sorted(n for n, k in FAMILY_BANKS.items() if k.mergeable))
def test_merged_weights_compute_what_the_adapter_does(method: str, kind: str) -> None:
    backbone = tiny(kind)
    bank = bank_of(method, backbone, targets="all-linear")
    with torch.no_grad():
        want = losses(backbone, bank, [1, 1, 1])
        changed = merged_weights(backbone, deltas(bank, 1))
        for name, values in changed.items():
            backbone.model.get_parameter(name).copy_(values)
        found = losses(backbone, _Nothing(), [0, 0, 0])  # type: ignore[arg-type]
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_routes_by_its_input_refuses_to_be_merged() -> None:
    backbone = tiny()
    for method in ("mixlora", "loramoe"):
        with pytest.raises(TrainingError, match="routes by its input"):
            deltas(bank_of(method, backbone), 0)


def test_sites_by_name_and_by_part() -> None:
    backbone = tiny("gpt_oss")
    every = sites(backbone)
    assert (
        len([name for name in every if ".experts." in name]) == 2 * 4 * 2
    )  # two layers, four experts, two projections
    assert not any("router" in name for name in every)
    assert sites(backbone, "attention").keys() | sites(backbone, "ffn").keys() == every.keys()
    assert {name.split(".")[-2] for name in sites(backbone, ("down_proj",))} == {"down_proj"}
    assert {name.rpartition(".")[2] for name in sites(tiny("t5"), "ffn")} == {"wi", "wo"}
    with pytest.raises(TrainingError, match=r"'q_prj'.*Known: .*q_proj"):
        sites(backbone, ("q_prj",))


def test_unknown_mixtures_are_refused_unless_layers_are_named() -> None:
    backbone = tiny()
    backbone.model.model.layers[0].mlp.stacked = torch.nn.Parameter(torch.zeros(2, 3, 4), requires_grad=False)
    with pytest.raises(BackboneError, match="mixture of experts"):
        sites(backbone)
    assert len(sites(backbone, ("q_proj",))) == 2


def test_mixlora_refuses_models_whose_feed_forward_blocks_it_does_not_know() -> None:
    """BART's are two layers beside attention, in no module of their own: only LoRA would remain."""
    backbone = tiny("bart")
    with pytest.raises(BackboneError, match=r"mixlora: .*feed-forward blocks are not known.*Use loramoe"):
        bank_of("mixlora", backbone)
    assert (
        len(bank_of("loramoe", backbone).sites) == 2 * 2 * 2
    )  # the cure works: two sides, two layers, two projections
