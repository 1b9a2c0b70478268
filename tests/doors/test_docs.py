"""The examples of docs/doors.md are what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clinprompt.doors.fhir_mapping import load_mapping

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "doors.md").read_text(encoding="utf-8")


def test_the_python_example_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "doors.fhir" in block)
    exec(compile(code, "docs/doors.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = PAGE.split("prints, shortened")[1].split("```text\n")[1].split("```")[0]
    assert printed.strip().splitlines()[-1] == shown.strip().splitlines()[-1]
    assert set(re.findall(r'"[^"\n]+"', shown)) <= set(re.findall(r'"[^"\n]+"', printed))


def test_the_mapping_example_is_one(tmp_path: Path) -> None:
    block = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0]
    (tmp_path / "mapping.yaml").write_text(block)
    mapping = load_mapping(tmp_path / "mapping.yaml")
    assert mapping.resource("Chief complaint") == "Observation" and mapping.resource("procedure") is None
