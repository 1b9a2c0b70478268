"""llama.cpp from the package index: `python llamacpp_environment.py FOLDER`; does nothing if it is there.

FOLDER becomes a virtual environment with `xllamacpp` (a wheel with llama.cpp and its server inside) and gets
`llama.cpp/`: the converter, as it lies in the source archive of `llama-cpp-python`, of which nothing is built.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path, PurePosixPath

BINDING = "xllamacpp==2026.10.11549"
SOURCE = "llama-cpp-python==0.3.36"
PARTS = ("convert_hf_to_gguf.py", "conversion", "gguf-py", "LICENSE")


def main(folder: Path) -> None:
    python, done = folder / "bin" / "python", folder / f".{BINDING}-{SOURCE}"
    if done.is_file():
        return
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", BINDING], check=True)
    only_source = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*pip, "download", *only_source, SOURCE], check=True)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    unpack(archive, folder / "llama.cpp")
    archive.unlink()
    done.touch()


def unpack(archive: Path, out: Path) -> None:
    """The converter's parts of NAME/vendor/llama.cpp/… → out."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with tarfile.open(archive) as source:
        for member in source:
            place = PurePosixPath(member.name).parts[1:]
            if place[:2] == ("vendor", "llama.cpp") and len(place) > 2 and place[2] in PARTS:
                member.name = str(PurePosixPath(*place[2:]))
                source.extract(member, out, filter="data")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
