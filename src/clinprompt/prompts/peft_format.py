"""Prompts to and from PEFT's checkpoint folders (`adapter_config.json` + `adapter_model.safetensors`).

PEFT's convention, read from its source (PEFT 0.21, `peft_model.py`, `tuners/multitask_prompt_tuning/model.py`):

- the prompt stands before everything, BOS included: our position `front`. A prompt at `start` stands at the same place
  only where the backbone puts no BOS; elsewhere its export is refused, because its answers would change.
- `prompt_embeddings` (l, d) is the prompt, and in multitask prompt tuning P*; `prefix_task_cols` (T, l, r) is our u;
  `prefix_task_rows` (T, r, d) is our v transposed.
- tasks are numbers there. An export keeps our card in the safetensors metadata, so that it comes back with its names;
  a folder that PEFT wrote needs task definitions, one per number, in order.
- sequence-to-sequence models may have two prompts there, for encoder and decoder; ours stands in the encoder. Prompt
  tuning stores both but uses the first half only (PEFT never feeds the rest), so that half is imported; multitask
  prompt tuning uses both, so checkpoints with `num_transformer_submodules: 2` are refused. Exports have one.

Pickled weights (`adapter_model.bin`) are never read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clinprompt.backbone.encoding import frame
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import Card, Metaprompt, TaskPrompt, backbone_note, require_backbone
from clinprompt.prompts.files import write_atomically
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.version import __version__

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROMPT, COLUMNS, ROWS = "prompt_embeddings", "prefix_task_cols", "prefix_task_rows"
SINGLE, MULTITASK = "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"


@dataclass(frozen=True)
class _Checkpoint:
    """A PEFT folder: its configuration, its tensors in fp32, and our card if the folder is one of our exports."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    card: Card | None


def export_prompt_tuning(task: TaskPrompt, folder: Path, backbone: Backbone, *, base_model: str = "") -> None:
    """Write a task's (composed) prompt as a PEFT prompt-tuning checkpoint.

    `base_model` is what PEFT shall load (a Hugging Face name or a folder); default: the backbone's name. Raises
    ArtifactError when the prompt stands where PEFT cannot put it, BackboneError for another backbone.
    """
    require_backbone(task.card, backbone, "task")
    _require_front(task.card, backbone)
    prompt = task.prompt
    config = _config(backbone, SINGLE, len(prompt), base_model)
    _write(folder, config, {PROMPT: prompt}, task.card)


def export_multitask(metaprompt: Metaprompt, folder: Path, backbone: Backbone, *, base_model: str = "") -> None:
    """Write a metaprompt as a PEFT multitask-prompt-tuning checkpoint; source task i gets PEFT's task id i.

    Raises as `export_prompt_tuning`.
    """
    require_backbone(metaprompt.card, backbone, "metaprompt")
    _require_front(metaprompt.card, backbone)
    tasks, length, rank = metaprompt.u.shape
    config = {**_config(backbone, MULTITASK, length, base_model), "num_tasks": tasks, "num_ranks": rank}
    tensors = {PROMPT: metaprompt.shared, COLUMNS: metaprompt.u, ROWS: metaprompt.v.transpose(1, 2)}
    _write(folder, config, tensors, metaprompt.card)


def import_prompt_tuning(folder: Path, backbone: Backbone, task_definition: TaskDefinition | None = None) -> TaskPrompt:
    """A PEFT prompt-tuning checkpoint as a task at position `front`.

    `task_definition` may be left out for a folder that `export_prompt_tuning` wrote. Raises ArtifactError.
    """
    found = _read(folder, SINGLE, {PROMPT}, backbone)
    length = _number(found, "num_virtual_tokens")
    prompt = _matrix(found, PROMPT, (length * _submodules(found.config), backbone.width))[:length].clone()
    tasks = _tasks(found, None if task_definition is None else [task_definition], 1)
    return TaskPrompt({"prompt": prompt}, _card(found, backbone, "task", tasks))


def import_multitask(
    folder: Path, backbone: Backbone, task_definitions: Sequence[TaskDefinition] | None = None
) -> Metaprompt:
    """A PEFT multitask checkpoint as a metaprompt at position `front`; definition i belongs to PEFT's task id i.

    `task_definitions` may be left out for a folder that `export_multitask` wrote. Raises ArtifactError.
    """
    found = _read(folder, MULTITASK, {PROMPT, COLUMNS, ROWS}, backbone)
    length, tasks, rank = (_number(found, key) for key in ("num_virtual_tokens", "num_tasks", "num_ranks"))
    shared = _matrix(found, PROMPT, (length, backbone.width))
    u = _matrix(found, COLUMNS, (tasks, length, rank))
    v = _matrix(found, ROWS, (tasks, rank, backbone.width)).transpose(1, 2).contiguous()
    definitions = _tasks(found, task_definitions, tasks)
    return Metaprompt(shared, u, v, _card(found, backbone, "metaprompt", definitions))


# -- writing ---------------------------------------------------------------------------------------------


def _require_front(card: Card, backbone: Backbone) -> None:
    if card.position == "front" or (card.position == "start" and not frame(backbone).bos):
        return
    where = {"start": "behind the BOS token", "end": "behind the text"}[card.position]
    raise ArtifactError(
        f"this prompt stands {where} (position {card.position!r}); PEFT puts prompts before everything, where it was "
        "not trained to be. Learn it with prompt_position: front to export it."
    )


