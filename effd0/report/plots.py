"""
Plots as SVG that takes its colours from the page, so that it is right in light and in dark.

No text of a run is drawn here: names stand in legends of HTML.  The colours that matplotlib is
given are only names; each becomes the CSS variable that it stands for.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..benchmark.published import Published
from ..errors import require
from ..metrics.operating_point import SCORES, OperatingPoint
from ..results.run import Insight, Scores, TimedRow

#: Variable of the page's style sheet -> the colour, of no plot, that stands for it.
_NAMES = ["ink", "muted", "rule", "candidate", "reference", "series-3", "series-4", "series-5"]
_COLOURS = {f"--{name}": f"#{n:02}{n:02}{n:02}" for n, name in enumerate(_NAMES, 1)}
_INK, _MUTED, _RULE, *_SERIES = _COLOURS.values()
#: What tells lines apart without colours, as matplotlib calls it.
_DASHES = ("solid", "dashed")
_MARKS = ("o", "s", "^", "D", "v")
_COLORED = {
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _RULE), "text.color": _INK,
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), _MUTED),
}  # fmt: skip
#: Beyond this ratio of largest to smallest, a linear axis hides the small ones.
_WIDE = 8
#: Inches of plots that stand in threes and in twos: their text comes out alike.
_SMALL, _MIDDLE = (3.9, 2.9), (4.8, 2.9)
#: What figures over the threshold are called.
_WORDS = {"precision": "precision", "recall": "recall", "f1": "F1"}
#: Batch -> a figure.
Line: TypeAlias = dict[int | None, float]


def style(place: int) -> tuple[str, bool, str]:
    """The variable of the colour, whether dashed, and the mark of the curve at *place*."""
    return list(_COLOURS)[3 + place % len(_SERIES)], False, _MARKS[place % len(_MARKS)]


def precision_recall(insight: Insight, iou: str) -> Any:
    """Precision against recall at one *iou*, of the candidate and perhaps of the reference."""
    both = (insight.curves.candidate, insight.curves.reference)
    sides = [side[iou] for side in both if side is not None]

    def draw(axes: Any) -> None:
        for values, color, dash in zip(sides, _SERIES, _DASHES, strict=False):
            axes.plot(insight.recall, np.array(values, float), color=color, linestyle=dash)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")

    known = [[value for value in side if value is not None] for side in sides]
    means = [f"{sum(one) / len(one):.3f}" if one else "undefined" for one in known]
    told = f"Mean precision over recall: {_named(means)}"
    return _drawn(draw, f"Precision against recall at IoU {iou}", told, _SMALL)


def histogram(scores: Scores) -> Any:
    """How many detections have which score, the candidate's filled; counts in log scale."""
    edges, sides = scores.edges, [one for one in (scores.candidate, scores.reference) if one]

    def draw(axes: Any) -> None:
        axes.stairs(sides[0], edges, color=_SERIES[0], alpha=0.25, fill=True)
        for values, color, dash in zip(sides, _SERIES, _DASHES, strict=False):
            axes.stairs(values, edges, color=color, linestyle=dash, linewidth=1.8, baseline=None)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlim=(edges[0], edges[-1]), xlabel="score", ylabel="detections")
        axes.set_ylim(bottom=0)

    told = f"Detections in all: {_named([str(sum(counts)) for counts in sides])}"
    return _drawn(draw, "Detections by score", told, _MIDDLE)


