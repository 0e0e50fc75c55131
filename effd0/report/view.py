"""From a run to the page: what the templates are given, and the file."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..benchmark.published import Published, published_accuracies, published_figures
from ..errors import RunFileError, require
from ..io import written_whole
from ..metrics.summary import METRICS
from ..results.check import STAGES, Check, Verdict
from ..results.compare import compare_runs
from ..results.run import Accuracy, ErrorKind, Head, Parity, Run, TimedRow
from . import plots, text

_TEMPLATES = Path(__file__).parent / "templates"
#: Verdict -> its words in large, and what they mean.
HEADLINES = {
    "pass": ("MAY SHIP", "Every tested stage passed."),
    "fail": ("MUST NOT SHIP", "The first broken stage is {stage}."),
    "undecided": ("UNDECIDED", "Nothing failed, but not enough was measured to let it pass."),
    "not gated": ("NOT GATED", "No threshold was set; this run does not decide a release."),
}
#: State of a stage -> the word that is shown.
WORDS = {
    "passed": "passed",
    "broken": "broken",
    "later": "fails too",
    "undecided": "undecided",
    "untested": "not tested",
}
#: TIDE's kinds of error, and what each is.
ERRORS = {
    "class": "right place, wrong class",
    "localisation": "right class, box is off",
    "both": "wrong class and box is off",
    "duplicate": "a better detection had the object",
    "background": "nothing is there",
    "missed": "an object that nothing found",
}
#: The data set that published figures are of, and its images.
PUBLISHED_ON = ("val2017", 5000)
#: The board whose published curve is drawn, and what it timed.
BOARD, NETWORK = "Ascend 310P3", "input to heads"
#: Share of what is allowed at which a step of the heat map's scale begins, and the steps in words.
STEPS = (0.0, 0.03, 0.1, 0.3)
SCALE = ("under 3 %", "3 to 10 %", "10 to 30 %", "30 to 100 %", "over what is allowed")
BEYOND = len(STEPS)


def write_page(path: Path, run: Run, baseline: Run | None = None) -> None:
    """Write the page of *run* to *path*; raise `OutputError` if it cannot be."""
    page = render_page(run, baseline)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(run: Run, baseline: Run | None = None) -> str:
    """The page of *run*, with the figures of an older run beside it."""
    script = (_TEMPLATES / "page.js").read_text()
    shown = foremost(run)
    words, meaning = HEADLINES[run.verdict.status]
    found, reason = None, ""
    if baseline is not None:
        try:
            found = compare_runs(baseline, run)
        except RunFileError as error:
            reason = str(error)
    dataset = run.artefact.dataset
    page: str = (
        _environment()
        .get_template("page.html")
        .render(
            run=run,
            headline=(words, meaning.format(stage=run.verdict.stage)),
            stages=stage_line(run),
            checks=sorted(run.checks, key=_by_status),
            accuracy=shown,
            metrics=METRICS,
            published=sorted(published_accuracies(), key=lambda one: -one.map),
            comparable=dataset is not None
            and shown is not None
            and (dataset.name, shown.images) == PUBLISHED_ON,
            classes=[] if shown is None else class_rows(shown),
            heat_maps=heat_maps(run.parity),
            scale=SCALE,
            pictures=_pictures(shown),
            times=_times(run.latency),
            baseline=baseline,
            found=found,
            not_comparable=reason,
            style=(_TEMPLATES / "page.css").read_text(),
            script=script,
            # Nothing but this very script may run, whatever a name in the run contains.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
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
    names = ("percent", "change", "points", "figure", "milliseconds", "with_unit", "counted")
    environment.filters |= {name: getattr(text, name) for name in names}
    return environment


def _markup(svg: str) -> Any:
    """A plot that stands in HTML as it is."""
    return require("markupsafe", extra="report").Markup(svg)


def _by_status(check: Check) -> tuple[int, int]:
    """What failed or stayed undecided before what passed before what was skipped, by stage."""
    order = {"failed": 0, "undecided": 0, "passed": 1, "skipped": 2}
    return order[check.status], STAGES.index(check.stage)


def stage_line(run: Run) -> list[dict[str, str]]:
    """Every stage in order: its state, the figure that decides or nearly does, and the limit."""
    return [
        _mark(stage, [check for check in run.checks if check.stage == stage], run.verdict)
        for stage in STAGES
    ]


def _mark(stage: str, checks: Sequence[Check], verdict: Verdict) -> dict[str, str]:
    statuses = {check.status for check in checks}
    state = "untested"
    if stage == verdict.stage:
        state = "broken"
    elif "failed" in statuses:
        state = "later"
    elif "undecided" in statuses:
        state = "undecided"
    elif "passed" in statuses or stage in verdict.passed:
        state = "passed"
    mark = {"stage": stage, "state": state, "word": WORDS[state], "figure": "", "limit": ""}
    if state == "untested":
        return mark
    measured = [check for check in checks if check.figure is not None]
    if not measured:
        ran = sum(check.status not in ("skipped", "undecided") for check in checks)
        return mark | {"figure": text.counted(ran, "check") if ran else ""}
    telling = max(measured, key=_closeness)
    limit = "" if telling.tolerance is None else f"limit {text.figure(telling.tolerance)}"
    return mark | {"figure": text.with_unit(telling.figure, telling.unit), "limit": limit}


def _closeness(check: Check) -> tuple[bool, float]:
    """How much the figure of *check* tells: one that failed, else the closest to its limit."""
    failed = check.status == "failed"
    if check.tolerance is None:
        return failed, -1.0
    small, large = sorted((abs(check.figure or 0.0), abs(check.tolerance)))
    return failed, small / large if large else 1.0


def foremost(run: Run) -> Accuracy | None:
    """
    The accuracy that pictures are of: one with insight, compared with a reference if any is.

    Of several the lowest mAP.  A fault may raise mAP, so that the reference itself has the lowest.
    """

    def rank(one: Accuracy) -> tuple[bool, bool, float]:
        ap = one.metrics["AP"]
        return one.insight is None, one.against is None, 2.0 if ap is None else ap

    return min(run.accuracy, key=rank, default=None)


def class_rows(accuracy: Accuracy) -> list[dict[str, Any]]:
    """
    The AP of every class that is defined on a side, and of the reference, as fractions.

    *change* is in points; the classes that lose most come first.
    """
    reference = {} if accuracy.against is None else accuracy.against.metrics.per_class
    rows = []
    for name, ap in accuracy.per_class.items():
        other = reference.get(name)
        if ap is not None or other is not None:
            change = None if ap is None or other is None else 100 * (ap - other)
            rows.append({"name": name, "ap": ap, "reference": other, "change": change})
    return sorted(
        rows,
        key=lambda row: (
            row["change"] or 0.0,
            -1.0 if row["ap"] is None else row["ap"],
            row["name"],
        ),
    )


def _pictures(accuracy: Accuracy | None) -> dict[str, Any] | None:
    """What is drawn of an insight; None where there is none."""
    if accuracy is None or accuracy.insight is None:
        return None
    insight, against = accuracy.insight, accuracy.against
    curves, scores = insight.curves, insight.scores
    drawn = []
    for iou, values in curves.candidate.items():
        lines = [values, *([] if curves.reference is None else [curves.reference[iou]])]
        drawn.append((iou, _markup(plots.precision_recall(iou, insight.recall, lines))))
    counts = [scores.candidate, *([] if scores.reference is None else [scores.reference])]
    legend = [("candidate", plots.variable(plots.CANDIDATE), False, "")]
    if curves.reference is not None or scores.reference is not None:
        name = "as given" if against is None else against.runner
        legend.append((f"reference ({name})", plots.variable(plots.REFERENCE), True, ""))
    return {
        "legend": legend,
        "curves": drawn,
        "scores": _markup(plots.histogram(scores.edges, counts)),
        "errors": error_rows(insight.errors.candidate, insight.errors.reference),
        "gallery": insight.gallery,
    }


def error_rows(
    candidate: dict[str, ErrorKind], reference: dict[str, ErrorKind] | None
) -> list[dict[str, Any]]:
    """TIDE's kinds of error in their order; shares are in percent of the costliest kind."""
    sides = [candidate, *([] if reference is None else [reference])]
    costs = [{kind: max(0.0, side[kind].delta_ap or 0.0) for kind in ERRORS} for side in sides]
    greatest = max(max(cost.values()) for cost in costs) or 1.0
    return [
        {
            "name": kind,
            "meaning": meaning,
            "sides": [side[kind] for side in sides],
            "shares": [100 * cost[kind] / greatest for cost in costs],
        }
        for kind, meaning in ERRORS.items()
    ]


