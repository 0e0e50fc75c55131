"""
The tables of a saved run in a Markdown page, between two marks that stay.

Run: python -m effd0.bench.page RUN.json docs/performance.md
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console

from ..errors import BenchmarkError
from ..io import written_whole
from .baseline import read_run
from .gpu import target_lines
from .rows import Row
from .tables import report

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
#: No cell of a table may be broken: Markdown has no second line.
_WIDTH = 2000


def write_page(run: Path, page: Path) -> None:
    """Replace what stands between the marks in *page* by the tables of the saved *run*."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise BenchmarkError(
            f"{page} lacks {BEGIN} and {END}, but the tables go between them; write both lines"
        )
    made = "\n".join(page_lines(*read_run(run)))
    with written_whole(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


def page_lines(machine: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """The machine and the tables of a run, in Markdown."""
    devices = [f"{d['name']}, driver {d['driver'] or 'not told'}" for d in machine["devices"]]
    packages = [f"{name} {version}" for name, version in machine["packages"].items() if version]
    for what, value in (
        ("date", machine["date"]),
        ("command", f"`{machine['command']}`"),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores"),
        ("governor", machine["governor"] or "not told"),
        ("OMP_NUM_THREADS", machine["threads"] or "not set"),
        ("memory", f"{machine['memory_mb']} MB"),
        ("load at the end", f"{machine['load'][0]:.1f}"),
        ("accelerators", "; ".join(devices) or "none"),
        ("versions", ", ".join([f"Python {machine['python']}", *packages])),
    ):
        yield f"- {what}: {value}"
    for part in report(rows, box=MARKDOWN):
        yield ""
        yield _markdown(part)
    yield ""
    yield from (f"- GPU {line}" for line in target_lines(rows))


def _markdown(part: Any) -> str:
    if isinstance(part, str):
        return part
    title, part.title = part.title, None
    drawn = io.StringIO()
    Console(width=_WIDTH, file=drawn, highlight=False).print(part)
    lines = [line.strip() for line in drawn.getvalue().splitlines()]
    return "\n".join([f"**{title}**", "", *(line for line in lines if line)])


def main() -> None:
    """Write the page; what cannot be read is one message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="what pytest benchmarks --benchmark-json wrote")
    parser.add_argument("page", type=Path, help="Markdown file with both marks")
    given = parser.parse_args()
    try:
        write_page(given.run, given.page)
    except BenchmarkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
