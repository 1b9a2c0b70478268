"""A frozen base model: loading it by name or folder, and the few of its parts the rest of the house may touch.

Weights are read from safetensors only and remote code is never run. After loading, no parameter requires a gradient.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from clinprompt.backbone.fingerprint import folder_fingerprint, model_fingerprint
from clinprompt.backbone.presets import BackbonePreset, find_preset, known_presets, load_preset
from clinprompt.errors import BackboneError

Kind = Literal["causal", "seq2seq"]
Head = Callable[[Tensor], Tensor]
LayerStates = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each (B, heads, length, head width)
PACKAGED = ("embedded", "tiny")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Backbone:
    """A frozen language model with its tokenizer.

    `head` maps final hidden states (n, d) to logits (n, V) exactly as the model does (softcaps and scales included),
    so that logits are computed at the positions somebody reads and nowhere else.
    """

    name: str
    model: Any
    tokenizer: Any
    preset: BackbonePreset
    fingerprint: str
    kind: Kind
    head: Head
    autocast: bool = False
    prefetches: dict[str, int] = field(default_factory=dict)  # prompt digest → times its keys/values were computed
    prefix: LayerStates | None = None  # while a decoder's prefix is applied: what is before each example of a batch

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def width(self) -> int:
        """Embedding width d."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def parameters(self) -> int:
        """Number of weights; 4-bit weights are counted unpacked."""
        return int(self.model.num_parameters())

    @property
    def context(self) -> int:
        """Longest sequence the positions allow; T5-type models have relative positions and get 1,024 (our choice)."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1024) or 1024)

    @property
    def sliding_window(self) -> int | None:
        """Window of the local-attention layers, None when every layer sees everything."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        types = getattr(config, "layer_types", None)
        uses = any(t != "full_attention" for t in types) if types else bool(window)
        return int(window) if window and uses else None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first one is trained."""
        ends: list[int] = [self.tokenizer.eos_token_id]
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        for token in configured if isinstance(configured, list) else [configured]:
            if token is not None and token not in ends:
                ends.append(token)
        return tuple(ends)

    def length(self, text: str) -> int:
        """Number of tokens of a text, special tokens not counted."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return len(ids)

    def embed(self, ids: Tensor) -> Tensor:
        """(…) token ids → (…, d) input embeddings in the model's precision."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    @property
    def numerics(self) -> dict[str, Any]:
        """How it computes, which its fingerprint leaves out: the weights' dtype, whether in bf16 autocast, and 4-bit
        weights. A run is continued, compared and reproduced in the numerics it began in."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        quantise = "4bit" if getattr(self.model, "is_loaded_in_4bit", False) else None
        return {"dtype": dtype, "autocast": self.autocast, "quantise": quantise}

    def precision(self) -> torch.autocast:
        """The context forward passes run in: bf16 autocast when `autocast` is set, else nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)


def load_backbone(
    name: str | Path = "embedded",
    *,
    preset: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantise: Literal["4bit"] | None = None,
    autocast: bool = False,
    offline: bool = False,
) -> Backbone:
    """Load and freeze a base model.

    `name`: "embedded", a preset, a Hugging Face name, or a folder. `preset`: how the model is spoken to; default: the
    one of this name, repository or folder name, else plain text. `dtype`: float32 or bfloat16 (default: the preset's).
    `device`: cpu, cuda, cuda:1, or "auto" to spread over what there is. Raises BackboneError with the cure.
    """
    _require_device(device)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    chosen = load_preset(preset) if preset else find_preset(str(name))
    folder = _resolve(str(name), chosen, offline)
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"{folder}: no *.safetensors weights. Pickled weights (.bin, .pt) are never loaded; convert the model "
            "with `model.save_pretrained(folder, safe_serialization=True)` first."
        )
    precision = dtype or chosen.dtype
    if precision not in DTYPES:
        raise BackboneError(f"unknown dtype {precision!r}; known: {', '.join(DTYPES)}")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = loader.from_pretrained(
            folder,
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=False,
            device_map=_placement(device, quantise),
            quantization_config=_quantisation(quantise, config),
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(f"{folder}: cannot load this base model: {error}") from error
    return wrap(model, tokenizer, name=str(name), preset=chosen, folder=folder, autocast=autocast)


def twin(backbone: Backbone) -> Backbone:
    """The same weights in modules of their own, with a tokenizer of its own: what is hung on the layers of one (hooks,
    adapters) the other does not see, so two threads can use them at once. Costs no memory for weights."""
    known = [*backbone.model.parameters(), *backbone.model.buffers()]
    model = copy.deepcopy(backbone.model, {id(tensor): tensor for tensor in known})
    return replace(backbone, model=model, tokenizer=copy.deepcopy(backbone.tokenizer), prefix=None)


def model_folder(
    name: str | Path = "embedded", *, preset: str | None = None, offline: bool = False
) -> tuple[Path, BackbonePreset]:
    """Where the files of a base model lie, and how it is spoken to, as in `load_backbone`; nothing is loaded."""
    chosen = load_preset(preset) if preset else find_preset(str(name))
    return _resolve(str(name), chosen, offline), chosen


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    name: str = "custom",
    preset: BackbonePreset | None = None,
    folder: Path | None = None,
    autocast: bool = False,
) -> Backbone:
    """Freeze a Transformers model that is already in memory and make it a backbone."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if tokenizer.eos_token_id is None:
        raise BackboneError(f"{name}: the tokenizer has no end-of-sequence token, so no answer could ever end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    print_ = folder_fingerprint(folder, tokenizer) if folder else model_fingerprint(model, tokenizer)
    kind: Kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    return Backbone(
        name=name,
        model=model,
        tokenizer=tokenizer,
        preset=preset or BackbonePreset(name=name),
        fingerprint=print_,
        kind=kind,
        head=_exact_head(model, kind),
        autocast=autocast,
    )


def _resolve(name: str, preset: BackbonePreset, offline: bool) -> Path:
    if name in PACKAGED:
        return Path(__file__).parent / name
    if Path(name).is_dir():
        return Path(name)
    repository = name if "/" in name else preset.repository or name
    if repository.count("/") != 1 or Path(repository).is_absolute():
        raise BackboneError(
            f"{name!r} is neither a folder nor a Hugging Face name (owner/model). "
            f"Presets: {', '.join(known_presets())}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=preset.revision,
                local_files_only=offline,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"],
                # The same weights once more in other layouts (gpt-oss: 27 GB).
                ignore_patterns=["original/*", "metal/*", "onnx/*"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BackboneError(
            f"{repository}: not on this disk and not reachable ({type(error).__name__}). Download it on a machine with "
            "internet, copy the folder here and give its path; gated models need `huggingface-cli login` first."
        ) from error


def _require_device(device: str | None) -> None:
    """Raises BackboneError for a device that this machine or this PyTorch does not have."""
    if device is None or device == "auto":
        return
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = [f"{found.type}:{index}" for index in range(torch.accelerator.device_count())] if found else []
    kinds = ["cpu", *([found.type] if found else []), *here]
    if device not in (*kinds, "cpu:0"):
        none = "" if found else f" PyTorch {torch.__version__} finds no GPU."
        raise BackboneError(f"device {device!r} is not here.{none} Give one of: {', '.join(kinds)}, auto.")


def _placement(device: str | None, quantise: str | None) -> str | dict[str, str]:
    if device == "auto" or (quantise and device is None):
        return "auto"
    return {"": device or ("cuda" if torch.cuda.is_available() else "cpu")}


def _quantisation(quantise: str | None, model_config: Any) -> Any:
    stored = (getattr(model_config, "quantization_config", None) or {}).get("quant_method")
    if stored is not None and quantise is not None:
        raise BackboneError(f"this model's weights are stored quantised already ({stored}); leave --quantise out")
    if stored == "mxfp4":
        # gpt-oss: Transformers has no backward pass through MXFP4 weights, and a prompt is trained through all layers.
        from transformers.utils.quantization_config import Mxfp4Config

        unpacked: Any = Mxfp4Config
        return unpacked(dequantize=True)
    if quantise is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError("4-bit loading needs an extra: pip install 'clinprompt[quantise]'")
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _exact_head(model: Any, kind: Kind) -> Head:
    """Hidden state → logits as this model computes them, proven on a probe; BackboneError when no known form fits."""
    output: nn.Module = model.get_output_embeddings()
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    divisor = getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)
    if kind == "seq2seq":
        return _probed(model, kind, [lambda h: output(h), lambda h: output(h * config.d_model**-0.5)])

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = output(hidden)
        if divisor:
            logits = logits / divisor
        if factor:
            logits = logits * factor
        return torch.tanh(logits / cap) * cap if cap else logits

    return _probed(model, kind, [head, lambda h: output(h)])


def _probed(model: Any, kind: Kind, candidates: list[Head]) -> Head:
    ids = torch.arange(2, 7, device=next(iter(model.parameters())).device)[None]
    with torch.no_grad():
        if kind == "seq2seq":
            run = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True, use_cache=False)
            hidden = run.decoder_hidden_states[-1]
        else:
            run = model(input_ids=ids, output_hidden_states=True, use_cache=False)
            hidden = run.hidden_states[-1]
        scale = float(run.logits.float().abs().max()) + 1e-6
        for head in candidates:
            if float((head(hidden).float() - run.logits.float()).abs().max()) < 2e-2 * scale:
                return head
    raise BackboneError(
        f"{type(model).__name__}: its logits are not a known function of its last hidden state, so logits at label "
        "positions cannot be computed alone. Please report this architecture."
    )
