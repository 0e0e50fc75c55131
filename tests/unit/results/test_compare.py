"""Tests for `effd0.results.compare`: worse is told, undecided is no pass, same is no worse."""

from typing import Any

import numpy as np
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
    WORSE,
    Pair,
    Ratio,
    RunComparison,
    compare_runs,
    paired_ratio,
    ratio_of_medians,
)
from tests.helpers import runs

TRIALS = 100
ALLOWED = 0.05


def times(rng: np.random.Generator, count: int, median: float, spread: float = 0.03) -> list[float]:
    """Return *count* times around *median*: each some percent off, one in twenty a hiccup."""
    hiccups = np.where(rng.random(count) < 0.05, 1 + rng.exponential(0.5, count), 1)
    drawn: list[float] = (median * np.exp(rng.normal(0, spread, count)) * hiccups).tolist()
    return drawn


def test_ratios_are_of_medians() -> None:
    """A hiccup moves no ratio; times that rise in turn have the same ratio in each pair."""
    sides = [20.0, 22.0, 21.0, 63.0, 20.5], [10.0, 11.0, 10.5, 10.2, 10.4]
    ratio = ratio_of_medians(*sides)
    assert ratio.value == pytest.approx(21 / 10.4)
    assert ratio.low < ratio.value < ratio.high
    assert ratio_of_medians(*sides) == ratio
    under = [1.0, 10.0, 100.0, 3.0]
    ratio = paired_ratio([1.5 * one for one in under], under)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert Ratio(2.0, 1.0, 4.0, 9).inverse() == Ratio(0.5, 0.25, 1.0, 9)


@pytest.mark.parametrize(
    ("value", "low", "count", "slower"),
    [
        pytest.param(1.06, 1.01, MIN_SAMPLES, True, id="surely-more"),
        pytest.param(1.04, 1.03, MIN_SAMPLES, False, id="within-what-is-allowed"),
        pytest.param(1.5, 0.99, MIN_SAMPLES, False, id="perhaps-the-same"),
        pytest.param(3.0, 2.9, MIN_SAMPLES - 1, False, id="too-few-samples"),
    ],
)
def test_slower_needs_size_certainty_and_samples(
    value: float, low: float, count: int, *, slower: bool
) -> None:
    """Slower is more than allowed, with an interval without no change, of enough samples."""
    assert Ratio(value, low, value + 1, count).slower(ALLOWED) == slower


@pytest.mark.parametrize(
    ("median", "count", "spread", "least", "most"),
    [
        # Measured 2026-11-25, 300 trials: 2.0 %, 1.0 %, 93 % and 99 %.
        pytest.param(10, 8, 0.1, 0, 5, id="same-8-samples"),
        pytest.param(10, 30, 0.1, 0, 5, id="same-30-samples"),
        pytest.param(11, 8, 0.03, 85, 100, id="tenth-slower-8-samples"),
        pytest.param(11, 15, 0.03, 95, 100, id="tenth-slower-15-samples"),
    ],
)
def test_a_loss_is_seen_and_false_alarms_are_rare(
    median: float, count: int, spread: float, least: int, most: int
) -> None:
    """Of a hundred runs that are a tenth slower most are called so, of the same code few."""
    rng = np.random.default_rng(1)
    pairs = [
        (times(rng, count, median, spread), times(rng, count, 10, spread)) for _ in range(TRIALS)
    ]
    assert least <= sum(ratio_of_medians(*pair).slower(ALLOWED) for pair in pairs) <= most


def test_the_interval_holds_the_true_ratio() -> None:
    """Of a hundred intervals of 95 %, about 95 hold it; measured 2026-11-25: 95.3 % of 300."""
    rng = np.random.default_rng(2)
    pairs = [(times(rng, 30, 12), times(rng, 30, 10)) for _ in range(TRIALS)]
    ratios = [ratio_of_medians(*pair) for pair in pairs]
    assert 88 <= sum(ratio.low <= 1.2 <= ratio.high for ratio in ratios) <= 99


def test_pairing_sees_through_a_wandering_machine() -> None:
    """
    Where speed wanders by far more than the loss, only times taken in turn show it.

    Measured 2026-11-25, 300 trials of 30 pairs: paired finds 93 % and raises 0.7 % false alarms;
    medians taken apart find nothing.
    """
    rng = np.random.default_rng(1)

    def drifting_pairs(ratio: float) -> tuple[Any, Any]:
        """Times of two, taken in turn while the machine's speed wanders by a tenth a call."""
        drift = np.exp(np.cumsum(rng.normal(0, 0.1, 60)))
        first, second = times(rng, 30, 10 * ratio), times(rng, 30, 10)
        return first * drift[::2], second * drift[1::2]

    slower = [drifting_pairs(1.1) for _ in range(TRIALS)]
    same = [drifting_pairs(1.0) for _ in range(TRIALS)]
    assert sum(paired_ratio(*pair).slower(ALLOWED) for pair in slower) >= 85
    assert sum(paired_ratio(*pair).slower(ALLOWED) for pair in same) <= 5
    assert sum(ratio_of_medians(*pair).slower(ALLOWED) for pair in slower) <= 10


