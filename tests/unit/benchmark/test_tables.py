"""The tables at the end of a benchmark."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from effd0.benchmark.measure import END_TO_END, Accuracy, Rival, Row
from effd0.benchmark.published import published_figures
from effd0.benchmark.tables import print_report
from effd0.timing import Latency

from .rows import row

EVALUATED = Accuracy(row().model_sha256, 0.33456, 5000, 5000)


def shown(*rows: Row) -> str:
    """Return what is printed for *rows*."""
    file = io.StringIO()
    print_report(rows, file)
    return file.getvalue()


def cells(text: str, *first: str) -> list[list[str]]:
    """Return the cells of each line of *text* whose first cells are these."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [line for line in lines if line[: len(first)] == list(first)]


@pytest.mark.parametrize(
    ("of", "first", "column", "wanted"),
    [
        pytest.param(
            row([40.0] * 9 + [400.0], batch=8, images=8),
            ["chip", "8"],
            2,
            ["drawn scenes", "not measured", "200.00", "40.00"],
            id="throughput",
        ),
        pytest.param(row(accuracy=EVALUATED), ["chip", "1"], 3, ["33.46"], id="map"),
        pytest.param(
            row(accuracy=replace(EVALUATED, images=100)),
            ["chip", "1"],
            3,
            ["33.46 (first 100)"],
            id="map-of-some-images",
        ),
        pytest.param(
            row([40.0], batch=None, images=8, timed="file to input"),
            ["file to input"],
            1,
            ["8", "5.000", "200.0"],
            id="stage",
        ),
        pytest.param(
            row(steps={"upload": Latency((0.5, 0.5))}),
            ["input to heads"],
            1,
            ["1", "upload", "0.50", "0.50", "0.50", "2"],
            id="steps",
        ),
        pytest.param(
            row(rival=Rival("pe[e]r", Latency((30.0,) * 10))),
            ["input to heads"],
            1,
            ["pe[e]r", "1", "30.00", "10.00", "0.333 (0.333 to 0.333)", "3 (3 to 3)", "10"],
            id="rival",
        ),
    ],
)
def test_a_row_fills_its_table(of: Row, first: list[str], column: int, wanted: list[str]) -> None:
    """Cells are the row's figures, medians where times are, and names as they are written."""
    (line,) = cells(shown(of), *first)
    assert line[column : column + len(wanted)] == wanted


def test_published_figures_stand_beside_the_fastest_of_their_kind() -> None:
    """At batch 8 the 310P3's 256 images/s are twice ours; what times something else is left out."""
    text = shown(row([100.0], batch=8, images=8), row([62.5], batch=8, images=8))
    (line,) = cells(text, "Ascend 310P3")
    assert line[4:7] == ["256.00", "128.00", "0.500"]
    # Those of the network only: end to end is another thing.
    assert "209.00" not in text
    assert "209.00" in shown(row([62.5], batch=8, images=8, timed=END_TO_END))
    assert "published" not in shown(row(batch=3))


def test_every_source_is_printed_whole() -> None:
    """A number leads from each published row to its conditions and an address one can follow."""
    text = shown(*(row(batch=n, timed=t) for n in (1, 8) for t in (row().timed, END_TO_END)))
    assert [one.source for one in published_figures() if one.source not in text] == []
    assert re.search(r"^- \[1\] .*https://", text, re.MULTILINE)


def test_notes_end_the_report_and_nothing_is_nothing() -> None:
    """A note is printed as it is; without rows there is no table."""
    assert shown(row(notes=("[a] note",))).endswith("[a] note\n")
    assert shown() == ""
