"""Tests for `effd0.runfile`: what a test found becomes a check, and checks a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from effd0.bench.baseline import FASTER, NO_BASELINE, SAME, SLOWER, UNSURE, Comparison
from effd0.bench.ratio import Ratio
from effd0.errors import DatasetError
from effd0.runfile import check_run
from effd0.runfile.checks import check_of, check_part, properties_of, speed_check
from effd0.runfile.verdict import merged_verdict, verdict_part
from effd0.stages import EVIDENCE_LENGTH, STAGES, SUSPICION_LENGTH, Broken, Check

from .runs import check, run, verdict

LONG, LONGER = ("x" * (length + 1) for length in (EVIDENCE_LENGTH, SUSPICION_LENGTH))


@dataclass(frozen=True)
class _Report:
    """What pytest says of a test, as far as it matters."""

    passed: bool
    longrepr: object = None
    longreprtext: str = "in full"
    skipped: bool = False
    duration: float = 0.25


@dataclass(frozen=True)
class _Crash:
    message: str


@dataclass(frozen=True)
class _Shown:
    reprcrash: _Crash


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
        pytest.param(
            None,
            _Report(False, ("test_x.py", 3, "Skipped: needs coco"), skipped=True),
            Check("runner", "t", None, "needs coco"),
            id="skipped",
        ),
    ],
)
def test_an_outcome_becomes_a_check(
    error: BaseException | None, report: _Report, wanted: Check
) -> None:
    """In the stage that the failure names, with its evidence and suspicion on a line each."""
    assert check_of("runner", "t", error, report) == replace(wanted, seconds=0.25)


def test_a_check_has_the_last_figures_that_its_test_noted() -> None:
    """Properties of other names are the test's own affair."""
    noted = [("figure", 1.0), ("figure", 0.3), ("tolerance", 0.1), ("unit", "%"), ("seed", 3)]
    found = check_of("runner", "t", None, _Report(True), noted)
    assert (found.figure, found.tolerance, found.unit) == (0.3, 0.1, "%")


def test_a_check_is_written_as_the_schema_wants_it() -> None:
    """What is infinite has no figure; status is a word."""
    for passed, status in ((True, "passed"), (False, "failed"), (None, "skipped")):
        written = check_part(Check("runner", "t", passed, "far", "BGR", math.inf, 0.1, "%", 0.2))
        check_run(run(checks=[written]))
        assert written == {
            "stage": "runner", "name": "t", "status": status, "evidence": "far",
            "suspicion": "BGR", "figure": None, "tolerance": 0.1, "unit": "%", "seconds": 0.2,
        }  # fmt: skip


def test_junit_is_told_what_a_check_found() -> None:
    """Stage, evidence and suspicion; what is empty is left out."""
    assert properties_of(Check("runner", "t", True)) == [("stage", "runner")]
    failed = Check("gate", "t", False, "0.3 off", "BGR")
    wanted = [("stage", "gate"), ("evidence", "0.3 off"), ("suspicion", "BGR")]
    assert properties_of(failed) == wanted


RATIO = Ratio(1.1, 1.08, 1.12, 20)


@pytest.mark.parametrize(
    ("found", "passed", "evidence"),
    [
        pytest.param(Comparison("b", SAME, RATIO), True, "", id="same"),
        pytest.param(Comparison("b", FASTER, RATIO), True, "", id="faster"),
        pytest.param(
            Comparison("b", SLOWER, RATIO, "more than 5%"), False,
            "takes 1.1 (1.08 to 1.12) times as long as in the baseline: more than 5%", id="slower",
        ),
        pytest.param(Comparison("b", UNSURE, RATIO, "3 samples"), None, "3 samples", id="unsure"),
        pytest.param(Comparison("b", NO_BASELINE, None, "no file"), None, "no file", id="none"),
    ],
)  # fmt: skip
def test_a_row_beside_its_baseline_is_a_check_of_the_gate(
    found: Comparison, passed: bool | None, evidence: str
) -> None:
    """What is surely slower fails, and what was not compared is skipped."""
    made = speed_check(found, 0.05)
    assert (made.stage, made.name, made.passed, made.evidence) == ("gate", "b", passed, evidence)
    figures = (None, None, "") if found.ratio is None else (pytest.approx(10), 5, "% slower")
    assert (made.figure, made.tolerance, made.unit) == figures


