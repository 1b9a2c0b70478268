"""C-Poly's own skills against PEFT's Polytropon whose tasks each take one skill: equal losses and gradients in a mixed
batch. (The other five methods are in neither PEFT nor the adapters library.)"""

from __future__ import annotations

import pytest
import torch

from clinprompt.adapters.c_poly import CPolySettings
from clinprompt.adapters.family import family_bank
from clinprompt.adapters.family_files import FAMILY_BANKS
from clinprompt.backbone.encoding import encode
from tests.adapters.support import SOURCES, TARGETS, losses
from tests.models import tiny

peft = pytest.importorskip("peft")
RANK, TASKS = 2, [1, 0, 1]


def test_c_poly_has_pefts_losses_and_gradients() -> None:
    backbone = tiny()
    settings = CPolySettings(rank=RANK, common=1, targets=("q_proj", "v_proj"))
    bank = family_bank(FAMILY_BANKS["c-poly"], backbone, 3, settings, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in bank.parameters.items():
            if name.endswith(".own_B"):
                values += torch.randn(values.shape, generator=generator) * 0.2
            if name.endswith(".weights"):
                values.fill_(1 / RANK)  # PEFT divides by the rank
    config = peft.PolyConfig(r=RANK, n_tasks=3, n_skills=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny().model, config).eval()
    with torch.no_grad():
        for name in bank.sites:
            layer = model.base_model.model.get_submodule(name)
            layer.poly_lora_A.default[0].copy_(bank.parameters[f"{name}.own_A"][:, 0].transpose(1, 2))
            layer.poly_lora_B.default[0].copy_(bank.parameters[f"{name}.own_B"][:, 0].transpose(1, 2))
            layer.poly_router.default.module_logits.copy_(120 * torch.eye(3) - 60)  # task t takes skill t alone
    ours = losses(backbone, bank, TASKS)
    torch.cat(ours).sum().backward()  # type: ignore[no-untyped-call]
    total = torch.zeros(())
    for index, task in enumerate(TASKS):
        example = encode(backbone, [SOURCES[index]], [TARGETS[index]], "front")[0]
        ids = torch.from_numpy(example.ids).long()
        labels = ids[example.context :]
        logits = model(input_ids=ids[None], task_ids=torch.tensor([task])).logits[0, -len(labels) - 1 : -1]
        theirs = -logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
        torch.testing.assert_close(ours[index], theirs, atol=2e-5, rtol=1e-4)
        total = total + theirs.sum()
    total.backward()  # type: ignore[no-untyped-call]
    for name in bank.sites:
        layer = model.base_model.model.get_submodule(name)
        for ours_, theirs_ in (("own_A", layer.poly_lora_A), ("own_B", layer.poly_lora_B)):
            mine = bank.parameters[f"{name}.{ours_}"].grad
            assert mine is not None
            wanted = theirs_.default.grad[0].transpose(1, 2)
            assert wanted[:2].norm() > 0 and float(wanted[2].abs().max()) < 1e-12
            torch.testing.assert_close(mine[:, 0], wanted, atol=2e-4, rtol=1e-3)
