"""A candidate's run beside a baseline's: every figure that both have, and whether it is worse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import RunFileError
from ..metrics.summary import METRICS
from ..tolerances import AP_ARITHMETIC, MAX_DROP
from .ratio import MIN_SAMPLES, Ratio, ratio_of_medians
from .run import Accuracy, Parity, Run, TimedRow
from .verdict import Verdict

NO_WORSE, WORSE, UNDECIDED = "no worse", "worse", "undecided"
SAME, FASTER, SLOWER, UNSURE, NOT_COMPARED = (
    "same", "faster", "slower", "undecided", "not compared",
)  # fmt: skip
#: Share of its time that a row may lose where nothing else is said.
MAX_SLOWDOWN = 0.05
#: Of a fingerprint, what has to be equal; a new version of the backend is what is to be compared.
_MACHINE = ("chip", "cpu", "cores", "threads", "driver")
#: The title of what is compared, and both sides.
Sides: TypeAlias = tuple[str, Accuracy, Accuracy]


@dataclass(frozen=True)
class Pair:
    """One figure *of* something on both sides; None where a side does not define it."""

    of: str
    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """The candidate's less the baseline's."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class Speed:
    """
    One thing that both runs timed: images per second, and *ratio*, the time over the baseline's.

    *status* is one of `SAME`, `FASTER`, `SLOWER`, `UNSURE`, `NOT_COMPARED`; *reason* says why.
    """

    name: str
    before: float
    after: float
    ratio: Ratio | None
    status: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} takes {self.ratio} times as long"


@dataclass(frozen=True)
class RunComparison:
    """
    Two runs side by side.

    *metrics* and *classes* are in points, *parity* as measured; *intervals* are those of the mAP
    drops, *alone* lists what only one side has.  *worse* and *undecided* are the reasons in words.
    """

    verdicts: tuple[Verdict, Verdict]
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
    Compare *candidate* with *baseline*: mAP may fall by *max_drop* points, times grow by a share.

    Raises `RunFileError` where mAP is of different images or nothing is in common.
    """
    measured = [run.artefact.dataset for run in (baseline, candidate) if run.accuracy]
    before, after = measured if len(measured) > 1 else (None, None)
    if before and after and (before.images, before.sha256) != (after.images, after.sha256):
        raise RunFileError(
            f"the candidate was measured on {after}, but the baseline on "
            f"{before}; mAP can be compared on the same images only: evaluate "
            "both on them"
        )
    sides = _paired(baseline.accuracy, candidate.accuracy)
    metrics, classes = [], []
    for of, then, now in sides:
        metrics += [_points(of, name, then.metrics[name], now.metrics[name]) for name in METRICS]
        classes += [
            _points(of, name, then.per_class.get(name), ap) for name, ap in now.per_class.items()
        ]
    parity = [
        Pair(_title(one), figure, _largest(other, figure), _largest(one, figure))
        for one in candidate.parity
        for other in _last_of(baseline.parity, one)
        for figure in ("max_abs", "relative_l2")
    ]
    speeds = compare_rows(baseline.latency, candidate.latency, max_slowdown)
    passed = {check.name for check in baseline.checks if check.status == "passed"}
    decided = {check.name for check in baseline.checks if check.status in ("passed", "failed")}
    checks = [check for check in candidate.checks if check.status in ("passed", "failed")]
    if not (metrics or parity or speeds or decided & {check.name for check in checks}):
        raise RunFileError(
            "the two runs have no check, no accuracy, no parity and no row of times in common, "
            "but something to compare was wanted; run the same commands for both"
        )
    worse, undecided = _verdict_change(baseline.verdict, candidate.verdict)
    worse += [
        f"{check.name} failed, but passed in the baseline: {check.evidence}"
        for check in checks
        if check.status == "failed" and check.name in passed
    ]
    for pair in metrics:
        if pair.name == "AP" and pair.change is None:
            undecided.append(f"mAP of {pair.of} is undefined on one side")
        elif pair.name == "AP" and -(pair.change or 0) > max_drop + AP_ARITHMETIC.limit:
            drop = f"drops by {-(pair.change or 0):.2f} points"
            worse.append(f"mAP of {pair.of} {drop}, {max_drop:.2f} are allowed")
    if baseline.accuracy and not candidate.accuracy:
        undecided.append("the baseline has an mAP, but the candidate has none")
    worse += [f"{one}; {one.reason}" for one in speeds if one.status == SLOWER]
    undecided += [f"{one}; {one.reason}" for one in speeds if one.status == UNSURE]
    return RunComparison(
        (baseline.verdict, candidate.verdict),
        tuple(metrics),
        tuple(sorted(classes, key=lambda pair: -abs(pair.change or 0))),
        tuple(parity),
        tuple(speeds),
        tuple(_intervals(sides)),
        tuple(_alone(baseline, candidate, sides)),
        tuple(worse),
        tuple(undecided),
    )


def _verdict_change(before: Verdict, after: Verdict) -> tuple[list[str], list[str]]:
    """What is worse in the verdict as a whole, and what is undecided."""
    where = f" in {after.stage}" if after.stage else ""
    if (before.status, after.status) == ("pass", "fail"):
        return [f"the candidate fails{where}, but the baseline passed: {after.evidence}"], []
    if after.status == "fail" != before.status:
        return [], [f"the candidate fails{where}, and the baseline was {before.status}"]
    if before.status == "pass" != after.status:
        return [], [f"the baseline passed, but the candidate is {after.status}"]
    return [], []


def _paired(before: Sequence[Accuracy], after: Sequence[Accuracy]) -> list[Sides]:
    """Both sides of the same runner and batch, else of the same runner, else the first of each."""
    pairs: list[Sides] = []
    entries: dict[tuple[str, int | None], Accuracy] = {}
    for one in after:
        # Merged runs may have measured the same thing twice: the first counts.
        entries.setdefault((one.runner, one.batch), one)
    for entry in entries.values():
        alike = [one for one in before if one.runner == entry.runner]
        same = [one for one in alike if one.batch == entry.batch]
        if alike:
            pairs.append((entry.title, (same or alike)[0], entry))
    # A model and what was compiled of it have no runner in common.
    if not pairs and before and after:
        pairs.append((f"{before[0].runner} -> {after[0].runner}", before[0], after[0]))
    return pairs


def _points(of: str, name: str, before: float | None, after: float | None) -> Pair:
    """A pair of fractions in points."""
    return Pair(of, name, *(None if value is None else 100 * value for value in (before, after)))


def _last_of(every: Iterable[Parity], like: Parity) -> list[Parity]:
    """The last of *every* with the runner and batch of *like*, if both have heads."""
    key = (like.runner, like.batch)
    found = [one for one in every if (one.runner, one.batch) == key]
    return [one for one in found[-1:] if one.heads and like.heads]


def _largest(parity: Parity, figure: str) -> float | None:
    """The largest *figure* of all heads; None where one is not finite."""
    figures = [getattr(head, figure) for head in parity.heads]
    return None if None in figures else max(figures)


def _title(parity: Parity) -> str:
    return f"{parity.runner}, batch {parity.batch}"


def _alone(baseline: Run, candidate: Run, sides: Sequence[Sides]) -> Iterator[str]:
    """What only one side has, in words."""
    paired = {(one.runner, one.batch) for _, *both in sides for one in both}
    both = (("baseline", baseline, candidate), ("candidate", candidate, baseline))
    for side, run, other in both:
        for entry in run.accuracy:
            if (entry.runner, entry.batch) not in paired:
                yield f"{side} alone: mAP of {entry.title}"
        keys = {_title(one) for one in other.parity}
        yield from (
            f"{side} alone: parity of {_title(one)}"
            for one in run.parity
            if _title(one) not in keys
        )
    for side, run, other in both:
        rows, others = _rows(run.latency), _rows(other.latency)
        for key, row in rows.items():
            if key not in others:
                yield f"{side} alone: times of {row_title(row)}"


def _intervals(sides: Sequence[Sides]) -> Iterator[str]:
    """How far each side's mAP is from its own reference on the same images, and how surely."""
    for of, *both in sides:
        for side, entry in zip(("baseline", "candidate"), both, strict=True):
            if entry.against is not None:
                drop = entry.against.drop
                yield (
                    f"{side}, {of}: {drop.points:.2f} points below {entry.against.runner} "
                    f"(95 % interval {drop.low:.2f} to {drop.high:.2f})"
                )


