"""Commands that build models: export, simplify, modify, quantize, compile."""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import typer
from rich.markup import escape

from ..ascend import aipp, atc
from ..data import coco, fixture
from ..errors import OptionError, OutputError
from ..evaluation.model import ArchOptions
from ..export import to_onnx, verify
from ..export.quantize import quantize_onnx
from ..graph.rewrites import DEFAULT_EDITS, EDITS
from ..io import decoded, sha256
from ..progress import STDERR, say
from ..runners.registry import WEIGHTS
from ..types import OUTPUT, OVERWRITE, option
from .command import FREE_IT, ONNX_FILE, ONNX_OUT, REQUIRED, command, taken
from .show import show_built, show_edits, show_lines


@command()
def export(
    *,
    out: Path = ONNX_OUT,
    checkpoint: Path | None = option(
        "Weights, .pth or .safetensors.", shown="embedded checkpoint", takes="weights"
    ),
    batch_size: int = option("Fixed batch size.", default=1),
    dynamic_batch: bool = option("Leave the batch size free.", default=False),
    opset: int | None = option("ONNX opset.", shown="11; 18 for dynamo"),
    exporter: str = option(
        "Exporter of PyTorch.", default="torchscript", choices=tuple(to_onnx.EXPORTERS)
    ),
    weights: str | None = WEIGHTS,
    arch: ArchOptions,
) -> None:
    """Export a checkpoint to ONNX; the file is named once its outputs equal those of PyTorch."""
    batch = None if dynamic_batch else batch_size
    settings = to_onnx.ExportSettings(batch, opset, exporter, weights)
    source = fixture.checkpoint() if checkpoint is None else checkpoint
    with STDERR.status(f"exporting {source.name} and comparing it with torch"):
        built = verify.export_onnx(source, out, arch.spec(source), settings)
    show_built(built)


@command()
def simplify(*, model: Path = ONNX_FILE, out: Path = ONNX_OUT, arch: ArchOptions) -> None:
    """Simplify an ONNX model with onnxsim; the file is named once its outputs are unchanged."""
    with STDERR.status(f"simplifying {model.name} and comparing it with the original"):
        built = verify.simplify_onnx(model, out, arch.spec(model))
    show_built(built)


@command()
def modify(
    *,
    model: Path = ONNX_FILE,
    out: Path = ONNX_OUT,
    edit: tuple[str, ...] = option(
        f"Graph edit: {', '.join(EDITS)}; see --list. Repeatable, in order.",
        "NAME",
        (),
        shown=", ".join(DEFAULT_EDITS),
        choices=tuple(EDITS),
    ),
    list: bool = option("Explain all edits and stop.", default=False, stop=show_edits),  # noqa: ARG001  # it stopped before
    arch: ArchOptions,
) -> None:
    """Edit an ONNX graph for a compiler; print what each edit matched and changed."""
    with STDERR.status(f"editing {model.name} and comparing it with the original"):
        built = verify.modify_onnx(model, out, arch.spec(model), edit or DEFAULT_EDITS)
    show_built(built)


@command()
def quantize(
    *,
    calibration: Path = option("COCO folder to calibrate on.", default=REQUIRED, takes="images"),
    out: Path = ONNX_OUT,
    model: Path | None = option("ONNX file in float32 to read.", takes="onnx"),
    checkpoint: Path | None = option("Weights, in place of --model.", takes="weights"),
    split: str = option("Image folder, and instances_SPLIT.json.", "SPLIT", "val2017"),
    calibration_images: int = option("Images that calibrate, the last by id.", default=20),
    per_channel: bool = option("One scale for each channel of a weight.", default=False),
    exclude: Path | None = option("JSON list of nodes to leave in float.", takes="json"),
    weights: str | None = WEIGHTS,
    arch: ArchOptions,
) -> None:
    """Quantise a model to int8 with ONNX Runtime, as the plain build to compare others with."""
    if len(given := [path for path in (model, checkpoint) if path is not None]) != 1:
        raise OptionError(f"{len(given)} of --model and --checkpoint are given; give one of them")
    spec, start = arch.spec(*given), time.perf_counter()
    dataset = coco.load_coco(calibration, split)
    try:
        names = () if exclude is None else decoded(exclude.read_bytes(), tuple[str, ...])
    except ValueError as error:
        raise OptionError(f'--exclude is {exclude}, but ["NAME"] is wanted: {error}') from error
    exported = checkpoint and verify.exported(checkpoint, spec, 1, weights=weights)
    with STDERR.status(f"quantising {given[0].name}"), exported or nullcontext(given[0]) as source:
        notes = quantize_onnx(
            source, out, spec, dataset, calibration_images, per_channel=per_channel, exclude=names
        )
        before, after = (path.stat().st_size / 1e6 for path in (source, out))
    others = len(dataset.samples) - calibration_images
    measured = f"--root {calibration} --split {split} --image-limit {others}"
    show_lines(
        *notes,
        f"wrote {out}: {after:.1f} MB of {before:.1f}, in {time.perf_counter() - start:.1f} s",
        f"next step effd0 evaluate --model {out} --reference {given[0]} "
        + (measured if others else "--root FOLDER, of other images than these"),
    )


@command()
def compile(  # noqa: A001  # a command is called as its function is
    *,
    model: Path = ONNX_FILE,
    output: Path = option("File to write; .om is appended.", default=REQUIRED, panel=OUTPUT),
    overwrite: bool = OVERWRITE,
    dynamic_batch_size: str | None = option(
        "Batch sizes of one .om; the model's batch size must be free.", "1,4,8"
    ),
    how: atc.AtcOptions,
    dry_run: bool = option("Print the command, write the files it reads, and stop.", default=False),
    arch: ArchOptions,
) -> None:
    """Compile an ONNX model for an Ascend chip with ATC; the .om is named once it is complete."""
    if dynamic_batch_size is not None:
        how = replace(how, gears=atc.parse_gears(dynamic_batch_size))
    spec = arch.spec(model)
    call = atc.atc_command(model, output, spec, how)
    if taken(call.om) and not (overwrite or dry_run):
        raise OutputError(f"--output makes {call.om}, which is there; {FREE_IT}")
    for warning in call.warnings:
        say(f"some versions of ATC refuse: {warning}")
    for path in atc.write_generated(call):
        say(f"wrote {path}, which the command reads")
    if how.aipp:
        errors = aipp.largest_errors(aipp.normalizing_aipp(spec), spec)
        shown = ", ".join(f"{error:.1e}" for error in errors)
        say(
            f"AIPP normalises in float16: at most {shown} (R, G, B) from exact values, in standard "
            "deviations of the input; measure the accuracy again"
        )
    # Never through a console, which would wrap it: it is to be copied.
    typer.echo(str(call))
    if dry_run:
        return
    with STDERR.status(f"compiling {escape(call.model.name)} for {call.soc_version}"):
        seconds = atc.run_atc(call)
    of = f"{call.om.stat().st_size / 1e6:.1f} MB, sha256 {sha256(call.om)[:12]}"
    typer.echo(f"wrote {call.om}: {of}, in {seconds:.1f} s")
