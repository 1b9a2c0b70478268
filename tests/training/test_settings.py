"""Settings files: what cannot be read is named by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinprompt.errors import TrainingError
from clinprompt.training.settings import AdaptSettings, load_settings


def test_a_configuration_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_bytes("shots: 4\n# für\n".encode("latin-1"))
    with pytest.raises(TrainingError, match=f"{config}:2: not UTF-8"):
        load_settings(AdaptSettings, config)
