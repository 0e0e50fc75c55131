"""Tests for what the page's sections are made of: stages, heads, curves, classes, errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from effd0.page import accuracy, legend, parity, plots, speed, text, verdict
from effd0.stages import STAGES

from . import run_samples, runs


def mark_of(stage: str, run: Any) -> verdict.StageMark:
    """Return the mark of *stage* in the line of *run*."""
    return next(mark for mark in verdict.stage_line(run) if mark.stage == stage)


@pytest.mark.parametrize(
    ("statuses", "broken", "state"),
    [
        pytest.param(["passed"], None, "held", id="passed"),
        pytest.param(["passed", "skipped"], None, "held", id="some-skipped"),
        pytest.param(["skipped"], None, "untested", id="all-skipped"),
        pytest.param([], None, "untested", id="none"),
        pytest.param(["passed", "failed"], "nms", "broken", id="first-broken"),
        pytest.param(["passed", "failed"], "decode", "later", id="broken-behind"),
        pytest.param(["passed"], "decode", "held", id="held-behind"),
    ],
)
def test_state_of_a_stage(statuses: list[str], broken: str | None, state: str) -> None:
    """A stage is what the worst of its checks is; only the verdict's stage is the broken one."""
    told = runs.verdict("pass" if broken is None else "fail", broken, held=[])
    run = runs.run(verdict=told, checks=[runs.check("nms", status) for status in statuses])
    assert mark_of("nms", run).state == state


def test_a_stage_that_decides_nothing_is_undecided() -> None:
    """A check that was skipped since its figures decide nothing is no pass, nor untested."""
    open_one = runs.check("gate", "skipped", evidence="undecided: 3 images are too few")
    run = runs.run(verdict=runs.verdict("undecided"), checks=[runs.check("gate"), open_one])
    assert mark_of("gate", run).state == "undecided"


def test_a_verdict_without_checks_tells_the_stages() -> None:
    """An evaluation has no checks of its own; what its verdict says held is shown so."""
    run = runs.run(verdict=runs.verdict(held=["gate"]), checks=[])
    states = {mark.stage: mark.state for mark in verdict.stage_line(run)}
    assert states == {stage: "held" if stage == "gate" else "untested" for stage in STAGES}


def test_figure_of_a_stage_is_the_failed_one_or_the_closest_to_its_limit() -> None:
    """What a stage shows is what decided, or what nearly did."""
    wide = runs.check("gate", figure=1.0, tolerance=10.0, unit="px")
    close = runs.check("gate", figure=9.0, tolerance=10.0, unit="px")
    failed = runs.check("gate", "failed", figure=99.0, tolerance=1.0, unit="ms")
    bare = runs.check("gate", figure=5.0, tolerance=None, unit="s")
    mark = mark_of("gate", runs.run(checks=[bare, wide, close]))
    assert (mark.figure, mark.limit) == ("9 px", "limit 10")
    mark = mark_of("gate", runs.run(checks=[wide, failed, close]))
    assert (mark.figure, mark.limit) == ("99 ms", "limit 1")
    mark = mark_of("gate", runs.run(checks=[bare]))
    assert (mark.figure, mark.limit) == ("5 s", "")


def test_a_stage_without_figures_counts_the_checks_that_ran() -> None:
    """Skipped ones proved nothing, so they do not count."""
    none = {"figure": None, "tolerance": None, "unit": ""}
    checks = [runs.check("nms", status, **none) for status in ("passed", "skipped", "passed")]
    assert mark_of("nms", runs.run(checks=checks)).figure == "2 checks"


def head_of(**figures: Any) -> dict[str, Any]:
    """A run's parity with one head of given *figures*."""
    record = runs.parity()
    record["heads"] = [{**record["heads"][0], **figures}]
    return record


