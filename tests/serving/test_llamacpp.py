"""Real llama.cpp with a GGUF file: reads requests as we do, answers as the soft prompts do, never says a new token.

Needs llama.cpp in an environment of its own: `make test-llamacpp` makes one and runs these tests.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.corpora.sample.suite import sample_suite
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_task
from clinprompt.serving.baked import Baked, open_baked
from clinprompt.serving.baked_tokens import ids_of_text
from clinprompt.serving.gguf import bake_gguf, requests_folder
from clinprompt.serving.vllm_server import free_port
from tests.serving.baking import SOURCES, loaded, save_model, save_tasks, soft_answers
from tests.serving.taskfiles import packaged_tasks
from tests.serving.world import wait_until

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(900)]
PYTHON_VARIABLE = "CLINPROMPT_LLAMACPP_PYTHON"
LIMIT = 24
UNLIKE = "Pain at the 5'terminal end."  # GPT-2 splits off 't
STRANGE = (
    *(
        "don't, 'll and d'une",
        "m² ½ dose Ⅳ ①",
        "a  \n  b\t\tc \u00a0d\u2009e",
        "αβγ µg 37.5 °C ≥10⁹/L",
        "\r\n x\r\n\r\n",
    ),
    *("naïve 漢字 한국어 🙂", "   ", "x   ", "٣ ٤", "<|task:bc5cdr:0|> <|eos|> </s> [PAD8510]", "\u200d\u0301\ufeff"),
)


@dataclass
class World:
    url: str
    baked: Baked
    backbone: Backbone
    files: dict[str, TaskPrompt]

    def ask(self, prompt: list[int] | str, **request: Any) -> dict[str, Any]:
        body = {"prompt": prompt, "n_predict": LIMIT, "return_tokens": True} | request
        answer = httpx.post(f"{self.url}/completion", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def say(self, prompt: list[int] | str, **request: Any) -> list[int]:
        """Token ids of an answer without its end; greedy unless `request` says otherwise."""
        ids = self.ask(prompt, **{"temperature": 0} | request)["tokens"]
        return ids[:-1] if ids and ids[-1] in self.backbone.end_ids else list(ids)

    def read(self, text: str) -> list[int]:
        """How llama.cpp reads the text of a request."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return list(httpx.post(f"{self.url}/tokenize", json=body, timeout=60).json()["tokens"])


