"""Tests for `effd0.results.suite`: what tests found becomes checks, and a session becomes a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from effd0.data import fixture
from effd0.data.coco import load_coco
from effd0.errors import AtcError, DatasetError
from effd0.io import sha256
from effd0.results.check import (
    COULD_NOT_RUN,
    DIAGNOSIS_LENGTH,
    EVIDENCE_LENGTH,
    Broken,
    Check,
    Given,
    Stage,
)
from effd0.results.run import Accuracy, Insight, Network, Parity, TimedRow
from effd0.results.suite import SuiteRecord, check_of, properties_of, skipped_line
from effd0.spec import D0
from tests.helpers.runs import accuracy, against, insight, latency, parity

LONG, LONGER = ("x" * (length + 1) for length in (EVIDENCE_LENGTH, DIAGNOSIS_LENGTH))


@dataclass(frozen=True)
class _Report:
    """What pytest says of a test, as far as it matters."""

    passed: bool
    longrepr: object = None
    longreprtext: str = "in full"
    skipped: bool = False
    duration: float = 0.25
    when: str = "call"


def skipped(reason: str) -> _Report:
    """What pytest says of a test that was skipped."""
    return _Report(False, ("test_x.py", 3, f"Skipped: {reason}"), skipped=True)


@pytest.mark.parametrize(
    ("error", "report", "wanted"),
    [
        pytest.param(None, _Report(True), ("runner", "passed"), id="passed"),
        pytest.param(
            Broken("0.3 off", "BGR: it falls", "preprocess", ["class_p3 0.3"]), _Report(False),
            ("preprocess", "failed", "0.3 off", "BGR: it falls"), id="broken-in-another-stage",
        ),
        pytest.param(
            Broken(LONG, LONGER), _Report(False),
            ("runner", "failed", f"{LONG[:-4]}...", f"{LONGER[:-4]}..."), id="broken-at-length",
        ),
        pytest.param(
            DatasetError("a.json is\n  cut off;\nget it again"), _Report(False),
            ("runner", "failed", "a.json is cut off; get it again"), id="error-over-lines",
        ),
        pytest.param(
            AssertionError("0.3 off"),
            _Report(False, mock.Mock(reprcrash=mock.Mock(message="AssertionError: 0.3 off\n<"))),
            ("runner", "failed", "0.3 off"), id="assert",
        ),
        pytest.param(
            AssertionError("0.3 off"), _Report(False, when="setup"),
            ("runner", "undecided", "the suite could not run: AssertionError: 0.3 off"),
            id="assert-in-a-fixture",
        ),
        pytest.param(
            DatasetError("a.json is cut off"), _Report(False, when="setup"),
            ("runner", "failed", "a.json is cut off"), id="error-about-the-artefact-in-a-fixture",
        ),
        pytest.param(
            AtcError("batch is\n fixed"), _Report(False),
            ("runner", "undecided", "the suite could not run: AtcError: batch is fixed"),
            id="error-of-what-the-suite-compiles",
        ),
        pytest.param(
            pytest.fail.Exception("Timeout (>600.0s) from pytest-timeout."), _Report(False),
            (
                "runner", "undecided",
                "the test ran out of its time, Timeout (>600.0s) from pytest-timeout.",
            ),
            id="out-of-time",
        ),
        pytest.param(
            TypeError("no such argument"), _Report(False),
            ("runner", "undecided", "the suite could not run: TypeError: no such argument"),
            id="unforeseen",
        ),
        pytest.param(
            pytest.fail.Exception("npu is required"), _Report(False, "npu is required"),
            ("runner", "failed", "in full"), id="failed-on-purpose",
        ),
        pytest.param(None, _Report(False, "text"), ("runner", "failed", "in full"), id="no-crash"),
        pytest.param(
            None, skipped("needs coco"), ("runner", "skipped", "needs coco"), id="skipped"
        ),
        pytest.param(
            None, skipped("undecided: 5 of 48 images"),
            ("runner", "undecided", "5 of 48 images"), id="undecided",
        ),
    ],
)  # fmt: skip
def test_an_outcome_becomes_a_check(
    error: BaseException | None, report: Any, wanted: tuple[Any, ...]
) -> None:
    """It has the stage of the failure, evidence, diagnosis, the last finite figures, a sentence."""
    noted = [("figure", 1.0), ("figure", float("inf")), ("tolerance", 0.1), ("unit", "%"), ("n", 3)]
    found = check_of("runner", "t", error, report, noted, "It is\n    right. Or not.")
    stage, status, evidence, diagnosis = (*wanted, "", "")[:4]
    assert found == Check(
        stage,
        "t",
        status,
        evidence,
        diagnosis,
        tolerance=0.1,
        unit="%",
        seconds=0.25,
        sentence="It is right",
    )
    # JUnit's XML is told what is not empty.
    told = {"stage": stage, "evidence": found.evidence, "diagnosis": found.diagnosis}
    assert properties_of(found) == [(key, value) for key, value in told.items() if value]


def measured(runner: str = "ort", **more: Any) -> Accuracy:
    """An accuracy of *runner*."""
    return msgspec.convert(accuracy(runner=runner, backend=runner, **more), Accuracy)


def no_pictures() -> Insight:
    """What is to be seen of an evaluation without pictures."""
    return msgspec.convert(insight(), Insight)


HEADS = msgspec.convert(parity(), Parity)
ROW = msgspec.convert(latency(), TimedRow)
GIVEN: dict[str, Path | None] = dict.fromkeys(("--model", "--checkpoint", "--results", "--bins"))


def session(given: Given | None = None) -> SuiteRecord:
    """What a session found that ran two checks, two runners and the bundled scenes."""
    checks = [Check("gate", "t", "passed"), Check("nms", "s", "skipped", "no coco")]
    record = SuiteRecord(checks, given=given or GIVEN)
    record.parity.append(HEADS)
    record.note_dataset(load_coco(fixture.coco_root()), None, "", release_set=False)
    record.keep(measured("torch"), no_pictures)
    record.keep(measured(), mock.Mock(side_effect=AssertionError("is never looked at")))
    record.keep(measured(against=against(0.0, 0.1)), no_pictures)
    return record


def test_a_session_is_a_run() -> None:
    """Checks with what was skipped, parity, each runner's accuracy once, and the verdict."""
    found = session().to_run(0, [ROW])
    assert [check.status for check in found.checks] == ["passed", "skipped"]
    # What is compared with a reference comes first, and pictures are made of what is written.
    assert [one.runner for one in found.accuracy] == ["ort", "torch"]
    assert [one.insight for one in found.accuracy] == [no_pictures()] * 2
    assert (found.parity, found.latency) == ([HEADS], [ROW])
    assert found.verdict.status == "demo"
    scenes, dataset = load_coco(fixture.coco_root()), found.artefact.dataset
    assert dataset is not None
    assert (dataset.name, dataset.images) == ("embedded", len(scenes.samples))
    assert dataset.sha256 == sha256(scenes.annotation_file)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(["--model", "--checkpoint"], "model.onnx", id="model"),
        pytest.param(["--checkpoint"], "checkpoint.onnx", id="checkpoint"),
        pytest.param(["--results"], "results.onnx", id="results-of-unknown-weights"),
        pytest.param(["--checkpoint", "--results"], "results.onnx", id="results"),
        pytest.param([], fixture.checkpoint().name, id="bundled"),
    ],
)
def test_a_session_is_called_by_what_is_under_test(
    options: list[str], name: str, tmp_path: Path
) -> None:
    """The model before what it is compared with; hashes are of what was given."""
    given = dict(GIVEN)
    for option in options:
        given[option] = path = tmp_path / f"{option[2:]}.onnx"
        path.write_bytes(option.encode())
    artefact = SuiteRecord(given=given).to_run(0).artefact
    model, weights = given["--model"], given["--checkpoint"]
    if not options:
        weights = fixture.checkpoint()
    assert artefact.name == name
    assert artefact.model_sha256 == (None if model is None else sha256(model))
    assert artefact.checkpoint_sha256 == (None if weights is None else sha256(weights))


