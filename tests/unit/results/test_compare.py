"""Tests for `effd0.results.compare`: worse is told, undecided is no pass, same is no worse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.errors import RunFileError
from effd0.results.compare import (
    FASTER,
    MIN_SAMPLES,
    NO_WORSE,
    NOT_COMPARED,
    SAME,
    SLOWER,
    UNDECIDED,
    UNSURE,
    WORSE,
    Pair,
    RunComparison,
    compare_runs,
)
from effd0.results.run import Run
from tests.helpers.runs import (
    accuracy,
    against,
    artefact,
    check,
    fingerprint,
    latency,
    metrics,
    parity,
    run,
    verdict,
)


def beside(candidate: Run, **options: float) -> RunComparison:
    """*candidate* beside a green run."""
    return compare_runs(run(), candidate, **options)


def test_a_run_is_no_worse_than_itself() -> None:
    """Nothing moves, nothing is alone, and no reason is left."""
    found = beside(run())
    assert (found.status, found.worse, found.undecided, found.alone) == (NO_WORSE, [], [], [])
    assert {pair.change for pair in found.metrics} == {0, None}
    assert [speed.status for speed in found.speeds] == [SAME]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5))
def test_map_may_fall_by_what_is_allowed(before: float, after: float, max_drop: float) -> None:
    """What falls further is worse, and a gain never is; arithmetic's noise decides nothing."""
    found = compare_runs(
        run(accuracy=[accuracy(before)]), run(accuracy=[accuracy(after)]), max_drop=max_drop
    )
    drop = 100 * (before - after)
    if abs(drop - max_drop) > 1e-8:
        assert found.status == (WORSE if drop > max_drop else NO_WORSE)


def test_a_fall_within_rounding_of_what_is_allowed_passes() -> None:
    """33.6 less 33.4 is 0.2, whatever binary fractions say."""
    assert 100 * 0.336 - 100 * 0.334 > 0.2
    assert beside(run(accuracy=[accuracy(0.334)]), max_drop=0.2).status == NO_WORSE
    found = beside(run(accuracy=[accuracy(0.326)]))
    assert found.worse == ["mAP of ort, batch 1 drops by 1.00 points, 0.20 are allowed"]


def test_all_twelve_numbers_are_paired() -> None:
    """In points, in COCO's order; what is undefined has no change."""
    found = beside(run(accuracy=[accuracy(0.346)]))
    assert [pair.name for pair in found.metrics] == list(metrics())
    ap, small = found.metrics[0], found.metrics[3]
    assert (ap.before, ap.after, ap.change) == pytest.approx((33.6, 34.6, 1.0))
    assert (small.before, small.after, small.change) == (None, None, None)


def test_classes_that_moved_most_come_first() -> None:
    """By size, up or down; a class that only one side defines has not moved."""
    per_class = {"person": 0.33, "car": 0.7, "kite": 0.5}
    found = beside(run(accuracy=[accuracy(per_class=per_class)]))
    assert [pair.name for pair in found.classes] == ["car", "person", "kite"]
    assert [pair.change for pair in found.classes] == [
        pytest.approx(30), pytest.approx(-0.6), None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "status", "reason"),
    [
        pytest.param("pass", "fail", WORSE, "the candidate fails in gate, but the", id="fails"),
        pytest.param("fail", "fail", NO_WORSE, "", id="failed-before"),
        pytest.param("fail", "pass", NO_WORSE, "", id="repaired"),
        pytest.param("not gated", "pass", NO_WORSE, "", id="gated-now"),
        pytest.param(
            "pass", "undecided", UNDECIDED, "the baseline passed, but the candidate is undecided",
            id="undecided",
        ),
        pytest.param(
            "pass", "not gated", UNDECIDED, "the baseline passed, but the candidate is not gated",
            id="not-gated",
        ),
        pytest.param(
            "not gated", "fail", UNDECIDED, "the candidate fails in gate, and the baseline was not",
            id="unknown-before",
        ),
    ],
)  # fmt: skip
def test_verdicts_are_compared(before: str, after: str, status: str, reason: str) -> None:
    """To fail where the baseline passed is worse; what is not known is undecided."""
    sides = [verdict(one, "gate" if one == "fail" else None) for one in (before, after)]
    found = compare_runs(*(run(verdict=side) for side in sides))
    assert found.status == status
    assert "".join((*found.worse, *found.undecided)).startswith(reason)


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        pytest.param("passed", "failed", WORSE, id="fails"),
        pytest.param("failed", "failed", NO_WORSE, id="failed-before"),
        pytest.param("skipped", "failed", NO_WORSE, id="not-run-before"),
        pytest.param("passed", "undecided", NO_WORSE, id="undecided-now"),
        pytest.param("passed", "skipped", NO_WORSE, id="not-run-now"),
    ],
)
def test_a_check_that_passed_before_is_to_pass(before: str, after: str, status: str) -> None:
    """Also where both runs as a whole failed; the evidence is told."""
    failing = verdict("fail", "runner")
    first, second = (
        run(checks=[check("gate", one, evidence="3 off")], verdict=failing)
        for one in (before, after)
    )
    found = compare_runs(first, second)
    assert found.status == status
    told = "tests/test_gate.py::test_it failed, but passed in the baseline: 3 off"
    assert found.worse == ([told] if status == WORSE else [])


