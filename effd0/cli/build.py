"""Commands that build models: export, simplify, modify, compile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
from ..io import sha256
from ..progress import STDERR
from ..spec import spec_for
from .command import command
from .options import ARCH, CHECKPOINT, ONNX_FILE, REQUIRED, option
from .show import show_built, show_edits

ONNX_OUT = option("ONNX file to write.", "FILE", REQUIRED)


@command()
def export(
    out: Path = ONNX_OUT,
    checkpoint: Path | None = CHECKPOINT,
    batch_size: int = option("Fixed batch size.", "N", 1, min=1),
    dynamic_batch: bool = option("Leave the batch size free.", default=False),
    opset: int | None = option("ONNX opset.", "N", shown="11; 18 for dynamo"),
    exporter: str = option(f"{' or '.join(EXPORTERS)}.", "NAME", "torchscript"),
    arch: str = ARCH,
) -> None:
    """Export a checkpoint to ONNX; the file is named once its outputs equal those of PyTorch."""
    settings = ExportSettings(None if dynamic_batch else batch_size, opset, exporter)
    source = embedded.checkpoint() if checkpoint is None else checkpoint
    with STDERR.status(f"exporting {source.name} and comparing it with torch"):
        built = line.export_onnx(source, out, spec_for(arch), settings)
    show_built(built)


@command()
def simplify(model: Path = ONNX_FILE, out: Path = ONNX_OUT, arch: str = ARCH) -> None:
    """Simplify an ONNX model with onnxsim; the file is named once its outputs are unchanged."""
    with STDERR.status(f"simplifying {model.name} and comparing it with the original"):
        built = line.simplify_onnx(model, out, spec_for(arch))
    show_built(built)


@command()
def modify(
    model: Path = ONNX_FILE,
    out: Path = ONNX_OUT,
    edit: tuple[str, ...] = option(
        "Graph edit, see --list. Repeatable, in order.", "NAME", (), shown=", ".join(DEFAULT_EDITS)
    ),
    list: bool = option("Explain all edits and stop.", default=False, stop=show_edits),  # noqa: ARG001  # it stopped before
    arch: str = ARCH,
) -> None:
    """Edit an ONNX graph for a compiler; print what each edit matched and changed."""
    with STDERR.status(f"editing {model.name} and comparing it with the original"):
        built = line.modify_onnx(model, out, spec_for(arch), edit or DEFAULT_EDITS)
    show_built(built)


@dataclass(frozen=True)
class CompileOptions:
    """How ATC compiles: fields of `AtcOptions`."""

    soc_version: str | None = option(
        "Target chip: Ascend310P3, ...", "NAME", shown="this host's, by npu-smi"
    )
    batch_size: int | None = option("Fixed batch size.", "N", shown="the model's", min=1)
    precision_mode: str | None = option(
        f"{', '.join(PRECISION_MODES)}.", "MODE", shown=f"{PRECISION_MODES[0]}, as the recipe"
    )
    precision_mode_v2: str | None = option(
        f"In place of --precision-mode: {', '.join(PRECISION_MODES_V2)}.", "MODE"
    )
    modify_mixlist: Path | None = option(
        "List of operators with a precision of their own in mixed modes.",
        "FILE",
        shown="ops_info.json beside the output: ReduceMeanD in float32",
    )
    aipp: bool = option("Include the normalisation; the input is uint8 pixels.", default=False)
    insert_op_conf: Path | None = option("Your own AIPP file.", "FILE")
    input_fp16: bool = option("Take float16 input.", default=False)
    output_type: str | None = option(f"{' or '.join(OUTPUT_TYPES)}.", "TYPE", shown="FP32")
    log: str = option(f"ATC's log level: {', '.join(LOG_LEVELS)}.", "LEVEL", "debug")


@command()
def compile(  # noqa: A001  # a command is called as its function is
    *,
    model: Path = ONNX_FILE,
    output: Path = option("File to write; .om is appended.", "FILE", REQUIRED),
    dynamic_batch_size: str | None = option(
        "Batch sizes of one .om; the model's batch size must be free.", "1,4,8"
    ),
    how: CompileOptions,
    dry_run: bool = option("Print the command, write the files it reads, and stop.", default=False),
    arch: str = ARCH,
) -> None:
    """Compile an ONNX model for an Ascend chip with ATC; the .om is named once it is complete."""
    gears = () if dynamic_batch_size is None else parse_gears(dynamic_batch_size)
    options = AtcOptions(**vars(how), gears=gears)
    spec = spec_for(arch)
    atc = atc_command(model, output, spec, options)
    for warning in atc.warnings:
        STDERR.print(f"some versions of ATC refuse: {escape(warning)}", soft_wrap=True)
    for path in write_generated(atc):
        STDERR.print(f"wrote {escape(str(path))}, which the command reads", soft_wrap=True)
    if how.aipp:
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
        seconds = run_atc(atc)
    typer.echo(
        f"wrote {atc.om}: {atc.om.stat().st_size / 1e6:.1f} MB, sha256 {sha256(atc.om)[:12]}, "
        f"in {seconds:.1f} s"
    )
