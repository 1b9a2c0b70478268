"""Plans against the products that PyTorch counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clinprompt.adapters.family import family_bank
from clinprompt.adapters.mixlora import MixLoraBank, MixLoraSettings
from clinprompt.planning import plan_multitask
from clinprompt.training.learn import source_examples
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.settings import LoopSettings
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

TOKENS = 24


def counted(kind: str, top: int) -> float:
    """FLOPs per token of a forward and backward pass of the body under MixLoRA."""
    backbone = tiny(kind)
    settings = MixLoraSettings(rank=2, experts=4, top=top)
    bank = family_bank(MixLoraBank, backbone, 2, settings, seed=0)
    counter = FlopCounterMode(display=False)
    with bank.inside(backbone, [0], None), counter:
        hidden = backbone.model.model(input_ids=torch.arange(TOKENS)[None] + 10).last_hidden_state
        hidden.sum().backward()
    return counter.get_total_flops() / TOKENS


def planned(kind: str, top: int, *, evaluate_every: int = 0) -> float:
    """FLOPs per token that a plan has for it."""
    backbone = tiny(kind)
    loop = LoopSettings(steps=2, batch_size=4, evaluate_every=evaluate_every, validation_limit=1000)
    adapter = {"rank": 2, "experts": 4, "top": top}
    settings = MultitaskSettings(method="mixlora", adapter=adapter, loop=loop)
    examples = [source_examples(backbone, source, settings, 0, "front") for source in (ner_task(), nli_task())]
    stage = plan_multitask(backbone, examples, settings).stages[0]
    return stage.flops / stage.tokens


@pytest.mark.parametrize("top", [2, 3])
def test_mixlora_is_charged_for_every_pass_of_its_feed_forward_blocks(top: int) -> None:
    """Every expert beyond the first adds what the counter says, forward and backward."""
    more = counted("llama", top) - counted("llama", 1)
    assert planned("llama", top) - planned("llama", 1) == pytest.approx(more, rel=1e-3)


def test_validation_is_charged_for_them_too() -> None:
    def validation(top: int) -> float:
        return planned("llama", top, evaluate_every=1) - planned("llama", top)

    assert validation(2) > 1.2 * validation(1)
