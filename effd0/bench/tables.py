"""The tables at the end of a benchmark: the recipe's, the published figures beside it, rivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

from rich.box import SIMPLE, Box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .accuracy import Accuracy, map_cell
from .baseline import Comparison
from .published import Published, published_figures
from .rows import Row

_RIGHT = {"batch", "mAP %", "images/s", "p50 ms", "p90 ms", "p99 ms", "samples", "median ms"}
_RIGHT |= {"ours, images/s", "ours is x", "images", "ms an image", "ours, ms", "rival, ms"}


#: Wide enough for the tables where nobody looks: a file has no width of its own.
WIDTH = 180


def print_report(
    rows: Sequence[Row], accuracy: Accuracy | None = None, file: IO[str] | None = None
) -> None:
    """Print what `report` gives to the terminal, or to *file*."""
    console = Console(highlight=False, file=file)
    if not console.is_terminal:
        console = Console(highlight=False, file=file, width=WIDTH)
    for part in report(rows, accuracy):
        console.print(part, soft_wrap=isinstance(part, str), markup=False)


def report(
    rows: Sequence[Row], accuracy: Accuracy | None = None, box: Box = SIMPLE
) -> Iterator[Table | str]:
    """Every table that *rows* have something for, and lines that explain it."""
    swept = [row for row in rows if row.batch is not None and row.rival is None]
    staged = [row for row in rows if row.batch is None and row.rival is None]
    rivals = [row for row in rows if row.rival is not None]
    for table, notes in (
        (throughput_table(swept, accuracy, box), ()),
        (published_table(swept, box), published_notes(swept)),
        (stage_table(staged, box), ()),
        (apart_table(rows, box), ()),
        (rival_table(rivals, box), ()),
    ):
        if table.row_count:
            yield table
            yield from notes
    yield from (note for row in rows for note in row.notes)


def throughput_table(
    rows: Sequence[Row], accuracy: Accuracy | None = None, box: Box = SIMPLE
) -> Table:
    """The recipe's table: chip, batch, dataset, mAP, images/s; and the times they come from."""
    table = _table(
        "throughput (images/s from the median; padding never counts)",
        ("chip", "batch", "dataset", "mAP %", "images/s", "p50 ms", "p90 ms", "p99 ms"),
        ("samples", "timed", "precision", "backend"),
        box,
    )
    for row in rows:
        table.add_row(
            escape(row.fingerprint.chip),
            str(row.batch),
            escape(row.dataset),
            map_cell(accuracy, row.model_sha256),
            f"{row.images_per_second:.2f}",
            *_percentiles(row),
            escape(row.timed),
            escape(row.precision),
            escape(row.fingerprint.backend),
        )
    return table


def published_table(rows: Sequence[Row], box: Box = SIMPLE) -> Table:
    """Published figures at the batches of *rows*, each beside our fastest row of its kind."""
    table = _table(
        "published figures beside ours (other chips, other conditions: see below)",
        ("chip", "batch", "dataset", "mAP %", "images/s", "ours, images/s", "ours is x"),
        ("timed", "precision", "source"),
        box,
    )
    numbers = _numbered(rows)
    for figure, ours in sorted(_beside(rows), key=lambda pair: pair[0].batch):
        table.add_row(
            figure.chip,
            str(figure.batch),
            figure.dataset,
            figure.map or "not said",
            f"{figure.images_per_second:.2f}",
            f"{ours.images_per_second:.2f}",
            f"{ours.images_per_second / figure.images_per_second:.3f}",
            figure.timed,
            figure.precision,
            escape(f"[{numbers[figure.conditions, figure.source]}]"),
        )
    return table


def published_notes(rows: Sequence[Row]) -> list[str]:
    """Conditions and source of each figure in `published_table`, by its number."""
    notes = _numbered(rows).items()
    return [f"- [{number}] {conditions}; {source}" for (conditions, source), number in notes]


def _numbered(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    told = dict.fromkeys((figure.conditions, figure.source) for figure, _ in _beside(rows))
    return {pair: number for number, pair in enumerate(told, 1)}


def _beside(rows: Sequence[Row]) -> list[tuple[Published, Row]]:
    """Each published figure with our fastest row of the same batch that times the same thing."""
    pairs = []
    for figure in published_figures():
        alike = [row for row in rows if (row.batch, row.timed) == (figure.batch, figure.timed)]
        if alike:
            pairs.append((figure, max(alike, key=lambda row: row.images_per_second)))
    return pairs


def apart_table(rows: Sequence[Row], box: Box = SIMPLE) -> Table:
    """What runners timed by themselves: transfers, computing, the host's copies."""
    table = _table(
        "apart, a call", ("timed", "batch", "step", "p50 ms", "p90 ms", "p99 ms"),
        ("samples", "backend"), box,
    )  # fmt: skip
    for row in rows:
        for step, latency in row.apart.items():
            times = (latency.p50_ms, latency.p90_ms, latency.p99_ms)
            cells = (*(f"{time:.2f}" for time in times), str(len(latency.samples_ms)))
            batch = "" if row.batch is None else str(row.batch)
            table.add_row(escape(row.timed), batch, step, *cells, escape(row.fingerprint.backend))
    return table


def stage_table(rows: Sequence[Row], box: Box = SIMPLE) -> Table:
    """Stages that have no batch: times a call, and an image."""
    table = _table(
        "stages", ("timed", "images", "ms an image", "images/s", "p50 ms", "p90 ms", "p99 ms"),
        ("samples", "backend"), box,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            escape(row.timed),
            str(row.images),
            f"{row.samples.p50_ms / row.images:.3f}",
            f"{row.images_per_second:.1f}",
            *_percentiles(row),
            escape(row.fingerprint.backend),
        )
    return table


def rival_table(rows: Sequence[Row], box: Box = SIMPLE) -> Table:
    """One ratio a row, with its interval, against its target."""
    table = _table(
        "in turn with others (A B A B, same images, results compared; 95 % intervals)",
        ("timed", "rival", "images", "rival, ms", "ours, ms", "ratio"),
        ("target", "verdict", "samples"),
        box,
    )
    for row in rows:
        ratio = row.against_rival
        if row.rival is None or ratio is None:
            continue
        target = row.rival.target
        word = "ours / rival" if target.kind == "cost" else "rival / ours"
        table.add_row(
            escape(row.timed),
            escape(row.rival.name),
            str(row.images),
            f"{row.rival.samples.p50_ms:.2f}",
            f"{row.samples.p50_ms:.2f}",
            f"{word} {target.oriented(ratio)}",
            str(target),
            target.verdict(ratio),
            str(ratio.count),
        )
    return table


def baseline_table(comparisons: Sequence[Comparison], box: Box = SIMPLE) -> Table:
    """Each row beside its baseline."""
    table = _table("against the baseline", ("benchmark", "status", "now / then"), ("why",), box)
    for one in comparisons:
        ratio = "" if one.ratio is None else str(one.ratio)
        table.add_row(escape(one.name), one.status, ratio, escape(one.reason))
    return table


def _table(title: str, first: tuple[str, ...], then: tuple[str, ...], box: Box) -> Table:
    table = Table(title=title, title_justify="left", box=box)
    for name in (*first, *then):
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    return table


def _percentiles(row: Row) -> tuple[str, str, str, str]:
    times = (row.samples.p50_ms, row.samples.p90_ms, row.samples.p99_ms)
    p50, p90, p99 = (f"{time:.2f}" for time in times)
    return p50, p90, p99, str(len(row.samples.samples_ms))
