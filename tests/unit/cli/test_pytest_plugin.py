"""Tests for `effd0.cli.pytest_plugin`: who gets the suite's options, and what is said of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from effd0.cli import pytest_plugin, pytest_suite
from effd0.data import fixture as embedded
from effd0.errors import Effd0Error
from tests.helpers import ROOT, run_pytest, session_config

#: A project with an option and a fixture of its own, of the names that the suite has too.
FOREIGN = {
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--strict-markers'\n",
    "conftest.py": """
def pytest_addoption(parser):
    parser.addoption("--model", default="theirs")
    parser.addoption("--slow", action="store_true")
""",
    "test_theirs.py": """
import sys

def test_theirs(pytestconfig):
    assert pytestconfig.getoption("--model") == "theirs"
    assert pytestconfig.getoption("--workers", default=None) is None
    assert not {"effd0.cli.pytest_suite", "numpy", "typer"} & set(sys.modules)
""",
}


@pytest.mark.parametrize("from_the_clone", [False, True], ids=["in-its-folder", "from-the-clone"])
def test_another_project_keeps_its_options(from_the_clone: bool, tmp_path: Path) -> None:
    """Nothing of the suite is registered or imported where another project's configuration is."""
    for name, content in FOREIGN.items():
        (tmp_path / name).write_text(content)
    done = run_pytest(tmp_path) if from_the_clone else run_pytest(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "folder", "configured", "wanted"),
    [
        pytest.param([], ROOT, True, True, id="in-the-clone"),
        pytest.param(["--coco", "data"], ROOT / "tests", False, True, id="led-away"),
        pytest.param(["--coco", "data"], ROOT / "tests", True, True, id="led-to-another"),
        pytest.param(["theirs"], ROOT / "tests", True, False, id="of-another"),
        pytest.param([], ROOT.parent, False, False, id="beside-the-clone"),
        pytest.param(["--pyargs", "effd0.suite"], ROOT.parent, False, True, id="pyargs"),
        pytest.param(["--pyargs", "other"], ROOT.parent, False, False, id="other-pyargs"),
        pytest.param(["-p", "effd0"], ROOT.parent, False, True, id="by-name"),
        pytest.param(["-p", "other", "effd0"], ROOT.parent, False, False, id="folder-effd0"),
        pytest.param(["-peffd0.cli.pytest_plugin"], ROOT.parent, False, True, id="by-module"),
    ],
)
def test_a_session_about_effd0_is_known(
    arguments: list[str], folder: Path, configured: bool, wanted: bool
) -> None:
    """By its configuration, its working directory, a module or the plugin's name."""
    config = SimpleNamespace(
        inipath=folder / "pyproject.toml" if configured else None,
        invocation_params=SimpleNamespace(args=arguments, dir=folder),
        pluginmanager=pytest.PytestPluginManager(),
    )
    assert pytest_plugin.is_about_effd0(cast(pytest.Config, config)) is wanted


def test_option_with_space_says_how_to_write_it(tmp_path: Path) -> None:
    """Where pytest was led away from its configuration, the message shows what works."""
    path = tmp_path / "d0.pth"
    path.symlink_to(embedded.checkpoint())
    outcome = run_pytest("--markers", "--checkpoint", path)
    assert outcome.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"write the value after '=': --checkpoint={path}" in outcome.stderr
    assert run_pytest("--markers", f"--checkpoint={path}").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--coco=.", "--coco is given without --checkpoint"),
        ("--image-limit=3", "it limits --coco, which is not"),
        ("--runner=recorded", "--runner=recorded and --results=DIR go together"),
        ("--weights=ema", "--weights is given, but it names a set of --checkpoint, which is not"),
        ("--model=no.onnx", "--model is no.onnx, which does not exist"),
        ("--resume", "--resume is given, but no --out"),
        ("--devices=0,1", "--devices names 2, but --runner ort, .* computes on the CPU"),
        ("--ray-address=head:1", "--ray-address is head:1, but .*; give --workers"),
        ("--workers=0", "--workers is 0, but at least 1 is wanted"),
        ("--max-drop=-1", "--max-drop is -1.0, but 0 to 100 is wanted"),
        ("--workers=2 --results=.", "recorded is not run"),
        ("--workers=2 --device-id=1", "a device of its own"),
        ("--workers=2 --runner=emulated", "workers run ort, openvino, torch, acl"),
    ],
)
def test_contradictory_options_are_refused(words: str, message: str) -> None:
    """What cannot be meant is a usage error, not a choice among readings."""
    with pytest.raises((Effd0Error, pytest.UsageError), match=message):
        pytest_suite.refuse_contradictions(session_config(words))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--batch-size=two", "argument --batch-size: 'two' is given, but a whole number is wanted"),
        ("--require=luck", "argument --require: invalid choice: 'luck'"),
        ("--runner=tflite", "argument --runner: invalid choice: 'tflite' .choose from '?ort'?, "),
    ],
)
def test_a_word_that_is_no_value_is_refused(argument: str, message: str) -> None:
    """A number and a choice are read as the command line does it."""
    with pytest.raises(pytest.UsageError, match=message):
        session_config(argument)
