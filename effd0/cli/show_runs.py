"""Two runs side by side on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runfile.compare import NO_WORSE, UNDECIDED, WORSE, RunComparison
from ..runfile.pairs import Pair
from ..runfile.speed import FASTER, SLOWER, Speed
from .show import LABELS

#: Classes that are shown: those whose AP moved most.
CLASSES = 10
#: Wide enough for all tables where nobody looks: a file has no width of its own.
WIDTH = 140
_COLORS = {NO_WORSE: "green", UNDECIDED: "yellow", WORSE: "red", FASTER: "green", SLOWER: "red"}
_UNDEFINED = "undefined"


def show_comparison(found: RunComparison, console: Console) -> None:
    """Print every figure that both have, what only one has, and the verdict."""
    if not console.is_terminal:
        console = Console(highlight=False, file=console.file, width=WIDTH)
    for table in _tables(found):
        if table.row_count:
            console.print(table)
    for line in (*found.intervals, *found.alone):
        console.print(line, markup=False, soft_wrap=True)
    status = f"[bold {_COLORS[found.status]}]{found.status.upper()}[/]"
    reasons = [*found.worse, *found.undecided]
    first = reasons[0] if reasons else "no figure that both have is worse than is allowed"
    console.print(f"{status}  {escape(first)}", soft_wrap=True)
    for reason in reasons[1:]:
        console.print(f"also: {reason}", markup=False, soft_wrap=True)


def _tables(found: RunComparison) -> Iterator[Table]:
    yield _verdicts(found)
    yield _pairs("COCO, %", found.metrics, "{:.2f}", "points")
    moved = [pair for pair in found.classes if pair.change]
    shown = f"AP of the classes that moved most ({len(moved[:CLASSES])} of {len(moved)}), %"
    yield _pairs(shown, moved[:CLASSES], "{:.2f}", "points")
    yield _pairs("heads, furthest from the reference", found.parity, "{:.2g}", "change")
    yield _speeds(found.speeds)


def _verdicts(found: RunComparison) -> Table:
    table = _table("verdict", ("run", "status", "stage", "evidence"))
    for name, verdict in zip(("baseline", "candidate"), found.verdicts, strict=True):
        told = (verdict["status"], verdict["stage"] or "", escape(verdict["evidence"]))
        table.add_row(name, *told)
    return table


def _pairs(title: str, pairs: Iterable[Pair], form: str, unit: str) -> Table:
    table = _table(title, ("of", "figure", "baseline", "candidate", unit), right=3)
    group = None
    for pair in pairs:
        if group not in (None, pair.of):
            table.add_section()
        group = pair.of
        change = "" if pair.change is None else form.replace(":", ":+").format(pair.change)
        sides = (_cell(value, form) for value in (pair.before, pair.after))
        name = pair.name if pair.name in LABELS else pair.name.replace("_", " ")
        table.add_row(escape(pair.of), escape(name), *sides, change)
    return table


def _cell(value: float | None, form: str) -> str:
    return _UNDEFINED if value is None else form.format(value)


def _speeds(speeds: Iterable[Speed]) -> Table:
    table = _table(
        "times (candidate / baseline, with 95 % interval)",
        ("of", "baseline, images/s", "candidate, images/s", "time is x", "status", "why"),
    )
    for speed in speeds:
        color = _COLORS.get(speed.status)
        status = f"[{color}]{speed.status}[/]" if color else speed.status
        ratio: Any = "" if speed.ratio is None else speed.ratio
        rates = (f"{rate:.2f}" for rate in (speed.before, speed.after))
        table.add_row(escape(speed.name), *rates, str(ratio), status, escape(speed.reason))
    return table


def _table(title: str, columns: tuple[str, ...], right: int = 0) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for place, name in enumerate(columns):
        numeric = place >= len(columns) - right
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table
