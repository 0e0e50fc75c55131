"""Tests for `effd0.stages`: of all that fails, the first stage is told, with its evidence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.stages import (
    EVIDENCE_LENGTH,
    STAGES,
    Broken,
    Check,
    evidence_of,
    stage_verdict,
)

from .conftest import MODULES

ROOT = Path(__file__).parents[1]


def check(stage: str, *, passed: bool = True, name: str = "test_x") -> Check:
    """A check that says what it saw where it failed."""
    return Check(stage, name, passed, "" if passed else "0.3 off, 0.1 allowed")


def test_a_pass_names_what_was_tested_and_what_was_not() -> None:
    """Nobody is left to think that a stage held which was not looked at."""
    verdict = stage_verdict([check("runner"), check("preprocess"), check("runner")])
    assert verdict.lines() == [
        "PASS  every stage tested holds: preprocess, runner",
        "not tested: dataset, checkpoint, export, graph, decode, nms, evaluate, gate",
    ]


def test_the_first_broken_stage_is_told_with_its_evidence() -> None:
    """Whatever the order in which checks were run; what comes behind it is only counted."""
    checks = [
        check("gate", passed=False, name="test_map"),
        check("dataset"),
        check("runner", passed=False, name="test_heads"),
        check("runner", passed=False, name="test_other_heads"),
        check("preprocess"),
    ]
    assert stage_verdict(checks).lines()[:4] == [
        "FAIL  the first broken stage is runner",
        "check     test_heads",
        "evidence  0.3 off, 0.1 allowed",
        "before it dataset, preprocess held; 2 more failed, which may follow from it",
    ]


def test_a_suspicion_stands_below_its_evidence() -> None:
    """What explains the first failure is told; what explains a later one is not."""
    first = Check("export", "test_weights", False, "0.3 off", "weight w: scaled by 1.02")
    later = Check("runner", "test_heads", False, "0.4 off", "computed in bf16")
    assert stage_verdict([later, first, check("dataset")]).lines() == [
        "FAIL  the first broken stage is export",
        "check     test_weights",
        "evidence  0.3 off",
        "suspicion weight w: scaled by 1.02",
        "before it dataset held; 1 more failed, which may follow from it",
        "not tested: preprocess, checkpoint, graph, decode, nms, evaluate, gate",
    ]


def test_a_failure_alone_says_so() -> None:
    """Where nothing else fails, and nothing was tested before it, both are said."""
    lines = stage_verdict([check("dataset", passed=False), check("runner")]).lines()
    assert lines[3] == "before it nothing held; no other check fails"
    assert not [line for line in lines if line.startswith("suspicion")]


def test_nothing_tested_is_no_pass() -> None:
    """A run in which all was skipped has no verdict, in words or otherwise."""
    for checks in ([], [Check("gate", "test_map", None, "needs coco")]):
        verdict = stage_verdict(checks)
        assert verdict.lines() == [
            "NONE  nothing was tested, so nothing is known: no check of a stage was run"
        ]
        assert (verdict.passed, verdict.broken, verdict.held) == (False, None, ())
        assert verdict.untested == STAGES


class _Tested:
    """A suspicion, whose words are those of its `__str__`."""

    def __str__(self) -> str:
        return "BGR: it falls to 0"


def test_what_is_broken_says_its_evidence_first() -> None:
    """A traceback shows evidence, suspicion and details, each on lines of its own."""
    broken = Broken("0.3 off", _Tested(), "preprocess", ["class_p3 0.3", "box_p3 0.1"])
    assert str(broken) == "0.3 off\ndiagnosis: BGR: it falls to 0\nclass_p3 0.3\nbox_p3 0.1"
    assert (broken.evidence, broken.suspicion) == ("0.3 off", "BGR: it falls to 0")
    assert (broken.stage, broken.details) == ("preprocess", ("class_p3 0.3", "box_p3 0.1"))


def test_without_a_suspicion_none_is_shown() -> None:
    """What explains nothing leaves no line; a check that fails so is a failed assertion."""
    broken = Broken("0.3 off", details=["class_p3 0.3"])
    assert str(broken) == "0.3 off\nclass_p3 0.3"
    assert (broken.suspicion, broken.stage) == ("", None)
    assert isinstance(broken, AssertionError)


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.booleans()), min_size=1, max_size=30))
def test_no_stage_before_the_broken_one_has_a_failure(found: list[tuple[str, bool]]) -> None:
    """What is said to hold holds, and a failure anywhere is a failure of the whole."""
    verdict = stage_verdict([check(stage, passed=passed) for stage, passed in found])
    failed = {stage for stage, passed in found if not passed}
    assert (verdict.broken is None) == (not failed)
    assert failed.isdisjoint(verdict.held)
    if verdict.broken is not None:
        assert verdict.broken in failed
        assert min(STAGES.index(stage) for stage in failed) == STAGES.index(verdict.broken)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        pytest.param(
            "AssertionError: class_p3 differs by 0.3\nassert 0.3 < 0.1",
            "class_p3 differs by 0.3",
            id="assert",
        ),
        pytest.param("x" * 1000, "x" * (EVIDENCE_LENGTH - 3) + "...", id="long"),
    ],
)
def test_evidence_is_one_line(message: str, line: str) -> None:
    """A summary is read in a log."""
    assert evidence_of(message) == line


def test_every_stage_has_checks_and_every_module_exists() -> None:
    """The table of modules names each stage, and nothing that has been renamed."""
    assert tuple(MODULES) == STAGES
    named = [module for modules in MODULES.values() for module in modules]
    assert len(named) == len(set(named))
    assert [name for name in named if not (ROOT / "tests" / f"{name}.py").exists()] == []


@pytest.mark.slow
def test_a_broken_model_is_told_by_its_stage(tmp_path: Path, onnx_model: Path) -> None:
    """`pytest --model` on a model with a wrong weight ends with the stage that it breaks."""
    from .onnx_models import perturbed

    bad = perturbed(onnx_model, tmp_path / "bad.onnx", "class_p4", by=0.5)
    command = [sys.executable, "-m", "pytest", "-q", "--runner=ort", f"--model={bad}"]
    done = subprocess.run(
        [*command, "tests/artefact/test_runner.py", "tests/test_preprocess.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "FAIL  the first broken stage is runner" in done.stdout
    # One bias serves all levels.
    assert re.search(r"evidence  class_p\d differs by 0\.5\b.* at most 0\.002 ", done.stdout)
    assert "before it preprocess held" in done.stdout
