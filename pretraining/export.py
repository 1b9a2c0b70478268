"""A checkpoint as a model folder that Transformers, vLLM, llama.cpp and PEFT load.

``python -m pretraining.export --checkpoint runs/pretraining/embedded/latest.safetensors \\
--tokenizer runs/pretraining/tokenizer --out src/clinprompt/backbone/embedded``

The codes, soft prompts of the self-supervised tasks, are no part of the model. With
``--codes runs/pretraining/shards/codes.json --practised FILE`` those that announced something are written as prompts to
start from (`clinprompt.prompts.practised`).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from clinprompt.backbone.model import load_backbone
from clinprompt.prompts.practised import Practised, save_practised
from pretraining.model import ModelConfig
from pretraining.selfsupervised import CODE_LENGTH
from pretraining.train import load_state

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def llama_weights(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The names and shapes of LlamaForCausalLM with tied embeddings; the training-only codes stay behind."""
    return {name: tensor.to(dtype).contiguous() for name, tensor in weights.items() if not name.startswith("codes.")}


def export(weights: dict[str, Tensor], config: ModelConfig, tokenizer: Path, out: Path, dtype: str) -> None:
    """Write config.json, generation_config.json, the tokenizer's two files and model.safetensors, each atomically."""
    out.mkdir(parents=True, exist_ok=True)
    settings = {**config.to_llama(), "dtype": dtype}
    _write(out / "config.json", settings)
    _write(out / "generation_config.json", {"eos_token_id": 1, "pad_token_id": 0, "do_sample": False})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        temporary = out / f"{name}.tmp"
        shutil.copyfile(tokenizer / name, temporary)
        temporary.replace(out / name)
    temporary = out / "model.tmp"
    save_file(llama_weights(weights, DTYPES[dtype]), str(temporary), {"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(out / "model.safetensors")


def practised_prompts(weights: dict[str, Tensor], names: list[str], fingerprint: str) -> Practised:
    """The codes that have a name, as (n, CODE_LENGTH, d) prompts of the backbone with this fingerprint."""
    rows = weights["codes.weight"].view(-1, CODE_LENGTH, weights["codes.weight"].shape[1])
    kept = [number for number, name in enumerate(names) if name]
    return Practised(rows[kept].float(), tuple(names[number] for number in kept), fingerprint)


def _write(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--codes", type=Path, help="codes.json beside the shards")
    parser.add_argument("--practised", type=Path, help="where to write the codes as prompts to start from")
    args = parser.parse_args()
    weights, _, progress, config = load_state(args.checkpoint)
    export(weights, config, args.tokenizer, args.out, args.dtype)
    if args.codes and args.practised:
        names = json.loads(args.codes.read_text(encoding="utf-8"))
        save_practised(practised_prompts(weights, names, load_backbone(args.out).fingerprint), args.practised)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {size / 1e6:.1f} MB after {progress.step} steps, {progress.tokens / 1e6:.2f} M tokens")


if __name__ == "__main__":
    main()