def beside(candidate: Any = None, baseline: Any = None, **options: float) -> RunComparison:
    """A run of parts *candidate* beside one of parts *baseline*, both green otherwise."""
    return compare_runs(runs.run(**(baseline or {})), runs.run(**(candidate or {})), **options)


def test_a_run_is_no_worse_than_itself() -> None:
    """Nothing moves, nothing is alone, and no reason is left; all twelve numbers are paired."""
    found = beside()
    assert (found.status, found.worse, found.undecided, found.alone) == (NO_WORSE, [], [], [])
    assert {pair.change for pair in found.metrics} == {0, None}
    assert [pair.name for pair in found.metrics] == list(runs.metrics())
    assert [speed.status for speed in found.speeds] == [SAME]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5))
def test_map_may_fall_by_what_is_allowed(before: float, after: float, max_drop: float) -> None:
    """What falls further is worse, and a gain never is; arithmetic's noise decides nothing."""
    sides = [{"accuracy": [runs.accuracy(ap)]} for ap in (after, before)]
    found = beside(*sides, max_drop=max_drop)
    drop = 100 * (before - after)
    if abs(drop - max_drop) > 1e-8:
        assert found.status == (WORSE if drop > max_drop else NO_WORSE)


def test_a_fall_within_rounding_of_what_is_allowed_passes() -> None:
    """33.6 less 33.4 is 0.2, whatever binary fractions say; what is undefined is undecided."""
    assert 100 * 0.336 - 100 * 0.334 > 0.2
    assert beside({"accuracy": [runs.accuracy(0.334)]}, max_drop=0.2).status == NO_WORSE
    found = beside({"accuracy": [runs.accuracy(0.326)]})
    assert found.worse == ["mAP of ort, batch 1 drops by 1.00 points, 0.20 are allowed"]
    found = beside({"accuracy": [runs.accuracy(None)]})
    assert found.undecided == ["mAP of ort, batch 1 is undefined on one side"]


def test_classes_that_moved_most_come_first() -> None:
    """By size, up or down; a class that only one side defines has not moved."""
    per_class = {"person": 0.33, "car": 0.7, "kite": 0.5}
    found = beside({"accuracy": [runs.accuracy(per_class=per_class)]})
    assert [(pair.name, pair.change) for pair in found.classes] == [
        ("car", pytest.approx(30)), ("person", pytest.approx(-0.6)), ("kite", None),
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
            "not gated", "fail", UNDECIDED, "the candidate fails in gate, and the baseline was not",
            id="unknown-before",
        ),
    ],
)  # fmt: skip
def test_verdicts_are_compared(before: str, after: str, status: str, reason: str) -> None:
    """To fail where the baseline passed is worse; what is not known is undecided."""
    sides = [{"verdict": runs.verdict(s, "gate" if s == "fail" else None)} for s in (after, before)]
    found = beside(*sides)
    assert found.status == status
    assert "".join((*found.worse, *found.undecided)).startswith(reason)


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        pytest.param("passed", "failed", WORSE, id="fails"),
        pytest.param("failed", "failed", NO_WORSE, id="failed-before"),
        pytest.param("skipped", "failed", NO_WORSE, id="not-run-before"),
        pytest.param("passed", "skipped", NO_WORSE, id="not-run-now"),
    ],
)
def test_a_check_that_passed_before_is_to_pass(before: str, after: str, status: str) -> None:
    """Also where both runs as a whole failed; the evidence is told."""
    failing = runs.verdict("fail", "runner")
    found = beside(*(
        {"checks": [runs.check("gate", one, evidence="3 off")], "verdict": failing}
        for one in (after, before)
    ))  # fmt: skip
    told = "tests/test_gate.py::test_it failed, but passed in the baseline: 3 off"
    assert (found.status, found.worse) == (status, [told] if status == WORSE else [])


@pytest.mark.parametrize(
    ("timed", "status", "whole", "reason"),
    [
        pytest.param({"median": 10.4}, SAME, NO_WORSE, "", id="within-what-is-allowed"),
        pytest.param({"median": 11.0}, SLOWER, WORSE, "more than 5.0% are too many", id="slower"),
        pytest.param({"median": 9.0}, FASTER, NO_WORSE, "", id="faster"),
        pytest.param(
            {"median": 10.0, "count": 7}, UNDECIDED, UNDECIDED, "7 samples, 8 are needed", id="few"
        ),
        pytest.param(
            {"samples_ms": [6.0, 14.0] * 5 + [14.0] * 2},
            UNDECIDED, UNDECIDED, "it may be the same", id="scattered",
        ),
        pytest.param(
            {"median": 12.0, "fingerprint": runs.fingerprint(backend="ONNX Runtime 1.33.0")},
            SLOWER, WORSE, "more than", id="another-backend-is-compared",
        ),
        pytest.param(
            {"median": 99.0, "fingerprint": runs.fingerprint(cores=4)},
            NOT_COMPARED, NO_WORSE, "cores was 2, is 4", id="another-machine-accuses-nobody",
        ),
    ],
)  # fmt: skip
def test_times_are_compared_with_their_interval(
    timed: dict[str, Any], status: str, whole: str, reason: str
) -> None:
    """Surely slower by more than is allowed is worse; what few samples say is undecided."""
    found = beside({"latency": [runs.latency(**timed)]})
    (speed,) = found.speeds
    assert (speed.status, found.status) == (status, whole)
    assert speed.reason.startswith(reason)
    assert (speed.ratio is None) == (status == NOT_COMPARED)


