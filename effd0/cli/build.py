"""Commands that build models: export, simplify, modify, compile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..ascend.aipp import largest_errors, normalizing_aipp
from ..ascend.atc import atc_command, run_atc, write_generated
from ..ascend.atc_options import (
    LOG_LEVELS,
    OUTPUT_TYPES,
    PRECISION_MODES,
    PRECISION_MODES_V2,
    AtcOptions,
    parse_gears,
)
from ..data import fixture as embedded
from ..export import verify as line
from ..export.to_onnx import EXPORTERS, ExportSettings
from ..graph.rewrites import DEFAULT_EDITS
from ..progress import STDERR
from ..spec import D0, spec_for
from .command import command
from .options import Arch, OnnxFile, Option
from .show import show_built, show_edits

OnnxOut = Annotated[Path, Option("ONNX file to write.", "FILE")]


@command()
def export(
    out: OnnxOut,
    checkpoint: Annotated[
        Path | None,
        Option("Weights, .pth or .safetensors.", "FILE", shown="embedded checkpoint"),
    ] = None,
    batch_size: Annotated[int, Option("Fixed batch size.", "N", min=1)] = 1,
    dynamic_batch: Annotated[bool, Option("Leave the batch size free.")] = False,
    opset: Annotated[int | None, Option("ONNX opset.", "N", shown="11; 18 for dynamo")] = None,
    exporter: Annotated[str, Option(f"{' or '.join(EXPORTERS)}.", "NAME")] = "torchscript",
    arch: Arch = D0.arch,
) -> None:
    """Export a checkpoint to ONNX; the file is named once its outputs equal those of PyTorch."""
    settings = ExportSettings(None if dynamic_batch else batch_size, opset, exporter)
    source = embedded.checkpoint() if checkpoint is None else checkpoint
    with STDERR.status(f"exporting {source.name} and comparing it with torch"):
        built = line.export_onnx(source, out, spec_for(arch), settings)
    show_built(built)


@command()
def simplify(model: OnnxFile, out: OnnxOut, arch: Arch = D0.arch) -> None:
    """Simplify an ONNX model with onnxsim; the file is named once its outputs are unchanged."""
    with STDERR.status(f"simplifying {model.name} and comparing it with the original"):
        built = line.simplify_onnx(model, out, spec_for(arch))
    show_built(built)


@command()
def modify(
    model: OnnxFile,
    out: OnnxOut,
    edit: Annotated[
        tuple[str, ...],
        Option("Graph edit, see --list. Repeatable, in order.", "NAME", ", ".join(DEFAULT_EDITS)),
    ] = (),
    list: Annotated[bool, Option("Explain all edits and stop.", stop=show_edits)] = False,  # noqa: ARG001  # it stopped before
    arch: Arch = D0.arch,
) -> None:
    """Edit an ONNX graph for a compiler; print what each edit matched and changed."""
    with STDERR.status(f"editing {model.name} and comparing it with the original"):
        built = line.modify_onnx(model, out, spec_for(arch), edit or DEFAULT_EDITS)
    show_built(built)


@command()
def compile(  # noqa: A001  # a command is called as its function is
    model: OnnxFile,
    output: Annotated[Path, Option("File to write; .om is appended.", "FILE")],
    soc_version: Annotated[
        str | None, Option("Target chip: Ascend310P3, ...", "NAME", "this host's, by npu-smi")
    ] = None,
    batch_size: Annotated[
        int | None, Option("Fixed batch size.", "N", shown="the model's", min=1)
    ] = None,
    dynamic_batch_size: Annotated[
        str | None,
        Option("Batch sizes of one .om; the model's batch size must be free.", "1,4,8"),
    ] = None,
    precision_mode: Annotated[
        str | None,
        Option(
            f"{', '.join(PRECISION_MODES)}.", "MODE", shown=f"{PRECISION_MODES[0]}, as the recipe"
        ),
    ] = None,
    precision_mode_v2: Annotated[
        str | None,
        Option(f"In place of --precision-mode: {', '.join(PRECISION_MODES_V2)}.", "MODE"),
    ] = None,
    modify_mixlist: Annotated[
        Path | None,
        Option(
            "List of operators with a precision of their own in mixed modes.",
            "FILE",
            shown="ops_info.json beside the output: ReduceMeanD in float32",
        ),
    ] = None,
    aipp: Annotated[bool, Option("Include the normalisation; the input is uint8 pixels.")] = False,
    insert_op_conf: Annotated[Path | None, Option("Your own AIPP file.", "FILE")] = None,
    input_fp16: Annotated[bool, Option("Take float16 input.")] = False,
    output_type: Annotated[
        str | None, Option(f"{' or '.join(OUTPUT_TYPES)}.", "TYPE", shown="FP32")
    ] = None,
    log: Annotated[str, Option(f"ATC's log level: {', '.join(LOG_LEVELS)}.", "LEVEL")] = "debug",
    dry_run: Annotated[
        bool, Option("Print the command and write the files it reads; do not run it.")
    ] = False,
    arch: Arch = D0.arch,
) -> None:
    """Compile an ONNX model for an Ascend chip with ATC; the .om is named once it is complete."""
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
    atc = atc_command(model, output, spec, options)
    for warning in atc.warnings:
        STDERR.print(f"some versions of ATC refuse: {escape(warning)}", soft_wrap=True)
    for path in write_generated(atc):
        STDERR.print(f"wrote {escape(str(path))}, which the command reads", soft_wrap=True)
    if aipp:
        errors = largest_errors(normalizing_aipp(spec), spec)
        shown = ", ".join(f"{error:.1e}" for error in errors)
        STDERR.print(
            f"AIPP normalises in float16: at most {shown} (R, G, B) from exact values, in standard "
            "deviations of the input; measure the accuracy again",
            soft_wrap=True,
        )
    # Never through a console, which would wrap it: it is to be copied.
    typer.echo(str(atc))
    if dry_run:
        return
    with STDERR.status(f"compiling {escape(atc.model.name)} for {atc.soc_version}"):
        made = run_atc(atc)
    typer.echo(
        f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, sha256 {made.sha256[:12]}, "
        f"in {made.seconds:.1f} s"
    )
