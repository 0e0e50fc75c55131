"""Commands that prepare a machine: doctor, fetch."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from ..data.download import fetch_checkpoint, fetch_coco
from ..progress import download_progress
from ..spec import spec_for
from .command import command
from .doctor import examine
from .options import ARCH, REQUIRED, option
from .show import console, table


@command()
def doctor() -> None:
    """Show versions, devices and what is missing, with the command that installs it."""
    shown = table("", ("", "part", "found", "to do"))
    for finding in examine():
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        row = (f"{finding.group}: {finding.name}", finding.state, finding.remedy)
        shown.add_row(mark, *(escape(cell) for cell in row))
    console().print(shown)


@command()
def fetch(
    what: str = option(
        "COCO val2017, or the published weights.",
        default=REQUIRED,
        choices=("coco", "checkpoint"),
        positional=True,
    ),
    root: Path = option("Folder for COCO.", "DIR", Path("coco_data")),
    out: Path = option("File for the weights.", "FILE", Path("d0.pth")),
    arch: str = ARCH,
    mirror: str | None = option("URL in place of the official host.", "URL"),
) -> None:
    """Download from the official sources: resumed if interrupted, verified by checksum."""
    spec = spec_for(arch)
    with download_progress(what) as on_bytes:
        if what == "coco":
            path = fetch_coco(root, on_bytes, mirror)
        else:
            path = fetch_checkpoint(spec, out, on_bytes, mirror)
    console().print(f"{what} is in {path}", soft_wrap=True)