@pytest.mark.parametrize(
    ("option", "known"),
    [("--model", True), ("--results", True), ("--detections", False)],
    ids=["model", "results", "detections"],
)
def test_a_session_names_its_network(option: str, known: bool, tmp_path: Path) -> None:
    """A run says what was tested; of what network detections are, no option tells."""
    path = tmp_path / "file.onnx"
    path.touch()
    artefact = SuiteRecord(given={**GIVEN, option: path}, spec=D0).artefact
    assert artefact.network == (Network.of(D0) if known else None)


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(0, "demo"), (1, "demo"), (5, "demo"), (2, "undecided"), (3, "undecided"), (4, "undecided")],
    ids=["passed", "failed", "nothing-collected", "interrupted", "internal-error", "usage"],
)
def test_a_session_that_was_cut_off_passes_nothing(status: int, wanted: str) -> None:
    """What passed so far is kept, a failed check stays one; a failed test of effd0 is no check."""
    record = session()
    found = record.to_run(status).verdict
    # The last stage was not finished where the session was cut off.
    passed = () if wanted == "undecided" else ("gate",)
    assert (found.status, found.passed) == (wanted, passed)
    assert ("not all checks were run" in found.evidence) == (wanted == "undecided")
    record.checks.append(Check("runner", "t", "failed", "0.3 off"))
    failed = record.to_run(status).verdict
    assert (failed.status, failed.evidence) == ("fail", "0.3 off")