@pytest.mark.parametrize(
    ("error", "allowed", "step", "shown"),
    [
        pytest.param(1e-5, 2e-3, 0, "0.5 %", id="tiny"),
        pytest.param(1e-4, 2e-3, 1, "5 %", id="small"),
        pytest.param(2e-4, 2e-3, 2, "10 %", id="bound-is-of-the-next"),
        pytest.param(2e-3, 2e-3, 3, "100 %", id="just-allowed"),
        pytest.param(3e-3, 2e-3, 4, "1.5 × limit", id="beyond"),  # noqa: RUF001  # times
        pytest.param(None, 2e-3, 4, "not finite", id="not-finite"),
        pytest.param(1e-3, None, None, "no limit", id="no-limit"),
    ],
)
def test_colour_of_a_head_is_its_share(
    error: float | None, allowed: float | None, step: int | None, shown: str
) -> None:
    """The scale is of the share of what is allowed; beyond it, and not finite, is broken."""
    record = head_of(max_abs=error, allowed=allowed)
    cell = parity.heat_maps(runs.run(parity=[record]))[0].rows[0][1][0]
    assert cell is not None
    assert (cell.step, cell.broken) == (step, step == parity.BEYOND)
    assert shown in (cell.share_shown, cell.error)


def test_the_figure_that_is_bounded_is_shown() -> None:
    """Of a model in float16 relative L2 is judged, so that is the number in the map."""
    record = head_of(measure="relative_l2", relative_l2=0.004, allowed=0.02, max_abs=7.0)
    found = parity.heat_maps(runs.run(parity=[record]))[0]
    cell = found.rows[0][1][0]
    assert cell is not None
    assert (cell.error, cell.share_shown) == ("0.004", "20 %")
    assert "relative L2" in found.about


def test_the_worst_map_comes_first() -> None:
    """Who looks once sees the runner that is furthest from what is allowed."""
    run = run_samples.faulty_run(pictures=0)
    found = parity.heat_maps(run)
    assert [one.title for one in found] == [
        "ort beside torch, batch 8",
        "ort beside torch, batch 1",
    ]
    assert found[0].levels == ("P3", "P4", "P5", "P6", "P7")


def test_curves_hold_what_was_timed_alike() -> None:
    """Another runner, precision or scope is another line; batches rise; no batch is in none."""
    rows = [
        runs.latency(10, batch=8),
        runs.latency(2, batch=1),
        runs.latency(3, batch=1, precision="fp16"),
        runs.latency(4, batch=1, setup={"timed": "input to heads"}),
        {**runs.latency(5), "batch": None},
    ]
    found = speed.curves(runs.run(latency=rows))
    assert [[point.batch for point in one.points] for one in found] == [[1, 8], [1], [1]]
    assert len({one.name for one in found}) == 3
    assert [key.name for key in legend.series(found)] == [one.name for one in found]


def test_the_published_curve_is_the_boards() -> None:
    """What is drawn behind is the recipe's table of the 310P3."""
    points = speed.published_curve().points
    rates = {point.batch: point.images_per_second for point in points}
    assert rates == {1: 124, 4: 260, 8: 256, 16: 250, 32: 241, 64: 238}
    assert "gitee.com/ascend" in speed.published_source()


def test_bars_of_stages_are_shares_of_the_longest() -> None:
    """The slowest stage's p99 fills the track, and no bar is longer."""
    times = speed.stage_times(run_samples.accuracy(0.6, pictures=0, jitter=1, seed=0))
    assert max(one.share_p99 for one in times) == 1
    assert all(0 <= one.share <= one.share_p99 for one in times)


def test_pictures_are_of_the_lowest_map() -> None:
    """Of several measurements the one to look at is the worst that has pictures."""
    low, high = (run_samples.accuracy(ap, pictures=0, jitter=1, seed=0) for ap in (0.3, 0.5))
    bare = runs.accuracy(0.1)
    found = accuracy.foremost(runs.run(accuracy=[high, bare, low]))
    assert found is low
    assert accuracy.foremost(runs.run(accuracy=[])) is None


def test_pictures_are_never_of_the_reference_itself() -> None:
    """A fault may raise mAP: what was held against a reference comes before what is lower."""
    low, high = (run_samples.accuracy(ap, pictures=0, jitter=1, seed=0) for ap in (0.3, 0.5))
    reference = low | {"against": None}
    assert accuracy.foremost(runs.run(accuracy=[reference, high])) is high


def test_classes_that_lose_most_come_first() -> None:
    """By change; what neither side defines is left out."""
    one = runs.accuracy(
        per_class={"cat": 0.5, "dog": 0.2, "kite": None, "bus": 0.9},
        against={"per_class": {"cat": 0.4, "dog": 0.6, "kite": None}},
    )
    rows = accuracy.class_rows(one)
    assert [(row.name, text.change(row.change)) for row in rows] == [
        ("dog", "−40.00"),  # noqa: RUF001  # the minus sign of tables
        ("bus", text.NONE),
        ("cat", "+10.00"),
    ]


