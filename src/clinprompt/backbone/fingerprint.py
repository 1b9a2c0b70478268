"""Which model a prompt was made for, as a short hash that can be checked before anything is loaded.

The fingerprint covers the tokenizer's vocabulary and merges, the shapes of every weight and a sample of their values
(the first and last 64 KiB of every safetensors file), so that two fine-tunes of one architecture differ and a
16 GB model is identified in milliseconds. The load-time precision (fp32, bf16, 4 bit) is not part of it. Our choice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

SAMPLE_BYTES = 64 * 1024


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of the vocabulary with its ids, in id order; independent of where the tokenizer was loaded from."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index}\t{token}\n".encode())
    return digest.hexdigest()


def folder_fingerprint(folder: Path, tokenizer: Any) -> str:
    """Fingerprint of a model folder: reads file headers, sizes and samples, never whole shards."""
    digest = hashlib.sha256(tokenizer_digest(tokenizer).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(8 + SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def model_fingerprint(model: torch.nn.Module, tokenizer: Any) -> str:
    """Fingerprint of a model that exists in memory only (tests, freshly initialised models): hashes every value."""
    digest = hashlib.sha256(tokenizer_digest(tokenizer).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