def test_an_error_of_the_suite_is_no_broken_stage() -> None:
    """It leaves the session undecided in its own words, once, unless a check failed besides."""
    record = session()
    said = f"{COULD_NOT_RUN}AtcError: batch is fixed"
    record.checks += [Check("runner", name, "undecided", said) for name in "ab"]
    assert [record.could_not_run] == [True]
    assert record.verdict(2).lines()[0] == f"UNDECIDED  {said}"
    found = record.to_run(2).verdict
    assert (found.status, found.evidence) == ("undecided", said)
    record.checks.append(Check("decode", "t", "failed", "0.3 off"))
    assert [record.could_not_run] == [False]
    assert record.to_run(1).verdict.stage == "decode"


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        pytest.param([], True, id="nothing-failed"),
        pytest.param([("runner", "")], True, id="not-named"),
        pytest.param([("runner", "computed in bf16, not in fp32")], True, id="precision"),
        pytest.param([("gate", "mAP is 3")], True, id="behind-the-heads"),
        pytest.param([("export", "")], False, id="weights"),
        pytest.param([("runner", "heads depend on the batch")], False, id="fault-of-the-runner"),
    ],
)
def test_a_precision_is_told_where_no_fault_explains_the_heads(
    failed: list[tuple[Stage, str]], told: bool
) -> None:
    """Wrong weights may look like int8: neither the summary nor the run file says so then."""
    record = session()
    record.checks += [Check(stage, "t", "failed", "off", cause) for stage, cause in failed]
    (line,) = record.sections()["parity"]
    assert line.endswith("; computes like fp32") == told
    assert record.to_run(1).parity[0].precision == ("fp32" if told else None)


def test_a_session_of_benchmarks_is_not_gated() -> None:
    """Times without a baseline pass nothing, and say so."""
    found = SuiteRecord().to_run(0, [ROW])
    assert (found.verdict.status, found.artefact.dataset) == ("not gated", None)
    assert found.verdict.evidence == "times have no threshold"


def test_the_summary_has_heads_and_accuracy() -> None:
    """Each runner's worst head, also one that is infinitely far, and what accuracy tests said."""
    infinite = msgspec.convert(parity("acl", None), Parity)
    sections = SuiteRecord(parity=[HEADS, infinite], lines=["AP 61.5"]).sections()
    assert sections["parity"] == [
        f"{runner}, 1 images: class P3 differs most from torch, {far}; computes like fp32"
        for runner, far in (("ort", "by 1e-05 (relative L2 1e-06)"), ("acl", "infinitely"))
    ]
    assert sections["accuracy"] == ["AP 61.5"]


def test_terminal_and_run_file_have_one_verdict() -> None:
    """Also where the session was cut off, and with the same next step."""
    record = session(GIVEN | {"--coco": fixture.coco_root()})
    assert record.verdict(2) == record.to_run(2).verdict
    assert record.verdict(2).next_step.endswith(" --resume")


def test_skips_are_one_line_grouped_by_what_would_lift_them() -> None:
    """The largest group comes first, and a reason that names no need is counted with the others."""
    reasons = [
        "Skipped: needs npu: pyACL cannot be imported", "Skipped: needs slow: no --slow was given",
        "needs slow: no --slow was given", "needs a model of your own: no --model was given",
        "the record is the embedded default's: leave out --coco",
    ]  # fmt: skip
    assert skipped_line(reasons) == (
        "5 skipped: 2 need --slow, 1 an NPU, 1 a model of your own, 1 for other reasons "
        "(-rs lists them)"
    )
    assert skipped_line(reasons[4:]) == "1 skipped: 1 for other reasons (-rs lists them)"
