"""A baked model folder, opened: requests for its tasks as token ids and as text, and a check of its files.

Nothing here reads the model's weights, so a client of a serving engine needs no memory for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.fingerprint import folder_fingerprint
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.evaluation.predict import DEFAULT_ANSWER_LIMIT
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.records import Record
from clinprompt.serving import baked_tokens as tokens
from clinprompt.serving import baked_weights as weights
from clinprompt.serving.baked_manifest import Manifest, Template, note, read_manifest
from clinprompt.tasks.codec import Codec
from clinprompt.tasks.registry import blind
from clinprompt.training.examples import task_codec

GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to any engine: token ids, and the same as text (None where no text gives these tokens).

    `add_special_tokens` is the engine's option for `prompt`. `choices`: the answers to compare; empty: generate at
    most `max_tokens`, greedily.
    """

    task: str
    record: str
    ids: list[int]
    prompt: str | None
    add_special_tokens: bool
    max_tokens: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baked:
    """A baked folder, opened: its manifest, and the backbone's tokenizer, configuration and preset without weights.

    `reader`: the tokenizer as the engine applies it to a request's text; that of `text` but for some GGUF files.
    """

    folder: Path
    manifest: Manifest
    text: Backbone
    reader: Any

    def ids(self, name: str, source: str) -> list[int]:
        """Token ids of the request for a source (what a codec renders). Control tokens in it stay text."""
        task = self.manifest.task(name)
        plain = encode(self.text, [source], None, task.card.position)[0]
        place = int(plain.insert_at)
        return [*plain.ids[:place].tolist(), *task.ids, *plain.ids[place:].tolist()]

    def prompt(self, name: str, source: str) -> str:
        """The same request as text, to be tokenised with the task's `add_special_tokens`.

        Raises ArtifactError when no text gives these tokens, for example because the source spells a control token.
        """
        text = self._as_text(name, source)
        if text is not None:
            return text
        raise ArtifactError(
            f"task {name}: this request cannot be written as text (the tokenizer would read it differently, for "
            "example because the note spells a control token). Send it as token ids."
        )

    def _as_text(self, name: str, source: str) -> str | None:
        template = self.manifest.task(name).template
        if template is None:
            return None
        text = tokens.filled(template, source)
        read = tokens.ids_of_text(self.reader, text, self._special(template))
        return text if read == self.ids(name, source) else None

    def _special(self, template: Template | None) -> bool:
        """llama.cpp puts its special tokens around every text; other engines may be told not to."""
        return self.manifest.gguf is not None or template is None or template.add_special_tokens

    def requests(self, name: str, record: Record) -> list[Request]:
        """The requests for a record, one for each window or candidate pair, as its codec renders them."""
        task = self.manifest.task(name)
        found = []
        for example in self.codec(name).render(blind(task.card.tasks[0], record)):
            prompt = self._as_text(name, example.source)
            ids, special = self.ids(name, example.source), self._special(task.template)
            found.append(Request(name, record.id, ids, prompt, special, self.limit(name), example.choices))
        return found

    def limit(self, name: str) -> int:
        """Most tokens of an answer."""
        card = self.manifest.task(name).card
        return card.answer_limit[0] if card.answer_limit else DEFAULT_ANSWER_LIMIT

    def file(self, name: str) -> TaskPrompt:
        """The task as a task file holds it; its prompt in the precision it was baked in."""
        return TaskPrompt({"prompt": self.rows(name)}, self.manifest.task(name).card)

    def codec(self, name: str) -> Codec:
        """How records of a task become sources, and answers become records again."""
        card = self.manifest.task(name).card
        reserve, window = int(card.settings.get("target_reserve", 256)), card.settings.get("window")
        return task_codec(self.text, card.tasks[0], len(self.manifest.task(name).ids), reserve, window)

    def rows(self, name: str) -> Tensor:
        """(l, d) prompt as the model puts it before its layers, in fp32."""
        return self.stored(name).to(torch.float32) * self.manifest.tables.scale

    def stored(self, name: str) -> Tensor:
        """(l, d) rows of the embedding table, as `bake.as_stored` made them."""
        tables = self.manifest.tables
        return weights.read_rows(self.folder / tables.embedding_file, tables.embedding, self.manifest.task(name).ids)


def open_baked(folder: Path) -> Baked:
    """Open a baked folder; no weights are read."""
    manifest = read_manifest(folder)
    text = text_side(folder, manifest.preset, manifest.backbone.name, manifest.backbone.fingerprint)
    foreign = manifest.gguf is not None and manifest.gguf.splitting == "gpt-2"
    return Baked(folder, manifest, text, tokens.split_like_gpt2(text.tokenizer) if foreign else text.tokenizer)


def text_side(folder: Path, preset: BackbonePreset, name: str, fingerprint: str = "") -> Backbone:
    """A backbone of which only tokenizer and configuration are read: it can write requests, not answer them."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise BackboneError(
                f"{folder}: an encoder-decoder model. Baking is for decoder-only models: T5-type models are not served "
                "by the engines it is made for; use them in process."
            )
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        if (folder / GENERATION).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(f"{folder}: cannot read this model's configuration: {error}") from error
    known = fingerprint or folder_fingerprint(folder, tokenizer)
    return Backbone(name, model, tokenizer, preset, known, "causal", model.get_output_embeddings())


def check(folder: Path) -> list[str]:
    """What is wrong with the files of a baked model, by size and hash; empty if nothing is."""
    manifest = read_manifest(folder)
    tables, problems = manifest.tables, []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif note(path) != expected:
            problems.append(f"{name}: not as it was written (size or hash differs)")
    if manifest.gguf is not None:
        model = folder.parent / manifest.gguf.file
        if not model.is_file() or note(model) != manifest.gguf.note:
            problems.append(f"{model.name}: {'not as it was written' if model.is_file() else 'missing'}")
        return problems
    path = folder / tables.embedding_file
    if not path.is_file():
        return [*problems, f"{path.name}: missing"]
    if note(path, tables.prefix.bytes) != tables.prefix:
        problems.append(f"{path.name}: the backbone's rows are not as they were written")
    for task in manifest.tasks:
        rows = weights.read_rows(path, tables.embedding, task.ids)
        if hashlib.sha256(weights.raw_bytes(rows)).hexdigest() != task.rows:
            problems.append(f"{path.name}: the rows of task {task.name} are not as they were written")
    return problems
