"""The tables at the end of a benchmark: the recipe's, the published figures beside it, rivals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal, TypeAlias, TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ..results.compare import Ratio
from ..results.run import TimedRival, TimedRow
from ..timing import Latency
from .measure import rivals_of
from .published import Published, published_figures

T = TypeVar("T")
#: Title of a column -> what stands in its cell.  A new column is one line in one of these.
Columns: TypeAlias = Mapping[str, Callable[[T], str]]

_TIMES: Columns[Any] = {
    "p50 ms": lambda times: f"{times.p50_ms:.2f}",
    "p90 ms": lambda times: f"{times.p90_ms:.2f}",
    "p99 ms": lambda times: f"{times.p99_ms:.2f}",
    "samples": lambda times: str(len(times.samples_ms)),
}
#: The recipe's table, and the times that it comes from.
THROUGHPUT: Columns[TimedRow] = {
    "chip": lambda row: row.fingerprint.chip,
    "batch": lambda row: str(row.batch),
    "dataset": lambda row: row.dataset,
    "mAP %": lambda row: "not measured" if row.map is None else f"{100 * row.map:.2f}",
    "images/s": lambda row: f"{row.images_per_second:.2f}",
    **_TIMES,
    "timed": lambda row: row.timed,
    "precision": lambda row: row.precision,
    "backend": lambda row: row.fingerprint.backend,
}
#: A published figure beside our fastest row that times the same at the same batch.
PUBLISHED: Columns[tuple[Published, TimedRow]] = {
    "chip": lambda pair: pair[0].chip,
    "batch": lambda pair: str(pair[0].batch),
    "dataset": lambda pair: pair[0].dataset,
    "mAP %": lambda pair: pair[0].map or "not said",
    "images/s": lambda pair: f"{pair[0].images_per_second:.2f}",
    "ours, images/s": lambda pair: f"{pair[1].images_per_second:.2f}",
    "ours is x": lambda pair: f"{pair[1].images_per_second / pair[0].images_per_second:.3f}",
    "timed": lambda pair: pair[0].timed,
    "precision": lambda pair: pair[0].precision,
}
#: What has no batch.
STAGES: Columns[TimedRow] = {
    "timed": lambda row: row.timed,
    "images": lambda row: str(row.images),
    "ms per image": lambda row: f"{row.p50_ms / row.images:.3f}",
    "images/s": lambda row: f"{row.images_per_second:.1f}",
    **_TIMES,
    "backend": lambda row: row.fingerprint.backend,
}
#: A row, its rival and the ratio of their times.
RIVALS: Columns[tuple[TimedRow, TimedRival, Ratio]] = {
    "timed": lambda pair: pair[0].timed,
    "rival": lambda pair: pair[1].name,
    "images": lambda pair: str(pair[0].images),
    "rival, ms": lambda pair: f"{statistics.median(pair[1].samples_ms):.2f}",
    "ours, ms": lambda pair: f"{pair[0].p50_ms:.2f}",
    "ours / rival": lambda pair: str(pair[2]),
    "rival / ours": lambda pair: str(pair[2].inverse()),
    "samples": lambda pair: str(len(pair[0].samples_ms)),
}
#: What a runner or a benchmark timed within its calls.
STEPS: Columns[tuple[TimedRow, str, Latency]] = {
    "timed": lambda part: part[0].timed,
    "batch": lambda part: "" if part[0].batch is None else str(part[0].batch),
    "step": lambda part: part[1],
    **{title: lambda part, cell=cell: cell(part[2]) for title, cell in _TIMES.items()},  # type: ignore[misc]  # cell is bound here
    "backend": lambda part: part[0].fingerprint.backend,
}
#: Columns of words, set to the left.
_WORDS = {"chip", "dataset", "timed", "precision", "backend", "source", "rival", "step"}
#: Wide enough for the tables in a file, which has no width of its own.
WIDTH = 180


def print_report(rows: Sequence[TimedRow], file: IO[str] | None = None) -> None:
    """Print every table that *rows* have something for, and their notes, here or to *file*."""
    console = Console(highlight=False, file=file)
    if not console.is_terminal:
        console = Console(highlight=False, file=file, width=WIDTH)
    for part in _tables(rows):
        console.print(part, soft_wrap=isinstance(part, str), markup=False)


def _tables(rows: Sequence[TimedRow]) -> Iterator[Table | str]:
    """The tables of *rows*, and lines that explain them."""
    alone = [row for row in rows if row.rival is None]
    swept = [row for row in alone if row.batch is not None]
    title = "throughput (images/s from the median; padding never counts)"
    yield from _table(title, THROUGHPUT, swept)

    pairs: list[tuple[Published, TimedRow]] = []
    for figure in sorted(published_figures(), key=lambda one: one.batch):
        alike = [row for row in swept if (row.batch, row.timed) == (figure.batch, figure.timed)]
        if alike:
            pairs.append((figure, max(alike, key=lambda row: row.images_per_second)))
    notes = list(dict.fromkeys(f"{one.conditions}; {one.source}" for one, _ in pairs))
    title = "published figures beside ours (other chips, other conditions: see below)"
    numbered: Columns[tuple[Published, TimedRow]] = {
        **PUBLISHED,
        "source": lambda p: f"[{1 + notes.index(f'{p[0].conditions}; {p[0].source}')}]",
    }
    yield from _table(title, numbered, pairs)
    yield from (f"- [{number}] {note}" for number, note in enumerate(notes, 1))

    yield from _table("stages", STAGES, [row for row in alone if row.batch is None])
    parts = [(row, step, Latency(tuple(ms))) for row in rows for step, ms in row.steps.items()]
    yield from _table("steps of a call", STEPS, parts)
    title = "in turn with others (A B A B, same images, results compared; 95 % intervals)"
    yield from _table(title, RIVALS, rivals_of(rows))
    yield from dict.fromkeys(note for row in rows for note in row.notes)


def _table(title: str, columns: Columns[T], lines: Sequence[T]) -> Iterator[Table]:
    """A table of *lines*, numbers to the right; none where there are no lines."""
    if lines:
        table = Table(title=title, title_justify="left", box=SIMPLE)
        for name in columns:
            side: Literal["left", "right"] = "left" if name in _WORDS else "right"
            table.add_column(name, justify=side, overflow="fold")
        for line in lines:
            table.add_row(*(cell(line) for cell in columns.values()))
        yield table
