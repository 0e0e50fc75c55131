"""The run line's commands: evaluate, detect, preprocess."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..data import fixture
from ..data.coco import check_images, load_coco
from ..detection.draw import draw_detections
from ..errors import EvaluationError
from ..evaluation import pipeline
from ..evaluation.engines import Engine, LocalEngine, reference_choice
from ..evaluation.evaluate import Evaluation, EvaluationJob, to_json
from ..evaluation.evaluate import evaluate as run
from ..evaluation.model import ModelChoice
from ..io import check_writable
from ..progress import STDERR, progress, say
from ..report import write_json
from ..runfile import write_run
from ..runfile.commands import evaluation_run
from ..runners.registry import RunnerOptions
from ..scale.pool import pool_of
from ..spec import spec_for
from ..tensors.inputs import write_inputs
from ..tolerances import MAX_DROP
from . import options as opt
from .show import show_evaluation

DEFAULTS = RunnerOptions()


class InputType(enum.StrEnum):
    """What inputs can be written as."""

    float32 = "float32"
    float16 = "float16"
    uint8 = "uint8"


def evaluate(
    root: opt.Root = None,
    model: opt.Model = None,
    checkpoint: opt.Checkpoint = None,
    runner: opt.RunnerName = None,
    batch_size: opt.BatchSize = None,
    min_map: Annotated[
        float | None,
        typer.Option(
            help="Gate: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017.",
            metavar="PERCENT",
            min=0,
            max=100,
            show_default="none; for the embedded default its own record",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="ONNX model or weights that run on the same images, for --max-drop.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Gate: exit 1 unless mAP surely drops by no more against --reference.",
            metavar="POINTS",
            min=0,
            max=100,
            show_default=f"{MAX_DROP.limit} with --reference",
        ),
    ] = None,
    json: opt.Json = None,
    report_json: opt.ReportJson = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory: detections as they come, then detections.json, evaluation.json.",
            metavar="RUN_DIR",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, to the same result."),
    ] = False,
    split: opt.Split = "val2017",
    image_limit: opt.ImageLimit = None,
    arch: opt.Arch = opt.DEFAULT_ARCH,
    provider: opt.Provider = DEFAULTS.provider,
    provider_option: opt.ProviderOption = None,
    graph_optimization: opt.GraphOptimization = DEFAULTS.graph_optimization,
    device: opt.Device = DEFAULTS.device,
    precision: opt.Precision = DEFAULTS.precision,
    threads: opt.Threads = None,
    overlap: opt.Overlap = DEFAULTS.overlap,
    postprocess: opt.Postprocess = DEFAULTS.postprocess,
    launch: opt.Launch = DEFAULTS.launch,
    host_threads: opt.HostThreads = 2,
    workers: opt.Workers = None,
    devices: opt.Devices = None,
    ray_address: opt.RayAddress = None,
    verbose: opt.Verbose = False,
) -> None:
    """From image files to COCO's twelve numbers and a verdict, streaming."""
    options = RunnerOptions(
        device,
        provider,
        precision,
        threads,
        overlap,
        graph_optimization=graph_optimization,
        provider_option=() if provider_option is None else tuple(provider_option),
        postprocess=postprocess,
        launch=launch,
    )
    job = EvaluationJob(
        root=root,
        split=split,
        image_limit=image_limit,
        min_map=min_map,
        max_drop=_max_drop(reference, max_drop),
        host_threads=host_threads,
        out=out,
        resume=resume,
    )
    choice = ModelChoice(model, checkpoint, runner, spec_for(arch), options)
    engine = LocalEngine(choice, batch_size)
    other = None if reference is None else LocalEngine(reference_choice(reference, choice))
    for path in (json, report_json):
        if path is not None:
            check_writable(path)
    if pool_of(workers, devices, ray_address, verbose=verbose) is not None:
        raise EvaluationError("--workers is given, but workers do not run yet")
    evaluation = run(job, engine, other, open_progress=progress, say=say)
    show_result(evaluation, engine, json, report_json)


def show_result(
    evaluation: Evaluation, engine: Engine, json: Path | None, report_json: Path | None
) -> None:
    """Print *evaluation*, write what was asked for; exit 1 where a check failed."""
    show_evaluation(evaluation, Console(highlight=False))
    if json is not None:
        write_json(to_json(evaluation), json)
    if report_json is not None:
        write_run(report_json, evaluation_run(evaluation, engine))
    if not evaluation.verdict.ok:
        raise typer.Exit(1)


def _max_drop(reference: Path | None, max_drop: float | None) -> float:
    if max_drop is not None and reference is None:
        raise EvaluationError(
            f"--max-drop is {max_drop}, but no --reference is given; name what to compare with"
        )
    return MAX_DROP.limit if max_drop is None else max_drop


def detect(
    image: Annotated[Path, typer.Argument(help="Picture to look at.", metavar="IMAGE")],
    out: Annotated[Path, typer.Option(help="Picture to write.", metavar="FILE")],
    model: opt.Model = None,
    checkpoint: opt.Checkpoint = None,
    runner: opt.RunnerName = None,
    min_score: Annotated[float, typer.Option(help="Leave out less certain ones.")] = 0.3,
    arch: opt.Arch = opt.DEFAULT_ARCH,
    provider: opt.Provider = DEFAULTS.provider,
    provider_option: opt.ProviderOption = None,
    graph_optimization: opt.GraphOptimization = DEFAULTS.graph_optimization,
    device: opt.Device = DEFAULTS.device,
    precision: opt.Precision = DEFAULTS.precision,
    threads: opt.Threads = None,
) -> None:
    """Detect in one picture and draw the labelled boxes."""
    if runner is None and model is None:
        runner = "torch"  # nothing to export for one picture
    options = RunnerOptions(
        device,
        provider,
        precision,
        threads,
        graph_optimization=graph_optimization,
        provider_option=() if provider_option is None else tuple(provider_option),
    )
    choice = ModelChoice(model, checkpoint, runner, spec_for(arch), options)
    with choice.opened() as (backend, _):
        detections = pipeline.detect(image, backend, choice.spec)
    count = draw_detections(image, detections, out, min_score)
    Console(highlight=False).print(f"drew {count} boxes of at least {min_score} to {out}")


def preprocess(
    bin_save: Annotated[Path, typer.Option(help="Folder for the .bin files.", metavar="DIR")],
    root: opt.Root = None,
    split: opt.Split = "val2017",
    image_limit: opt.ImageLimit = None,
    arch: opt.Arch = opt.DEFAULT_ARCH,
    host_threads: opt.HostThreads = 2,
    dtype: Annotated[
        InputType,
        typer.Option(help="float32, as the recipe; float16; uint8 pixels, for a model with AIPP."),
    ] = InputType.float32,
) -> None:
    """Write each image as network input, <stem>.bin of 3 x 512 x 512, and a manifest."""
    dataset = load_coco(fixture.coco_root() if root is None else root, split, image_limit)
    with progress("checking images", len(dataset.samples)) as advance:
        for _ in check_images(dataset.samples, host_threads):
            advance(1)
    with progress("preprocessing", len(dataset.samples)) as advance:
        for _ in write_inputs(dataset, bin_save, spec_for(arch), host_threads, dtype=dtype.value):
            advance(1)
    if dataset.extra_files:
        STDERR.print(f"{len(dataset.extra_files)} files are not in the annotations: left out")
    Console(highlight=False).print(f"wrote {len(dataset.samples)} inputs to {bin_save}")
