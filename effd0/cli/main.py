"""
The command line: ``effd0 COMMAND``, or ``python -m effd0 COMMAND``.

Exit codes: 0 all is well, 1 a gate failed, 2 bad input, 70 a fault of effd0.
"""

import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

import typer
from rich.markup import escape

from .. import __version__
from ..errors import Effd0Error, OutputError
from ..progress import STDERR, say_once
from ..timing import let_threads_sleep
from . import build, judge, run, setup
from .check import check

#: Panel of the help -> its commands, each with an example of its options.
PANELS = {
    "Decide": {check: "mine.onnx --checkpoint d0.pth --coco coco_data --out gate"},
    "Run": {
        run.evaluate: "--root coco_data --checkpoint d0.pth --min-map 33.4",
        run.detect: "photo.jpg --checkpoint d0.pth --out boxes.jpg",
        run.preprocess: "--root coco_data --bin-save bins",
        run.infer: "--model d0_bs1.om --input bins --output out",
        run.postprocess: "--omfile out/result --root coco_data --min-map 33.4",
        run.score: "found.json --annotations coco_data/annotations/instances_val2017.json",
        judge.bisect: "--model mine.onnx --reference d0.pth",
        judge.explain_drop: "d0_int8.onnx --reference d0.pth --root coco_data --out mixed",
        judge.benchmark: "--model d0.onnx --batch-size 1 --batch-size 8 --against old.onnx",
    },
    "Judge": {
        judge.merge: "accuracy.json speed.json --out run.json",
        judge.compare: "baselines/310P3.json run.json",
        judge.report: "run.json --html report.html",
    },
    "Build": {
        build.export: "--checkpoint d0.pth --batch-size 1 --out d0_bs1.onnx",
        build.simplify: "--model d0_bs1.onnx --out d0_bs1_sim.onnx",
        build.modify: "--model d0_bs1_sim.onnx --out d0_bs1_m.onnx",
        build.quantize: "--model d0_bs1_m.onnx --calibration coco_data --out d0_bs1_int8.onnx",
        build.compile: "--model d0_bs1_m.onnx --output d0_bs1 --soc-version Ascend310P3",
    },
    "Set up": {setup.doctor: "", setup.init: "", setup.fetch: "checkpoint --out d0.pth"},
}
COMMANDS: dict[str, Callable[..., None]] = {}
EXAMPLES: dict[str, str] = {}
EXIT_CODES = "Exit codes: 0 all is well, 1 a gate failed, 2 bad input, 70 a fault of effd0."

app = typer.Typer(
    name="effd0",
    help="Validate and benchmark EfficientDet builds. Options you omit fall back to the "
    "bundled test set: 48 synthetic scenes and a D0 trained on similar ones.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in PANELS.items():
    for command, words in commands.items():
        name = command.__name__.replace("_", "-")
        COMMANDS[name], EXAMPLES[name] = command, f"effd0 {name} {words}".rstrip()
        example = f"Example: {EXAMPLES[name]}\n\n{EXIT_CODES}"
        app.command(name, rich_help_panel=panel, epilog=example)(command)


def _show_version(wanted: bool) -> None:
    """Print the version, if *wanted*, and stop."""
    if wanted:
        typer.echo(f"effd0 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(  # it stopped before
        False, "--version", help="Show the version and stop.", callback=_show_version, is_eager=True
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; known failures are one message and exit code 2, others 70."""
    if sys.argv[1:2] != ["benchmark"]:  # which runs torch as its users do
        let_threads_sleep()
    # Of libraries, by default with the line of their code.
    warnings.showwarning = lambda message, *_, **__: say_once(
        f"a library warns, which decides nothing: {' '.join(str(message).split())}"
    )
    try:
        if sys.stdout is None:  # the next file that is opened would take its place
            raise OutputError("the standard output is closed; open it, or lead it to /dev/null")
        app(prog_name="effd0")  # whoever runs it, a shell completes this name
    except Effd0Error as error:
        _end(2, error, str(error), *getattr(error, "__notes__", ()))
    except OSError as error:  # such as the standard output on a full disk
        sys.stdout = None  # it would be written at exit once more
        _end(2, error, f"{error}; the system refused this: make room, or choose another place")
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="effd0-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        told = f"{error}; this is a fault of effd0 {__version__}: report it with {file.name}"
        _end(70, error, told)


def _end(code: int, error: Exception, *lines: str) -> NoReturn:
    """Say in *lines* what the *error* is, and exit with *code*."""
    said = escape("\n".join(lines))
    STDERR.print(f"[bold red]{type(error).__name__}:[/] {said}", soft_wrap=True)
    sys.exit(code)