PASSED, SKIPPED = Check("runner", "a", True), Check("gate", "s", None, "needs coco")
FAILED = Check("decode", "b", False, "0.3 off", "BGR")
LATER = Check("gate", "c", False, "mAP is 3")
OPEN = Check("gate", "d", None, "undecided: 5 of 48 images")


@pytest.mark.parametrize(
    ("checks", "status", "stage", "evidence"),
    [
        pytest.param([PASSED, SKIPPED], "pass", None, "", id="pass"),
        pytest.param([PASSED, LATER, FAILED, OPEN], "fail", "decode", "0.3 off", id="fail"),
        pytest.param([PASSED, OPEN], "undecided", None, "5 of 48 images", id="undecided"),
        pytest.param([SKIPPED], "not gated", None, "nothing was tested, so", id="skipped"),
        pytest.param([], "not gated", None, "nothing was tested, so", id="nothing"),
    ],
)
def test_checks_become_a_verdict(
    checks: list[Check], status: str, stage: str | None, evidence: str
) -> None:
    """A failure decides, then what is open; what was skipped passes nothing."""
    found = verdict_part(checks)
    check_run(run(verdict=found))
    assert (found["status"], found["stage"]) == (status, stage)
    assert found["evidence"].startswith(evidence)
    assert found["suspicion"] == ("BGR" if stage else "")
    assert found["held"] == (["runner"] if PASSED in checks else [])
    assert found["later"] == (1 if stage else 0)


def test_a_reason_is_the_evidence_where_nothing_failed() -> None:
    """The sentence of a command's verdict is kept; a failing check has its own."""
    assert verdict_part([PASSED], "mAP is 34 %")["evidence"] == "mAP is 34 %"
    assert verdict_part([PASSED, FAILED], "mAP is 34 %")["evidence"] == "0.3 off"


def merged(*verdicts: dict[str, object]) -> dict[str, object]:
    """The verdict of runs that have just these."""
    return merged_verdict([run(verdict=one, checks=[]) for one in verdicts])


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        pytest.param("pass", "fail", "fail", id="fail"),
        pytest.param("undecided", "pass", "undecided", id="undecided"),
        pytest.param("not gated", "pass", "pass", id="pass"),
        pytest.param("fail", "undecided", "fail", id="fail-before-undecided"),
        pytest.param("not gated", "not gated", "not gated", id="not-gated"),
    ],
)
def test_the_gravest_verdict_stands(first: str, second: str, wanted: str) -> None:
    """Whatever the order of the runs."""
    pair = [verdict(one, "gate" if one == "fail" else None) for one in (first, second)]
    assert merged(*pair)["status"] == merged(*pair[::-1])["status"] == wanted


def test_of_failures_the_first_broken_stage_is_told() -> None:
    """Its evidence and suspicion, what held before it, and how many failed beside it."""
    late = verdict("fail", "gate", held=["dataset", "runner"], later=2)
    early = verdict("fail", "runner", held=["dataset"], suspicion="BGR", later=1)
    found = merged(late, early)
    assert (found["stage"], found["evidence"]) == ("runner", "runner is off by 3")
    assert found["suspicion"] == "BGR"
    # Two failed in one run and three in the other: one is told, four are beside it.
    assert (found["held"], found["later"]) == (["dataset"], 4)


def test_a_stage_is_untested_where_no_run_tested_it() -> None:
    """What one run held is held in the whole, unless it, or one before it, broke in another."""
    found = merged(
        verdict(held=["dataset"], untested=list(STAGES[1:])),
        verdict(held=["gate"], untested=list(STAGES[:-1])),
    )
    assert found["held"] == ["dataset", "gate"]
    assert found["untested"] == list(STAGES[1:-1])
    late = verdict(held=["dataset", "gate"])
    assert merged(verdict("fail", "runner", held=["dataset"]), late)["held"] == ["dataset"]
    broken = run(
        verdict=verdict("fail", "gate", held=["runner"]),
        checks=[check("gate", "failed"), check("dataset", "failed")],
    )
    assert merged_verdict([run(), broken])["held"] == ["runner"]