def compare_rows(
    baseline: Sequence[TimedRow], candidate: Sequence[TimedRow], max_slowdown: float
) -> list[Speed]:
    """Each row of *candidate* that *baseline* has too; *max_slowdown* is a share (0.05)."""
    before, after = _rows(baseline), _rows(candidate)
    return [_speed(before[key], row, max_slowdown) for key, row in after.items() if key in before]


def row_title(row: TimedRow) -> str:
    """What was timed, in words."""
    batch = "" if row.batch is None else f"batch {row.batch}"
    parts = [row.runner or row.name, row.precision, batch, row.timed, row.dataset]
    return ", ".join(part for part in parts if part)


def _rows(rows: Iterable[TimedRow]) -> dict[tuple[object, ...], TimedRow]:
    """The *rows* by what was timed; of two alike the later. A library is known by its name."""
    return {
        (
            row.runner, row.precision, row.batch, row.dataset, row.timed, row.images,
            "" if row.runner else row.name,
        ): row
        for row in rows
    }  # fmt: skip


def _speed(before: TimedRow, after: TimedRow, allowed: float) -> Speed:
    name, rates = row_title(after), (before.images_per_second, after.images_per_second)
    changed = after.fingerprint.differences(before.fingerprint, _MACHINE)
    if changed:
        return Speed(name, *rates, None, NOT_COMPARED, "; ".join(changed))
    ratio = ratio_of_medians(after.samples_ms, before.samples_ms)
    if ratio.slower(allowed):
        return Speed(name, *rates, ratio, SLOWER, f"more than {allowed:.1%} are too many")
    few = ratio.count < MIN_SAMPLES
    if few or ratio.value > 1 + allowed:
        reason = f"{ratio.count} samples, {MIN_SAMPLES} are needed" if few else "it may be the same"
        return Speed(name, *rates, ratio, UNSURE, reason)
    faster = ratio.inverse().slower(allowed)
    return Speed(name, *rates, ratio, FASTER if faster else SAME)
