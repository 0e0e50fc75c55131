"""Tests for `effd0.report`: what sections are made of, plots, and colours."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from effd0.benchmark.published import published_figures
from effd0.metrics.operating_point import OperatingPoint
from effd0.metrics.tide import KINDS
from effd0.report import plots, view
from effd0.results.run import Accuracy, ErrorKind, Head, Insight, Picture, Run, Sides
from tests.helpers import runs


def mark_of(stage: str, run: Run) -> dict[str, str]:
    """Return the mark of *stage* in the line of *run*."""
    return view.stage_mark(stage, run.checks, run.verdict)


@pytest.mark.parametrize(
    ("statuses", "broken", "state"),
    [
        pytest.param(["passed", "skipped"], None, "passed", id="some-skipped"),
        pytest.param(["skipped"], None, "untested", id="all-skipped"),
        pytest.param(["passed", "undecided"], None, "undecided", id="undecided"),
        pytest.param(["passed", "failed"], "nms", "broken", id="first-broken"),
        pytest.param(["passed", "failed"], "decode", "later", id="broken-behind"),
        pytest.param(["passed"], "decode", "passed", id="passed-behind"),
    ],
)
def test_state_of_a_stage(statuses: list[str], broken: str | None, state: str) -> None:
    """A stage is what the worst of its checks is; only the verdict's stage is the broken one."""
    told = runs.verdict("pass" if broken is None else "fail", broken, passed=["gate"])
    run = runs.run(verdict=told, checks=[runs.check("nms", status) for status in statuses])
    assert mark_of("nms", run)["state"] == state
    # What the verdict alone says passed is shown so.
    assert [mark_of(one, run)["state"] for one in ("gate", "runner")] == ["passed", "untested"]


def test_figure_of_a_stage_is_what_decides_or_the_closest_to_its_limit() -> None:
    """What a stage shows is what made its state; without such a figure, how many checks did."""
    wide = runs.check("gate", figure=1.0, tolerance=10.0, unit="px")
    close = runs.check("gate", figure=9.0, tolerance=10.0, unit="px")
    failed = runs.check("gate", "failed", figure=99.0, tolerance=1.0, unit="ms")
    undecided = runs.check("gate", "undecided", figure=50.0, tolerance=0.2, unit="points")
    bare = runs.check("gate", figure=5.0, tolerance=None, unit="s")
    none = [runs.check("gate", status, figure=None) for status in ("passed", "skipped", "passed")]
    far = runs.check("gate", figure=-9.0, tolerance=10.0, unit="points")
    close_failure = runs.check("gate", "failed", figure=1.1, tolerance=1.0, unit="ms")
    no_figure = runs.check("gate", "failed", figure=None)
    for checks, wanted in (
        ([far, wide], ("1 px", "limit 10")),
        ([close_failure, failed], ("99 ms", "limit 1")),
        ([close, no_figure], ("1 check", "")),
        ([bare, wide, close], ("9 px", "limit 10")),
        ([wide, failed, close], ("99 ms", "limit 1")),
        ([bare], ("5 s", "")),
        ([close, undecided], ("50 points", "limit 0.2")),
        (none, ("2 checks", "")),
    ):
        mark = mark_of("gate", runs.run(checks=checks))
        assert (mark["figure"], mark["limit"]) == wanted


@pytest.mark.parametrize(
    ("figures", "step", "error", "shown"),
    [
        pytest.param({"max_abs": 1e-5}, 0, "1e-05", "0.5 %", id="tiny"),
        pytest.param({"max_abs": 2e-4}, 2, "0.0002", "10 %", id="bound-is-of-the-next"),
        pytest.param({"max_abs": 2e-3}, 3, "0.002", "100 %", id="just-allowed"),
        pytest.param(
            {"max_abs": 3e-3}, 4, "0.003", "1.5 × limit", id="beyond"  # noqa: RUF001  # times
        ),
        pytest.param({"max_abs": None}, 4, "not finite", "inf", id="not-finite"),
        pytest.param({"allowed": None}, None, "1e-05", "no limit", id="no-limit"),
        pytest.param(
            {"measure": "relative_l2", "relative_l2": 4e-3, "allowed": 0.02, "max_abs": 7.0},
            2, "0.004", "20 %", id="relative-l2-is-bounded",
        ),
    ],
)  # fmt: skip
def test_colour_of_a_head_is_its_share(
    figures: dict[str, Any], step: int | None, error: str, shown: str
) -> None:
    """The scale is of the share of what is allowed; beyond it, and not finite, is broken."""
    cell = view.head_cell(msgspec.convert({**runs.parity()["heads"][0], **figures}, Head))
    assert (cell["step"], cell["error"]) == (step, error)
    assert cell["shown"].startswith(shown)


