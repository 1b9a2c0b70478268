"""Where a prompt starts: vocabulary, text, or a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinprompt.errors import BackboneError, TrainingError
from clinprompt.prompts.artifact import save_task
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.settings import AdaptSettings
from tests.models import tiny
from tests.training.synthetic import nli_task


def test_vocabulary_rows_are_distinct_real_tokens_and_depend_on_the_seed_only() -> None:
    backbone = tiny()
    prompts = initial_prompts(backbone, 5, "vocabulary", [1, 2, 1])
    table = backbone.model.get_input_embeddings().weight
    for row in prompts:
        ids = [int((table == token).all(dim=1).nonzero()[0]) for token in row]
        assert len(set(ids)) == 5 and not set(ids) & set(backbone.tokenizer.all_special_ids)
    assert torch.equal(prompts[0], prompts[2]) and not torch.equal(prompts[0], prompts[1])


def test_text_is_repeated_or_cut() -> None:
    backbone = tiny()
    ids = backbone.tokenizer("abc", add_special_tokens=False)["input_ids"]
    wanted = backbone.model.get_input_embeddings().weight[torch.tensor([*ids, *ids])[:5]]
    assert torch.equal(initial_prompts(backbone, 5, "text: abc", [0])[0], wanted)
    assert torch.equal(initial_prompts(backbone, 2, "text: abc", [0])[0], wanted[:2])


def test_file_of_a_task_starts_another_and_must_fit(tmp_path: Path) -> None:
    backbone = tiny()
    first = adapt(backbone, None, [Plan(nli_task(), AdaptSettings(shots=0, target_reserve=32))], prompt_length=5)
    path = tmp_path / "a.safetensors"
    save_task(first.tasks[0], path)
    settings = AdaptSettings(shots=0, seed=9, initial=str(path), target_reserve=32)
    again = adapt(backbone, None, [Plan(nli_task(), settings)], prompt_length=5)
    assert torch.equal(again.tasks[0].prompt, first.tasks[0].prompt)
    with pytest.raises(TrainingError, match="5 tokens"):
        initial_prompts(backbone, 7, str(path), [0])
    with pytest.raises(BackboneError, match="means nothing to another model"):
        initial_prompts(tiny(seed=1), 5, str(path), [0])
