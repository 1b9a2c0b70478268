"""PEFT's checkpoints in both directions, judged by the logits that PEFT itself computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.peft_format import (
    export_multitask,
    export_prompt_tuning,
    import_multitask,
    import_prompt_tuning,
)
from tests.models import tiny
from tests.prompts.cards import definition, metaprompt_for, task_for

peft = pytest.importorskip("peft")

SOURCE, TARGET = "Note: fever and cough.\nAnswer:", "fever"
KINDS = ["llama", "gpt_oss", "gpt2", "t5"]


def peft_model(backbone: Backbone, **extra: Any) -> Any:
    """PEFT's own fresh prompt (rank one or multitask) on the backbone's model."""
    kind = "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM"
    config = peft.MultitaskPromptTuningConfig if "num_tasks" in extra else peft.PromptTuningConfig
    model = peft.get_peft_model(
        backbone.model, config(**{"task_type": kind, "num_virtual_tokens": 5, "num_transformer_submodules": 1} | extra)
    )
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.prompt_encoder.default.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.copy_(1 + 0.3 * noise if name.startswith("prefix_task") else noise)
    return model.eval()


@torch.no_grad()
def losses_of_peft(model: Any, backbone: Backbone, task: int | None = None) -> torch.Tensor:
    """-log p of the target tokens from the full logits of PEFT's forward pass."""
    example = encode(backbone, [SOURCE], [TARGET], "front")[0]
    ids = torch.from_numpy(example.ids).long()
    labels = ids[example.context :]
    further = {} if task is None else {"task_ids": torch.tensor([task])}
    if backbone.kind == "seq2seq":
        source = ids[: example.context][None]
        logits = model(input_ids=source, attention_mask=torch.ones_like(source), labels=labels[None], **further).logits[
            0
        ]
    else:
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **further).logits[0]
        logits = logits[-len(labels) - 1 : -1]
    return -logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)


@torch.no_grad()
def our_losses(backbone: Backbone, prompt: torch.Tensor, position: str = "front") -> torch.Tensor:
    batch = collate(backbone, encode(backbone, [SOURCE], [TARGET], position))  # type: ignore[arg-type]
    return token_losses(backbone, label_states(backbone, batch, prompt[None]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [False, True])
def test_import_gives_pefts_logits(kind: str, bos: bool, tmp_path: Path) -> None:
    backbone = tiny(kind, bos=bos)
    model = peft_model(backbone)
    wanted = losses_of_peft(model, backbone)
    model.save_pretrained(tmp_path)
    task = import_prompt_tuning(tmp_path, backbone, definition("imported"))
    assert task.card.position == "front"
    torch.testing.assert_close(our_losses(backbone, task.prompt), wanted, atol=1e-5, rtol=1e-5)


def test_the_unused_decoder_half_of_a_t5_prompt_is_left_out(tmp_path: Path) -> None:
    """PEFT's default for T5 stores 2 l rows and feeds the first l."""
    backbone = tiny("t5")
    model = peft_model(backbone, num_transformer_submodules=None)
    wanted = losses_of_peft(model, backbone)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].shape[0] == 10
    task = import_prompt_tuning(tmp_path, backbone, definition("imported"))
    assert task.prompt.shape == (5, backbone.width)
    torch.testing.assert_close(our_losses(backbone, task.prompt), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3])
