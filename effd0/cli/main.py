"""
The command line: ``effd0 COMMAND``, or ``python -m effd0 COMMAND``.

Exit codes: 0 all is well, 1 a gate failed, 2 bad input.
"""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from ..errors import Effd0Error
from ..progress import STDERR
from ..timing import let_threads_sleep
from . import build, judge, run, setup
from .check import check

#: Panel of the help -> its commands.
PANELS = {
    "Decide": (check,),
    "Run": (
        run.evaluate, run.detect, run.preprocess, run.infer, run.postprocess, run.score,
        judge.bisect, judge.benchmark,
    ),
    "Judge": (judge.merge, judge.compare, judge.report),
    "Build": (build.export, build.simplify, build.modify, build.compile),
    "Set up": (setup.doctor, setup.fetch, setup.init),
}  # fmt: skip
COMMANDS = {command.__name__: command for panel in PANELS.values() for command in panel}

app = typer.Typer(
    name="effd0",
    help="Validate and benchmark EfficientDet-D0 builds. Options you omit fall back to the "
    "bundled test set: 48 synthetic scenes and a D0 trained on similar ones.",
    epilog="Exit codes: 0 all is well, 1 a gate failed, 2 bad input.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def main() -> None:
    """Run the command line; known failures are one message and exit code 2."""
    if sys.argv[1:2] != ["benchmark"]:  # which runs torch as its users do
        let_threads_sleep()
    try:
        app()
    except Effd0Error as error:
        message = f"[bold red]{type(error).__name__}:[/] {escape(str(error))}"
        STDERR.print(message, soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            STDERR.print(escape(note), soft_wrap=True)
        sys.exit(2)
