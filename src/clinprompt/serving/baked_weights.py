"""The weights of a baked model as safetensors files, read and written without loading the model.

    model-body-….safetensors    everything but the two vocabulary tables: the backbone's own bytes, written once
    model-embedding.safetensors (V + R, d): the backbone's V rows, then R rows for prompts, zero while free
    model-head.safetensors      (V + R, d): the backbone's V rows, then R times their mean; its bias, if it has one

A prompt that is added or removed is l·d numbers written in place into the embedding file, at rows that no token
refers to at that moment; no other tensor changes. The head is always stored on its own, also for backbones that tie it
to the embeddings, because the rows of prompts must differ there.

Why the mean: with h the final hidden state and w_i the backbone's head rows, the logit of a new token is
mean_i(w_i·h) ≤ max_i(w_i·h), with equality only if all logits are equal. So greedy decoding never chooses it, whatever
h is. By Jensen's inequality its probability is at most the mean probability of a backbone token, below 1/V. A row with
probability zero for every h does not exist in a head without bias: −h turns the smallest logit into the largest.
A head with a bias (Phi) gets a bias of −10,000 for the new tokens, too, which leaves them no probability.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from clinprompt.errors import ArtifactError, BackboneError

INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "model-embedding.safetensors", "model-head.safetensors"
BLOCK = 1 << 22
NEVER = -1e4  # bias of a new token: exp of it is 0, and sums with it are numbers in 16 bits as well


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes lie in its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def places(path: Path) -> dict[str, Place]:
    """The tensors of a safetensors file, in the order of their bytes."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    start = 8 + size
    found = {
        name: Place(
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            start + entry["data_offsets"][1],
        )
        for name, entry in header.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].begin))


def shards(folder: Path) -> dict[str, Path]:
    """Tensor name → file, of a Hugging Face model folder."""
    index = folder / INDEX
    if index.is_file():
        mapping: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in mapping.items()}
    return {name: path for path in sorted(folder.glob("model*.safetensors")) for name in places(path)}


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a file."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def find(parameter: str, base_prefix: str, known: dict[str, Path]) -> str | None:
    """The checkpoint's name for a parameter of the model, with or without the prefix of the base model."""
    for name in (parameter, parameter.removeprefix(f"{base_prefix}."), f"{base_prefix}.{parameter}"):
        if name in known:
            return name
    return None


def write_body(source: Path, known: dict[str, Path], without: set[str], out: Path) -> dict[str, str]:
    """The backbone's shards without some tensors; returns tensor → file name. A shard that keeps all its tensors is
    hard-linked where the file system allows."""
    files = sorted(set(known.values()))
    weight_map: dict[str, str] = {}
    for number, path in enumerate(files, start=1):
        kept = [name for name in places(path) if name not in without and known.get(name) == path]
        if not kept:
            continue
        name = f"model-body-{number:05d}-of-{len(files):05d}.safetensors"
        if len(kept) == len(places(path)):
            _link(path.resolve(), out / name)
        else:
            _copy_tensors(path, out / name, kept)
        weight_map |= dict.fromkeys(kept, name)
    return weight_map


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _copy_tensors(source: Path, target: Path, kept: list[str]) -> None:
    """Some tensors of a file as they are, whatever their type, in blocks."""
    found, offset, header = places(source), 0, {}
    for name in kept:
        size = found[name].end - found[name].begin
        shape = list(found[name].shape)
        header[name] = {"dtype": found[name].dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with source.open("rb") as read, target.open("wb") as write:
        write.write(struct.pack("<Q", len(raw)) + raw)
        for name in kept:
            read.seek(found[name].begin)
            left = found[name].end - found[name].begin
            while left:
                block = read.read(min(BLOCK, left))
                if not block:
                    raise BackboneError(f"{source}: shorter than its header says; download it again.")
                write.write(block)
                left -= len(block)


def write_tables(
    out: Path,
    embedding: tuple[str, Tensor],
    head: tuple[str, Tensor],
    room: int,
    dtype: torch.dtype,
    biases: dict[str, Tensor],
) -> None:
    """Both vocabulary tables with `room` more rows, and the head's bias (V,), where it has one, with as many more."""
    name, table = embedding
    spare = torch.zeros(room, table.shape[1], dtype=dtype)
    _save(out / EMBEDDING, {name: torch.cat([table.to(dtype), spare])})
    name, table = head
    tensors = {name: torch.cat([table.to(dtype), unreachable(table, room, dtype)])}
    for name, bias in biases.items():
        tensors[name] = torch.cat([bias.to(dtype), torch.full((room,), NEVER, dtype=dtype)])
    _save(out / HEAD, tensors)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    # Not `save_file`: it makes files that only their owner may read, and a model is shared.
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def unreachable(table: Tensor, room: int, dtype: torch.dtype) -> Tensor:
    """(V, d) head → (room, d) rows whose logit no hidden state makes the largest; see the module's head."""
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for begin in range(0, len(table), 8192):  # a large table is not held twice
        total += table[begin : begin + 8192].to(torch.float64).sum(dim=0)
    return (total / len(table)).to(dtype).expand(room, -1).contiguous()


def write_rows(path: Path, name: str, ids: tuple[int, ...], rows: Tensor) -> bytes:
    """Write rows (n, d) of a stored table in place and flush them; returns their bytes."""
    place = places(path)[name]
    width = (place.end - place.begin) // place.shape[0]
    raw = raw_bytes(rows)
    if len(raw) != width * len(ids):
        raise ArtifactError(f"{path}: a row has {width} bytes, but {len(raw) // max(1, len(ids))} were to be written.")
    with path.open("r+b") as file:
        for number, index in enumerate(ids):
            file.seek(place.begin + index * width)
            file.write(raw[number * width : (number + 1) * width])
        file.flush()
        os.fsync(file.fileno())
    return raw


def read_rows(path: Path, name: str, ids: tuple[int, ...]) -> Tensor:
    """(n, d) rows of a stored table, without reading the others."""
    with safe_open(path, framework="pt") as file:
        table = file.get_slice(name)
        return torch.cat([table[index : index + 1] for index in ids])


def raw_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor as safetensors stores them."""
    return bytes(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
