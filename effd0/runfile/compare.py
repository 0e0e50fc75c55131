"""A candidate's run beside a baseline's: every figure that both have, and whether it is worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.baseline import MAX_SLOWDOWN
from ..errors import RunFileError
from ..metrics.summary import METRICS
from ..tolerances import AP_ARITHMETIC, MAX_DROP
from .pairs import Entry, Pair, accuracy_pairs, alone, intervals, parity_pairs, points
from .schema import Run
from .speed import SLOWER, UNSURE, Speed, compare_speeds

NO_WORSE, WORSE, UNDECIDED = "no worse", "worse", "undecided"


@dataclass(frozen=True)
class RunComparison:
    """
    What two runs say side by side.

    *metrics* and *classes* are in points, *parity* as measured; *intervals* tell how sure mAP is,
    *alone* what only one side has.  *worse* and *undecided* are the verdict's reasons, in words.
    """

    verdicts: tuple[Mapping[str, Any], Mapping[str, Any]]
    metrics: tuple[Pair, ...]
    classes: tuple[Pair, ...]
    parity: tuple[Pair, ...]
    speeds: tuple[Speed, ...]
    intervals: tuple[str, ...]
    alone: tuple[str, ...]
    worse: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def status(self) -> str:
        """What is worse decides; what is undecided is no pass."""
        if self.worse:
            return WORSE
        return UNDECIDED if self.undecided else NO_WORSE


def compare_runs(
    baseline: Run,
    candidate: Run,
    *,
    max_drop: float = MAX_DROP.limit,
    max_slowdown: float = MAX_SLOWDOWN,
) -> RunComparison:
    """
    Hold *candidate* against *baseline*: mAP may fall by *max_drop* points, times grow by a share.

    Raises `RunFileError` where the two cannot be compared.
    """
    _check_comparable(baseline, candidate)
    pairs = accuracy_pairs(baseline, candidate)
    metrics = [pair for of, *sides in pairs for pair in points(of, "metrics", METRICS, *sides)]
    classes = [
        pair
        for of, *sides in pairs
        for pair in points(of, "per_class", sides[1]["per_class"], *sides)
    ]
    parity = list(parity_pairs(baseline, candidate))
    speeds = compare_speeds(baseline, candidate, max_slowdown)
    shared = _statuses(baseline).keys() & _statuses(candidate).keys()
    if not (metrics or parity or speeds or shared):
        raise RunFileError(
            "the two runs have no check, no accuracy, no parity and no row of times in common, "
            "but something to compare was wanted; run the same commands for both"
        )
    worse, undecided = _judged(baseline, candidate, metrics, speeds, max_drop)
    return RunComparison(
        (baseline["verdict"], candidate["verdict"]),
        tuple(metrics),
        tuple(sorted(classes, key=lambda pair: -abs(pair.change or 0))),
        tuple(parity),
        tuple(speeds),
        tuple(intervals(pairs)),
        tuple(alone(baseline, candidate, pairs)),
        tuple(worse),
        tuple(undecided),
    )


def _check_comparable(baseline: Run, candidate: Run) -> None:
    """Raise `RunFileError` where mAP was measured on different images."""
    before, after = (run["artefact"]["dataset"] for run in (baseline, candidate))
    if not (baseline["accuracy"] and candidate["accuracy"]) or None in (before, after):
        return
    if (before["images"], before["sha256"]) != (after["images"], after["sha256"]):
        raise RunFileError(
            f"the candidate was measured on {_images(after)}, but the baseline on "
            f"{_images(before)}; mAP can be compared on the same images only: evaluate both on them"
        )


def _images(dataset: Mapping[str, Any]) -> str:
    digest = "unknown" if dataset["sha256"] is None else dataset["sha256"][:12]
    return f"{dataset['images']} images of {dataset['name']} (annotations {digest})"


def _judged(
    baseline: Run, candidate: Run, metrics: Sequence[Pair], speeds: Sequence[Speed], max_drop: float
) -> tuple[list[str], list[str]]:
    """What is worse, and what is undecided."""
    worse, undecided = _verdict_change(baseline["verdict"], candidate["verdict"])
    then = _statuses(baseline)
    worse += [
        f"{name} failed, but passed in the baseline: {evidence}"
        for name, (status, evidence) in _statuses(candidate).items()
        if status == "failed" and then.get(name, ("", ""))[0] == "passed"
    ]
    for pair in metrics:
        if pair.name == "AP" and pair.change is None:
            undecided.append(f"mAP of {pair.of} is undefined on one side")
        elif pair.name == "AP" and pair.change is not None:
            drop = -pair.change
            if drop > max_drop + AP_ARITHMETIC.limit:
                worse.append(
                    f"mAP of {pair.of} drops by {drop:.2f} points, {max_drop:.2f} are allowed"
                )
    if baseline["accuracy"] and not candidate["accuracy"]:
        undecided.append("the baseline has an mAP, but the candidate has none")
    worse += [f"{one}; {one.reason}" for one in speeds if one.status == SLOWER]
    undecided += [f"{one}; {one.reason}" for one in speeds if one.status == UNSURE]
    return worse, undecided


def _verdict_change(before: Entry, after: Entry) -> tuple[list[str], list[str]]:
    then, now = before["status"], after["status"]
    where = f" in {after['stage']}" if after["stage"] else ""
    if now == "fail" and then == "pass":
        return [f"the candidate fails{where}, but the baseline passed: {after['evidence']}"], []
    if now == "fail" and then != "fail":
        return [], [f"the candidate fails{where}, and the baseline was {then}"]
    if then == "pass" and now != "pass":
        return [], [f"the baseline passed, but the candidate is {now}"]
    return [], []


def _statuses(run: Run) -> dict[str, tuple[str, str]]:
    """Check -> its status and evidence, what was skipped left out."""
    return {
        check["name"]: (check["status"], check["evidence"])
        for check in run["checks"]
        if check["status"] != "skipped"
    }
