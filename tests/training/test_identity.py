"""Identities: what they tell apart, and that they stay what they were (they stand in files)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from clinprompt.backbone.encoding import Encoded, encode
from clinprompt.training.batching import TaskExamples
from clinprompt.training.identity import digest_of, examples_digest, run_name, task_digests
from tests.models import tiny


def test_digest_sees_ids_contexts_and_positions() -> None:
    backbone = tiny(bos=True)
    one = encode(backbone, ["abc", "d"], ["x", "y"], "start")
    variants = [
        one,
        one[::-1],
        one[:1],
        encode(backbone, ["abc", "d"], ["x", "z"], "start"),
        encode(backbone, ["abc", "d"], ["x", "y"], "end"),
    ]
    assert len({examples_digest(v) for v in variants}) == len(variants)
    assert examples_digest(one) == examples_digest(encode(tiny(bos=True), ["abc", "d"], ["x", "y"], "start"))


def test_a_run_is_known_by_the_numerics_it_computes_in() -> None:
    """Checkpoints of plain float32 runs keep the names they had."""
    plain = tiny()
    assert run_name(plain, [1]) == digest_of([plain.fingerprint, 1])
    assert run_name(replace(plain, autocast=True), [1]) == f"{run_name(plain, [1])}-autocast"
    plain.model.to(torch.bfloat16)
    assert run_name(plain, [1]) == f"{digest_of([plain.fingerprint, 1])}-bfloat16"


def test_identities_are_those_that_stand_in_files() -> None:
    example = Encoded(np.array([1, 5, 9, 2], dtype=np.int32), 2, 1)
    assert examples_digest([example]) == "0b77333a15bbf5ba"
    assert (
        digest_of({"b": [1, 2.5, None], "a": "ä"}) == digest_of({"a": "ä", "b": [1, 2.5, None]}) == "2ed0f54c6c91c515"
    )
    assert task_digests([TaskExamples("t", [example])]) == [["t", "0b77333a15bbf5ba", examples_digest([])]]
