"""A baked model as one GGUF file for llama.cpp and Ollama, by llama.cpp's own converter.

The converter is run as a program from a copy of llama.cpp (its `convert_hf_to_gguf.py` with `conversion/` and
`gguf-py/`). It knows tokenizers by a hash; one it does not know (the embedded model's) is written with GPT-2's
splitting rules, which are not quite its own, so requests to that file are sent as token ids.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.serving import bake as baking
from clinprompt.serving.baked_manifest import Manifest, read_manifest

CONVERTER = "convert_hf_to_gguf.py"
FOLDER_VARIABLE = "LLAMA_CPP"
UNKNOWN = "CLINPROMPT-TOKENIZER-UNKNOWN"
# Runs the converter; the only change is what happens where it does not know the tokenizer.
_RUN = f"""
import runpy, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion.base import TextModel
known = TextModel.get_vocab_base_pre
def pre(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        print("{UNKNOWN}", flush=True)
        return "gpt-2"
TextModel.get_vocab_base_pre = pre
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
) -> bool:
    """Task files → `out` (a .gguf file) and `out`.json, the manifest. Returns `convert`'s answer."""
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


def convert(folder: Path, out: Path, converter: Path) -> bool:
    """Convert a baked folder. Returns whether the converter knows the tokenizer; if not, requests must be token ids.

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
    partial.replace(out)
    known = UNKNOWN not in run.stdout
    out.with_suffix(".json").write_text(manifest.model_dump_json(indent=1, exclude_defaults=True), encoding="utf-8")
    out.with_suffix(".Modelfile").write_text(modelfile(out, manifest), encoding="utf-8")
    return known


def modelfile(out: Path, manifest: Manifest) -> str:
    """What Ollama needs: requests as they are (`raw`), greedy answers of the longest length a task allows."""
    longest = max((limit for task in manifest.tasks for limit in task.card.answer_limit), default=128)
    lines = (f"FROM ./{out.name}", 'TEMPLATE "{{ .Prompt }}"', "PARAMETER temperature 0", "PARAMETER top_k 1")
    return "\n".join([*lines, f"PARAMETER num_predict {longest}", ""])