def _config(backbone: Backbone, peft_type: str, length: int, base_model: str) -> dict[str, Any]:
    model = backbone.model.config.get_text_config()
    return {
        "peft_type": peft_type,
        "task_type": "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM",
        "base_model_name_or_path": base_model or backbone.name,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "token_dim": backbone.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.num_attention_heads,
        "num_layers": model.num_hidden_layers,
        "prompt_tuning_init": "RANDOM",  # how PEFT would start a new one; loading replaces it
    }


def _write(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor], card: Card) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    described = card.model_dump(mode="json", exclude_defaults=True)
    write_atomically(tensors, {"clinprompt": described}, folder / WEIGHTS)
    partial = folder / f".{CONFIG}.tmp"
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(folder / CONFIG)


# -- reading ---------------------------------------------------------------------------------------------


def _read(folder: Path, peft_type: str, names: set[str], backbone: Backbone) -> _Checkpoint:
    folder = Path(folder)
    config = _read_config(folder)
    if config.get("peft_type") != peft_type:
        other = {SINGLE: "import_prompt_tuning", MULTITASK: "import_multitask"}.get(str(config.get("peft_type")))
        cure = f"use {other}" if other else "only soft prompts (not LoRA, prefix or other adapters) can be imported"
        raise ArtifactError(f"{folder / CONFIG}: holds a {config.get('peft_type')} adapter, not {peft_type}; {cure}.")
    found = _Checkpoint(folder, config, *_read_weights(folder))
    if peft_type == MULTITASK and _submodules(config) != 1:
        raise ArtifactError(
            f"{folder / CONFIG}: has prompts for the encoder and for the decoder; ours stand in the encoder only. "
            "Train it with num_transformer_submodules=1."
        )
    if set(found.tensors) != names:
        raise ArtifactError(
            f"{folder / WEIGHTS}: holds {sorted(found.tensors)}, but a {peft_type} checkpoint has {sorted(names)}."
        )
    if found.card is not None:
        require_backbone(found.card, backbone, folder)
    width = _number(found, "token_dim")
    if width != backbone.width:
        raise ArtifactError(
            f"{folder / CONFIG}: made for a base model of width {width} ({config.get('base_model_name_or_path')}); "
            f"{backbone.name} has width {backbone.width}. Load the base model it was trained on."
        )
    return found


def _submodules(config: Mapping[str, Any]) -> int:
    """Prompts per task: PEFT's default is one for a decoder, two for encoder and decoder."""
    return int(config.get("num_transformer_submodules") or (2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; give the folder of a PEFT checkpoint.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: not a PEFT configuration (a JSON object is needed).")
    return config


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Card | None]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = [p.name for p in folder.glob("adapter_model*") if p.suffix in (".bin", ".pt", ".pth")]
        cure = (
            f"{', '.join(pickled)} is pickled and never loaded: save it again with safe_serialization=True."
            if pickled
            else "The folder is incomplete."
        )
        raise ArtifactError(f"{path}: no such file. {cure}")
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get("clinprompt")
            tensors = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a readable safetensors file ({error}).") from None
    try:
        return tensors, None if note is None else Card.model_validate_json(note)
    except ValidationError as error:
        raise ArtifactError(f"{path}: unreadable clinprompt card ({error.errors()[0]['msg']}).") from None


def _number(found: _Checkpoint, key: str) -> int:
    value = found.config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArtifactError(f"{found.folder / CONFIG}: `{key}` must be a positive whole number, not {value!r}.")
    return value


def _matrix(found: _Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the shape that the configuration (and the backbone's width) promises."""
    tensor = found.tensors[name]
    if tuple(tensor.shape) != shape:
        raise ArtifactError(
            f"{found.folder / WEIGHTS}: `{name}` is {tuple(tensor.shape)}, but {CONFIG} promises {shape} "
            "(tasks, prompt length, rank and width must agree). The two files do not belong together."
        )
    if not torch.isfinite(tensor).all():
        raise ArtifactError(f"{found.folder / WEIGHTS}: `{name}` has values that are not numbers.")
    return tensor


def _tasks(found: _Checkpoint, given: Sequence[TaskDefinition] | None, count: int) -> tuple[TaskDefinition, ...]:
    tasks = tuple(given) if given is not None else found.card.tasks if found.card is not None else ()
    if len(tasks) != count:
        raise ArtifactError(
            f"{found.folder}: holds {count} task{'s' if count > 1 else ''}, but {len(tasks)} task definitions are "
            f"there{'' if given is not None else ' (PEFT numbers its tasks and keeps no names)'}. Give one per task, "
            "in the order of PEFT's task ids."
        )
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ArtifactError(f"{found.folder}: task names must differ; repeated: {', '.join(repeated)}.")
    return tasks


def _card(found: _Checkpoint, backbone: Backbone, kind: Any, tasks: tuple[TaskDefinition, ...]) -> Card:
    """Our own export's card with the position it now has; for a folder that PEFT wrote, what is known of it."""
    if found.card is not None:
        # The prompt is stored composed: no metaprompt is needed any more, and the digest is that of another layout.
        update = {"kind": kind, "position": "front", "tasks": tasks, "digest": ""}
        return found.card.model_copy(update=update)
    return Card(
        kind=kind,
        library=__version__,
        backbone=backbone_note(backbone),
        position="front",
        tasks=tasks,
        method="peft",
        settings={"imported_from": found.config.get("peft_type"), "base_model": _base_name(found.config)},
    )


def _base_name(config: Mapping[str, Any]) -> str:
    """The base model's name; of a local folder only its last part, so that no one's paths travel along."""
    name = str(config.get("base_model_name_or_path") or "")
    return Path(name).name if Path(name).is_absolute() else name
