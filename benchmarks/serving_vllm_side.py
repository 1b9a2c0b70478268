"""One measurement on stock vLLM, run by the interpreter of vLLM's own environment: `python FILE JOB.json RESULT.json`.

Imports nothing but vLLM, so that the two environments need not know each other. The job (made by `serving_contenders`)
names a model folder, LoRA folders, and passes of requests as token ids; all requests of a pass are there at once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(job_file: str, result_file: str) -> None:
    from vllm import LLM

    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    began = time.perf_counter()
    model = LLM(
        job["model"],
        skip_tokenizer_init=False,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=job["rows"],
        max_model_len=job["context"],
        block_size=32,
        enable_prefix_caching=True,
        disable_log_stats=True,
        **job["options"],
    )
    loaded = time.perf_counter() - began
    engine = model.llm_engine
    run_pass(engine, job, job["warm"])
    passes = [run_pass(engine, job, asked) for asked in job["passes"]]
    alone = [run_pass(engine, job, [asked]) for asked in job["alone"]]
    adding = run_pass(engine, job, job["adding"], added=job["added"])
    result = {"load_seconds": loaded, "passes": passes, "alone": alone, "adding": adding, "version": _version()}
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")


def run_pass(engine: Any, job: dict[str, Any], asked: list[dict[str, Any]], added: str | None = None) -> dict[str, Any]:
    """All requests at once; seconds until the first token and until the end of each, and the tokens.

    `added`: what to make known to the running engine when half of the answers are written: "weights" (a baked task is
    in the files), or a LoRA folder.
    """
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=job["new"], ignore_eos=True)
    began, add_seconds = time.perf_counter(), None
    for number, one in enumerate(asked):
        engine.add_request(
            str(number), {"prompt_token_ids": one["ids"]}, settings, lora_request=_lora(job, one.get("lora"))
        )
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    said: dict[int, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            number, now = int(output.request_id), time.perf_counter() - began
            if output.outputs[0].token_ids:
                first.setdefault(number, now)
            if output.finished:
                last[number], said[number] = now, list(output.outputs[0].token_ids)
        if added is not None and add_seconds is None and 2 * len(last) >= len(asked):
            add_seconds = _add(engine, added)
    order = range(len(asked))
    return {
        "seconds": time.perf_counter() - began,
        "first": [first[i] for i in order],
        "last": [last[i] for i in order],
        "ids": [said[i] for i in order],
        "add_seconds": add_seconds,
    }


def _add(engine: Any, added: str) -> float:
    from vllm.lora.request import LoRARequest

    began = time.perf_counter()
    if added == "weights":
        engine.collective_rpc("reload_weights")
        engine.reset_prefix_cache(reset_running_requests=True)
    elif added:
        engine.add_lora(LoRARequest("added", 1000, added))
    return time.perf_counter() - began


def _lora(job: dict[str, Any], number: int | None) -> Any:
    from vllm.lora.request import LoRARequest

    return None if number is None else LoRARequest(f"task-{number}", number + 1, job["loras"][number])


def _version() -> str:
    import vllm

    return str(vllm.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
