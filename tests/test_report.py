"""Tests for `effd0.report`: the verdict and the record of an evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from effd0.errors import OutputError
from effd0.metrics.bootstrap import PairedDrop, ReferenceComparison
from effd0.metrics.detection_diff import DetectionParity
from effd0.metrics.summary import METRICS, CocoMetrics
from effd0.report import Evaluation, Verdict, installed_version, judge, write_json
from effd0.timing import Latency


def metrics_of(ap: float | None, images: int = 10) -> CocoMetrics:
    """Metrics with one AP for everything, or with AP undefined."""
    undefined = {} if ap is not None else {"AP": "undefined: no ground truth"}
    values = dict.fromkeys(METRICS, 0.25) | {"AP": ap}
    return CocoMetrics(values, {"person": 0.5, "car": None}, undefined, images, 321)


EVALUATION = Evaluation(
    metrics=metrics_of(0.335),
    verdict=Verdict("pass", "mAP is 33.50 %"),
    total_images=10,
    images_per_second=2.5,
    stages={"inference": Latency((1.0, 2.0, 3.0, 10.0))},
    peak_rss_mb=123.5,
    runner="ONNX Runtime, CPUExecutionProvider",
    model_sha256="ab" * 32,
    settings={"batch_size": 1},
)


@pytest.mark.parametrize(
    ("ap", "min_map", "status", "reason"),
    [
        pytest.param(0.336, 33.4, "pass", "mAP is 33.60 %, at least 33.40 % was wanted", id="pass"),
        pytest.param(0.334, 33.4, "pass", "mAP is 33.40 %, at least 33.40 %", id="on-the-floor"),
        pytest.param(
            0.33399, 33.4, "fail", "mAP is 33.40 %, but at least 33.40 %", id="rounds-to-the-floor"
        ),
        pytest.param(0.0, 0.0, "pass", "mAP is 0.00 %", id="floor-of-zero"),
        pytest.param(0.0, None, "not gated", "no floor was given (--min-map)", id="not-gated"),
        pytest.param(None, 33.4, "fail", "mAP is undefined: no ground truth", id="undefined"),
        pytest.param(None, None, "fail", "mAP is undefined", id="undefined-without-floor"),
    ],
)
def test_a_whole_run_is_held_against_its_floor(
    ap: float | None, min_map: float | None, status: str, reason: str
) -> None:
    """The full figure decides, not the rounded one; without a floor nothing is claimed."""
    verdict = judge(metrics_of(ap), 10, min_map)
    assert verdict.status == status
    assert reason in verdict.reason


@pytest.mark.parametrize("ap", [0.0, 1.0], ids=["below", "above"])
def test_a_limited_run_is_undecided(ap: float) -> None:
    """Fewer images than there are decide nothing, in neither direction."""
    verdict = judge(metrics_of(ap, images=9), 10, 33.4)
    assert verdict.status == "undecided"
    assert "on the first 9 of 10 images by id" in verdict.reason
    assert "run without --image-limit" in verdict.reason


@pytest.mark.parametrize(
    ("reachable", "status"),
    [
        pytest.param(0.33, "fail", id="below-the-floor"),
        pytest.param(0.334, "undecided", id="on-the-floor"),
        pytest.param(0.334 - 1e-12, "undecided", id="below-by-rounding"),
        pytest.param(1.0, "undecided", id="all-is-open"),
        pytest.param(float("nan"), "undecided", id="nothing-to-find"),
    ],
)
@pytest.mark.parametrize("ap", [0.0, 1.0], ids=["below", "above"])
def test_a_limited_run_fails_once_the_floor_is_out_of_reach(
    ap: float, reachable: float, status: str
) -> None:
    """It fails early, and only by the most that is left to hope for; it never passes."""
    verdict = judge(metrics_of(ap, images=9), 10, 33.4, reachable=reachable)
    assert verdict.status == status


def test_what_cannot_be_reached_is_said_with_its_figures() -> None:
    """The part, the floor, and what perfection would give."""
    verdict = judge(metrics_of(0.12, images=9), 10, 33.4, reachable=0.3)
    assert verdict.reason == (
        "mAP is 12.00 % on the first 9 of 10 images by id and cannot reach 33.40 %: "
        "if all others were perfect, it would be 30.00 %"
    )


def test_a_whole_run_has_reached_what_it_could() -> None:
    """The bound is of limited runs alone; a whole one is held against its own AP."""
    assert judge(metrics_of(0.5), 10, 33.4, reachable=0.0).status == "pass"


def test_a_limited_run_without_a_floor_says_that_it_is_limited() -> None:
    """The figure of a part is never given as that of the whole."""
    verdict = judge(metrics_of(0.5, images=9), 10, None)
    assert verdict.status == "not gated"
    assert "on the first 9 of 10 images by id" in verdict.reason


@pytest.mark.parametrize(
    ("status", "ok"),
    [("pass", True), ("not gated", True), ("fail", False), ("undecided", False)],
    ids=["pass", "not-gated", "fail", "undecided"],
)
def test_only_what_misses_nothing_is_ok(status: str, ok: bool) -> None:
    """A gate that was asked for and not decided is not ok."""
    assert Verdict(status, "").ok is ok


def test_the_record_holds_fractions_by_their_coco_names() -> None:
    """All twelve metrics are there, as fractions of one, in COCO's order."""
    content = EVALUATION.to_json()
    assert list(content["metrics"]) == list(METRICS)
    assert content["metrics"]["AP"] == 0.335
    assert content["per_class"] == {"person": 0.5, "car": None}
    assert (content["images"], content["images_total"], content["detections"]) == (10, 10, 321)


