"""Commands that prepare a machine: doctor, fetch."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..data.download import fetch_checkpoint, fetch_coco
from ..progress import download_progress
from ..spec import spec_for
from . import options as opt
from .doctor import examine


class What(enum.StrEnum):
    """What `fetch` can bring."""

    coco = "coco"
    checkpoint = "checkpoint"


def doctor() -> None:
    """Show versions and devices, what is missing, and the command that installs it."""
    table = Table()
    for name in ("", "part", "found", "to do"):
        table.add_column(name, overflow="fold")
    for finding in examine():
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        row = (f"{finding.group}: {finding.name}", finding.state, finding.remedy)
        table.add_row(mark, *(escape(cell) for cell in row))
    Console(highlight=False).print(table)


def fetch(
    what: Annotated[What, typer.Argument(help="COCO val2017, or the published weights.")],
    root: Annotated[Path, typer.Option(help="Folder for COCO.", metavar="DIR")] = Path("coco_data"),
    out: Annotated[Path, typer.Option(help="File for the weights.", metavar="FILE")] = Path(
        "d0.pth"
    ),
    arch: opt.Arch = opt.DEFAULT_ARCH,
    mirror: Annotated[
        str | None,
        typer.Option(help="URL in place of the official host.", metavar="URL", show_default=False),
    ] = None,
) -> None:
    """Download from the official sources: resumed if broken off, checked by checksum."""
    spec = spec_for(arch)
    with download_progress(what.value) as on_bytes:
        if what is What.coco:
            path = fetch_coco(root, on_bytes, mirror)
        else:
            path = fetch_checkpoint(spec, out, on_bytes, mirror)
    Console(highlight=False).print(f"{what.value} is in {path}", soft_wrap=True)
