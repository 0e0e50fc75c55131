"""
Plots as SVG that takes its colours from the page, so that it is right in light and in dark.

No text of a run is drawn here: names stand in legends of HTML.  The colours that matplotlib is
given are only names; each becomes the CSS variable that it stands for.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..errors import require
from .speed import Curve

#: A colour that is in no plot -> the variable of the page's style sheet that it stands for.
_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--rule",
    "#040404": "--candidate",
    "#050505": "--reference",
    "#060606": "--series-3",
    "#070707": "--series-4",
    "#080808": "--series-5",
}
_INK, _MUTED, _RULE, CANDIDATE, REFERENCE, *_OTHERS = _VARIABLES
#: What tells lines apart without colours, as matplotlib calls it.
_DASHES = ("solid", "dashed", "dashdot", (0, (1, 1.5)))
SERIES = (CANDIDATE, REFERENCE, *_OTHERS)
MARKS = ("o", "s", "^", "D", "v")
_STYLE = {
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # travels with matplotlib, so widths are the same anywhere
    "font.size": 9,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 2,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "effd0",
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}
_SIDES = ("candidate", "reference")
#: Beyond this ratio of largest to smallest, a linear axis hides the small ones.
_WIDE = 8
#: Inches of plots that stand in threes and in twos: their text comes out alike.
_SMALL, _MIDDLE = (3.9, 2.9), (4.8, 2.9)
#: One figure for each point of an axis; None where it is undefined.
Values: TypeAlias = Sequence[float | None]


def variable(color: str) -> str:
    """The page's variable for one of `SERIES`."""
    return _VARIABLES[color]


def precision_recall(iou: str, recall: Sequence[float], sides: Sequence[Values]) -> str:
    """Precision against recall at one *iou*, of the candidate and perhaps of the reference."""

    def draw(axes: Any) -> None:
        for values, color, dash in zip(sides, SERIES, _DASHES, strict=False):
            axes.plot(recall, _holes(values), color=color, linestyle=dash)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")

    means = [_mean(values) for values in sides]
    told = f"Mean precision over recall: {_named(means)}"
    return _drawn(draw, f"Precision against recall at IoU {iou}", told, _SMALL)


def histogram(edges: Sequence[float], sides: Sequence[Sequence[int]]) -> str:
    """How many detections have which score, the candidate's filled; counts in log scale."""

    def draw(axes: Any) -> None:
        axes.stairs(sides[0], edges, color=CANDIDATE, alpha=0.25, fill=True)
        for values, color, dash in zip(sides, SERIES, _DASHES, strict=False):
            axes.stairs(values, edges, color=color, linestyle=dash, linewidth=1.8, baseline=None)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlim=(edges[0], edges[-1]), xlabel="score", ylabel="detections")
        axes.set_ylim(bottom=0)

    told = f"Detections in all: {_named([str(sum(counts)) for counts in sides])}"
    return _drawn(draw, "Detections by score", told, _MIDDLE)


def throughput(curves: Sequence[Curve], published: Curve) -> str:
    """Images a second against the batch, the published curve dashed behind."""

    def draw(axes: Any) -> None:
        _line(axes, published, "images_per_second", _MUTED, "x", "dashed")
        for curve, color, mark in zip(curves, itertools.cycle(SERIES), itertools.cycle(MARKS)):
            _line(axes, curve, "images_per_second", color, mark, "solid")
        every = [point.images_per_second for one in (*curves, published) for point in one.points]
        _batches(axes, [published, *curves])
        _scale(axes, every)
        axes.set_ylabel("images/s")

    return _drawn(
        draw,
        "Images a second against batch",
        _ends(curves, "images_per_second", "images/s"),
        _MIDDLE,
    )


def latency(curves: Sequence[Curve]) -> str:
    """Median time of a call against the batch, up to its 99th percentile."""

    def draw(axes: Any) -> None:
        for curve, color, mark in zip(curves, itertools.cycle(SERIES), itertools.cycle(MARKS)):
            batches = [point.batch for point in curve.points]
            low, high = ([getattr(p, key) for p in curve.points] for key in ("p50_ms", "p99_ms"))
            axes.fill_between(batches, low, high, color=color, alpha=0.2, linewidth=0)
            _line(axes, curve, "p50_ms", color, mark, "solid")
        _batches(axes, curves)
        _scale(axes, [point.p99_ms or 0.0 for curve in curves for point in curve.points])
        axes.set_ylabel("ms a call")

    return _drawn(draw, "Time of a call against batch", _ends(curves, "p50_ms", "ms"), _MIDDLE)


def _line(axes: Any, curve: Curve, key: str, color: str, mark: str, dash: str) -> None:
    batches = [point.batch for point in curve.points]
    values = [getattr(point, key) for point in curve.points]
    axes.plot(batches, values, color=color, marker=mark, linestyle=dash)


def _batches(axes: Any, curves: Sequence[Curve]) -> None:
    """An axis of batches, which double."""
    batches = sorted({point.batch for curve in curves for point in curve.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_xlabel("batch")


def _scale(axes: Any, values: Sequence[float]) -> None:
    """From nothing, or in log scale where the small ones would vanish."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > _WIDE * min(positive):
        axes.set_yscale("log")
        ticker = require("matplotlib.ticker", extra="report")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0, top=1.1 * max(values, default=1))


def _named(figures: Sequence[str]) -> str:
    """Figures of the candidate and perhaps of the reference, in words."""
    return ", ".join(f"{side} {figure}" for side, figure in zip(_SIDES, figures, strict=False))


def _mean(values: Values) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else "undefined"


def _ends(curves: Sequence[Curve], key: str, unit: str) -> str:
    """Where each curve begins and ends, in words; names stand in the legend."""
    ends = [(curve.points[0], curve.points[-1]) for curve in curves]
    said = [
        " to ".join(f"{getattr(end, key):.4g} {unit} at batch {end.batch}" for end in both)
        for both in ends
    ]
    return "; ".join(f"line {place}: {words}" for place, words in enumerate(said, 1))


def _holes(values: Values) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _drawn(draw: Callable[[Any], None], title: str, told: str, size: tuple[float, float]) -> str:
    """The plot that *draw* makes on empty axes, and what is *told* of it, to stand in HTML."""
    matplotlib = _matplotlib()
    figure_type = require("matplotlib.figure", extra="report").Figure
    with matplotlib.rc_context(_STYLE), io.StringIO() as file:
        figure = figure_type(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        return _for_html(file.getvalue(), title, told)


@functools.cache
def _matplotlib() -> Any:
    return require("matplotlib", extra="report")


def _for_html(svg: str, title: str, told: str) -> str:
    """An SVG file as an element: names instead of colours, ids of its own, nothing of the web."""
    body = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    body = re.sub(r"^.*?<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", r"\1\n", body, flags=re.DOTALL)
    box, _, content = body.partition("\n")
    content = content.replace("xlink:href", "href")
    # One page holds many plots, and each calls its parts the same.
    mine = re.sub(r"\W+", "-", title)
    content = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mine}-", content)
    for color, name in _VARIABLES.items():
        content = content.replace(color, f"var({name})")
    content = re.sub(r" font-family: [^;\"]*;", "", content)
    head = f'<svg class="plot" viewBox="{box}" role="img" aria-labelledby="{mine}-t {mine}-d">'
    named = f'<title id="{mine}-t">{title}</title><desc id="{mine}-d">{told}</desc>'
    return head + named + content.rstrip()
