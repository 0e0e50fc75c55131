"""The build line's commands: export, simplify, modify."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..data import fixture as embedded
from ..export import verify as line
from ..export.to_onnx import EXPORTERS, ExportSettings
from ..graph.rewrites import DEFAULT_EDITS, EDITS
from ..progress import STDERR
from ..spec import spec_for
from . import options as opt


def export(
    out: opt.OutputModel,
    checkpoint: opt.Checkpoint = None,
    batch_size: Annotated[int, typer.Option(help="Fixed batch size.", min=1)] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Leave the batch size free.")
    ] = False,
    opset: Annotated[
        int | None,
        typer.Option(help="ONNX opset.", show_default="11; 18 for dynamo"),
    ] = None,
    exporter: Annotated[str, typer.Option(help=f"{' or '.join(EXPORTERS)}.")] = "torchscript",
    arch: opt.Arch = opt.DEFAULT_ARCH,
) -> None:
    """Export a checkpoint to ONNX, run it beside torch, and only then name the file."""
    settings = ExportSettings(None if dynamic_batch else batch_size, opset, exporter)
    source = embedded.checkpoint() if checkpoint is None else checkpoint
    with STDERR.status(f"exporting {source.name} and comparing it with torch"):
        built = line.export(source, out, spec_for(arch), settings)
    show(built)


def simplify(
    model: opt.InputModel, out: opt.OutputModel, arch: opt.Arch = opt.DEFAULT_ARCH
) -> None:
    """Simplify an ONNX model with onnxsim, run it beside the original, and only then name it."""
    with STDERR.status(f"simplifying {model.name} and comparing it with the original"):
        built = line.simplify(model, out, spec_for(arch))
    show(built)


def _list_edits(wanted: bool) -> None:
    """Print all edits as a table and stop, where that is *wanted*."""
    if not wanted:
        return
    table = Table(title="edits of a graph", title_justify="left", show_lines=True)
    for column in ("edit", "what it does", "why a compiler likes it", "exact", "default"):
        table.add_column(column, no_wrap=column == "edit")
    for edit in EDITS.values():
        flags = ["yes" if flag else "no" for flag in (edit.exact, edit.name in DEFAULT_EDITS)]
        table.add_row(edit.name, edit.explanation, edit.benefit, *flags)
    Console(highlight=False).print(table)
    raise typer.Exit


def modify(
    model: opt.InputModel,
    out: opt.OutputModel,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="An edit, see --list. Repeatable, in order.",
            metavar="NAME",
            show_default=", ".join(DEFAULT_EDITS),
        ),
    ] = None,
    list_edits: Annotated[  # noqa: ARG001  # the callback does it
        bool,
        typer.Option(
            "--list", help="Explain all edits and stop.", callback=_list_edits, is_eager=True
        ),
    ] = False,
    arch: opt.Arch = opt.DEFAULT_ARCH,
) -> None:
    """Edit an ONNX graph so that a compiler takes it; print what matched and what it changed."""
    with STDERR.status(f"editing {model.name} and comparing it with the original"):
        built = line.modify(model, out, spec_for(arch), DEFAULT_EDITS if edit is None else edit)
    show(built)


def show(built: line.Built) -> None:
    """Print what was made and how far each head is from its source's, on embedded images."""
    console = Console(highlight=False)
    for change in built.changes:
        moved = f", heads moved by at most {change.worst.max_abs:.2e}" if change.matches else ""
        console.print(f"{change}{moved}  [dim]({change.edit.explanation})[/]", soft_wrap=True)
    table = Table(title="difference from the source", title_justify="left")
    table.add_column("head")
    table.add_column("largest", justify="right")
    table.add_column("relative L2", justify="right")
    for diff in sorted(built.diffs, key=lambda diff: (diff.name.startswith("box"), diff.name)):
        table.add_row(diff.name, f"{diff.max_abs:.2e}", f"{diff.relative_l2:.2e}")
    console.print(table)
    console.print(f"wrote {built.path}", soft_wrap=True)
