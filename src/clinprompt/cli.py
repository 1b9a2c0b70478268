"""The command line: verbs, exit codes, and what a user sees when something goes wrong.

Exit codes: 0 done; 2 an error that the user can act on (its message, no traceback); 130 interrupted; 1 a defect of
ours. The message of an unexpected error may quote data, so only its type and place are shown.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from clinprompt.commands import (
    adapt,
    bake,
    benchmark,
    data,
    demo,
    drift,
    evaluate,
    inspect,
    learn,
    predict,
    report,
    search,
    serve,
)
from clinprompt.errors import ClinpromptError
from clinprompt.version import __version__

RESUMABLE = ("learn", "adapt", "search", "demo", "data", "benchmark")
TRACEBACK_VARIABLE = "CLINPROMPT_TRACEBACK"
USAGE_ERRORS = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Verbs(TyperGroup):
    """The group of all verbs; turns exceptions into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. What goes wrong becomes a line on standard error and the exit code of the error's kind; of a
        defect the places in the code are told and not the message, which may quote a note (CLINPROMPT_TRACEBACK).
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            again = " The same command continues where it stopped." if ctx.invoked_subcommand in RESUMABLE else ""
            _complain(f"Interrupted.{again}")
            raise typer.Exit(130) from None
        except ClinpromptError as error:
            _complain(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            if isinstance(error, USAGE_ERRORS):
                raise
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            if isinstance(error, OSError) and error.filename is not None:
                _complain(f"error: {error.filename}: {error.strerror}.")
                raise typer.Exit(2) from None
            _complain(_defect(error))
            raise typer.Exit(1) from None


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def _defect(error: Exception) -> str:
    """Type and place of an unexpected error. Its message is left out: it may hold the text of a note."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-6:]]
    return "\n".join(
        [
            f"internal error: {type(error).__name__}. This is a defect of clinprompt; please report these lines:",
            *places,
            f"The message is not shown because it may quote a note; set {TRACEBACK_VARIABLE}=1 to see everything.",
        ]
    )


app = typer.Typer(
    name="clinprompt",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    add_completion=False,
    help="One frozen language model for every clinical NLP task, at kilobytes per task.",
    epilog="Start with: clinprompt demo. Each verb explains itself: clinprompt adapt --help.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"clinprompt {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """One frozen language model for every clinical NLP task, at kilobytes per task."""


app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.command("learn")(learn.learn)
app.command("adapt")(adapt.adapt)
app.command("search")(search.search)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("inspect")(inspect.inspect)
app.command("benchmark")(benchmark.benchmark)
app.command("report")(report.report)
app.command("drift")(drift.drift)
app.command("bake")(bake.bake)
app.command("serve")(serve.serve)
app.command("serve-key")(serve.serve_key)


def main() -> None:
    """Entry point of the program `clinprompt`."""
    app()
