"""A baked model as one GGUF file for llama.cpp and Ollama, by llama.cpp's own converter.

The converter is run as a program from a copy of llama.cpp (its `convert_hf_to_gguf.py` with `conversion/` and
`gguf-py/`). Two things are put into what it does. llama.cpp knows tokenizers' rules for words by name and the converter
finds the name by a hash; a tokenizer it does not know (the embedded model's) is written as GPT-2's. And the new tokens
are listed in `tokenizer.ggml.suppress_tokens`: llama.cpp sets their logits to minus infinity, however it samples.

Beside the file lies a folder (`MODEL.requests`) with what requests are made from: manifest, tokenizer, configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.serving import bake as baking
from clinprompt.serving.baked_manifest import GgufNote, Manifest, note, read_manifest, write_manifest

CONVERTER = "convert_hf_to_gguf.py"
FOLDER_VARIABLE = "LLAMA_CPP"
SUPPRESSED = "tokenizer.ggml.suppress_tokens"
UNKNOWN = "CLINPROMPT-TOKENIZER-UNKNOWN"
WEIGHTS = (".safetensors", ".index.json")
Splitting = Literal["own", "gpt-2"]
# Runs the converter; what is changed is said above.
_RUN = f"""
import json, runpy, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion.base import TextModel
known, prepare = TextModel.get_vocab_base_pre, TextModel.prepare_metadata
def pre(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        print("{UNKNOWN}", flush=True)
        return "gpt-2"
def prepared(self, *options, **named):
    prepare(self, *options, **named)
    if not any("{SUPPRESSED}" in part for part in self.gguf_writer.kv_data):
        settings = json.loads((self.dir_model / "generation_config.json").read_text(encoding="utf-8"))
        self.gguf_writer.add_array("{SUPPRESSED}", settings["suppress_tokens"])
TextModel.get_vocab_base_pre, TextModel.prepare_metadata = pre, prepared
sys.argv = [sys.argv[1] + "/{CONVERTER}", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bake_gguf(
    files: Sequence[Path],
    out: Path,
    *,
    llama_cpp: Path | None = None,
    backbone: str | None = None,
    dtype: str | None = None,
    room: int | None = None,
    metaprompts: Sequence[Path] = (),
) -> Splitting:
    """Task files → `out` (a .gguf file), an Ollama Modelfile and the folder of requests. Returns `convert`'s answer."""
    if out.suffix != ".gguf":
        raise ArtifactError(f"--out {out}: a GGUF model is one file; name it with .gguf.")
    if out.exists():
        raise ArtifactError(f"{out}: exists. A GGUF file cannot be changed in place; name a new one.")
    converter = find_converter(llama_cpp)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        folder = Path(place) / out.stem
        baking.bake(files, folder, backbone=backbone, dtype=dtype, room=room, metaprompts=metaprompts)
        return convert(folder, out, converter)


def find_converter(llama_cpp: Path | None = None) -> Path:
    """The converter in a copy of llama.cpp: the folder given, else the one named in LLAMA_CPP.

    Raises BackboneError telling where to get one.
    """
    named = llama_cpp or (Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None)
    if named is not None and (named / CONVERTER).is_file():
        return named / CONVERTER
    where = f"{named}: no {CONVERTER} there" if named else "no copy of llama.cpp named"
    raise BackboneError(
        f"{where}. GGUF files are written by llama.cpp's own converter: clone llama.cpp, or unpack the source archive "
        "of llama-cpp-python (vendor/llama.cpp in it), and give the folder with --llama-cpp or in LLAMA_CPP."
    )


def convert(folder: Path, out: Path, converter: Path) -> Splitting:
    """Convert a baked folder. Returns by whose rule llama.cpp will split text into words: the tokenizer's, or GPT-2's.

    Raises BackboneError with the end of what the converter said.
    """
    manifest = read_manifest(folder)
    partial = out.with_name(f".{out.stem}.partial.gguf")
    kind = {"float32": "f32", "bfloat16": "bf16"}[manifest.dtype]
    options = [str(folder), "--outfile", str(partial), "--outtype", kind]
    command = [sys.executable, "-c", _RUN, str(converter.parent.resolve()), *options]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode != 0 or not partial.is_file():
        partial.unlink(missing_ok=True)
        tail = "\n".join(run.stdout.strip().splitlines()[-6:])
        raise BackboneError(f"{converter}: could not convert {folder.name}:\n{tail}")
    splitting: Splitting = "gpt-2" if UNKNOWN in run.stdout else "own"
    _write_requests(
        folder, manifest, requests_folder(out), GgufNote(file=out.name, note=note(partial), splitting=splitting)
    )
    out.with_suffix(".Modelfile").write_text(modelfile(out, manifest), encoding="utf-8")
    partial.replace(out)
    return splitting


def requests_folder(out: Path) -> Path:
    """What lies beside a GGUF file: all of the baked folder but its weights; `open_baked` opens it."""
    return out.with_suffix(".requests")


def _write_requests(folder: Path, manifest: Manifest, requests: Path, about: GgufNote) -> None:
    kept = {name: found for name, found in manifest.files.items() if not name.endswith(WEIGHTS)}
    shutil.rmtree(requests, ignore_errors=True)
    requests.mkdir()
    for name in kept:
        shutil.copyfile(folder / name, requests / name)
    write_manifest(requests, manifest.model_copy(update={"files": kept, "gguf": about}))


def modelfile(out: Path, manifest: Manifest) -> str:
    """What Ollama needs: requests as they are (`raw`), greedy answers of the longest length a task allows."""
    longest = max((limit for task in manifest.tasks for limit in task.card.answer_limit), default=128)
    lines = (f"FROM ./{out.name}", 'TEMPLATE "{{ .Prompt }}"', "PARAMETER temperature 0", "PARAMETER top_k 1")
    return "\n".join([*lines, f"PARAMETER num_predict {longest}", ""])
