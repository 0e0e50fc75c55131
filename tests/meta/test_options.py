"""The suite's options as a user types them, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from effd0.data import fixture as embedded

from ..cli_run import effd0

#: Each starts a pytest of its own, 1.5 s.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in the clone, only as far as listing the markers that its conftest.py knows."""
    command = [sys.executable, "-m", "pytest", "--markers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def weights_elsewhere(folder: Path) -> Path:
    """A checkpoint outside the clone, where users keep theirs."""
    path = folder / "d0.pth"
    path.symlink_to(embedded.checkpoint())
    return path


def test_option_with_equals_sign_finds_the_suite(tmp_path: Path) -> None:
    """A file anywhere on the machine does not lead pytest away from the clone."""
    outcome = run_pytest(f"--checkpoint={weights_elsewhere(tmp_path)}")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "@pytest.mark.accuracy" in outcome.stdout


def test_option_with_space_says_how_to_write_it(tmp_path: Path) -> None:
    """Where pytest was led away, the message shows the option as it works."""
    path = weights_elsewhere(tmp_path)
    outcome = run_pytest("--checkpoint", str(path))
    assert outcome.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"write the value after '=': --checkpoint={path}" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--coco=."], "--coco is given without --checkpoint", id="coco-alone"),
        pytest.param(["--image-limit=3"], "it limits --coco, which is not", id="limit-alone"),
        pytest.param(["--runner=tflite"], "effd0 knows ort, ", id="runner"),
        pytest.param(["--arch=d1"], "--arch must be one of tf_efficientdet_d0", id="arch"),
        pytest.param(["--devices=0,1"], "all runners compute on the CPU", id="devices"),
        pytest.param(["--workers=2", "--results=."], "recorded is not run", id="recorded"),
        pytest.param(["--workers=2", "--device-id=1"], "a device of its own", id="device-id"),
        pytest.param(["--model=no.onnx"], "--model is no.onnx, which does not exist", id="model"),
    ],
)
def test_contradictory_options_are_refused(arguments: list[str], message: str) -> None:
    """What cannot be meant is a usage error, not a choice among readings."""
    outcome = run_pytest(*arguments)
    assert outcome.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in outcome.stderr


def test_the_suite_runs_on_results_made_elsewhere(onnx_model: Path, tmp_path: Path) -> None:
    """With --runner=recorded, every test of the runners' contract is told what was recorded."""
    bins, out = tmp_path / "bins", tmp_path / "out"
    for words in (
        ["preprocess", "--bin-save", bins, "--image-limit", 5],
        ["infer", "--model", onnx_model, "--input", bins, "--output", out],
    ):
        outcome = effd0(*words)
        assert outcome.code == 0, outcome.err
    recorded = [f"--results={out / 'result'}", f"--bins={bins}"]
    command = [sys.executable, "-m", "pytest", "-q", "--runner=recorded", *recorded]
    done = subprocess.run(
        [*command, "tests/artefact/test_runner.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
