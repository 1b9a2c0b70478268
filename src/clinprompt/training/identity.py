"""Short hashes by which runs are told apart.

They stand in cards, checkpoints, cell ids and names of folders: what they are computed from, and how, must not change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone
from clinprompt.training.batching import TaskExamples


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a JSON-ready value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def run_name(backbone: Backbone, parts: Sequence[Any]) -> str:
    """What a run's checkpoints are known by: the digest of all that decides its result, and the numerics it computes
    in where they are not plain float32 (`…-autocast`, `…-bfloat16-4bit`)."""
    numerics = backbone.numerics
    dtype = [] if numerics["dtype"] == "float32" else [numerics["dtype"]]
    other = ["autocast"] * numerics["autocast"] + [numerics["quantise"]] * bool(numerics["quantise"])
    return "-".join([digest_of([backbone.fingerprint, *parts]), *dtype, *other])


def examples_digest(examples: Sequence[Encoded]) -> str:
    """Identity of a training set, without holding any of it."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.ids.tobytes())
        digest.update(f"{example.context},{example.insert_at};".encode())
    return digest.hexdigest()[:16]


def values_digest(values: Mapping[str, Tensor]) -> str:
    """Identity of tensors by name, shape and every number."""
    digest = hashlib.sha256()
    for name in sorted(values):
        numbers = values[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {numbers.dtype} {numbers.shape};".encode())
        digest.update(numbers.tobytes())
    return digest.hexdigest()[:16]


def task_digests(examples: Sequence[TaskExamples]) -> list[list[str]]:
    """Of every task: its name, and the identities of what it trains on and of what it is judged on."""
    return [[e.name, examples_digest(e.train), examples_digest(e.validation)] for e in examples]