@pytest.mark.parametrize(
    ("median", "count", "status", "whole"),
    [
        pytest.param(10.0, 20, SAME, NO_WORSE, id="same"),
        pytest.param(10.4, 20, SAME, NO_WORSE, id="within-what-is-allowed"),
        pytest.param(11.0, 20, SLOWER, WORSE, id="slower"),
        pytest.param(9.0, 20, FASTER, NO_WORSE, id="faster"),
        pytest.param(11.0, MIN_SAMPLES - 1, UNSURE, UNDECIDED, id="too-few-samples"),
        pytest.param(10.0, MIN_SAMPLES - 1, UNSURE, UNDECIDED, id="too-few-for-the-same"),
    ],
)
def test_times_are_compared_with_their_interval(
    median: float, count: int, status: str, whole: str
) -> None:
    """Surely slower by more than is allowed is worse; what few samples say is undecided."""
    found = beside(run(latency=[latency(median, count=count)]))
    (speed,) = found.speeds
    assert (speed.status, found.status) == (status, whole)
    assert speed.ratio is not None
    assert speed.ratio.value == pytest.approx(median / 10, rel=0.01)  # as the samples scatter
    assert (speed.before, speed.after) == pytest.approx((100, 1000 / median))


def test_a_slowdown_that_may_be_none_is_undecided() -> None:
    """A median that is higher among times that scatter accuses nobody, and passes nobody."""
    scattered: dict[str, Any] = {"samples_ms": [6.0, 14.0] * 5 + [14.0] * 2, "p50_ms": 14.0}
    found = beside(run(latency=[latency(**scattered)]))
    assert (found.speeds[0].status, found.status) == (UNSURE, UNDECIDED)
    assert "it may be the same" in found.undecided[0]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"runner": "acl"}, id="runner"),
        pytest.param({"precision": "fp16"}, id="precision"),
        pytest.param({"batch": 8}, id="batch"),
        pytest.param({"dataset": "val2017"}, id="dataset"),
        pytest.param({"timed": "files to detections"}, id="timed"),
        pytest.param({"images": 100}, id="images"),
    ],
)
def test_only_times_of_the_same_thing_are_compared(changed: dict[str, Any]) -> None:
    """What only one side timed is told, and decides nothing."""
    found = beside(run(latency=[latency(99.0, **changed)]))
    assert (found.speeds, found.status) == ([], NO_WORSE)
    assert [line.partition(" alone: times of ")[0] for line in found.alone] == [
        "baseline", "candidate",
    ]  # fmt: skip


def test_what_no_runner_does_is_known_by_its_name() -> None:
    """Preprocessing and scoring have no runner, and are not each other."""
    stages = [latency(10.0 * n, runner="", name=f"bench_{n}") for n in (1, 2)]
    found = compare_runs(run(latency=stages), run(latency=stages[:1]))
    assert [(speed.name, speed.before) for speed in found.speeds] == [
        ("bench_1, fp32, batch 1, input to heads, embedded", 100)
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        pytest.param({"chip": "310P3"}, "chip was a processor, is 310P3", id="chip"),
        pytest.param({"cores": 4}, "cores was 2, is 4", id="cores"),
    ],
)
def test_times_of_another_machine_accuse_nobody(changed: dict[str, Any], reason: str) -> None:
    """They stand side by side, without a ratio, and the difference is told."""
    found = beside(run(latency=[latency(99.0, fingerprint=fingerprint(**changed))]))
    (speed,) = found.speeds
    assert (speed.status, speed.ratio, speed.reason) == (NOT_COMPARED, None, reason)
    assert found.status == NO_WORSE


