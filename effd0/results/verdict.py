"""The verdict of a list of checks, and the checks that an accuracy gives rise to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from ..metrics.bootstrap import MIN_IMAGES, PairedDrop
from ..metrics.summary import CocoMetrics
from ..tolerances import AP_ARITHMETIC
from .check import STAGES, Check, Stage, Status, first_line

VerdictStatus: TypeAlias = Literal["fail", "undecided", "pass", "not gated"]
#: The gravest first: of several verdicts it stands.
GRAVITY: tuple[VerdictStatus, ...] = ("fail", "undecided", "pass", "not gated")
NOTHING_TESTED = "nothing was tested, so nothing is known"


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What all checks together say; *stage* is the first broken one, *check* its first failure.

    *evidence* and *diagnosis* are those of that failure; without one, *evidence* joins what the
    decisive checks say. *passed* are the stages before the broken one whose checks passed;
    *later* counts the other failures.
    """

    status: VerdictStatus
    stage: Stage | None = None
    check: str = ""
    evidence: str = ""
    diagnosis: str = ""
    passed: tuple[Stage, ...] = ()
    untested: tuple[Stage, ...] = ()
    later: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for passed."""
        return self.status in ("pass", "not gated")

    def lines(self) -> list[str]:
        """The verdict in words."""
        untested = [f"not tested: {', '.join(self.untested)}"] if self.untested else []
        passed = ", ".join(self.passed)
        if self.status == "fail":
            others = "no other check failed"
            if self.later:
                others = f"{self.later} more failed, which may follow from it"
            return [
                f"FAIL  the first broken stage is {self.stage}",
                f"check     {self.check}",
                f"evidence  {self.evidence}",
                *([f"diagnosis {self.diagnosis}"] if self.diagnosis else []),
                f"before it {passed or 'nothing'} passed; {others}",
                *untested,
            ]
        if self.status == "undecided":
            return [f"UNDECIDED  {self.evidence}", f"passed: {passed or 'nothing'}", *untested]
        if not self.passed:
            return ["NONE  nothing was tested, so nothing is known: no check of a stage was run"]
        return [f"PASS  every tested stage passed: {passed}", *untested]


def verdict_of(checks: Sequence[Check], otherwise: str = NOTHING_TESTED) -> Verdict:
    """
    The verdict on *checks*: a failure decides, then what is undecided, then what passed.

    A skipped check says nothing, but what it measured is the evidence where no check decides;
    *otherwise* is the evidence where none measured anything.
    """
    failed = [check for check in checks if check.status == "failed"]
    tested = {check.stage for check in checks if check.status in ("passed", "failed")}
    untested = tuple(stage for stage in STAGES if stage not in tested)
    if failed:
        first = min(failed, key=lambda check: STAGES.index(check.stage))
        before = STAGES[: STAGES.index(first.stage)]
        return Verdict(
            "fail",
            first.stage,
            first.name,
            first_line(first.evidence),
            first.diagnosis,
            tuple(stage for stage in before if stage in tested),
            untested,
            later=len(failed) - 1,
        )
    status: VerdictStatus = "pass" if tested else "not gated"
    if any(check.status == "undecided" for check in checks):
        status = "undecided"
    evidence = reason_of(checks) or ("" if tested else otherwise)
    passed = tuple(stage for stage in STAGES if stage in tested)
    return Verdict(status, evidence=first_line(evidence), passed=passed, untested=untested)


def reason_of(checks: Sequence[Check]) -> str:
    """What *checks* say, the gravest first; of the skipped only what was measured."""
    order: tuple[Status, ...] = ("failed", "undecided", "passed", "skipped")
    telling = [check for check in checks if check.status != "skipped" or check.figure is not None]
    telling.sort(key=lambda check: order.index(check.status))
    return "; ".join(check.evidence for check in telling if check.evidence)


def merged_verdict(runs: Sequence[tuple[Verdict, Sequence[Check]]]) -> Verdict:
    """The gravest verdict of *runs*; of failures, that of the first broken stage."""
    verdicts = [verdict for verdict, _ in runs]

    def gravity(verdict: Verdict) -> tuple[int, int]:
        stage = len(STAGES) if verdict.stage is None else STAGES.index(verdict.stage)
        return GRAVITY.index(verdict.status), stage

    gravest = min(verdicts, key=gravity)
    failed = [verdict for verdict in verdicts if verdict.status == "fail"]
    broken = {check.stage for _, checks in runs for check in checks if check.status == "failed"}
    broken |= {verdict.stage for verdict in failed if verdict.stage is not None}
    passed = {stage for verdict in verdicts for stage in verdict.passed} - broken
    untested = set.intersection(*(set(verdict.untested) for verdict in verdicts))
    return msgspec.structs.replace(
        gravest,
        passed=tuple(stage for stage in STAGES[: gravity(gravest)[1]] if stage in passed),
        untested=tuple(stage for stage in STAGES if stage in untested),
        # The first failure of all is in none of the others' counts.
        later=sum(verdict.later + 1 for verdict in failed) - 1 if failed else 0,
    )


def threshold(
    metrics: CocoMetrics, total: int, min_map: float | None, reachable: float | None = None
) -> Check:
    """
    Check that AP is at least *min_map*, in percent; without a threshold it is skipped.

    A limited run, of fewer than *total* images, never passes; it fails where *reachable*, the most
    that AP of all images can still be, is below the threshold.
    """
    limited = metrics.images < total
    part = f" on the first {metrics.images} of {total} images by id" if limited else ""
    if metrics.ap is None:
        return _gate("failed", f"mAP is {metrics.undefined['AP']}", None, min_map)
    ap, said = 100 * metrics.ap, f"mAP is {100 * metrics.ap:.2f} %{part}"
    if min_map is None:
        return _gate("skipped", f"{said}; no threshold was set (--min-map)", ap, None)
    if limited and reachable is not None and 100 * reachable < min_map - AP_ARITHMETIC.limit:
        best = f"if all others were perfect, it would be {100 * reachable:.2f} %"
        return _gate("failed", f"{said} and cannot reach {min_map:.2f} %: {best}", ap, min_map)
    if limited:
        wanted = f"the threshold of {min_map:.2f} % is for all of them; run without --image-limit"
        return _gate("undecided", f"{said}, but {wanted}", ap, min_map)
    # No rounding lifts a figure over the threshold: the full figure is compared.
    if ap >= min_map:
        return _gate("passed", f"{said}, at least {min_map:.2f} % was wanted", ap, min_map)
    return _gate("failed", f"{said}, but at least {min_map:.2f} % was wanted", ap, min_map)


def _gate(status: Status, evidence: str, ap: float | None, min_map: float | None) -> Check:
    name = "mAP reaches --min-map"
    return Check("gate", name, status, evidence, figure=ap, tolerance=min_map, unit="%")


def drop(found: PairedDrop, max_drop: float, *, limited: bool) -> Check:
    """
    Check that the 95 % interval of the mAP drop against a reference is within *max_drop* points.

    A *limited* run, of not all images, can fail, but never pass.
    """
    allowed, decided = f"{max_drop:.2f} points", found.status(max_drop)
    status: Status = "undecided"
    if decided == "fail":
        status, said = "failed", f"but at most {allowed} were allowed"
    elif limited:
        said = f"but {allowed} are for all images; run without --image-limit"
    elif decided == "pass":
        status, said = "passed", f"at most {allowed} were allowed"
    elif found.images < MIN_IMAGES:
        said = f"but fewer than {MIN_IMAGES} images decide nothing; run on more images"
    else:
        said = f"but the {allowed} allowed lie within the interval; run on more images"
    name = "mAP does not drop against --reference"
    evidence, unit = f"{found}, {said}", "points"
    return Check("gate", name, status, evidence, figure=found.points, tolerance=max_drop, unit=unit)


def detected(metrics: CocoMetrics) -> Check:
    """Check that there is a detection at all: a model without one recognised nothing."""
    name, unit = "something is detected", "detections"
    if metrics.detections:
        return Check("gate", name, "passed", figure=metrics.detections, tolerance=1, unit=unit)
    reason = (
        f"not one detection in {metrics.images} images; the model gave nothing: "
        "look at its heads, its precision and the inputs that it was fed"
    )
    return Check("gate", name, "failed", reason, figure=0, tolerance=1, unit=unit)