def test_errors_are_shares_of_the_costliest() -> None:
    """The costliest kind of either side fills the track; what gains nothing has no bar."""
    one = run_samples.accuracy(0.6, pictures=0, jitter=1, seed=0)
    errors = one["insight"]["errors"]
    errors["candidate"]["both"] = {"count": 0, "delta_ap": None}
    errors["reference"]["missed"] = {"count": 9, "delta_ap": 50.0}
    rows = {row.name: row for row in accuracy.error_rows(one)}
    assert tuple(rows) == tuple(errors["candidate"])
    assert rows["both"].share == 0
    assert rows["missed"].reference_share == 100
    assert all(row.share < 100 for row in rows.values())


@pytest.mark.parametrize(
    ("points", "shown"),
    [
        pytest.param(0.5, "+0.50", id="more"),
        pytest.param(-0.5, "−0.50", id="less"),  # noqa: RUF001  # the minus sign of tables
        pytest.param(-0.001, "0.00", id="less-than-is-shown"),
        pytest.param(None, text.NONE, id="undefined"),
    ],
)
def test_a_change_has_its_sign(points: float | None, shown: str) -> None:
    """Plus and minus are as wide, and what rounds to nothing has neither."""
    assert text.change(points) == shown


def test_plots_take_the_colours_of_the_page() -> None:
    """No colour is fixed and nothing is of the web, so that a plot is right in both themes."""
    drawn = [
        plots.precision_recall("0.50", [0, 0.5, 1], [[1, 0.9, None], [1, 1, 0.5]]),
        plots.histogram([0, 0.5, 1], [[4, 0], [3, 1]]),
        plots.throughput(speed.curves(runs.run()), speed.published_curve()),
        plots.latency(speed.curves(runs.run())),
    ]
    for svg in drawn:
        assert "http" not in svg
        assert not [color for color in plots._VARIABLES if color in svg]
        assert "var(--candidate)" in svg
        assert svg.startswith('<svg class="plot" viewBox="0 0 ')
        assert "<desc" in svg
    assert "var(--reference)" in drawn[0]
    assert "Mean precision over recall: candidate 0.950, reference 0.833" in drawn[0]


def test_small_times_are_seen_beside_large() -> None:
    """A spread beyond what a linear axis shows is drawn in log scale, in plain numbers."""
    wide = speed.curves(runs.run(latency=[runs.latency(5, 1), runs.latency(800, 64)]))
    near = speed.curves(runs.run(latency=[runs.latency(5, 1), runs.latency(8, 64)]))
    assert ">500<" in plots.latency(wide)
    assert ">0<" not in plots.latency(wide)
    assert ">0<" in plots.latency(near)


STYLE = (Path(plots.__file__).parent / "templates" / "page.css").read_text()
#: Variable of the style sheet -> its colours in light and in dark.
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(
        r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE.partition("}")[0]
    )
}


def luminance(colour: str) -> float:
    """Relative luminance of *colour*, as WCAG 2 defines it."""
    parts = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [pytest.param(0, id="light"), pytest.param(1, id="dark")])
@pytest.mark.parametrize(
    ("above", "ground", "wanted"),
    [
        *[(text, ground, 4.5) for text in ("ink", "muted") for ground in ("paper", "card")],
        *[(text, ground, 4.5) for text in ("good", "bad", "unsure") for ground in ("card",)],
        *[(text, f"{text}-wash", 4.5) for text in ("good", "bad", "unsure")],
        *[("muted", f"{state}-wash", 4.5) for state in ("bad", "unsure")],
        *[(f"series-{n}", "paper", 3.0) for n in (3, 4, 5)],
        *[(side, "paper", 3.0) for side in ("candidate", "reference", "truth")],
    ],
)
def test_colours_can_be_told_from_their_ground(
    theme: int, above: str, ground: str, wanted: float
) -> None:
    """Text has WCAG's contrast of 4.5, what is drawn has 3, in both themes."""
    both = sorted(luminance(COLOURS[name][theme]) for name in (above, ground))
    assert (both[1] + 0.05) / (both[0] + 0.05) >= wanted