def test_curves_are_of_what_was_timed_alike() -> None:
    """Another runner, precision or scope is another line; batches rise; no batch is in none."""
    rows = [
        runs.latency(10, batch=8),
        runs.latency(2, batch=1),
        runs.latency(3, batch=1, precision="fp16"),
        runs.latency(4, batch=1, timed="files to detections"),
        {**runs.latency(5), "batch": None},
    ]
    found = view.batch_curves(runs.run(latency=rows).latency)
    assert [[row.batch for row in curve] for curve in found.values()] == [[1, 8], [1], [1]]


def pictured(ap: float, **more: Any) -> dict[str, Any]:
    """An accuracy with insight and a reference."""
    return runs.pictured(ap) | more


def test_pictures_are_of_the_lowest_map_that_was_compared() -> None:
    """A fault may raise mAP: what was compared with a reference comes before what is lower."""
    every = [pictured(0.5), runs.accuracy(0.1), pictured(0.3), pictured(0.2, against=None)]
    found = view.foremost(runs.run(accuracy=every))
    assert found is not None
    assert found.metrics["AP"] == 0.3
    assert view.foremost(runs.run(accuracy=[])) is None


def test_mistakes_of_a_picture_are_those_of_ap50() -> None:
    """A class has to be right and a place half; an object is found once; a crowd takes the rest."""
    box, half, away = (0, 0, 100, 100), (0, 0, 100, 50), (200, 0, 40, 40)

    def of(place: tuple[int, ...], name: str, score: float) -> dict[str, Any]:
        return {"box": place, "class": name, "score": score}

    plain = runs.insight(1)["gallery"][0] | {
        "truth": [
            {"box": box, "class": "dog", "crowd": False},
            {"box": box, "class": "cat", "crowd": False},
            {"box": (150, 0, 300, 300), "class": "dog", "crowd": True},
        ],
        "candidate": [
            of(box, "dog", 0.5), of(half, "dog", 0.9), of(away, "dog", 0.4), of(away, "cat", 0.6)
        ],
    }  # fmt: skip
    missed, false = view.missed_and_false(msgspec.convert(plain, Picture))
    assert [one.category for one in missed] == ["cat"]
    assert [(one.category, one.score) for one in false] == [("cat", 0.6), ("dog", 0.5)]


def test_classes_that_lose_most_come_first() -> None:
    """By change; what neither side defines is left out."""
    plain = runs.accuracy(
        per_class={"cat": 0.5, "dog": 0.2, "kite": None, "bus": 0.9},
        against=runs.against(0, 1, cat=0.4, dog=0.6, kite=None),
    )
    rows = view.class_rows(msgspec.convert(plain, Accuracy))
    assert [(row["class"], view.change(row["change"])) for row in rows] == [
        ("dog", "−40.00"),  # noqa: RUF001  # the minus sign of tables
        ("bus", view.NONE),
        ("cat", "+10.00"),
    ]


def test_a_class_is_shown_for_its_detections() -> None:
    """One that no image holds is last if it was found; what was neither found nor there is not."""
    point = runs.operating_point(["cat", "kite", "bus"], 0)
    point["per_class"]["bus"]["detections"] = 0
    plain = runs.accuracy(
        per_class={"cat": 0.5, "kite": None, "bus": None},
        operating_point={"candidate": point, "reference": None},
    )
    rows = view.class_rows(msgspec.convert(plain, Accuracy))
    assert [(row["class"], row["detections"]) for row in rows] == [("cat", 10), ("kite", 10)]


