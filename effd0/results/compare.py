"""
A candidate's run beside a baseline's: every figure that both have, and whether it is worse.

Times are compared by their medians, since a machine's hiccups only ever add time, with intervals
by bootstrap, since times follow no distribution that has a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RunFileError
from ..tolerances import AP_ARITHMETIC, MAX_DROP
from ..types import Fractions
from .check import Check, Status, Verdict
from .run import Accuracy, Parity, Run, TimedRow

NO_WORSE, WORSE, UNDECIDED = "no worse", "worse", "undecided"
SAME, FASTER, SLOWER, NOT_COMPARED = "same", "faster", "slower", "not compared"
#: Share of its time that a row may lose where nothing else is said.
MAX_SLOWDOWN = 0.05
#: Probability that an interval holds the true ratio, were the samples independent.
LEVEL = 0.95
RESAMPLES = 1000
#: A bootstrap of fewer samples knows too little of their spread to accuse anyone.
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Ratio:
    """One time over another: *value*, the bounds of its interval, and the smaller sample count."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    def inverse(self) -> Ratio:
        """The ratio the other way round."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, self.count)

    def slower(self, allowed: float) -> bool:
        """Whether the numerator is slower by more than *allowed* (0.05), and surely slower."""
        return self.count >= MIN_SAMPLES and self.value > 1 + allowed and self.low > 1

    def check(self, name: str, status: Status, evidence: str, allowed: float) -> Check:
        """The check that the numerator is slower by at most *allowed* (0.05)."""
        slower, limit = 100 * (self.value - 1), 100 * allowed
        return Check("gate", name, status, evidence, "", slower, limit, "% slower")


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """The ratio of the medians of two runs, of times above 0, which are resampled apart."""
    rng = np.random.default_rng(0)
    over, under = np.asarray(numerator), np.asarray(denominator)
    drawn = _medians(over, rng) / _medians(under, rng)
    return _ratio(np.median(over) / np.median(under), drawn, min(over.size, under.size))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """
    The median of the ratios of times above 0 that were taken in turn, A B A B, resampled in pairs.

    What slows both of a pair cancels out.
    """
    # Logarithms, so that the ratio the other way round has the inverse interval.
    logs = np.log(np.divide(numerator, denominator))
    drawn = np.exp(_medians(logs, np.random.default_rng(0)))
    return _ratio(np.exp(np.median(logs)), drawn, logs.size)


def _medians(samples: Fractions, rng: np.random.Generator) -> Fractions:
    """Medians of `RESAMPLES` draws of *samples* with replacement."""
    drawn = rng.integers(0, samples.size, (RESAMPLES, samples.size))
    medians: Fractions = np.median(samples[drawn], axis=1)
    return medians


def _ratio(value: float, drawn: Fractions, count: int) -> Ratio:
    """A ratio with the interval of those *drawn*."""
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2))
    return Ratio(float(value), float(low), float(high), count)


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
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Speed:
    """
    One thing that both runs timed: images per second, and *ratio*, the time over the baseline's.

    *status* is one of `SAME`, `FASTER`, `SLOWER`, `UNDECIDED`, `NOT_COMPARED`; *reason* says why.
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
    metrics: list[Pair]
    classes: list[Pair]
    parity: list[Pair]
    speeds: list[Speed]
    intervals: list[str]
    alone: list[str]
    worse: list[str]
    undecided: list[str]

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

    Raises `RunFileError` where the networks have another architecture or other classes, where mAP
    is of different images, or where nothing is in common.
    """
    then, now = baseline.artefact.network, candidate.artefact.network
    if then and now and (then.arch, then.num_classes) != (now.arch, now.num_classes):
        raise RunFileError(
            f"the candidate is a {now}, but the baseline a {then}; builds of one architecture with "
            "the same classes can be compared: give such a baseline"
        )
    sides = _paired(baseline.accuracy, candidate.accuracy)
    before, after = baseline.artefact.dataset, candidate.artefact.dataset
    images = {(one.images, one.sha256) for one in (before, after) if one is not None}
    if sides and len(images) > 1:
        raise RunFileError(
            f"the candidate was measured on {after}, but the baseline on {before}; "
            "mAP can be compared on the same images only: evaluate both on them"
        )
    metrics, classes = (
        [
            Pair(of, name, _points(getattr(then, figures).get(name)), _points(value))
            for of, then, now in sides
            for name, value in getattr(now, figures).items()
        ]
        for figures in ("metrics", "per_class")
    )
    heads = _parities(baseline)
    found = RunComparison(
        verdicts=(baseline.verdict, candidate.verdict),
        metrics=metrics,
        classes=sorted(classes, key=lambda pair: -abs(pair.change or 0)),
        parity=[
            Pair(title, figure, _largest(heads[title], figure), _largest(one, figure))
            for title, one in _parities(candidate).items()
            if title in heads and heads[title].heads and one.heads
            for figure in ("max_abs", "relative_l2")
        ],
        speeds=compare_rows(baseline.latency, candidate.latency, max_slowdown),
        intervals=[
            f"{side}, {of}: {entry.against.drop.points:.2f} points below {entry.against.runner} "
            f"(95 % interval {entry.against.drop.low:.2f} to {entry.against.drop.high:.2f})"
            for of, *both in sides
            for side, entry in zip(("baseline", "candidate"), both, strict=True)
            if entry.against is not None
        ],
        alone=_alone("baseline", baseline, candidate, sides)
        + _alone("candidate", candidate, baseline, sides),
        worse=[],
        undecided=[],
    )
    _judge(found, baseline, candidate, max_drop)
    return found


def _judge(found: RunComparison, baseline: Run, candidate: Run, max_drop: float) -> None:
    """Fill in what is worse and what is undecided; raise `RunFileError` for nothing in common."""
    worse, undecided = found.worse, found.undecided
    says = ("passed", "failed")
    decided = {one.name: one.status for one in baseline.checks if one.status in says}
    common = [one for one in candidate.checks if one.status in says and one.name in decided]
    if not (found.metrics or found.parity or found.speeds or common):
        raise RunFileError(
            "the two runs have no check, no accuracy, no parity and no row of times in common, "
            "but something to compare was wanted; run the same commands for both"
        )
    before, after = found.verdicts
    where = f" in {after.stage}" if after.stage else ""
    passed = ("pass", "incomplete", "demo")
    if before.status in passed and after.status == "fail":
        worse.append(f"the candidate fails{where}, but the baseline passed: {after.evidence}")
    elif after.status == "fail" != before.status:
        undecided.append(f"the candidate fails{where}, and the baseline was {before.status}")
    elif before.status in passed and after.status not in (before.status, "pass"):
        undecided.append(f"the baseline passed, but the candidate is {after.status}")
    lost = [one for one in common if decided[one.name] == "passed" != one.status]
    worse += [f"{one.name} failed, but passed in the baseline: {one.evidence}" for one in lost]
    for pair in (one for one in found.metrics if one.name == "AP"):
        if pair.change is None:
            undecided.append(f"mAP of {pair.of} is undefined on one side")
        elif (drop := -pair.change) > max_drop + AP_ARITHMETIC.limit:
            said = f"drops by {drop:.2f} points, {max_drop:.2f} are allowed"
            worse.append(f"mAP of {pair.of} {said}")
    if baseline.accuracy and not candidate.accuracy:
        undecided.append("the baseline has an mAP, but the candidate has none")
    worse += [f"{one}; {one.reason}" for one in found.speeds if one.status == SLOWER]
    undecided += [f"{one}; {one.reason}" for one in found.speeds if one.status == UNDECIDED]


def _paired(
    before: Sequence[Accuracy], after: Sequence[Accuracy]
) -> list[tuple[str, Accuracy, Accuracy]]:
    """
    The title of what is compared, and both sides.

    They are of the same runner and batch, else of the same runner, else the first of each.
    """
    pairs = []
    # Merged runs may have measured the same thing twice: the last counts.
    for title, entry in {one.title: one for one in after}.items():
        alike = [one for one in before if one.runner == entry.runner]
        alike.sort(key=lambda one: one.batch != entry.batch)
        pairs += [(title, alike[0], entry)] if alike else []
    # A model and what was compiled of it have no runner in common.
    if not pairs and before and after:
        pairs.append((f"{before[0].runner} -> {after[0].runner}", before[0], after[0]))
    return pairs


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _parities(run: Run) -> dict[str, Parity]:
    """Title -> parity; of the same measured twice the last."""
    return {f"{one.runner}, batch {one.batch}": one for one in run.parity}


def _largest(parity: Parity, figure: str) -> float | None:
    """The largest *figure* of all heads; None where one is not finite."""
    figures = [getattr(head, figure) for head in parity.heads]
    return None if None in figures else max(figures)


def _alone(
    side: str, run: Run, other: Run, sides: Iterable[tuple[str, Accuracy, Accuracy]]
) -> list[str]:
    """What only *run* has, in words."""
    paired = {one.title for _, *both in sides for one in both}
    heads, rows = _parities(other), _timed(other.latency)
    found = [f"mAP of {one.title}" for one in run.accuracy if one.title not in paired]
    found += [f"parity of {title}" for title in _parities(run) if title not in heads]
    found += [f"times of {key[0]}" for key in _timed(run.latency) if key not in rows]
    return [f"{side} alone: {one}" for one in found]


def row_title(row: TimedRow) -> str:
    """What was timed, in words; a library is known by its name."""
    batch = "" if row.batch is None else f"batch {row.batch}"
    parts = [row.runner or row.name, row.precision, batch, row.timed, row.dataset]
    return ", ".join(part for part in parts if part)


def _timed(rows: Iterable[TimedRow]) -> dict[tuple[str, int], TimedRow]:
    """The *rows* by what was timed; of two alike the later."""
    return {(row_title(row), row.images): row for row in rows}


def compare_rows(
    baseline: Sequence[TimedRow], candidate: Sequence[TimedRow], max_slowdown: float
) -> list[Speed]:
    """Each row of *candidate* that *baseline* has too; *max_slowdown* is a share (0.05)."""
    before, after = _timed(baseline), _timed(candidate)
    common = [key for key in after if key in before]
    return [_speed(key[0], before[key], after[key], max_slowdown) for key in common]


def _speed(name: str, before: TimedRow, after: TimedRow, allowed: float) -> Speed:
    rates = (before.images_per_second, after.images_per_second)
    if changed := after.fingerprint.differences(before.fingerprint):
        return Speed(name, *rates, None, NOT_COMPARED, "; ".join(changed))
    ratio = ratio_of_medians(after.samples_ms, before.samples_ms)
    if ratio.slower(allowed):
        return Speed(name, *rates, ratio, SLOWER, f"more than {allowed:.1%} are too many")
    few = ratio.count < MIN_SAMPLES
    if few or ratio.value > 1 + allowed:
        reason = f"{ratio.count} samples, {MIN_SAMPLES} are needed" if few else "it may be the same"
        return Speed(name, *rates, ratio, UNDECIDED, reason)
    return Speed(name, *rates, ratio, FASTER if ratio.inverse().slower(allowed) else SAME)
