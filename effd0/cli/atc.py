"""The build line's last command: compile, from ONNX to the .om that an Ascend chip runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..ascend.aipp import largest_errors, normalizing_aipp
from ..ascend.atc import AtcCommand, atc_command, run_atc, write_generated
from ..ascend.atc_options import (
    LOG_LEVELS,
    OUTPUT_TYPES,
    PRECISION_MODES,
    PRECISION_MODES_V2,
    AtcOptions,
    parse_gears,
)
from ..progress import STDERR
from ..spec import ModelSpec, spec_for
from . import options as opt


def compile(  # noqa: A001  # a command is called as its function is
    model: opt.InputModel,
    output: Annotated[Path, typer.Option(help="File to write, .om added.", metavar="FILE")],
    soc_version: Annotated[
        str | None,
        typer.Option(
            help="Chip that is to run it: Ascend310P3, ...",
            metavar="NAME",
            show_default="this host's, from npu-smi",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Fixed batch size.", show_default="the model's", min=1)
    ] = None,
    dynamic_batch_size: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes of one .om; the model's must be free.",
            metavar="1,4,8",
            show_default=False,
        ),
    ] = None,
    precision_mode: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(PRECISION_MODES)}.",
            metavar="MODE",
            show_default=f"{PRECISION_MODES[0]}, as the recipe",
        ),
    ] = None,
    precision_mode_v2: Annotated[
        str | None,
        typer.Option(
            help=f"In place of --precision-mode: {', '.join(PRECISION_MODES_V2)}.",
            metavar="MODE",
            show_default=False,
        ),
    ] = None,
    modify_mixlist: Annotated[
        Path | None,
        typer.Option(
            help="Operators that mixed modes treat apart.",
            metavar="FILE",
            show_default="ops_info.json beside the output: ReduceMeanD in float32",
        ),
    ] = None,
    aipp: Annotated[
        bool, typer.Option("--aipp", help="Fold the normalisation in: uint8 pixels as input.")
    ] = False,
    insert_op_conf: Annotated[
        Path | None, typer.Option(help="AIPP file of your own.", metavar="FILE", show_default=False)
    ] = None,
    input_fp16: Annotated[bool, typer.Option("--input-fp16", help="Take float16 input.")] = False,
    output_type: Annotated[
        str | None,
        typer.Option(help=f"{' or '.join(OUTPUT_TYPES)}.", metavar="TYPE", show_default="FP32"),
    ] = None,
    log: Annotated[
        str, typer.Option(help=f"ATC's log: {', '.join(LOG_LEVELS)}.", metavar="LEVEL")
    ] = "debug",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the command only, and write the files it reads."),
    ] = False,
    arch: opt.Arch = opt.DEFAULT_ARCH,
) -> None:
    """Compile an ONNX model for an Ascend chip with ATC; name the .om only when it is whole."""
    options = AtcOptions(
        soc_version=soc_version,
        batch_size=batch_size,
        gears=() if dynamic_batch_size is None else parse_gears(dynamic_batch_size),
        precision_mode=precision_mode,
        precision_mode_v2=precision_mode_v2,
        modify_mixlist=modify_mixlist,
        aipp=aipp,
        insert_op_conf=insert_op_conf,
        output_type=output_type,
        input_fp16=input_fp16,
        log=log,
    )
    spec = spec_for(arch)
    command = atc_command(model, output, spec, options)
    for warning in command.warnings:
        STDERR.print(f"some versions of ATC stumble: {escape(warning)}", soft_wrap=True)
    for path in write_generated(command):
        STDERR.print(f"wrote {escape(str(path))}, which the command reads", soft_wrap=True)
    if aipp:
        _show_cost(spec)
    # Never through a console, which would wrap it: it is to be copied.
    typer.echo(str(command))
    if not dry_run:
        _run(command)


def _run(command: AtcCommand) -> None:
    with STDERR.status(f"compiling {escape(command.model.name)} for {command.soc_version}"):
        made = run_atc(command)
    typer.echo(
        f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, sha256 {made.sha256[:12]}, "
        f"in {made.seconds:.1f} s"
    )


def _show_cost(spec: ModelSpec) -> None:
    errors = largest_errors(normalizing_aipp(spec), spec)
    shown = ", ".join(f"{error:.1e}" for error in errors)
    STDERR.print(
        f"AIPP normalises in float16: at most {shown} (R, G, B) from exact values, in standard "
        "deviations of the input; measure the accuracy again",
        soft_wrap=True,
    )
