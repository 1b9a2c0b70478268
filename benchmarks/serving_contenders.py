"""The contenders of the serving benchmark, each in a process of its own: how it is set up and asked."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from benchmarks import serving_traffic as traffic
from benchmarks.serving_adapters import Peft, folder_bytes, random_adapters
from benchmarks.serving_tasks import random_tasks
from clinprompt.backbone.model import Backbone, load_backbone, model_folder
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.serving import bake as baking
from clinprompt.serving.baked import open_baked
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.engine import Question, ServedTask
from clinprompt.serving.transformers_engine import TransformersEngine

SIDE = Path(__file__).with_name("serving_vllm_side.py")
MODEL = "embedded"


class Endless(Backbone):
    """A backbone whose answers end at the limit only, so that every answer has the same number of tokens."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        return ()


def contend(given: argparse.Namespace) -> dict[str, Any]:
    """What one contender measures; see `CONTENDERS`."""
    torch.set_num_threads(given.threads)
    kind, _, length = given.contender.partition("-")
    with tempfile.TemporaryDirectory() as place:
        if kind == "ours":
            return asyncio.run(_ours(given, Path(place), int(length)))
        if kind == "peft":
            return _peft(given, Path(place), grouped=length == "grouped")
        made = {"plain": _plain, "baked": _baked, "lora": _lora}[kind]
        return _on_vllm(given, Path(place), made(given, Path(place), load_backbone(MODEL)))


def _traffic(given: argparse.Namespace, backbone: Backbone, requests: int) -> list[list[traffic.Ask]]:
    """The passes, then one that warms up, one asked one by one, and one during which a task is added.

    `requests`: how many of a pass this contender gets; they are the first of those that all get.
    """
    asked = traffic.passes(
        backbone, count=given.passes + 3, requests=given.requests, tasks=given.tasks, tokens=given.text_tokens
    )
    return [
        *(one[:requests] for one in asked[: given.passes]),
        asked[-3][: 2 * given.tasks],
        asked[-2][: given.alone],
        asked[-1],
    ]


# --- in process ------------------------------------------------------------------------------------------------------


async def _ours(given: argparse.Namespace, place: Path, length: int) -> dict[str, Any]:
    plain = load_backbone(MODEL)
    files = random_tasks(plain, place, given.tasks + 1, length=length, limit=given.new)
    engine = TransformersEngine(
        Endless(**{field.name: getattr(plain, field.name) for field in fields(plain)}), BatchLimits(rows=given.rows)
    )
    *first, (extra, last) = files.items()
    tasks = [await engine.add(name, file) for name, file in first]
    *passes, warm, alone, adding = _traffic(given, plain, given.requests)
    await _stream_all(engine, tasks, warm, given.new)
    found = {"passes": [await _stream_all(engine, tasks, asked, given.new) for asked in passes]}
    found["alone"] = [await _stream_all(engine, tasks, [asked], given.new) for asked in alone]
    running = asyncio.create_task(_stream_all(engine, tasks, adding, given.new))
    await asyncio.sleep(0.05)  # all are under way
    began = time.perf_counter()
    await engine.add(extra, last)
    seconds = time.perf_counter() - began
    done = await running
    await engine.close()
    return found | {"adding": done | {"add_seconds": seconds}, "bytes": _prompt_bytes(place, last)}


async def _stream_all(
    engine: TransformersEngine, tasks: Sequence[ServedTask], asked: Sequence[traffic.Ask], new: int
) -> dict[str, Any]:
    began = time.perf_counter()

    async def one(ask: traffic.Ask) -> tuple[float, float, str]:
        first, text = 0.0, ""
        async for piece in engine.generate(Question(tasks[ask.task], ask.source, limit=new)):
            first = first or time.perf_counter() - began
            text += piece.text
        return first, time.perf_counter() - began, text

    said = await asyncio.gather(*(one(ask) for ask in asked))
    return {
        "seconds": time.perf_counter() - began,
        "first": [first for first, _, _ in said],
        "last": [last for _, last, _ in said],
        "texts": [text.strip() for _, _, text in said],
    }


def _peft(given: argparse.Namespace, place: Path, *, grouped: bool) -> dict[str, Any]:
    backbone = load_backbone(MODEL)
    folders = random_adapters(backbone, place, given.tasks + 1, rank=given.rank)
    peft = Peft(backbone, folders[:-1], given.new)
    *passes, warm, alone, adding = _traffic(given, backbone, given.requests if grouped else given.slow_requests)
    run: Callable[[Sequence[traffic.Ask]], dict[str, Any]] = peft.by_adapter if grouped else peft.one_by_one
    run(warm[:2])
    found: dict[str, Any] = {"passes": [run(asked) for asked in (passes if grouped else passes[:1])]}
    found["alone"] = [peft.one_by_one([ask]) for ask in alone]
    began = time.perf_counter()
    peft.add(folders[-1])
    seconds = time.perf_counter() - began  # between two requests: nothing else can run meanwhile
    found["adding"] = run(adding[:2]) | {"add_seconds": seconds}
    return found | {"bytes": folder_bytes(folders[-1])}


