"""The peer: PEFT prompt tuning under the Hugging Face Trainer, set up as carefully as a user could.

Same start, same AdamW, same schedule, same examples in the same batches, token-mean loss. Padding to the longest of the
batch; no key/value cache in training; no evaluation, no saving.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone
from clinprompt.training.settings import LoopSettings


@dataclass
class PeerRun:
    """Loss of each step, the clock at the end of each step, and the prompt afterwards (l, d)."""

    losses: list[float]
    clock: list[float]
    prompt: Tensor


class _Rows(Dataset[Encoded]):
    def __init__(self, examples: Sequence[Encoded]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Encoded:
        return self.examples[index]


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def collator(pad: int) -> Any:
    """Right padding, labels -100 wherever there is no target token."""

    def collate(rows: list[Encoded]) -> dict[str, Tensor]:
        widest = max(len(r.ids) for r in rows)
        ids = torch.full((len(rows), widest), pad)
        mask = torch.zeros(len(rows), widest, dtype=torch.long)
        labels = torch.full((len(rows), widest), -100)
        for i, row in enumerate(rows):
            values = torch.from_numpy(row.ids).long()
            ids[i, : len(values)] = values
            mask[i, : len(values)] = 1
            labels[i, row.context : len(values)] = values[row.context :]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return collate


def train(backbone: Backbone, start: Tensor, ordered: Sequence[Encoded], settings: LoopSettings) -> PeerRun:
    """Prompt tuning from `start` (l, d) over `ordered` examples, `settings.batch_size` per step, in this order.

    The model is unwrapped again at the end, so that one process can train many prompts one after the other.
    """
    count = len(ordered) // settings.steps
    model = backbone.model
    model.config.use_cache = False
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=start.shape[0])
    wrapped: Any = get_peft_model(model, config)
    prompt: Tensor = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        prompt.copy_(start)
    optimiser = torch.optim.AdamW([prompt], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, settings.factor)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=settings.steps,
            per_device_train_batch_size=count,
            train_sampling_strategy="sequential",
            max_grad_norm=settings.clip,
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=backbone.device.type == "cuda",
            use_cpu=backbone.device.type == "cpu",
        )
        trainer = Trainer(
            model=wrapped,
            args=arguments,
            train_dataset=_Rows(ordered),
            data_collator=collator(backbone.tokenizer.pad_token_id),
            optimizers=(optimiser, schedule),
            callbacks=[clock],
        )
        trainer.pop_callback(_printer(trainer))
        trainer.train()
    return PeerRun(clock.losses, clock.times, prompt.detach().float().cpu().clone())


def _printer(trainer: Trainer) -> Any:
    """The callback that prints every log line, which would be timed with the training."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    kinds = (PrinterCallback, ProgressCallback)
    return next((type(c) for c in trainer.callback_handler.callbacks if isinstance(c, kinds)), PrinterCallback)
