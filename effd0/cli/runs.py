"""The commands on run files: merge, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..bench.baseline import MAX_SLOWDOWN
from ..io import check_writable
from ..runfile import compare_runs, merge_runs, read_run, write_run
from ..runfile.compare import NO_WORSE
from ..tolerances import MAX_DROP
from .show import COLORS
from .show_runs import show_comparison


def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(help="What --report-json wrote.", metavar="RUN.json...", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
) -> None:
    """Put the accuracy, parity and benchmark runs of one artefact into one file."""
    check_writable(out)
    merged = merge_runs([read_run(path) for path in runs], [str(path) for path in runs])
    write_run(out, merged)
    verdict, parts = merged["verdict"], ("checks", "parity", "accuracy", "latency")
    counts = ", ".join(f"{part} {len(merged[part])}" for part in parts)
    console = Console(highlight=False)
    console.print(f"wrote {escape(str(out))}: {len(runs)} runs; {counts}", soft_wrap=True)
    color, where = COLORS[verdict["status"]], f" in {verdict['stage']}" if verdict["stage"] else ""
    console.print(
        f"[bold {color}]{verdict['status'].upper()}[/]{where}  {escape(verdict['evidence'])}",
        soft_wrap=True,
    )


def compare(
    baseline: Annotated[Path, typer.Argument(help="What is good enough.", metavar="BASELINE.json")],
    candidate: Annotated[Path, typer.Argument(help="What is new.", metavar="CANDIDATE.json")],
    max_drop: Annotated[
        float,
        typer.Option(
            help="mAP that may be lost against the baseline.", metavar="POINTS", min=0, max=100
        ),
    ] = MAX_DROP.limit,
    max_slowdown: Annotated[
        float,
        typer.Option(help="Time that a row may surely gain, per cent.", metavar="PERCENT", min=0),
    ] = 100 * MAX_SLOWDOWN,
) -> None:
    """Hold one run against another: exit 1 unless it is no worse, 2 if they have nothing alike."""
    found = compare_runs(
        read_run(baseline),
        read_run(candidate),
        max_drop=max_drop,
        max_slowdown=max_slowdown / 100,
    )
    show_comparison(found, Console(highlight=False))
    if found.status != NO_WORSE:
        raise typer.Exit(1)
