"""Tests for `effd0.cli.show`: what tables hold."""

import contextlib
import io
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from effd0.benchmark.measure import END_TO_END, NETWORK, timed_row
from effd0.benchmark.published import published_figures
from effd0.cli.show import class_table, show_benchmark, show_classes
from effd0.results.run import Accuracy, TimedRival, TimedRow, artefact_of
from effd0.spec import D0, ModelSpec
from effd0.timing import Latency
from tests.helpers import runs


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output goes to a file of its own width: workers of pytest-xdist have COLUMNS."""
    monkeypatch.delenv("COLUMNS", raising=False)


def test_the_reference_stands_in_the_table_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure is of its own side, and the terminal names the score threshold of both."""
    accuracy = msgspec.convert(runs.pictured(0.6), Accuracy)
    assert accuracy.against is not None
    assert accuracy.operating_point is not None
    theirs = accuracy.operating_point.reference
    assert theirs is not None
    *rows, total = class_table(accuracy)
    for row in rows:
        name = row["class"]
        of = accuracy.per_class[name], accuracy.against.metrics.per_class[name]
        assert (row["ap"], row["reference_ap"]) == of
        mine = accuracy.operating_point.candidate.per_class[name]
        assert (row["recall"], row["detections"]) == (mine.recall, mine.detections)
        if name in theirs.per_class:
            assert row["reference_recall"] == theirs.per_class[name].recall != row["recall"]
    assert (total["class"], total["reference_ap"]) == ("all", accuracy.against.metrics.ap)
    assert total["reference_f1"] == theirs.total.f1
    show_classes(accuracy)
    thresholds = [accuracy.operating_point.candidate.threshold, theirs.threshold]
    printed = "score {:.2f}, the reference's score {:.2f}\n".format(*thresholds)
    assert capsys.readouterr().out.endswith(printed)


def row(ms: float = 10.0, batch: int | None = 1, timed: str = NETWORK, **more: Any) -> TimedRow:
    """A row of ten calls of *ms* each, and fields of its own."""
    samples, more = Latency((ms,) * 9 + (10 * ms,)), {"dataset": "embedded", **more}
    return timed_row("bench.py::bench", timed, batch or 8, samples, "x 1.0", batch=batch, **more)


def shown(*rows: TimedRow, spec: ModelSpec = D0) -> str:
    """Return what is printed for *rows* of a network of *spec*."""
    with contextlib.redirect_stdout(io.StringIO()) as file:
        show_benchmark(rows, artefact_of(None, None, None, spec=spec))
    return file.getvalue()


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the line of *text* that has *first* among them."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    (line,) = [line for line in lines if first in line]
    return line[line.index(first) :]


@pytest.mark.parametrize(
    ("of", "wanted"),
    [
        pytest.param(
            row(40.0, 8), ["embedded", "not measured", "200.00", "40.00"], id="throughput"
        ),
        pytest.param(row(map=0.33456), ["embedded", "33.46", "100.00"], id="map"),
        pytest.param(
            row(40.0, None, "file to input"), ["file to input", "8", "5.000", "200.0"], id="stage"
        ),
        pytest.param(
            row(steps={"upload": [0.5, 0.5]}), ["upload", "0.50", "0.50", "0.50", "2"], id="steps"
        ),
        pytest.param(
            row(rival=TimedRival("pe[e]r", [30.0] * 9 + [300.0])),
            ["pe[e]r", "1", "30.00", "10.00", "0.333 (0.333 to 0.333)", "3 (3 to 3)", "10"],
            id="rival",
        ),
    ],
)
def test_a_row_fills_its_table(of: TimedRow, wanted: list[str]) -> None:
    """Cells are the row's figures, medians where times are, and names as they are written."""
    assert cells(shown(of), wanted[0])[: len(wanted)] == wanted


def test_published_figures_stand_beside_the_fastest_of_their_kind() -> None:
    """At batch 8 the 310P3's 256 images/s are twice ours; what times something else is left out."""
    text = shown(row(100.0, 8), row(62.5, 8))
    assert cells(text, "Ascend 310P3")[4:7] == ["256.00", "128.00", "0.500"]
    # Those of the network only: end to end is another thing.
    assert "209.00" not in text
    assert "209.00" in shown(row(62.5, 8, END_TO_END))
    assert "published" not in shown(row(batch=3))
    assert "published" not in shown(row(), spec=replace(D0, num_classes=5))


def test_every_source_is_printed_whole() -> None:
    """A number leads from each published row to its conditions and an address one can follow."""
    text = shown(*(row(10.0, n, timed) for n in (1, 8) for timed in (NETWORK, END_TO_END)))
    d0s = [one.source for one in published_figures() if one.arch == D0.arch]
    assert [source for source in d0s if source not in text] == []
    assert re.search(r"^- \[1\] .*https://", text, re.MULTILINE)


def test_notes_end_the_report_and_nothing_is_nothing() -> None:
    """A note is printed once, as it is; without rows there is no table."""
    noted = row(notes=["[a] note"])
    assert shown(noted, noted).count("[a] note\n") == 1
    assert shown() == ""
