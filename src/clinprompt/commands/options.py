"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.errors import TrainingError

if TYPE_CHECKING:
    from clinprompt.backbone.model import Backbone

MODEL = "Base model"
RUN = "Output"

BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="embedded, a preset (llama-3.1-8b, …), a Hugging Face name, or a folder. Default: the artifact's own, "
        "else embedded.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16; default: the preset's.", rich_help_panel=MODEL, show_default=False),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, or auto to spread a large model.", rich_help_panel=MODEL, show_default=False),
]
Quantise = Annotated[
    str | None, typer.Option(help="4bit: load weights in 4 bits (extra: quantise).", rich_help_panel=MODEL)
]
Autocast = Annotated[
    bool, typer.Option("--autocast", help="Compute in bfloat16 whatever the weights are.", rich_help_panel=MODEL)
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the public corpora (or CLINPROMPT_DATA).", show_default=False),
]
Seed = Annotated[int, typer.Option(help="Every random choice hangs on it.")]
Config = Annotated[Path | None, typer.Option(help="YAML with settings; options override it.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no remarks.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and what it costs; train nothing.", rich_help_panel=RUN)
]
FlopRate = Annotated[
    float | None,
    typer.Option(
        "--flops-per-second",
        help="With --dry-run: the rate to count time by; default: measured in a short calibration.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
Metaprompts = Annotated[
    list[Path] | None,
    typer.Option("--metaprompt", help="Where to look for the metaprompt of a file that holds task vectors only."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        "--task",
        help="Which source task of a metaprompt, or which task of a multi-task adapter, is meant.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class ModelChoice:
    """How the base model is to be loaded."""

    name: str | None
    dtype: str | None = None
    device: str | None = None
    quantise: str | None = None
    autocast: bool = False

    def load(self, default: str) -> Backbone:
        """The backbone; `default` where no name was given."""
        from clinprompt.backbone.model import load_backbone

        return load_backbone(**self.arguments(default))

    def in_numerics(self, recorded: Mapping[str, Any]) -> ModelChoice:
        """This choice in the precision of a recorded run (`Backbone.numerics`), unless a precision was given."""
        if self.dtype or self.quantise or self.autocast or not recorded:
            return self
        return replace(self, **recorded)

    def arguments(self, default: str) -> dict[str, Any]:
        """The arguments of `load_backbone`, for a process that loads it elsewhere."""
        if self.quantise not in (None, "4bit"):
            raise TrainingError(f"--quantise {self.quantise}: only 4bit is known.")
        return {
            "name": self.name or default,
            "dtype": self.dtype,
            "device": self.device,
            "quantise": self.quantise,
            "autocast": self.autocast,
        }