@contextmanager
def served(place: Path, backbone: Backbone, paths: list[Path], name: str) -> Iterator[World]:
    """These task files as a GGUF file in a llama.cpp server."""
    python, out = os.environ.get(PYTHON_VARIABLE), place / "model.gguf"
    if not python:
        pytest.skip(
            f"needs llama.cpp in an environment of its own: run `make test-llamacpp` (or set {PYTHON_VARIABLE})"
        )
    assert bake_gguf(paths, out, llama_cpp=Path(python).parents[1] / "llama.cpp", backbone=name) == "gpt-2"
    port, log = free_port(), place / "llama.log"
    command = [python, str(Path(__file__).with_name("llamacpp_side.py")), str(out), str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sink, stderr=sink)
    try:
        wait_until(lambda: process.poll() is not None or ready(port), 120)
        assert process.poll() is None, log.read_text()[-2000:]
        files = {path.stem: load_task(path) for path in paths}
        yield World(f"http://127.0.0.1:{port}", open_baked(requests_folder(out)), backbone, files)
    finally:
        process.communicate(timeout=60)  # closes its standard input, at which it ends


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Ten tasks of the packaged metaprompt on the embedded backbone."""
    backbone, place = load_backbone("embedded"), tmp_path_factory.mktemp("llamacpp")
    chosen = list(packaged_tasks(backbone).items())[:10]
    for name, file in chosen:
        save_task(file, place / f"{name}.safetensors")
    with served(place, backbone, [place / f"{name}.safetensors" for name, _ in chosen], "embedded") as found:
        yield found


def notes(count: int) -> list[str]:
    """Synthetic notes, short enough for an answer to follow."""
    return [data.splits["test"][0].text[:400] for data in sample_suite(train=8, validation=4, test=4)[:count]]


def test_ten_tasks_in_mixed_batches_are_token_for_token_the_soft_prompts(world: World) -> None:
    # With the cue an answer is short, without it the text goes on.
    sources = [f"Text: {note}{cue}" for note in notes(6) for cue in ("\nAnswer:", "")]
    asked = [(name, source) for source in sources for name in world.files]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda one: world.say(world.baked.ids(*one)), asked))
    found = dict(zip(asked, said, strict=True))
    answers = set()
    for name, file in world.files.items():
        expected = soft_answers(world.backbone, file.prompt, file.card.position, LIMIT, sources)
        for source, ids in zip(sources, expected, strict=True):
            assert found[name, source] == ids
            answers.add(tuple(ids))
    assert len(found) == 120 and len(answers) >= 12 and sum(map(len, answers)) >= 200  # worth comparing
    for name, source in asked[:20]:
        assert world.say(world.baked.prompt(name, source)) == found[name, source]  # the same request as text


def test_the_text_of_a_request_is_read_as_its_token_ids(world: World) -> None:
    texts = [record.text for data in sample_suite(train=8, validation=4, test=4) for record in data.splits["train"]]
    given_as_text = 0
    for text in [*texts, *STRANGE]:
        try:
            written = world.baked.prompt("bc5cdr", text)
        except ArtifactError:
            assert text in STRANGE  # every ordinary note can be sent as text
            continue
        given_as_text += 1
        assert world.read(written) == world.baked.ids("bc5cdr", text)
    assert given_as_text >= len(texts) + len(STRANGE) - 2
    tokens = world.baked.manifest.task("bc5cdr").tokens
    with pytest.raises(ArtifactError, match="token ids"):
        world.baked.prompt("bc5cdr", UNLIKE)
    assert world.read("".join(tokens) + UNLIKE) != world.baked.ids("bc5cdr", UNLIKE)  # rightly not given


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("stremvld aZ'’0½²٣,.-(\n\t \r\u00a0\u2028é漢🙂"), max_size=40))
def test_what_llama_cpp_reads_is_known_beforehand(world: World, text: str) -> None:
    assert world.read(text) == ids_of_text(world.baked.reader, text, True)


def test_new_tokens_cannot_be_said_however_it_is_sampled(world: World) -> None:
    first = world.baked.manifest.tables.rows
    open_ = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "n_predict": 250, "ignore_eos": True}
    # So hot that all 8,512 rows are almost equally likely: of 2,000 tokens about 75 would be new ones.
    ids = world.baked.ids("bc5cdr", "Text: a note.\nAnswer:")
    said = [world.say(ids, temperature=1000.0, seed=seed, **open_) for seed in range(8)]
    assert sum(map(len, said)) == 2000 and len({one for ids in said for one in ids}) > 1000
    assert max(map(max, said)) < first
    [place] = world.ask(ids, n_predict=1, n_probs=first + 400, temperature=0)["completion_probabilities"]
    logits = {one["id"]: one["logprob"] for one in place["top_logprobs"]}
    mean = sum(logits[index] for index in range(first)) / first
    for index in range(first, first + world.baked.manifest.tables.room):  # before sampling: the mean of all others
        assert math.isclose(logits[index], mean, abs_tol=1e-3)


def test_a_request_that_asks_for_nothing_is_answered_greedily(world: World) -> None:
    for name in list(world.files)[:3]:
        ids = world.baked.ids(name, f"Text: {notes(1)[0]}")
        assert world.say(ids, temperature=1.5, seed=7) == world.say(ids)


def test_a_model_that_begins_with_a_special_token(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", bos=True, vocab_size=260)
    raw = json.loads((base / "tokenizer.json").read_text())
    raw["model"] |= {"vocab": raw["model"]["vocab"] | {"he": 259}, "merges": [["h", "e"]]}  # llama.cpp wants merges
    (base / "tokenizer.json").write_text(json.dumps(raw))
    backbone = loaded(base)
    paths = save_tasks(tmp_path / "tasks", backbone, ("one", "two"))
    with served(tmp_path, backbone, paths, str(base)) as world:
        for name, file in world.files.items():
            expected = soft_answers(backbone, file.prompt, "start", LIMIT)
            for source, ids in zip(SOURCES, expected, strict=True):
                assert world.read(world.baked.prompt(name, source)) == world.baked.ids(name, source)
                assert world.say(world.baked.ids(name, source)) == ids
