"""
The command line: one thin function a command.

Exit codes: 0 all is well, 1 a gate failed, 2 bad input.
"""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from ..errors import Effd0Error
from ..progress import STDERR
from ..timing import let_threads_sleep
from . import atc, benchmark, bisect, build, files, page, run, runs, setup

GATE_FAILED, BAD_INPUT = 1, 2

app = typer.Typer(
    name="effd0",
    help="Validate and benchmark EfficientDet-D0 builds. What is not given is the embedded "
    "default: drawn scenes and a checkpoint trained on such scenes.",
    epilog="Exit codes: 0 all is well, 1 a gate failed, 2 bad input.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, panel in (
    (run.evaluate, "Run"),
    (run.detect, "Run"),
    (run.preprocess, "Run"),
    (files.infer, "Run"),
    (files.postprocess, "Run"),
    (bisect.bisect, "Run"),
    (benchmark.benchmark, "Run"),
    (runs.merge, "Judge"),
    (runs.compare, "Judge"),
    (page.report, "Judge"),
    (build.export, "Build"),
    (build.simplify, "Build"),
    (build.modify, "Build"),
    (atc.compile, "Build"),
    (setup.doctor, "Set up"),
    (setup.fetch, "Set up"),
):
    app.command(rich_help_panel=panel)(command)


def main() -> None:
    """Run the command line; known failures are one message and exit code 2."""
    if sys.argv[1:2] != ["benchmark"]:  # which takes torch as its users do
        let_threads_sleep()
    try:
        app()
    except Effd0Error as error:
        message = f"[bold red]{type(error).__name__}:[/] {escape(str(error))}"
        STDERR.print(message, soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            STDERR.print(escape(note), soft_wrap=True)
        sys.exit(BAD_INPUT)