def test_the_record_says_what_was_run_and_how_fast() -> None:
    """Stage times are percentiles with their count; model, runner and settings are named."""
    content = EVALUATION.to_json()
    assert content["stages_ms"] == {
        "inference": {
            "mean": 4.0,
            "p50": 2.5,
            "p90": pytest.approx(7.9),  # 0.7 of the way from 3 to 10
            "p99": pytest.approx(9.79),  # 0.97 of it
            "count": 4,
        }
    }
    assert content["images_per_second"] == 2.5
    assert content["peak_rss_mb"] == 123.5
    assert content["model_sha256"] == "ab" * 32
    assert content["runner"] == "ONNX Runtime, CPUExecutionProvider"
    assert content["settings"] == {"batch_size": 1}
    assert content["verdict"] == {"status": "pass", "reason": "mAP is 33.50 %"}
    assert content["schema"] == 1
    assert content["environment"]["packages"]["numpy"] == installed_version("numpy")


def test_the_record_comes_back_from_its_file(tmp_path: Path) -> None:
    """The file is strict JSON, None and all."""
    evaluation = replace(EVALUATION, metrics=metrics_of(None))
    path = tmp_path / "new" / "report.json"
    write_json(evaluation.to_json(), path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["metrics"]["AP"] is None
    assert content["undefined"] == {"AP": "undefined: no ground truth"}
    assert content == evaluation.to_json()


def test_a_number_that_json_has_not_writes_nothing(tmp_path: Path) -> None:
    """NaN is refused rather than written in a dialect, and an older file stays."""
    path = tmp_path / "report.json"
    path.write_text("older")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"mAP": float("nan")}, path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/report.json", "folder"], ids=["below-a-file", "a-folder"])
