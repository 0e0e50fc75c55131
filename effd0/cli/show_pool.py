"""The workers of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Workers that are shown; of more, the slowest.
MOST = 16
#: Faults that are shown in full.
FAULTS = 10


def show_pool(pool: Mapping[str, Any], console: Console) -> None:
    """Print what each worker did, and what went wrong; *pool* is `PoolSummary.to_json`."""
    workers = sorted(pool["workers"], key=lambda one: one["rate"])[:MOST]
    shown = "" if len(workers) == len(pool["workers"]) else f", the slowest {MOST}"
    table = Table(title=f"workers{shown}", title_justify="left")
    table.add_column("worker", overflow="fold")
    for name in ("opened, s", "units", "images", "images/s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in sorted(workers, key=lambda worker: str(worker["worker"])):
        figures = (f"{one['opened_s']:.1f}", str(one["units"]), str(one["images"]))
        note = "[yellow]straggler[/]" if one["straggler"] else ""
        table.add_row(escape(one["worker"]), *figures, f"{one['rate']:.1f}", note)
    console.print(table)
    console.print(
        f"{pool['images']} images in {pool['seconds']:.1f} s, after {pool['start_s']:.1f} s in "
        f"which the first worker started: {pool['images_per_second']:.1f} images/s",
        soft_wrap=True,
    )
    faults = pool["faults"]
    if pool["again"]:
        console.print(f"{pool['again']} units were asked for again, in {pool['rounds']} rounds")
    for fault in faults[:FAULTS]:
        console.print(f"[yellow]fault[/] {escape(fault)}", soft_wrap=True)
    if len(faults) > FAULTS:
        console.print(f"and {len(faults) - FAULTS} more faults, all in the file of results")
