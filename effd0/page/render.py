"""From a run to the page: what the templates are given, and the file."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from ..bench.published import published_accuracies
from ..errors import require
from ..io import written_whole
from ..metrics.summary import METRICS
from ..runfile import Run
from ..stages import STAGES
from . import accuracy, legend, parity, plots, speed, text, verdict
from .beside import beside

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, run: Run, baseline: Run | None = None) -> None:
    """Write the page of *run* to *path*; raise `OutputError` if it cannot be."""
    page = render_page(run, baseline)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(run: Run, baseline: Run | None = None) -> str:
    """The page of *run*, with the figures of an older run beside it."""
    script = (_TEMPLATES / "page.js").read_text()
    foremost = accuracy.foremost(run)
    page: str = (
        _environment()
        .get_template("page.html")
        .render(
            run=run,
            headline=verdict.headline(run["verdict"]),
            stages=verdict.stage_line(run),
            checks=_sorted_checks(run),
            accuracy=foremost,
            metrics=METRICS,
            published=sorted(published_accuracies(), key=lambda one: -one.map),
            comparable=foremost is not None and accuracy.comparable(run, foremost),
            classes=[] if foremost is None else accuracy.class_rows(foremost),
            heat_maps=parity.heat_maps(run),
            scale=parity.SCALE,
            timed=speed.timed_accuracies(run),
            pictures=_pictures(foremost),
            times=_times(run),
            baseline=baseline,
            beside=None if baseline is None else beside(baseline, run),
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
    environment.filters |= {
        "percent": text.percent,
        "change": text.change,
        "points": text.points,
        "figure": text.figure,
        "ms": text.milliseconds,
        "with_unit": text.with_unit,
        "counted": text.count,
    }
    environment.globals |= {
        "title_of": accuracy.title,
        "stage_times": speed.stage_times,
        "is_undecided": verdict.is_undecided,
    }
    return environment


_ORDER = ("failed", "passed", "skipped")


def _sorted_checks(run: Run) -> list[Any]:
    """What failed or stayed undecided before what passed before what was skipped, each by stage."""

    def rank(check: Any) -> tuple[int, int]:
        status = "failed" if verdict.is_undecided(check) else check["status"]
        return _ORDER.index(status), STAGES.index(check["stage"])

    return sorted(run["checks"], key=rank)


def _pictures(foremost: accuracy.Accuracy | None) -> dict[str, Any] | None:
    """What is drawn of an insight; None where there is none."""
    if foremost is None or foremost["insight"] is None:
        return None
    insight, against = foremost["insight"], foremost["against"]
    markup = require("markupsafe", extra="report").Markup
    candidate, reference = insight["curves"]["candidate"], insight["curves"]["reference"]
    curves = [
        (iou, markup(plots.precision_recall(iou, insight["recall"], _both(values, reference, iou))))
        for iou, values in candidate.items()
    ]
    scores = insight["scores"]
    counts = [scores["candidate"], *([scores["reference"]] if scores["reference"] else [])]
    has_reference = reference is not None or scores["reference"] is not None
    name = (against["runner"] if against else "as given") if has_reference else None
    return {
        "legend": legend.sides(reference=name),
        "curves": curves,
        "scores": markup(plots.histogram(scores["edges"], counts)),
        "errors": accuracy.error_rows(foremost),
        "gallery": insight["gallery"],
    }


def _both(values: Any, reference: Any, iou: str) -> list[Any]:
    """The candidate's values, and the reference's where there are any."""
    return [values] if reference is None or iou not in reference else [values, reference[iou]]


def _times(run: Run) -> dict[str, Any] | None:
    """The plots of times; None where nothing was timed."""
    curves, published = speed.curves(run), speed.published_curve()
    if not curves:
        return None
    markup = require("markupsafe", extra="report").Markup
    return {
        "legend": legend.series(curves),
        "published": published,
        "source": speed.published_source(),
        "throughput": markup(plots.throughput(curves, published)),
        "latency": markup(plots.latency(curves)),
    }