def test_confusions_are_the_most_frequent_of_each_kind() -> None:
    """Of an object found as another class, of one not found and of a false detection."""
    sides = [runs.operating_point(["cat", "dog", *(str(n) for n in range(28))], 0) for _ in (0, 1)]
    sides[0]["confusion"] = [
        ("cat", "cat", 9), ("cat", "dog", 2), ("dog", "cat", 5), ("cat", None, 1),
        (None, "dog", 4), *((str(n), "cat", 1) for n in range(28)),
    ]  # fmt: skip
    sides[1]["confusion"] = [("dog", "cat", 1), ("dog", "dog", 9)]
    points = [msgspec.convert(side, OperatingPoint) for side in sides]
    pairs, missed, extra = view.confusions(points)
    assert len(pairs) == view.CONFUSED
    first = [(row["name"], row["found"], row["counts"], row["shares"]) for row in pairs[:2]]
    assert first == [("dog", "cat", [5, 1], [50, 10]), ("cat", "dog", [2, 0], [20, 0])]
    assert [(row["name"], row["counts"]) for row in missed] == [("cat", [1, 0])]
    assert [(row["name"], row["counts"]) for row in extra] == [("dog", [4, 0])]
    assert [view.confusions(points[1:])[n] for n in (1, 2)] == [[], []]


def test_errors_are_shares_of_the_costliest() -> None:
    """The costliest kind of either side fills the track; what gains nothing has no bar."""
    sides = [{kind: ErrorKind(3, 5.0) for kind in KINDS} for _ in range(2)]
    sides[0]["both"], sides[1]["missed"] = ErrorKind(0, None), ErrorKind(9, 50.0)
    rows = {row["name"]: row["shares"] for row in view.error_rows(Sides(*sides))}
    assert rows["both"] == [0, 10]
    assert rows["missed"] == [10, 100]


@pytest.mark.parametrize(
    ("points", "shown"),
    [
        pytest.param(0.5, "+0.50", id="more"),
        pytest.param(-0.5, "−0.50", id="less"),  # noqa: RUF001  # the minus sign of tables
        pytest.param(-0.001, "0.00", id="less-than-is-shown"),
        pytest.param(None, view.NONE, id="undefined"),
    ],
)
def test_a_change_has_its_sign(points: float | None, shown: str) -> None:
    """Plus and minus are as wide, and what rounds to nothing has neither."""
    assert view.change(points) == shown


def test_plots_take_the_colours_of_the_page() -> None:
    """No colour is fixed and nothing is of the web, so that a plot is right in both themes."""
    one = list(view.batch_curves(runs.run().latency).values())
    plain = runs.insight() | {"recall": [0, 0.5, 1]}
    plain["curves"] = {"candidate": {"0.50": [1, 0.9, None]}, "reference": {"0.50": [1, 1, 0.5]}}
    insight = msgspec.convert(plain, Insight)
    drawn = [
        plots.precision_recall(insight, "0.50"),
        plots.histogram(insight.scores),
        plots.throughput(one, published_figures()[:2]),
        plots.latency(one),
    ]
    for svg in drawn:
        assert "http" not in svg
        assert not [color for color in plots._COLOURS.values() if color in svg]
        assert "var(--candidate)" in svg
        assert svg.startswith('<svg class="plot" viewBox="0 0 ')
        assert "<desc" in svg
    assert "var(--reference)" in drawn[0]
    assert "Mean precision over recall: candidate 0.950, reference 0.833" in drawn[0]


def test_small_times_are_seen_beside_large() -> None:
    """A spread beyond what a linear axis shows is drawn in log scale, in plain numbers."""

    def drawn(median: float) -> str:
        run = runs.run(latency=[runs.latency(5, 1), runs.latency(median, 64)])
        return str(plots.latency(view.batch_curves(run.latency).values()))

    assert ">500<" in drawn(800)
    assert ">0<" not in drawn(800)
    assert ">0<" in drawn(8)


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


#: Least contrast, by WCAG 2 -> what is drawn or written, and what on.
CONTRASTS = {
    4.5: ["ink paper", "ink card", "muted paper", "muted card", "muted bad-wash",
          "muted unsure-wash", "good card", "bad card", "unsure card", "good good-wash",
          "bad bad-wash", "unsure unsure-wash"],
    3.0: ["series-3 paper", "series-4 paper", "series-5 paper", "candidate paper",
          "reference paper", "truth paper"],
}  # fmt: skip


@pytest.mark.parametrize("theme", [pytest.param(0, id="light"), pytest.param(1, id="dark")])
@pytest.mark.parametrize("wanted", CONTRASTS, ids="contrast={}".format)
def test_colours_can_be_told_from_their_ground(wanted: float, theme: int) -> None:
    """Text has WCAG's contrast of 4.5, what is drawn has 3, in both themes."""
    for pair in CONTRASTS[wanted]:
        low, high = sorted(luminance(COLOURS[name][theme]) for name in pair.split())
        assert (high + 0.05) / (low + 0.05) >= wanted, pair
