"""A run on a user's artefact: which tests it takes, in which order, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from effd0 import embedded
from effd0.errors import DatasetError
from effd0.stages import EVIDENCE_LENGTH, SCHEMA, STAGES, SUSPICION_LENGTH, Broken, Check

from ..helpers import write_annotations, write_coco

ROOT = Path(__file__).parents[2]
#: Says of each test that is left after selection where it is and what it checks.
LISTING = """
import json, os, pathlib

def pytest_collection_finish(session):
    told = []
    for item in session.items:
        stage = item.get_closest_marker("stage")
        checks = item.get_closest_marker("artefact") is not None
        told.append([item.nodeid, stage.args[0] if stage else None, checks])
    pathlib.Path(os.environ["LISTED"]).write_text(json.dumps(told))
"""
WEIGHTS = f"--checkpoint={embedded.checkpoint()}"
#: In place of all tests, which take their time to be collected; to pytest no file is named so.
SOME = "testpaths=tests/test_stages.py tests/test_accuracy.py tests/artefact"
Listed = list[tuple[str, str | None, bool]]


def run_pytest(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in the clone."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def listed(folder: Path, *arguments: object) -> tuple[Listed, str]:
    """The tests of a run as (id, stage, whether it checks an artefact), and what was printed."""
    (folder / "listing.py").write_text(LISTING)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = run_pytest(
        "--collect-only", "-p", "listing", *arguments,
        LISTED=str(folder / "tests.json"), PYTHONPATH=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "tests.json").read_text()), done.stdout


def in_order(tests: Listed) -> bool:
    """Whether no test is of a stage before that of one before it."""
    places = [STAGES.index(str(stage)) for _, stage, _ in tests]
    return places == sorted(places)


@pytest.mark.slow
@pytest.mark.parametrize("option", [WEIGHTS, f"--bins={ROOT}"], ids=["checkpoint", "bins"])
def test_with_an_artefact_its_checks_alone_run(option: str, tmp_path: Path) -> None:
    """From dataset to gate in the pipeline's order, and no test of effd0 itself."""
    tests, shown = listed(tmp_path, option, "-o", SOME)
    assert {checks for _, _, checks in tests} == {True}
    assert in_order(tests)
    assert {stage for _, stage, _ in tests} >= {"dataset", "preprocess", "export", "runner", "gate"}
    assert " deselected" in shown


@pytest.mark.slow
def test_named_files_run_whatever_is_given(tmp_path: Path) -> None:
    """Whoever names files means them, tests of effd0 itself too; checks still come first."""
    files = (
        "tests/test_stages.py",
        "tests/artefact/test_export.py",
        "tests/artefact/test_inputs.py",
    )
    tests, shown = listed(tmp_path, WEIGHTS, *files)
    names = [name.partition("::")[0] for name, _, _ in tests]
    assert list(dict.fromkeys(names)) == [files[2], files[1], files[0]]
    assert "deselected" not in shown


@pytest.mark.slow
def test_without_an_artefact_all_tests_run(tmp_path: Path) -> None:
    """Checks first, in order of their stages, then the tests of effd0 itself."""
    tests, shown = listed(tmp_path, "-o", SOME)
    checks = [test for test in tests if test[2]]
    assert tests[: len(checks)] == checks
    assert in_order(checks)
    others = {name.partition("::")[0] for name, _, _ in tests[len(checks) :]}
    assert others == {"tests/test_stages.py"}
    assert "deselected" not in shown


def shifted_scenes(folder: Path) -> Path:
    """A COCO folder whose category ids are shifted by one; nothing else is wrong."""
    root = write_coco(folder / "coco")
    file = root / "annotations" / "instances_val2017.json"
    content: dict[str, Any] = json.loads(file.read_text())
    for entry, key in [(c, "id") for c in content["categories"]] + [
        (a, "category_id") for a in content["annotations"]
    ]:
        entry[key] -= 1
    write_annotations(root, content)
    return root