@pytest.mark.parametrize(
    "changed",
    [
        {"runner": "acl"}, {"precision": "fp16"}, {"batch": 8}, {"dataset": "val2017"},
        {"timed": "files to detections"}, {"images": 100}, {"runner": "", "name": "a library"},
    ],
    ids=lambda changed: next(reversed(changed)),
)  # fmt: skip
def test_only_times_of_the_same_thing_are_compared(changed: dict[str, Any]) -> None:
    """What only one side timed is told, and decides nothing; a library is known by its name."""
    found = beside({"latency": [runs.latency(99.0, **changed)]})
    assert (found.speeds, found.status) == ([], NO_WORSE)
    assert [line.partition(" alone: times of ")[0] for line in found.alone] == [
        "baseline", "candidate",
    ]  # fmt: skip


def test_heads_are_paired_by_their_worst() -> None:
    """Largest difference and relative L2 of each runner and batch, infinite ones without one."""
    found = beside({"parity": [runs.parity("ort", None), runs.parity("acl")]})
    assert found.parity == [
        Pair("ort, batch 1", "max_abs", 1e-5, None),
        Pair("ort, batch 1", "relative_l2", 1e-6, 1e-6),
    ]
    assert found.alone == ["candidate alone: parity of acl, batch 1"]


@pytest.mark.parametrize(
    ("entries", "paired"),
    [
        pytest.param(
            [runs.accuracy(0.4, batch=8), runs.accuracy(0.3)], ["ort, batch 1"], id="same-batch"
        ),
        pytest.param([runs.accuracy(0.3, batch=8)], ["ort, batch 1"], id="other-batch"),
        pytest.param([runs.accuracy(0.3, "acl")], ["acl -> ort"], id="other-runner"),
    ],
)
def test_accuracy_is_paired_with_what_is_nearest(
    entries: list[dict[str, Any]], paired: list[str]
) -> None:
    """The same batch, else the same runner, else what each run is about first, each once."""
    twice = [runs.accuracy(0.3), runs.accuracy(0.3, images_per_second=1.0)]
    found = beside({"accuracy": twice}, {"accuracy": entries})
    pairs = [pair for pair in found.metrics if pair.name == "AP"]
    assert [(pair.of, pair.before) for pair in pairs] == [(of, 30) for of in paired]


def test_a_candidate_without_accuracy_is_undecided() -> None:
    """Nobody knows whether it lost any."""
    found = beside({"accuracy": []})
    assert found.undecided == ["the baseline has an mAP, but the candidate has none"]
    assert found.alone == ["baseline alone: mAP of ort, batch 1"]
    assert beside({}, {"accuracy": []}).status == NO_WORSE


def test_intervals_of_each_side_are_told() -> None:
    """How far each is from its own reference, and how sure that is."""
    assert beside({"accuracy": [runs.accuracy(against=runs.against(-0.1, 0.9))]}).intervals == [
        "candidate, ort, batch 1: 0.40 points below torch (95 % interval -0.10 to 0.90)"
    ]


@pytest.mark.parametrize(
    ("network", "told"),
    [
        pytest.param({"arch": "tf_efficientdet_d1"}, "tf_efficientdet_d1, 90", id="architecture"),
        pytest.param({"num_classes": 5}, "tf_efficientdet_d0, 5 classes", id="classes"),
    ],
)
def test_builds_of_another_network_are_refused(network: dict[str, Any], told: str) -> None:
    """Neither accuracy nor times of other weights say whether a build became worse."""
    other = {"artefact": runs.artefact(network=runs.network(**network))}
    with pytest.raises(RunFileError, match=f"candidate is a {told}.*, but the baseline a tf_eff"):
        beside(other)
    # A smaller input may be what the candidate is about, and an older file does not say.
    for like in (runs.network(image_size=(512, 384)), None):
        assert beside({"artefact": runs.artefact(network=like)}).status == NO_WORSE


def test_runs_that_cannot_be_compared_are_refused() -> None:
    """MAP of other images shows both sets; no worse would be a claim about nothing."""
    dataset = {"name": "mine", "images": 100, "sha256": None}
    message = r"on 100 images of mine \(annotations unknown\), but the baseline on 5000 images of v"
    with pytest.raises(RunFileError, match=message):
        beside({"artefact": runs.artefact(dataset=dataset)})
    empty: dict[str, Any] = {key: [] for key in ("checks", "parity", "accuracy", "latency")}
    with pytest.raises(RunFileError, match="no check, no accuracy, no parity and no row of times"):
        beside({**empty, "parity": [runs.parity()]}, {**empty, "latency": [runs.latency()]})