# --- on vLLM ---------------------------------------------------------------------------------------------------------

Made = tuple[dict[str, Any], Callable[[traffic.Ask], dict[str, Any]], int | dict[str, int]]
"""The job but for its requests, how a request is written, and bytes per task (of its tensors, of its files)."""


def _plain(given: argparse.Namespace, place: Path, backbone: Backbone) -> Made:
    folder, _ = model_folder(MODEL)
    job: dict[str, Any] = {"model": str(folder), "options": {}, "loras": [], "added": None}
    return job, lambda ask: {"ids": traffic.plain_ids(backbone, ask)}, 0


def _baked(given: argparse.Namespace, place: Path, backbone: Backbone) -> Made:
    length = int(given.contender.partition("-")[2])
    files = random_tasks(backbone, place, given.tasks + 1, length=length, limit=given.new)
    *first, (extra, last) = files.items()
    folder = place / "model"
    paths = [place / f"{name}.safetensors" for name, _ in first]
    baking.bake(paths, folder, backbone=MODEL, room=(given.tasks + 1) * length)
    baked = open_baked(folder)
    names = [name for name, _ in first]
    write = lambda ask: {"ids": baked.ids(names[ask.task], ask.source)}  # noqa: E731
    job: dict[str, Any] = {"model": str(folder), "options": {}, "loras": [], "added": "weights"}
    return job | {"before": lambda: baking.add_prompt(folder, extra, last)}, write, _prompt_bytes(place, last)


def _lora(given: argparse.Namespace, place: Path, backbone: Backbone) -> Made:
    folders = random_adapters(backbone, place, given.tasks + 1, rank=given.rank)
    options: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": given.tasks,
        "max_cpu_loras": given.tasks + 1,
        "max_lora_rank": given.rank,
    }
    folder, _ = model_folder(MODEL)
    job: dict[str, Any] = {
        "model": str(folder),
        "options": options,
        "loras": [str(one) for one in folders[:-1]],
        "added": str(folders[-1]),
    }
    return job, lambda ask: {"ids": traffic.plain_ids(backbone, ask), "lora": ask.task}, folder_bytes(folders[-1])


def _on_vllm(given: argparse.Namespace, place: Path, made: Made) -> dict[str, Any]:
    job, write, count = made
    backbone = load_backbone(MODEL)
    slow = given.contender == "lora"
    *passes, warm, alone, adding = _traffic(given, backbone, given.requests)
    if slow:
        passes, adding = passes[:1], adding[: 2 * given.tasks]
    before = job.pop("before", None)
    job |= {"rows": given.rows, "context": 1024, "new": given.new}
    job |= {"passes": [[write(ask) for ask in asked] for asked in passes]}
    job |= {
        name: [write(ask) for ask in asked] for name, asked in (("warm", warm), ("alone", alone), ("adding", adding))
    }
    began = time.perf_counter()
    if before is not None:
        before()  # the rows of the task that is added; the engine is told to read its files again while it answers
    seconds = time.perf_counter() - began
    found = _run_side(given, place, job)
    for one in (*found["passes"], *found["alone"], found["adding"]):
        ids = one.pop("ids")
        one["texts"] = [backbone.tokenizer.decode(said, skip_special_tokens=True).strip() for said in ids]
    if job["added"]:
        found["adding"]["add_seconds"] += seconds
    return found | {"bytes": count}


def _run_side(given: argparse.Namespace, place: Path, job: dict[str, Any]) -> dict[str, Any]:
    """The measurement in vLLM's own environment, with as many threads as everybody, and without a second process."""
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    own |= {"OMP_NUM_THREADS": str(given.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(given.vllm_python), str(SIDE), str(place / "job.json"), str(place / "result.json")]
    done = subprocess.run(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"vLLM ended with {done.returncode}\n{done.stdout[-4000:]}")
    found: dict[str, Any] = json.loads((place / "result.json").read_text(encoding="utf-8"))
    return found


def _prompt_bytes(place: Path, file: TaskPrompt) -> dict[str, int]:
    values = file.prompt.numel() * file.prompt.element_size()
    return {"values": values, "files": (place / f"{file.task.name}.safetensors").stat().st_size}
