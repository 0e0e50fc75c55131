"""The page's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..io import check_writable
from ..page import write_page
from ..runfile import read_run


def report(
    run: Annotated[
        Path,
        typer.Argument(help="What --report-json wrote.", metavar="RUN.json", show_default=False),
    ],
    html: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Run whose figures stand beside.", metavar="OLD.json", show_default=False
        ),
    ] = None,
) -> None:
    """Show a run as one HTML page, which opens from disk; the verdict changes no exit code."""
    check_writable(html)
    shown = read_run(run)
    write_page(html, shown, None if baseline is None else read_run(baseline))
    verdict = shown["verdict"]
    where = f" in {verdict['stage']}" if verdict["stage"] else ""
    Console(highlight=False).print(
        f"wrote {escape(str(html))}: {verdict['status'].upper()}{where}", soft_wrap=True
    )
