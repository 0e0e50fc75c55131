"""The command that names the node at which one model leaves another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..diagnosis import bisect as job
from ..diagnosis.bisect import Suspect
from ..io import check_writable
from ..progress import STDERR
from ..report import write_json
from ..spec import spec_for
from . import options as opt

_COLORS = {"same": "green", "hidden": "yellow", "differs": "red", "inputs differ": "red"}


def bisect(
    model: opt.InputModel,
    reference: Annotated[
        Path,
        typer.Option(help="What is right: an ONNX file, or a checkpoint.", metavar="FILE"),
    ],
    image: Annotated[
        Path | None,
        typer.Option(help="Picture to run.", metavar="FILE", show_default="an embedded scene"),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Write the finding as JSON.", metavar="FILE", show_default=False),
    ] = None,
    arch: opt.Arch = opt.DEFAULT_ARCH,
) -> None:
    """Name the first node of an ONNX model that leaves its reference, renamed nodes or not."""
    if json is not None:
        check_writable(json)
    with STDERR.status(f"comparing all tensors of {model.name} with {reference.name}"):
        finding = job.bisect(model, reference, spec_for(arch), image)
    show(finding, Console(highlight=False))
    if json is not None:
        write_json(finding.to_json(), json)
    if finding.status != "same":
        raise typer.Exit(1)


def show(finding: job.Finding, console: Console) -> None:
    """Print what was paired, the suspects in the order of the graph, and the verdict."""
    if finding.pairs is not None:
        rules = ", ".join(f"{count} by {rule}" for rule, count in finding.pairs.items())
        paired = sum(finding.pairs.values())
        console.print(f"{paired} of {finding.nodes} nodes have a partner: {rules or 'none'}")
    for note in finding.notes:
        console.print(escape(note), soft_wrap=True)
    if finding.suspects:
        console.print(_table(finding.suspects))
    status = f"[bold {_COLORS[finding.status]}]{finding.status.upper()}[/]"
    if finding.pairs is None:
        console.print(f"{status}  {job.STATUSES[finding.status]}")
        return
    console.print(
        f"{status}  {job.STATUSES[finding.status]}: worst output off by {finding.worst:.2e} "
        f"(relative L2), {finding.noise:.0e} is noise",
        soft_wrap=True,
    )
    if finding.culprit is not None:
        _show_culprit(finding.culprit, console)


def _table(suspects: tuple[Suspect, ...]) -> Table:
    table = Table(title="nodes that make an error of their own", title_justify="left")
    for column in ("node", "op", "reads", "gives", "upstream", "error", "paired by"):
        table.add_column(column, justify="right" if column in ("upstream", "error") else "left")
    for suspect in suspects:
        table.add_row(
            escape(suspect.node),
            suspect.op,
            " ".join("x".join(map(str, shape)) for shape in suspect.input_shapes),
            "x".join(map(str, suspect.output_shape)),
            f"{suspect.upstream:.2e}",
            f"{suspect.error:.2e}",
            suspect.paired_by or "-",
        )
    return table


def _show_culprit(culprit: Suspect, console: Console) -> None:
    partner = f" (in the reference {culprit.partner})" if culprit.partner else ""
    console.print(
        f"first: {culprit.op} {escape(culprit.node + partner)}: what it reads is off by "
        f"{culprit.upstream:.2e}, what it gives by {culprit.error:.2e}",
        soft_wrap=True,
    )
    for sentence in culprit.differences:
        console.print(f"  {escape(sentence)}", soft_wrap=True)