@pytest.mark.slow
def test_the_report_holds_verdict_and_checks(tmp_path: Path) -> None:
    """What is wrong with an artefact can be read by a program as on the terminal."""
    report = tmp_path / "report.json"
    done = run_pytest(
        f"--report-json={report}", f"--coco={shifted_scenes(tmp_path)}", WEIGHTS,
        "tests/artefact/test_dataset.py",
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    content = json.loads(report.read_text())
    assert content.keys() >= {"schema", "verdict", "checks", "accuracy", "exit_status"}
    assert (content["schema"], content["exit_status"], content["accuracy"]) == (SCHEMA, 1, [])
    verdict, (failed,) = content["verdict"], [c for c in content["checks"] if not c["passed"]]
    assert len(content["checks"]) == 4
    assert failed["name"].endswith("test_dataset.py::test_categories_have_cocos_ids")
    assert failed["evidence"].startswith("category person has id 0, but 1 in COCO, as have 2 of 2")
    assert failed["suspicion"].startswith("80 categories numbered 0 to 79: every id")
    assert (verdict["passed"], verdict["broken"], verdict["first"]) == (False, "dataset", failed)
    assert f"evidence  {failed['evidence']}\nsuspicion {failed['suspicion']}\n" in done.stdout


@pytest.mark.slow
def test_a_run_that_skips_everything_is_no_pass(tmp_path: Path) -> None:
    """An option that leaves no check to run gives a verdict that says so."""
    report = tmp_path / "report.json"
    done = run_pytest(f"--report-json={report}", WEIGHTS, "-o", SOME, "-k", "no_such_check")
    assert "NONE  nothing was tested" in done.stdout
    content = json.loads(report.read_text())
    assert content["verdict"]["passed"] is False
    assert content["verdict"]["untested"] == list(STAGES)


# How a failure becomes a check.


@dataclass(frozen=True)
class _Report:
    """What pytest says of a test, as far as it matters."""

    passed: bool
    longrepr: object = None
    longreprtext: str = "in full"


@dataclass(frozen=True)
class _Crash:
    message: str


@dataclass(frozen=True)
class _Shown:
    reprcrash: _Crash


@pytest.fixture
def root_conftest(pytestconfig: pytest.Config) -> ModuleType:
    """The control panel that runs this test."""
    module = pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    assert isinstance(module, ModuleType)
    return module


LONG, LONGER = ("x" * (length + 1) for length in (EVIDENCE_LENGTH, SUSPICION_LENGTH))


@pytest.mark.parametrize(
    ("error", "report", "wanted"),
    [
        pytest.param(None, _Report(True), Check("runner", "t", True), id="passed"),
        pytest.param(
            Broken("0.3 off", "BGR: it falls", "preprocess", ["class_p3 0.3"]),
            _Report(False),
            Check("preprocess", "t", False, "0.3 off", "BGR: it falls"),
            id="broken-in-another-stage",
        ),
        pytest.param(
            Broken(LONG, LONGER),
            _Report(False),
            Check("runner", "t", False, f"{LONG[:-4]}...", f"{LONGER[:-4]}..."),
            id="broken-at-length",
        ),
        pytest.param(
            DatasetError("a.json is\n  cut off;\nget it again"),
            _Report(False),
            Check("runner", "t", False, "a.json is cut off; get it again"),
            id="error-over-lines",
        ),
        pytest.param(
            AssertionError("0.3 off"),
            _Report(False, _Shown(_Crash("AssertionError: 0.3 off\nassert 0.3 < 0.1"))),
            Check("runner", "t", False, "0.3 off"),
            id="assert",
        ),
        pytest.param(
            None, _Report(False, "text"), Check("runner", "t", False, "in full"), id="no-crash"
        ),
    ],
)
def test_a_failure_becomes_a_check(
    error: BaseException | None, report: _Report, wanted: Check, root_conftest: ModuleType
) -> None:
    """In the stage that the failure names, with its evidence and suspicion on a line each."""
    assert root_conftest._check("runner", "t", error, report) == wanted