def test_a_place_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    """The message names the file that was asked for."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=rf"{name} cannot be written: .*; choose another place"):
        write_json({}, tmp_path / name)


def test_a_package_that_is_not_installed_has_no_version() -> None:
    """An absent package is None in the record, not an error."""
    assert installed_version("no-such-package-anywhere") is None


def held_against(low: float, high: float, images: int = 5000) -> ReferenceComparison:
    """Return a comparison with a reference whose drop has a given interval, 0.2 allowed."""
    drop = PairedDrop((low + high) / 2, low, high, images, 0.34, 0.335)
    parity = DetectionParity(images, 9, 1, 2, (0.0, 0.1, 0.2), (1.0, 0.9, 0.5), ((7, 0.5),))
    return ReferenceComparison(drop, parity, 0.2, "PyTorch, cpu, fp32", "cd" * 32, metrics_of(0.34))


PASS, FAIL, ACROSS = (0.0, 0.1), (0.3, 0.5), (0.1, 0.3)


@pytest.mark.parametrize(
    ("ap", "min_map", "interval", "status", "reason"),
    [
        pytest.param(0.335, 33.4, PASS, "pass", "mAP is 33.50 %, at least", id="both"),
        pytest.param(0.335, None, PASS, "pass", "mAP drops by 0.05 points", id="no-floor"),
        pytest.param(0.330, 33.4, PASS, "fail", "mAP is 33.00 %, but", id="below-the-floor"),
        pytest.param(None, 33.4, PASS, "fail", "mAP is undefined", id="undefined"),
        pytest.param(0.335, 33.4, FAIL, "fail", "mAP drops by 0.40 points", id="too-much-lost"),
        pytest.param(0.335, 33.4, ACROSS, "undecided", "mAP drops by 0.20 points", id="across"),
        pytest.param(0.330, 33.4, ACROSS, "fail", "mAP is 33.00 %, but", id="across-but-below"),
        pytest.param(0.335, None, ACROSS, "undecided", "mAP drops by 0.20 poi", id="across-alone"),
    ],
)
def test_both_gates_have_to_be_passed(
    ap: float | None,
    min_map: float | None,
    interval: tuple[float, float],
    status: str,
    reason: str,
) -> None:
    """The graver of both verdicts stands and is said first; undecided is never a pass."""
    verdict = judge(metrics_of(ap, 5000), 5000, min_map, held_against(*interval))
    assert verdict.status == status
    assert verdict.reason.startswith(reason)
    assert "points against the reference" in verdict.reason
    assert "mAP is" in verdict.reason


@pytest.mark.parametrize(
    ("interval", "status"),
    [(PASS, "undecided"), (ACROSS, "undecided"), (FAIL, "fail")],
    ids=["below", "across", "above"],
)
@pytest.mark.parametrize("min_map", [None, 0.0], ids=["no-floor", "floor"])
def test_a_limited_run_fails_on_its_drop_but_never_passes(
    interval: tuple[float, float], status: str, min_map: float | None
) -> None:
    """A part of the images can show that too much is lost, and not that all is well."""
    against = held_against(*interval, images=500)
    assert judge(metrics_of(0.9, 500), 5000, min_map, against).status == status


def test_a_few_images_are_undecided_whatever_they_show() -> None:
    """A bootstrap over a handful says so and asks for more."""
    verdict = judge(metrics_of(0.9), 10, None, held_against(0, 0, images=10))
    assert verdict.status == "undecided"
    assert "fewer than 30 images decide nothing; run on more images" in verdict.reason


def test_an_undecided_drop_says_why() -> None:
    """The interval and the limit that lies in it are both named."""
    verdict = judge(metrics_of(0.9, 5000), 5000, None, held_against(*ACROSS))
    assert (
        "(95 % interval 0.10 to 0.30, 5000 images), "
        "but the 0.20 points allowed lie within the interval" in verdict.reason
    )


def test_the_record_holds_the_comparison(tmp_path: Path) -> None:
    """Drop, interval, parity and reference are in the JSON, or null without a reference."""
    against = replace(EVALUATION, against=held_against(*ACROSS))
    write_json(against.to_json(), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["against"] == {
        "drop": {
            "points": 0.2,
            "low": 0.1,
            "high": 0.3,
            "images": 5000,
            "reference_ap": 0.34,
            "candidate_ap": 0.335,
        },
        "parity": {
            "images": 5000,
            "matched": 9,
            "missing": 1,
            "extra": 2,
            "score_difference": [0.0, 0.1, 0.2],
            "iou": [1.0, 0.9, 0.5],
            "worst": [[7, 0.5]],
        },
        "max_drop": 0.2,
        "runner": "PyTorch, cpu, fp32",
        "model_sha256": "cd" * 32,
        "metrics": asdict(metrics_of(0.34)),
    }
    assert EVALUATION.to_json()["against"] is None
