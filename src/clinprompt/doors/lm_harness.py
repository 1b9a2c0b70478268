"""A soft prompt in front of every request of lm-evaluation-harness (extra: lm-eval).

    python -m clinprompt.doors.lm_harness run --model clinprompt --model_args task=drugs.safetensors --tasks …

The harness has no entry points for models, so this module registers `clinprompt` and hands over to the harness's own
command line. Everything but the prompt is the harness's class for Hugging Face models: without a task its numbers are
that class's numbers. The harness's prompts and formats are not those a prompt was trained with; this measures what a
soft prompt does to a benchmark, not how well it solves its own task (that is `clinprompt evaluate`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor

from clinprompt import api
from clinprompt.backbone.injection import inject
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TaskError


@register_model("clinprompt")
class ClinpromptLM(HFLM):
    """A causal backbone, with the soft prompt of a task where one is named.

    `task`: path of a task file, or of a metaprompt with `source`. `backbone`: a Backbone, its name or folder; default
    the task's own, else the embedded one. Other arguments are those of the harness's class. The prompt takes the place
    it was trained at: behind the beginning-of-sequence token (or the harness's prefix token), or before everything.
    """

    def __init__(
        self,
        task: str | None = None,
        backbone: str | Backbone | None = None,
        source: str | None = None,
        metaprompt: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        if not task and source:
            raise TaskError("clinprompt: `source` names a task of a metaprompt; give its path as `task`.")
        artifact = api.load_artifact(task, [Path(metaprompt)] if metaprompt else []) if task else None
        name = backbone or api.backbone_of(artifact)
        model = name if isinstance(name, Backbone) else _load(name, device, dtype)
        if model.kind != "causal":
            raise BackboneError(
                f"{model.name}: the harness's door is for causal models, and this is an encoder-decoder."
            )
        who = api.answerer(model, artifact, source=source) if artifact else None
        prompt = who.prompt if who is not None and who.prompt is not None else torch.zeros(0, model.width)
        if not isinstance(prompt, Tensor):
            raise TaskError(f"{task}: holds an adapter, no soft prompt. LoRA: export it and use the harness's peft=….")
        position = who.position if who is not None else "start"
        if position == "end":
            raise TaskError(
                "clinprompt: a prompt at `end` stands between text and answer; a benchmark has no such place."
            )
        room = model.context - len(prompt)
        super().__init__(
            pretrained=model.model,
            tokenizer=model.tokenizer,
            backend="causal",
            max_length=min(max_length or room, room),
            **options,
        )
        self.clinprompt = model
        self.soft_prompt = prompt.to(model.device)  # (l, d)
        self.behind_prefix = position == "start"
        self.task_name = who.task.name if who is not None else None

    def _embedded(self, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) ids with `padding` (B,) pads on their left → (B, T+l, d) embeddings and where prompts begin (B,)."""
        first = ids.gather(1, padding[:, None].clamp(max=ids.shape[1] - 1)).squeeze(1)
        prefixed = (first == self.prefix_token_id) & self.behind_prefix
        place = padding + prefixed.long()
        prompts = self.soft_prompt[None].expand(len(ids), -1, -1)
        return inject(self.clinprompt.embed(ids), prompts, place), place

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """(B, T) ids padded on the right → logits (B, T, V) whose place i predicts token i + 1."""
        length = len(self.soft_prompt)
        embeddings, _ = self._embedded(inps, torch.zeros(len(inps), dtype=torch.long, device=inps.device))
        with torch.no_grad(), self._mixed():
            logits: Tensor = self.model(inputs_embeds=embeddings).logits
        # A token behind the prompt is predicted l places later than without it; the prefix token predicts through it.
        return logits[:, length:]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Context (B, T), padded on the left, and what is generated behind it."""
        mask = generation_kwargs.pop("attention_mask", torch.ones_like(context))
        padding = (mask.cumsum(dim=1) == 0).sum(dim=1)
        embeddings, place = self._embedded(context, padding)
        length = len(self.soft_prompt)
        along = torch.arange(embeddings.shape[1], device=context.device)[None]
        grown = torch.where(along < place[:, None], along, (along - length).clamp(min=0))
        inside = (along >= place[:, None]) & (along < place[:, None] + length)
        mask = mask.gather(1, grown.clamp(max=context.shape[1] - 1)).bool() | inside
        with self._mixed():
            new = self.model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask.long(),
                max_new_tokens=max_length - context.shape[1],
                stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, 0, context.shape[0]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **_sampling(generation_kwargs),
            )
        return torch.cat([context, new], dim=1)

    def _mixed(self) -> torch.autocast:
        enabled = self.mixed_precision_dtype is not None
        return torch.autocast(self.device.type, dtype=self.mixed_precision_dtype, enabled=enabled)

    def get_model_info(self) -> dict[str, Any]:
        """What the results file says about the model; nothing is looked up on a hub."""
        return {
            "model_num_parameters": self.clinprompt.parameters,
            "model_dtype": str(self.model.dtype),
            "model_revision": "",
            "model_sha": self.clinprompt.fingerprint,
            "soft_prompt_task": self.task_name,
            "soft_prompt_length": len(self.soft_prompt),
        }


def _load(name: str, device: str | None, dtype: str | None) -> Backbone:
    from clinprompt.backbone.model import load_backbone

    return load_backbone(name, device=device, dtype=dtype)


def _sampling(given: dict[str, Any]) -> dict[str, Any]:
    """Generation options as the harness's own class reads them: no temperature, or 0, means greedy."""
    options = {"temperature": 0.0, **given}
    if options["temperature"] == 0.0 and options.get("do_sample") is None:
        options["do_sample"] = False
    if options.get("do_sample") is False and options["temperature"] == 0.0:
        del options["temperature"]
    return options


def main() -> None:
    """The harness's command line, which knows `--model clinprompt` from here on."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