def by_threshold(sides: Sequence[OperatingPoint], figure: str) -> Any:
    """``precision``, ``recall`` or ``f1`` of *sides* over the score threshold, theirs marked."""

    def draw(axes: Any) -> None:
        for side, color, dash in zip(sides, _SERIES, _DASHES, strict=False):
            values = np.array(getattr(side.curves, figure), float)  # None is a hole
            axes.plot(SCORES, values, color=color, linestyle=dash)
            axes.axvline(side.threshold, color=color, linestyle=dash, linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score threshold", ylabel=_WORDS[figure])

    values = [getattr(side.total, figure) for side in sides]
    figures = [
        f"{'undefined' if value is None else format(value, '.3f')} at {side.threshold:.2f}"
        for value, side in zip(values, sides, strict=True)
    ]
    title = f"{_WORDS[figure].capitalize()} against the score threshold"
    return _drawn(draw, title, f"Where F1 is highest: {_named(figures)}", _SMALL)


def _named(figures: Sequence[str]) -> str:
    """Figures of the candidate and perhaps of the reference, in words."""
    sides = ("candidate", "reference")
    return ", ".join(f"{side} {figure}" for side, figure in zip(sides, figures, strict=False))


def throughput(curves: Iterable[Sequence[TimedRow]], published: Sequence[Published]) -> Any:
    """Images per second against the batch, the published curve dashed behind."""
    lines: list[Line] = [{one.batch: one.images_per_second for one in curve} for curve in curves]
    behind: Line = {one.batch: one.images_per_second for one in published}
    return _by_batch("Images a second against batch", "images/s", lines, behind, ())


def latency(curves: Iterable[Sequence[TimedRow]]) -> Any:
    """Median time of a call against the batch, up to its 99th percentile."""
    both = [({one.batch: one.p50_ms for one in own}, [one.p99_ms for one in own]) for own in curves]
    lines, highs = zip(*both, strict=True)
    return _by_batch("Time of a call against batch", "ms a call", lines, {}, highs)


def _by_batch(
    title: str, label: str, lines: Sequence[Line], behind: Line, highs: Sequence[Sequence[float]]
) -> Any:
    """Lines against the batch, each shaded up to one of *highs* if there are any."""
    every = [line for line in (behind, *lines) if line]
    values = [value for high in highs or [list(line.values()) for line in every] for value in high]
    batches = sorted({batch for line in every for batch in line if batch is not None})

    def draw(axes: Any) -> None:
        if behind:
            axes.plot(*zip(*behind.items(), strict=True), color=_MUTED, marker="x", ls="dashed")
        for place, line in enumerate(lines):
            x, y = zip(*line.items(), strict=True)
            color, mark = _SERIES[place % len(_SERIES)], _MARKS[place % len(_MARKS)]
            if highs:
                axes.fill_between(x, y, highs[place], color=color, alpha=0.2, linewidth=0)
            axes.plot(x, y, color=color, marker=mark)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set(xlabel="batch", ylabel=label)
        if 0 < _WIDE * min(values) < max(values):
            axes.set_yscale("log")
            ticker = require("matplotlib.ticker", extra="report")
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_ylim(bottom=0, top=1.1 * max(values))

    told, unit = [], label.removesuffix(" a call")
    for place, line in enumerate(lines, 1):
        ends = [f"{y:.4g} {unit} at batch {batch}" for batch, y in line.items()]
        told.append(f"line {place}: {ends[0]} to {ends[-1]}")
    return _drawn(draw, title, "; ".join(told), _MIDDLE)


def _drawn(draw: Callable[[Any], None], title: str, told: str, size: tuple[float, float]) -> Any:
    """The plot that *draw* makes on empty axes, and what is *told* of it, as markup of HTML."""
    matplotlib = require("matplotlib", extra="report")
    figure_type = require("matplotlib.figure", extra="report").Figure
    style = Path(__file__).with_suffix(".mplstyle")
    with matplotlib.rc_context(_COLORED, style), io.StringIO() as file:
        figure = figure_type(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        svg = _for_html(file.getvalue(), title, told)
    return require("markupsafe", extra="report").Markup(svg)


def _for_html(svg: str, title: str, told: str) -> str:
    """An SVG file as an element: names instead of colours, ids of its own, nothing of the web."""
    body = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    body = re.sub(r"^.*?<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", r"\1\n", body, flags=re.DOTALL)
    box, _, content = body.partition("\n")
    content = content.replace("xlink:href", "href")
    # One page holds many plots, and each calls its parts the same.
    mine = re.sub(r"\W+", "-", title)
    content = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mine}-", content)
    for name, color in _COLOURS.items():
        content = content.replace(color, f"var({name})")
    content = re.sub(r" font-family: [^;\"]*;", "", content)
    head = f'<svg class="plot" viewBox="{box}" role="img" aria-labelledby="{mine}-t {mine}-d">'
    named = f'<title id="{mine}-t">{title}</title><desc id="{mine}-d">{told}</desc>'
    return head + named + content.rstrip()
