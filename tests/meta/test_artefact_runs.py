"""A run on a user's artefact: which tests it takes, in which order, and what it writes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.io import sha256
from effd0.results.check import STAGES

from ..helpers import write_annotations, write_coco
from ..runs import content_of

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
SOME = "testpaths=tests/test_stages.py tests/suite"
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
        "tests/suite/test_export.py",
        "tests/suite/test_inputs.py",
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
        "tests/suite/test_dataset.py",
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    content = content_of(report)
    assert (content["exit_status"], content["accuracy"], content["latency"]) == (1, [], [])
    verdict = content["verdict"]
    (failed,) = [check for check in content["checks"] if check["status"] == "failed"]
    assert len(content["checks"]) == 4
    (command,) = content["commands"]
    assert shlex.split(command)[-2:] == [WEIGHTS, "tests/suite/test_dataset.py"]
    artefact, scenes = content["artefact"], load_coco(tmp_path / "coco")
    assert artefact["checkpoint_sha256"] == sha256(embedded.checkpoint())
    assert artefact["dataset"] == {
        "name": "coco val2017", "images": len(scenes.samples),
        "sha256": sha256(scenes.annotation_file),
    }  # fmt: skip
    assert failed["name"].endswith("test_dataset.py::test_categories_have_cocos_ids")
    assert failed["evidence"].startswith("category person has id 0, but 1 in COCO, as have 2 of 2")
    assert failed["diagnosis"].startswith("80 categories numbered 0 to 79: every id")
    assert (verdict["status"], verdict["stage"]) == ("fail", "dataset")
    assert (verdict["evidence"], verdict["diagnosis"]) == (failed["evidence"], failed["diagnosis"])
    assert f"evidence  {failed['evidence']}\ndiagnosis {failed['diagnosis']}\n" in done.stdout


@pytest.mark.slow
def test_a_run_that_skips_everything_is_no_pass(tmp_path: Path) -> None:
    """An option that leaves no check to run gives a verdict that says so."""
    report = tmp_path / "report.json"
    done = run_pytest(f"--report-json={report}", WEIGHTS, "-o", SOME, "-k", "no_such_check")
    assert "NONE  nothing was tested" in done.stdout
    verdict = content_of(report)["verdict"]
    assert verdict["status"] == "not gated"
    assert verdict["evidence"].startswith("nothing was tested")
    assert verdict["untested"] == list(STAGES)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        pytest.param("coco", "tests/suite/test_accuracy.py", id="coco"),
        pytest.param("npu", "tests/suite/test_runner.py", id="npu"),
    ],
)
def test_what_is_required_and_absent_fails(kind: str, module: str, tmp_path: Path) -> None:
    """Nothing is run on something else in its place: each test fails with the reason."""
    report = tmp_path / "report.json"
    done = run_pytest("-m", kind, f"--require={kind}", f"--report-json={report}", module)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    checks = content_of(report)["checks"]
    assert {check["status"] for check in checks} == {"failed"}
    wanted = f"{kind} is required (--require {kind}), but "
    assert [check["evidence"] for check in checks if not check["evidence"].startswith(wanted)] == []
    assert f"evidence  {wanted}" in done.stdout


@pytest.mark.slow
def test_junit_has_the_figures_of_the_checks(tmp_path: Path) -> None:
    """CI shows stage, evidence and diagnosis of a failure, and what was measured and allowed."""
    report, junit = tmp_path / "report.json", tmp_path / "junit.xml"
    run_pytest(
        f"--report-json={report}", f"--junit-xml={junit}", WEIGHTS, "--runner=ort",
        f"--coco={shifted_scenes(tmp_path)}",
        "tests/suite/test_dataset.py",
        "tests/suite/test_runner.py::test_heads_are_those_of_torch",
    )  # fmt: skip
    told = [
        {found.attrib["name"]: found.attrib["value"] for found in case.iter("property")}
        for case in ET.parse(junit).iter("testcase")  # noqa: S314  # our own file
    ]
    checks = content_of(report)["checks"]
    assert len(told) == len(checks)
    for properties, check in zip(told, checks, strict=True):
        words = ("stage", "evidence", "diagnosis", "unit")
        figures = [key for key in ("figure", "tolerance") if check[key] is not None]
        assert {key: float(properties.pop(key)) for key in figures} == {
            key: check[key] for key in figures
        }
        assert properties == {key: check[key] for key in words if check[key]}
    assert {check["stage"] for check in checks if check["figure"] is not None} >= {"runner"}
    assert {check["status"] for check in checks} >= {"passed", "failed"}