def test_another_version_of_the_backend_is_what_is_compared() -> None:
    """A release of the backend that is slower is found."""
    newer = fingerprint(backend="ONNX Runtime 1.33.0")
    assert beside(run(latency=[latency(12.0, fingerprint=newer)])).status == WORSE


def test_heads_are_paired_by_their_worst() -> None:
    """Largest difference and relative L2 of each runner and batch, infinite ones without one."""
    found = beside(run(parity=[parity("ort", None), parity("acl")]))
    assert found.parity == [
        Pair("ort, batch 1", "max_abs", 1e-5, None),
        Pair("ort, batch 1", "relative_l2", 1e-6, 1e-6),
    ]
    assert found.alone == ["candidate alone: parity of acl, batch 1"]


@pytest.mark.parametrize(
    ("entries", "paired"),
    [
        pytest.param([accuracy(0.4, batch=8), accuracy(0.3)], ["ort, batch 1"], id="same-batch"),
        pytest.param([accuracy(0.3, batch=8)], ["ort, batch 1"], id="other-batch"),
        pytest.param([accuracy(0.3, "acl")], ["acl -> ort"], id="other-runner"),
    ],
)
def test_accuracy_is_paired_with_what_is_nearest(
    entries: list[dict[str, Any]], paired: list[str]
) -> None:
    """The same batch, else the same runner, else what each run is about first."""
    found = compare_runs(run(accuracy=entries), run(accuracy=[accuracy(0.3)]))
    pairs = [pair for pair in found.metrics if pair.name == "AP"]
    assert [pair.of for pair in pairs] == paired
    assert [pair.before for pair in pairs] == [30]


def test_the_same_measured_twice_is_told_once() -> None:
    """A merged run may hold an evaluation beside the suite's of the same runner."""
    twice = run(accuracy=[accuracy(0.336), accuracy(0.336, images_per_second=1.0)])
    assert len(beside(twice).metrics) == len(metrics())
    assert beside(twice).alone == []


def test_a_candidate_without_accuracy_is_undecided() -> None:
    """Nobody knows whether it lost any."""
    found = beside(run(accuracy=[]))
    assert found.undecided == ["the baseline has an mAP, but the candidate has none"]
    assert found.alone == ["baseline alone: mAP of ort, batch 1"]
    assert compare_runs(run(accuracy=[]), run()).status == NO_WORSE


def test_an_undefined_map_is_undecided() -> None:
    """Zero would be a claim."""
    found = beside(run(accuracy=[accuracy(None)]))
    assert found.undecided == ["mAP of ort, batch 1 is undefined on one side"]


def test_intervals_of_each_side_are_told() -> None:
    """How far each is from its own reference, and how sure that is."""
    found = beside(run(accuracy=[accuracy(against=against(-0.1, 0.9))]))
    assert found.intervals == [
        "candidate, ort, batch 1: 0.40 points below torch (95 % interval -0.10 to 0.90)"
    ]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        pytest.param(
            {"name": "val2017", "images": 100, "sha256": "d" * 64},
            r"on 100 images of val2017 \(annotations d{12}\), but the baseline on 5000 images",
            id="fewer",
        ),
        pytest.param(
            {"name": "mine", "images": 5000, "sha256": None},
            r"on 5000 images of mine \(annotations unknown\), but the baseline", id="other",
        ),
    ],
)  # fmt: skip
def test_map_of_other_images_is_not_compared(dataset: dict[str, Any], message: str) -> None:
    """The message shows both sets."""
    with pytest.raises(RunFileError, match=message):
        beside(run(artefact=artefact(dataset=dataset)))


def test_runs_without_anything_in_common_are_refused() -> None:
    """No worse would be a claim about nothing."""
    empty: dict[str, Any] = {key: [] for key in ("checks", "parity", "accuracy", "latency")}
    with pytest.raises(RunFileError, match="no check, no accuracy, no parity and no row of times"):
        compare_runs(
            run(**{**empty, "latency": [latency()]}), run(**{**empty, "parity": [parity()]})
        )
