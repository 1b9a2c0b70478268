"""LoRA on a mixture's experts: all linear layers are adapted, as merged weights show, in rows and in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinprompt.adapters.files import description
from clinprompt.adapters.inspect import changes
from clinprompt.adapters.lora import lora_bank, lora_parameters, lora_sites
from clinprompt.adapters.merging import deltas, merged_weights
from clinprompt.adapters.mixed import can_mix
from clinprompt.adapters.peft_format import export_lora
from clinprompt.adapters.sites import sites
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.bank import DirectBank
from clinprompt.training.multitask_banks import MULTITASK_METHODS
from clinprompt.training.sizing import sized
from tests.adapters.support import bank_for, losses
from tests.models import tiny
from tests.serving.adapterfiles import adapter_file


def test_all_linear_layers_are_those_of_the_family() -> None:
    backbone = tiny("gpt_oss")
    assert lora_sites(backbone).keys() == sites(backbone).keys()
    attention, experts = 2 * (32 + 32 + 2 * (32 + 16) + 32 + 32), 2 * 4 * (32 + 128 + 64 + 32)
    assert lora_parameters(backbone, 3) == 3 * (attention + experts)
    assert lora_parameters(backbone, 3, ["q_proj", "down_proj"]) == 3 * (2 * 64 + 2 * 4 * 96)
    assert description(bank_for("lora", backbone))["targets"] == sorted(
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
    )


@pytest.mark.parametrize("rows", [[1, 2, 0], [2, 2, 2]])
def test_rows_compute_what_the_model_with_their_merged_weights_does(rows: list[int]) -> None:
    backbone = tiny("gpt_oss")
    bank = bank_for("lora", backbone)
    found = losses(backbone, bank, rows)
    torch.cat(found).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in bank.parameters.items():  # only rows that took part learn, and experts among what does
        assert parameter.grad is None or all(not parameter.grad[row].any() for row in {0, 1, 2} - set(rows)), name
    assert any(".experts." in n and p.grad is not None and p.grad.any() for n, p in bank.parameters.items())
    for example, row in enumerate(rows):
        twin = tiny("gpt_oss")
        with torch.no_grad():
            for name, values in merged_weights(twin, deltas(bank, row)).items():
                twin.model.get_parameter(name).copy_(values)
            alone = losses(twin, DirectBank(torch.zeros(1, 0, twin.width)), [0], [example])[0]
        torch.testing.assert_close(found[example], alone, atol=1e-4, rtol=1e-4)


def test_mixtures_that_are_not_known_are_refused_unless_layers_are_named() -> None:
    backbone = tiny()
    backbone.model.model.layers[0].mlp.stacked = torch.nn.Parameter(torch.zeros(2, 3, 4), requires_grad=False)
    with pytest.raises(BackboneError, match=r"mixture of experts.*Name the layers"):
        lora_bank(backbone, [0])
    assert len(lora_sites(backbone, ["q_proj"])) == 2


def test_files_say_and_do_it(tmp_path: Path) -> None:
    backbone = tiny("gpt_oss")
    task = adapter_file(backbone, "lora", "find", 0)
    lines = {line["part"]: line for line in changes(backbone, task)}
    assert lines.keys() == sites(backbone).keys() and all(line["relative"] for line in lines.values())
    with pytest.raises(ArtifactError, match=r"single experts of a mixture.*lora\.targets"):
        export_lora(task, tmp_path, backbone)
    assert not can_mix(backbone, bank_for("lora", backbone))
    assert can_mix(backbone, lora_bank(backbone, [0], targets=["q_proj"]))


def test_every_method_fits_the_budget_of_lora_on_a_mixture() -> None:
    backbone = tiny("gpt_oss")
    budget = lora_parameters(backbone, 16)
    for method in MULTITASK_METHODS.keys() - {"peml"}:
        assert sized(backbone, 3, method, budget).parameters <= 2 * budget, method