def test_multitask_import_gives_pefts_logits_for_every_task(kind: str, rank: int, tmp_path: Path) -> None:
    backbone = tiny(kind)
    model = peft_model(backbone, num_tasks=3, num_ranks=rank)
    wanted = [losses_of_peft(model, backbone, task) for task in range(3)]
    model.save_pretrained(tmp_path)
    metaprompt = import_multitask(tmp_path, backbone, [definition(n) for n in ("a", "b", "c")])
    for name, losses in zip("abc", wanted, strict=True):
        torch.testing.assert_close(our_losses(backbone, metaprompt.prompt(name)), losses, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wanted[0], wanted[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", ["front", "start"])
def test_export_gives_pefts_logits(kind: str, position: str, tmp_path: Path) -> None:
    backbone = tiny(kind)
    task = task_for(backbone, position=position)
    wanted = our_losses(backbone, task.prompt, position)
    export_prompt_tuning(task, tmp_path, backbone, base_model="some/model")
    model = peft.PeftModel.from_pretrained(backbone.model, tmp_path).eval()
    torch.testing.assert_close(losses_of_peft(model, backbone), wanted, atol=1e-5, rtol=1e-5)
    back = import_prompt_tuning(tmp_path, backbone)
    assert torch.equal(back.prompt, task.prompt) and back.task == task.task


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2])
def test_multitask_export_gives_pefts_logits(kind: str, rank: int, tmp_path: Path) -> None:
    backbone = tiny(kind)
    metaprompt = metaprompt_for(backbone, rank=rank)
    wanted = [our_losses(backbone, metaprompt.prompt(name)) for name in metaprompt.names]
    export_multitask(metaprompt, tmp_path, backbone)
    model = peft.PeftModel.from_pretrained(backbone.model, tmp_path).eval()
    for task, losses in enumerate(wanted):
        torch.testing.assert_close(losses_of_peft(model, backbone, task), losses, atol=1e-5, rtol=1e-5)
    back = import_multitask(tmp_path, backbone)
    assert back.digest == metaprompt.digest and back.names == metaprompt.names


@pytest.mark.parametrize("position", ["start", "end"])
def test_a_prompt_behind_bos_or_text_is_not_exported(position: str, tmp_path: Path) -> None:
    backbone = tiny(bos=True)
    with pytest.raises(ArtifactError, match="prompt_position: front"):
        export_prompt_tuning(task_for(backbone, position=position), tmp_path, backbone)
    with pytest.raises(ArtifactError, match="prompt_position: front"):
        export_multitask(metaprompt_for(backbone, position=position), tmp_path, backbone)
    assert not list(tmp_path.iterdir())


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    backbone, other, wider = tiny(), tiny(seed=1), tiny(hidden_size=64)
    with pytest.raises(BackboneError, match="made for backbone"):
        export_prompt_tuning(task_for(backbone), tmp_path / "x", other)
    export_prompt_tuning(task_for(backbone), tmp_path / "x", backbone)
    with pytest.raises(BackboneError, match="made for backbone"):
        import_prompt_tuning(tmp_path / "x", other)
    peft_model(tiny()).save_pretrained(tmp_path / "y")
    with pytest.raises(ArtifactError, match="width 32"):
        import_prompt_tuning(tmp_path / "y", wider, definition("x"))


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def pickle_instead(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_config(num_ranks=2), "`prefix_task_cols` is .*promises"),
        (edit_config(num_tasks=4), "`prefix_task_cols` is .*promises"),
        (edit_config(num_virtual_tokens=6), "`prompt_embeddings` is .*promises"),
        (edit_config(num_ranks=None), "`num_ranks` must be a positive whole number"),
        (edit_config(peft_type="LORA"), "holds a LORA adapter"),
        (edit_config(peft_type="PROMPT_TUNING"), "use import_prompt_tuning"),
        (edit_config(num_transformer_submodules=2), "for the encoder and for the decoder"),
        (edit_tensors(lambda t: t.pop("prefix_task_rows")), r"holds \['prefix_task_cols', 'prompt_embeddings'\]"),
        (edit_tensors(lambda t: t.update(extra=torch.zeros(1))), "extra"),
        (edit_tensors(lambda t: t["prefix_task_rows"].fill_(float("nan"))), "not numbers"),
        (pickle_instead, "pickled and never loaded"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "The folder is incomplete"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x00" * 40), "not a readable safetensors file"),
        (lambda f: (f / "adapter_config.json").unlink(), "give the folder of a PEFT checkpoint"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_damage_is_explained(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    backbone = tiny()
    peft_model(backbone, num_tasks=3, num_ranks=1).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        import_multitask(tmp_path, backbone, [definition(n) for n in ("a", "b", "c")])


def test_tasks_must_be_named_once_each(tmp_path: Path) -> None:
    backbone = tiny()
    peft_model(backbone, num_tasks=3, num_ranks=1).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="keeps no names"):
        import_multitask(tmp_path, backbone)
    with pytest.raises(ArtifactError, match="holds 3 tasks, but 2 task definitions"):
        import_multitask(tmp_path, backbone, [definition("a"), definition("b")])
    with pytest.raises(ArtifactError, match="repeated: a"):
        import_multitask(tmp_path, backbone, [definition("a"), definition("b"), definition("a")])
