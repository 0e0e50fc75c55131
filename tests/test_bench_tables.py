"""Tests for `effd0.bench.tables` and `effd0.bench.page`: what a reader is shown."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.bench.accuracy import Accuracy
from effd0.bench.baseline import compare, run_to_json
from effd0.bench.page import BEGIN, END, main, write_page
from effd0.bench.published import published_figures
from effd0.bench.rows import END_TO_END, Rival, Row
from effd0.bench.tables import baseline_table, print_report, report
from effd0.bench.targets import Target
from effd0.errors import BenchmarkError
from effd0.results.environment import machine_record
from effd0.timing import Latency

from .bench_samples import row

MODEL = row().model_sha256


def shown(*rows: Row, accuracy: Accuracy | None = None) -> str:
    """Return what is printed for *rows*."""
    file = io.StringIO()
    print_report(rows, accuracy, file)
    return file.getvalue()


def cells(text: str, *first: str) -> list[list[str]]:
    """Return the cells of each line of *text* whose first cells are these."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [line for line in lines if line[: len(first)] == list(first)]


def test_the_recipes_table_has_its_columns() -> None:
    """Chip, batch, dataset, mAP, images/s, then the times: 8 images in 40 ms are 200 a second."""
    batch_of_eight = row([40.0] * 9 + [400.0], batch=8, images=8)
    (line,) = cells(shown(batch_of_eight), "chip", "8")
    assert line[:6] == ["chip", "8", "drawn scenes", "not measured", "200.00", "40.00"]
    assert line[8] == "10"


def test_the_map_is_that_of_the_same_model() -> None:
    """A report of the file that was timed fills the column; any other leaves it "not measured"."""
    own = Accuracy(MODEL, 0.33456, 5000, 5000)
    assert cells(shown(row(), accuracy=own), "chip", "1")[0][3] == "33.46"
    part = replace(own, images=100)
    assert cells(shown(row(), accuracy=part), "chip", "1")[0][3] == "33.46 (first 100)"
    other = replace(own, model_sha256="f" * 64)
    assert cells(shown(row(), accuracy=other), "chip", "1")[0][3] == "not measured"


def test_published_rows_stand_beside_the_fastest_of_their_kind() -> None:
    """At batch 8 the 310P3's 256 images/s are twice ours; what times another thing is not told."""
    slow, fast = row([100.0], batch=8, images=8), row([62.5], batch=8, images=8)
    text = shown(slow, fast)
    (line,) = cells(text, "Ascend 310P3")
    assert line[4:7] == ["256.00", "128.00", "0.500"]
    # Those of the network only: end to end is another thing.
    assert "209.00" not in text
    assert "209.00" in shown(row([62.5], batch=8, images=8, timed=END_TO_END))


def test_every_source_is_printed_whole() -> None:
    """A number leads from each published row to its conditions and an address one can follow."""
    text = shown(*(row(batch=n, timed=t) for n in (1, 8) for t in (row().timed, END_TO_END)))
    sources = {figure.source for figure in published_figures()}
    assert [source for source in sources if source not in text] == []


def test_nothing_published_at_that_batch_is_no_table() -> None:
    """A table without rows is left out."""
    assert "published" not in shown(row(batch=3))


def test_a_rival_is_one_ratio_with_interval_target_and_verdict() -> None:
    """Three times faster, of a goal of two: met."""
    peer = Rival("peer", Latency((30.0,) * 10), Target(2.0))
    text = shown(replace(row(), rival=peer))
    (line,) = cells(text, "input to heads")
    assert line[1:] == [
        "peer", "1", "30.00", "10.00", "rival / ours 3 (3 to 3)", ">= 2", "met", "10",
    ]  # fmt: skip
    # It is no figure of ours alone.
    assert "throughput" not in text


def test_times_apart_and_notes_are_shown() -> None:
    """What the runner timed by itself has its own line, and a note is printed as it is."""
    one = replace(row(), apart={"upload": Latency((0.5, 0.5))}, notes=("[a] note",))
    text = shown(one)
    (line,) = cells(text, "input to heads")
    assert line[:4] == ["input to heads", "1", "upload", "0.50"]
    assert "[a] note" in text


def test_a_stage_without_batch_is_told_an_image() -> None:
    """Preprocessing of 8 images in 40 ms is 5 ms an image."""
    (line,) = cells(
        shown(row([40.0], batch=None, images=8, timed="file to input")), "file to input"
    )
    assert line[1:4] == ["8", "5.000", "200.0"]


def test_brackets_in_names_are_no_markup() -> None:
    """Pytest's ids have brackets; rich would take them for a style."""
    (title_and_rows,) = [baseline_table([compare(row(), None)])]
    column = list(title_and_rows.columns[0].cells)
    assert column == [r"bench.py::bench\[batch=1]"]


def test_the_page_keeps_what_is_around_the_marks(tmp_path: Path) -> None:
    """Only what stands between the marks is made anew; doing it twice changes nothing."""
    run, page = tmp_path / "run.json", tmp_path / "page.md"
    run.write_text(json.dumps(run_to_json(machine_record(), [row()])))
    page.write_text(f"# Speed\n\n{BEGIN}\nan older run\n{END}\n\nThe end.\n")
    write_page(run, page)
    once = page.read_text()
    write_page(run, page)
    assert page.read_text() == once
    assert once.startswith("# Speed\n")
    assert once.endswith(f"{END}\n\nThe end.\n")
    assert "older" not in once
    assert "- processor: " in once
    assert any(line.startswith("| chip | ") for line in once.splitlines())


def test_a_markdown_row_is_one_line(tmp_path: Path) -> None:
    """However long a source is, each row of a table ends where its line ends."""
    run, page = tmp_path / "run.json", tmp_path / "page.md"
    long = replace(row(), dataset="a name of many words " * 9)
    run.write_text(json.dumps(run_to_json(machine_record(), [long])))
    page.write_text(BEGIN + END)
    write_page(run, page)
    tables = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {13, 11}


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    """Nothing is written where nobody said what may be replaced."""
    run, page = tmp_path / "run.json", tmp_path / "page.md"
    run.write_text(json.dumps(run_to_json(machine_record(), [row()])))
    page.write_text("# Speed\n")
    with pytest.raises(BenchmarkError, match=r"page\.md lacks <!-- generated: begin -->"):
        write_page(run, page)
    assert page.read_text() == "# Speed\n"


def test_the_page_is_written_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/performance.md tells it; what is no run ends it with one message."""
    run, page = tmp_path / "run.json", tmp_path / "page.md"
    run.write_text(json.dumps(run_to_json(machine_record(), [row()])))
    page.write_text(BEGIN + END)
    monkeypatch.setattr("sys.argv", ["page", str(run), str(page)])
    main()
    assert "| drawn scenes |" in page.read_text()
    run.write_text("{}")
    with pytest.raises(SystemExit, match=r"run\.json is not a saved run"):
        main()


def test_the_report_of_nothing_is_empty() -> None:
    """No rows, no tables."""
    assert list(report([])) == []
