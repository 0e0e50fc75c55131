"""From a run to the page: what the templates are given, and the file."""

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..benchmark.published import published_accuracies, published_figures
from ..errors import RunFileError, require
from ..io import write_text
from ..metrics import operating_point, summary, tide
from ..results.check import STAGES, Check, Verdict
from ..results.compare import compare_runs
from ..results.run import Accuracy, Detection, ErrorKind, Head, Picture, Run, Sides, TimedRow, Truth
from . import plots

_TEMPLATES = Path(__file__).parent / "templates"
#: The data set that published figures are of, and its images.
PUBLISHED_ON = ("val2017", 5000)
#: The board whose published curve is drawn, and what it timed.
BOARD = ("Ascend 310P3", "input to heads")
#: Share of what is allowed at which a step of the heat map's scale begins.
STEPS = (0.0, 0.03, 0.1, 0.3)
#: Figures of a class at the threshold.
FIGURES = ("precision", "recall", "f1", "objects", "detections")
#: Rows of a table of confusions: of two classes, and of one with background.
CONFUSED, ALONE = 20, 10
#: What stands in a table for a figure that is not there.
NONE = "–"  # noqa: RUF001  # the dash that tables use


def write_page(path: Path, run: Run, baseline: Run | None = None) -> None:
    """Write the page of *run* to *path*; raise `OutputError` if it cannot be."""
    write_text(render_page(run, baseline), path)


