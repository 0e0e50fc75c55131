"""Tests for ``effd0 evaluate --out --resume``: as it is typed, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effd0 import report
from effd0.cli import options as commands
from effd0.errors import RunnerError
from effd0.evaluation import model as choice
from effd0.evaluation.run_dir import RECORDS

from .cli_run import Outcome, assert_one_error, effd0
from .helpers import SMALL, coco_content, names_in, write_coco
from .rundir_runs import NeighbourRunner, outcome


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NeighbourRunner:
    """The runner that the command opens; model and pictures lie in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("d0.onnx").write_bytes(b"a model")
    write_coco(Path("coco"), coco_content(5))
    runner = NeighbourRunner()
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    monkeypatch.setattr(commands, "spec_for", lambda _: SMALL)
    # To read the versions of all packages takes longer than all the rest of a small run.
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")
    return runner


def evaluate(*more: str) -> Outcome:
    """Run ``effd0 evaluate`` in batches of two, with *more* options."""
    fixed = ("--model", "d0.onnx", "--root", "coco", "--batch-size", 2)
    return effd0("evaluate", *fixed, *more)


def test_a_run_is_stopped_and_gone_on_with(runner: NeighbourRunner) -> None:
    """The error says what is kept; with --resume the rest is run, and the table is the same."""
    whole = evaluate("--out", "whole")
    assert whole.code == 0, whole.err

    def lose_device() -> None:
        if len(runner.fed) == 5:
            raise RunnerError("the device is lost")

    runner.on_infer = lose_device
    stopped = evaluate("--out", "run")
    assert stopped.code == 2
    assert stopped.errors == ["RunnerError: the device is lost"]
    assert "run keeps 2 images; continue with --resume\n" in stopped.err
    assert names_in(Path("run")) == [RECORDS, "manifest.json"]

    runner.on_infer = lambda: None
    resumed = evaluate("--out", "run", "--resume")
    assert resumed.code == 0, resumed.err
    assert "run: 2 of 5 images are there\n" in resumed.err
    assert "detecting: 3/3" in resumed.err
    assert outcome(Path("run")) == outcome(Path("whole"))
    table = [line for line in whole.out.splitlines() if "IoU" in line]
    assert len(table) == 12
    assert [line for line in resumed.out.splitlines() if "IoU" in line] == table


def test_ctrl_c_says_how_to_go_on(runner: NeighbourRunner) -> None:
    """Who stops a run learns that nothing is lost; it does not end as if all were well."""

    def interrupt() -> None:
        if len(runner.fed) == 2:
            raise KeyboardInterrupt

    runner.on_infer = interrupt
    stopped = evaluate("--out", "run")
    assert stopped.code != 0
    assert "run keeps 2 images; continue with --resume\n" in stopped.err
    assert "Traceback" not in stopped.err


def test_what_cannot_be_gone_on_with_is_one_message(runner: NeighbourRunner) -> None:
    """A run that is there, a run of another setting, and --resume alone are bad input."""
    assert evaluate("--out", "run").code == 0
    words = ("evaluate", "--model", "d0.onnx", "--root", "coco", "--batch-size")
    assert_one_error("holds a run already; continue it with --resume", *words, 2, "--out", "run")
    assert_one_error(
        r"settings\.batch_size was 2, but is 3; ask", *words, 3, "--out", "run", "--resume"
    )
    assert_one_error("--resume is given, but no --out", *words, 2, "--resume")
    assert sum(runner.fed) == 5


def test_the_record_is_the_one_that_json_keeps(runner: NeighbourRunner) -> None:
    """``--json`` and the run directory hold the same evaluation."""
    assert evaluate("--out", "run", "--json", "record.json").code == 0
    assert json.loads(Path("record.json").read_text()) == json.loads(
        Path("run/evaluation.json").read_text()
    )
    assert runner.fed == [2, 2, 1]
