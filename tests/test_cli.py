"""Tests for `effd0.cli`: commands, their options, and what typer refuses by itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from typer.testing import CliRunner

from effd0.cli import main as cli

RUN = (
    "--model", "--checkpoint", "--runner", "--arch", "--provider", "--provider-option",
    "--graph-optimization", "--device", "--precision",
)  # fmt: skip
POOL = ("--workers", "--devices", "--ray-address", "--verbose")
OPTIONS = {
    "evaluate": (
        *RUN, "--threads", "--root", "--split", "--batch-size", "--min-map", "--json",
        "--reference", "--max-drop",
        "--image-limit", "--host-threads", "--out", "--resume", "--report-json",
        "--postprocess", "--launch", *POOL,
    ),
    "detect": (*RUN, "--threads", "--out", "--min-score", "IMAGE"),
    "preprocess": ("--bin-save", "--root", "--split", "--image-limit", "--arch", "--host-threads"),
    "infer": (
        *RUN, "--threads", "--input", "--output", "--output-dirname", "--overwrite",
        "--batch-size", "--loop", "--warmup", "--outfmt", "--overlap", *POOL,
    ),
    "postprocess": (
        "--omfile", "--root", "--bins", "--model", "--min-map", "--json", "--report-json",
        "--split", "--image-limit", "--arch", "--host-threads",
    ),
    "bisect": ("--model", "--reference", "--image", "--json", "--arch"),
    "benchmark": (
        *RUN, "--threads", "--root", "--split", "--batch-size", "--loop", "--warmup",
        "--scenario", "--against", "--max-slowdown", "--accuracy-report", "--json",
        "--host-threads", "--overlap", "--postprocess", "--launch", "--report-json",
    ),
    "merge": ("--out", "RUN.json"),
    "report": ("--html", "--baseline", "RUN.json"),
    "compare": ("--max-drop", "--max-slowdown", "BASELINE.json", "CANDIDATE.json"),
    "export": (
        "--out", "--checkpoint", "--batch-size", "--dynamic-batch", "--opset", "--exporter",
        "--arch",
    ),
    "simplify": ("--model", "--out", "--arch"),
    "modify": ("--model", "--out", "--edit", "--arch"),
    "compile": (
        "--model", "--output", "--soc-version", "--batch-size", "--dynamic-batch-size",
        "--precision-mode", "--precision-mode-v2", "--modify-mixlist", "--aipp",
        "--insert-op-conf", "--input-fp16", "--output-type", "--log", "--dry-run", "--arch",
    ),
    "doctor": (),
    "fetch": ("--root", "--out", "--arch", "--mirror"),
}  # fmt: skip
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def shown(*arguments: str) -> str:
    """Return what a help page shows; the command succeeds."""
    result = CliRunner().invoke(cli.app, [*arguments, "--help"], env=WIDE)
    assert result.exit_code == 0
    return result.output


def test_help_names_every_command() -> None:
    """The first page lists all commands and says what the exit codes mean."""
    page = shown()
    assert [name for name in OPTIONS if name not in page] == []
    assert "Exit codes: 0 all is well, 1 a gate failed, 2 bad input." in page


def test_every_command_is_known_here() -> None:
    """A new command gets its row in the table above."""
    found = {c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert found == set(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command: str) -> None:
    """The help of a command shows what it takes."""
    page = shown(command)
    assert [option for option in OPTIONS[command] if option not in page] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--batch", "3"], "No such option"),
        (["evaluate", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["evaluate", "--image-limit", "0"], "Invalid value for '--image-limit'"),
        (["evaluate", "--min-map", "101"], "Invalid value for '--min-map'"),
        (["evaluate", "--host-threads", "none"], "Invalid value for '--host-threads'"),
        (["detect", "a.jpg"], "Missing option '--out'"),
        (["detect", "--out", "b.jpg"], "Missing argument 'IMAGE'"),
        (["export"], "Missing option '--out'"),
        (["modify", "--out", "a.onnx"], "Missing option '--model'"),
        (["fetch", "imagenet"], "Invalid value for"),
        (["validate"], "No such command"),
    ],
    ids=[
        "unknown-option", "batch-zero", "limit-zero", "map-above-100", "no-number", "no-output",
        "no-image", "export-no-output", "no-model", "unknown-target", "unknown-command",
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_bad_input(arguments: list[str], message: str) -> None:
    """What cannot be parsed is exit code 2, like all bad input, and named on stderr."""
    result = CliRunner().invoke(cli.app, arguments, env=WIDE)
    assert result.exit_code == cli.BAD_INPUT == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_the_installed_command_is_main() -> None:
    """``effd0`` on the PATH is the function that turns errors into exit code 2."""
    (script,) = entry_points(group="console_scripts", name="effd0")
    assert script.load() is cli.main


def test_a_fault_of_the_program_is_not_hidden() -> None:
    """Only known failures become one line; anything else keeps its traceback."""
    code = (
        "import sys; from effd0.cli import main, setup; setup.examine = lambda: 1 / 0;"
        "sys.argv = ['effd0', 'doctor']; main.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