def heat_maps(parities: Sequence[Parity]) -> list[dict[str, Any]]:
    """A heat map for each runner and batch, those furthest from what is allowed first."""
    words = {"max_abs": "largest difference", "relative_l2": "relative L2"}
    maps = []
    for one in parities:
        if not one.heads:
            continue
        cells = {(head.head, head.level): _cell(head) for head in one.heads}
        levels = sorted({level for _, level in cells})
        about = f"measured: {words[one.heads[0].measure]}"
        if one.precision is not None:
            about += f"; computes like {one.precision}"
        maps.append({
            "title": f"{one.runner} beside {one.reference}, batch {one.batch}",
            "about": about,
            "levels": levels,
            "rows": [
                (head, [cells.get((head, level)) for level in levels]) for head in ("class", "box")
            ],
            "worst": max(cell["share"] or 0.0 for cell in cells.values()),
        })  # fmt: skip
    return sorted(maps, key=lambda one: -one["worst"])


def _cell(head: Head) -> dict[str, Any]:
    """A cell of the heat map: the judged error as a share of what is allowed, and all figures."""
    error: float | None = getattr(head, head.measure)
    # What is not finite is None in a run file, and beyond every limit.
    share = float("inf") if error is None else None
    if error is not None and head.allowed:
        share = error / head.allowed
    step, shown = None, "no limit"
    if share is not None and share > 1:
        step, shown = BEYOND, f"{share:.3g} × limit"  # noqa: RUF001  # times
    elif share is not None:
        step = max(n for n, begin in enumerate(STEPS) if share >= begin)
        # Two digits, but no power of ten where the head uses up all of it.
        percent = 100 * share
        shown = f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"  # noqa: PLR2004
    figures = {
        "largest difference": head.max_abs,
        "99.9 % within": head.q999,
        "relative L2": head.relative_l2,
        "cosine": head.cosine,
        "needs a tolerance of": head.required,
    }
    return {
        "error": "not finite" if error is None else text.figure(error, 2),
        "share": share,
        "shown": shown,
        "step": step,
        "details": ", ".join(f"{name} {text.figure(value)}" for name, value in figures.items()),
    }


def _times(rows: Sequence[TimedRow]) -> dict[str, Any] | None:
    """The plots of times; None where nothing was timed at a batch."""
    curves, published = batch_curves(rows), published_curve()
    if not curves:
        return None
    legend = [(name, *plots.style(place)) for place, name in enumerate(curves)]
    source = f"{published[0].conditions}; {published[0].source}"
    return {
        "legend": legend,
        "published": f"{BOARD}, published, {NETWORK}",
        "source": source,
        "throughput": _markup(plots.throughput(list(curves.values()), published)),
        "latency": _markup(plots.latency(list(curves.values()))),
    }


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


def published_curve() -> list[Published]:
    """The published throughput of the board, from input to heads."""
    return [one for one in published_figures() if (one.chip, one.timed) == (BOARD, NETWORK)]