def render_page(run: Run, baseline: Run | None = None) -> str:
    """The page of *run*, with the figures of an older run beside it."""
    script = (_TEMPLATES / "page.js").read_text()
    shown, dataset, of = foremost(run), run.artefact.dataset, run.artefact
    found, reason = None, ""
    try:
        found = None if baseline is None else compare_runs(baseline, run)
    except RunFileError as error:
        reason = str(error)
    # What failed or stayed undecided before what passed before what was skipped, by stage.
    order = {"failed": 0, "undecided": 0, "passed": 1, "skipped": 2}
    page: str = _environment().get_template("page.html").render(
        run=run,
        stages=[stage_mark(stage, run.checks, run.verdict) for stage in STAGES],
        broken=next((c for c in run.checks if c.sentence and c.name == run.verdict.check), None),
        checks=sorted(run.checks, key=lambda one: (order[one.status], STAGES.index(one.stage))),
        accuracy=shown,
        insight=None if shown is None else shown.insight,
        notes=[] if shown is None else notes_of(shown),
        metrics=summary.METRICS,
        published=sorted(published_accuracies(of), key=lambda one: -one.map),
        comparable=(dataset and dataset.name, shown and shown.images) == PUBLISHED_ON,
        classes=[] if shown is None else class_rows(shown),
        # Those with a head furthest from what is allowed come first.
        parities=sorted((one for one in run.parity if one.heads), key=lambda one: -one.share),
        curves=batch_curves(run.latency),
        board=[one for one in published_figures(of) if (one.chip, one.timed) == BOARD],
        baseline=baseline,
        found=found,
        not_comparable=reason,
        script=script,
        # Nothing but this very script may run, whatever a name in the run contains.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    return page


@functools.cache
def _environment() -> Any:
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    used = (
        percent, change, figure, milliseconds, with_unit, counted, head_cell, parameters, classes,
        missed_and_false,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in used}
    called = (error_rows, operating_points, confusions)
    environment.globals |= {function.__name__: function for function in called}
    environment.globals["plots"] = plots
    return environment


def stage_mark(stage: str, every: Sequence[Check], verdict: Verdict) -> dict[str, str]:
    """The state of a stage, the figure of the check, of *every*, that decides it, and its limit."""
    checks = [check for check in every if check.stage == stage]
    statuses = {*(check.status for check in checks), "passed" if stage in verdict.passed else ""}
    worst = next((one for one in ("failed", "undecided", "passed") if one in statuses), "untested")
    state = "broken" if stage == verdict.stage else "later" if worst == "failed" else worst
    mark = {"stage": stage, "state": state, "figure": "", "limit": ""}

    def telling(check: Check) -> tuple[bool, float]:
        """The verdict's own check tells most, then who is closest to its limit, or beyond most."""
        value, limit = check.figure or 0.0, check.tolerance
        if limit is None:
            return check.name == verdict.check, -2.0
        small, large = sorted((abs(value), abs(limit)))
        close = 0.0 if value * limit < 0 else small / large if large else 1.0
        return check.name == verdict.check, -close if worst == "failed" else close

    deciding = [check for check in checks if check.status == worst]
    if measured := [check for check in deciding if check.figure is not None]:
        told = max(measured, key=telling)
        limit = "" if told.tolerance is None else f"limit {figure(told.tolerance)}"
        mark |= {"figure": with_unit(told.figure, told.unit), "limit": limit}
    elif deciding:
        mark["figure"] = counted(len(deciding), "check")
    return mark


def parameters(check: Check) -> str:
    """What a parametrised test of *check* was given: ``batch=5, runner=ort``; else empty."""
    given = check.name.partition("[")[2].removesuffix("]")
    return re.sub(r"-(?=\w+=)", ", ", given)


def foremost(run: Run) -> Accuracy | None:
    """
    The accuracy that pictures are of: one with insight, compared with a reference if any is.

    Of several the lowest mAP.  A fault may raise mAP, so that the reference itself has the lowest.
    """

    def rank(one: Accuracy) -> tuple[bool, bool, float]:
        ap = one.metrics["AP"]
        return one.insight is None, one.against is None, 2.0 if ap is None else ap

    return min(run.accuracy, key=rank, default=None)


def notes_of(accuracy: Accuracy) -> list[str]:
    """What was taken otherwise than written, and how labels and categories belong together."""
    notes = accuracy.settings.get("notes")
    return [str(one) for one in notes] if isinstance(notes, list) else []


def class_rows(accuracy: Accuracy) -> list[dict[str, Any]]:
    """
    `class_row` of every class with an object or a detection, *change* of AP in points.

    Those that lose most against the reference come first, then those of the lowest AP.
    """
    reference = {} if accuracy.against is None else accuracy.against.metrics.per_class
    sides = [side.per_class for side in operating_points(accuracy)]
    rows = []
    for name, ap in accuracy.per_class.items():
        row = class_row(name, (ap, reference.get(name)), [side.get(name) for side in sides])
        other = row["reference_ap"]
        if {ap, other} != {None} or row["detections"] or row["reference_detections"]:
            row["change"] = None if ap is None or other is None else 100 * (ap - other)
            rows.append(row)

    def order(row: dict[str, Any]) -> tuple[float, float, str]:
        return row["change"] or 0.0, 2.0 if row["ap"] is None else row["ap"], row["class"]

    return sorted(rows, key=order)


def class_row(
    name: str, aps: Sequence[float | None], sides: Sequence[operating_point.ClassFigures | None]
) -> dict[str, Any]:
    """The figures of a class, then each with ``reference_`` before it; None where unknown."""
    row: dict[str, Any] = {"class": name}
    for prefix, ap, side in zip(("", "reference_"), aps, [*sides, None, None], strict=False):
        row[f"{prefix}ap"] = ap
        row |= {f"{prefix}{key}": getattr(side, key, None) for key in FIGURES}
    return row


def operating_points(accuracy: Accuracy) -> list[operating_point.OperatingPoint]:
    """That of the candidate, and that of the reference where there is one."""
    both = accuracy.operating_point
    return [] if both is None else [both.candidate, *([both.reference] if both.reference else [])]


def confusions(points: Sequence[operating_point.OperatingPoint]) -> list[list[dict[str, Any]]]:
    """
    The most frequent errors of the confusion matrix of the first of *points*.

    Three lists of rows: objects that were found as another class, those that nothing found, and
    detections that found nothing.  *counts* are of all *points*; *of* are the objects of the class,
    for the last its detections; *shares* are in percent of them.
    """
    counts = [{(truth, found): n for truth, found, n in side.confusion} for side in points]
    kinds: list[list[dict[str, Any]]] = [[], [], []]
    for pair in sorted(counts[0], key=lambda pair: -counts[0][pair]):
        truth, found = pair
        if truth == found:
            continue
        name, key = (found, "detections") if truth is None else (truth, "objects")
        classes = [side.per_class[str(name)] for side in points]
        own = [of.get(pair, 0) for of in counts]
        wholes = [getattr(one, key) for one in classes]
        shares = [100 * n / (whole or 1) for n, whole in zip(own, wholes, strict=True)]
        row = {"name": name, "found": found, "counts": own, "of": wholes[0], "shares": shares}
        kinds[2 if truth is None else 1 if found is None else 0].append(row)
    return [rows[:most] for rows, most in zip(kinds, (CONFUSED, ALONE, ALONE), strict=True)]


def error_rows(errors: Sides[dict[str, ErrorKind]]) -> list[dict[str, Any]]:
    """TIDE's kinds of error in their order; shares are in percent of the costliest kind."""
    sides = [side for side in (errors.candidate, errors.reference) if side is not None]
    greatest = max(one.delta_ap or 0.0 for side in sides for one in side.values()) or 1.0
    rows = []
    for kind in tide.KINDS:
        own = [side[kind] for side in sides]
        shares = [100 * max(0.0, one.delta_ap or 0.0) / greatest for one in own]
        rows.append({"name": kind, "sides": own, "shares": shares})
    return rows


def classes(picture: Picture) -> list[str]:
    """The classes of what is in a *picture* or was found there, each once."""
    every = (*picture.truth, *picture.candidate, *(picture.reference or ()))
    return list(dict.fromkeys(one.category for one in every))


def missed_and_false(picture: Picture) -> tuple[list[Truth], list[Detection]]:
    """
    The objects that no drawn detection of the candidate found, and its detections of no object.

    They match as in AP50, those of the highest score first; what lies in a crowd is no mistake.
    """
    missed, false = [one for one in picture.truth if not one.crowd], []
    crowds = [one for one in picture.truth if one.crowd]
    for found in sorted(picture.candidate, key=lambda one: -one.score):
        overlaps = ((_overlap(one, found), place) for place, one in enumerate(missed))
        overlap, place = max(overlaps, default=(0.0, 0))
        if overlap >= tide.FOREGROUND:
            del missed[place]
        elif not any(_overlap(one, found) >= tide.FOREGROUND for one in crowds):
            false.append(found)
    return missed, false


def _overlap(truth: Truth, found: Detection) -> float:
    """Their IoU, of a crowd the share of the detection that lies in it; 0 for another class."""
    (x, y, w, h), (u, v, p, q) = truth.box, found.box
    width, height = min(x + w, u + p) - max(x, u), min(y + h, v + q) - max(y, v)
    if truth.category != found.category or min(width, height) <= 0:
        return 0.0
    common = width * height
    return common / (p * q if truth.crowd else w * h + p * q - common)


def head_cell(head: Head) -> dict[str, Any]:
    """A cell of the heat map: the error, its step of the scale, the share in words."""
    error, share, step, shown = getattr(head, head.measure), head.share, None, "no limit"
    if share is not None and share > 1:
        step, shown = len(STEPS), f"{share:.3g} × limit"  # noqa: RUF001  # times
    elif share is not None:
        step = max(n for n, begin in enumerate(STEPS) if share >= begin)
        # Two digits, but no power of ten where the head uses up all of it.
        shown = f"{100 * share:.{'0f' if share >= 0.1 else '2g'}} %"  # noqa: PLR2004
    figured = "not finite" if error is None else figure(error, 2)
    return {"error": figured, "shown": shown, "step": step}


def batch_curves(rows: Sequence[TimedRow]) -> dict[str, list[TimedRow]]:
    """Name -> the rows that were timed alike, by batch; rows without a batch are in none."""
    found: dict[str, dict[int, TimedRow]] = {}
    for row in rows:
        if row.batch is not None:
            parts = (row.runner, row.precision, row.fingerprint.chip, row.timed)
            name = ", ".join(part for part in parts if part)
            # Of rows that were timed alike twice the first counts.
            found.setdefault(name, {}).setdefault(row.batch, row)
    return {name: [points[n] for n in sorted(points)] for name, points in found.items()}


def percent(fraction: float | None, digits: int = 2) -> str:
    """A *fraction* in percent, without the sign."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f}"


def change(points: float | None, digits: int = 2) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    if points is None:
        return NONE
    shown = f"{points:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def figure(value: float | None, significant: int = 4) -> str:
    """A *value* of any size, short; what is tiny needs two digits."""
    if value is None:
        return NONE
    return f"{value:.{min(significant, 2) if abs(value) < 1e-3 else significant}g}"  # noqa: PLR2004


def milliseconds(value: float | None) -> str:
    """A time in ms: two digits behind the point where they matter."""
    if value is None:
        return NONE
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"  # noqa: PLR2004


def with_unit(value: float | None, unit: str) -> str:
    """A figure and its unit."""
    return f"{figure(value)} {unit}".strip()


def counted(number: int, noun: str) -> str:
    """A *number* of things: ``1 check``, ``3 checks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
