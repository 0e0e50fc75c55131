"""Commands that run a model: evaluate, detect, preprocess, infer, postprocess."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..data import fixture
from ..data.coco import check_images, load_coco
from ..detection.draw import draw_detections
from ..distributed.engine import RayEngine
from ..distributed.infer import infer_on_pool
from ..errors import OutputError
from ..evaluation import pipeline
from ..evaluation.engines import Engine, LocalEngine, RecordedEngine, reference_choice
from ..evaluation.evaluate import Evaluation, EvaluationJob, run_of
from ..evaluation.evaluate import evaluate as run_evaluation
from ..evaluation.infer import InferJob, InferSettings, run_infer_job
from ..evaluation.model import ModelChoice
from ..progress import STDERR, progress, say
from ..report.insight import insight_of
from ..results.run import flat
from ..spec import D0, spec_for
from ..tensors.inputs import write_inputs
from .command import command
from .options import (
    Arch,
    Argument,
    BatchSize,
    ComputeOptions,
    DirectoryOptions,
    GateOptions,
    ImageOptions,
    ModelOptions,
    Option,
    PoolOptions,
    ReportOptions,
    model_choice,
)
from .show import console, show_evaluation, show_pool


@command()
def evaluate(
    *,
    model: ModelOptions,
    images: ImageOptions,
    batch_size: BatchSize = None,
    gate: GateOptions,
    reports: ReportOptions,
    directory: DirectoryOptions,
    compute: ComputeOptions,
    pool: PoolOptions,
) -> None:
    """Evaluate a model: from image files to COCO's twelve numbers and a verdict."""
    job = EvaluationJob(
        root=images.root,
        split=images.split,
        image_limit=images.image_limit,
        min_map=gate.min_map,
        max_drop=gate.checked_drop(),
        host_threads=images.host_threads,
        out=directory.out,
        resume=directory.resume,
    )
    choice = model_choice(model, compute)
    other = None if gate.reference is None else reference_choice(gate.reference, choice)
    engine: Engine = LocalEngine(choice, batch_size)
    reference: Engine | None = None if other is None else LocalEngine(other)
    if (workers := pool.pool()) is not None:
        engine = RayEngine(choice, workers, batch_size)
        reference = None if other is None else RayEngine(other, replace(workers, devices=()))
    reports.check()
    _finish(
        run_evaluation(job, engine, reference, open_progress=progress, say=say), engine, reports
    )


def _finish(evaluation: Evaluation, engine: Engine, reports: ReportOptions) -> None:
    """Print *evaluation*, write what was asked for; exit 1 where a check failed."""
    show_evaluation(evaluation)
    reports.write(
        lambda: flat(run_of(evaluation, engine)),
        lambda: run_of(evaluation, engine, insight_of(evaluation)),
    )
    if not evaluation.verdict.ok:
        raise typer.Exit(1)


@command("overlap", "postprocess", "launch")
def detect(
    image: Annotated[Path, Argument("Image to detect in.", "IMAGE")],
    out: Annotated[Path, Option("Image to write.", "FILE")],
    model: ModelOptions,
    compute: ComputeOptions,
    min_score: Annotated[float, Option("Leave out detections below this score.")] = 0.3,
) -> None:
    """Detect objects in one image and draw the labelled boxes."""
    choice = model_choice(model, compute)
    if choice.runner is None and choice.model is None:
        choice = ModelChoice(None, choice.checkpoint, "torch", choice.spec, choice.options)
    with choice.opened() as (backend, _):
        detections = pipeline.detect(image, backend, choice.spec)
    count = draw_detections(image, detections, out, min_score)
    console().print(f"drew {count} boxes of at least {min_score} to {out}")


@command()
def preprocess(
    bin_save: Annotated[Path, Option("Folder for the .bin files.", "DIR")],
    images: ImageOptions,
    arch: Arch = D0.arch,
    dtype: Annotated[
        str,
        Option(
            "float32, as the recipe; float16; uint8 pixels, for a model with AIPP.",
            choices=("float32", "float16", "uint8"),
        ),
    ] = "float32",
) -> None:
    """Write each image as network input, <stem>.bin of 3 x 512 x 512, and a manifest."""
    spec = spec_for(arch)
    root = fixture.coco_root() if images.root is None else images.root
    dataset = load_coco(root, images.split, images.image_limit)
    with progress("checking images", len(dataset.samples)) as advance:
        for _ in check_images(dataset.samples, images.host_threads):
            advance(1)
    with progress("preprocessing", len(dataset.samples)) as advance:
        for _ in write_inputs(dataset, bin_save, spec, images.host_threads, dtype=dtype):
            advance(1)
    if dataset.extra_files:
        STDERR.print(f"{len(dataset.extra_files)} files are not in the annotations: left out")
    console().print(f"wrote {len(dataset.samples)} inputs to {bin_save}")


@command("postprocess", "launch", "root", "split", "image_limit")
def infer(
    *,
    model: ModelOptions,
    input: Annotated[
        Path | None,
        Option(
            "Folder of .bin or .npy, by 'effd0 preprocess' or another tool.",
            "DIR",
            shown="zeros, to measure throughput",
        ),
    ] = None,
    output: Annotated[
        Path | None, Option("Folder for the result folder.", "DIR", shown="nothing is written")
    ] = None,
    output_dirname: Annotated[
        str | None, Option("Name of the result folder.", "NAME", shown="result")
    ] = None,
    overwrite: Annotated[bool, Option("Replace the result folder once all is done.")] = False,
    batch_size: BatchSize = None,
    loop: Annotated[int, Option("Runs of each batch; the last is saved.", "N", min=1)] = 1,
    warmup: Annotated[int, Option("Warm-up runs, not timed.", "N", min=0)] = 1,
    outfmt: Annotated[str, Option("Format of the results.", choices=("BIN", "NPY"))] = "BIN",
    images: ImageOptions,
    compute: ComputeOptions,
    pool: PoolOptions,
) -> None:
    """Run input files: <stem>_<i>.bin, a summary with ais_bench's keys, and throughput."""
    if output is None and output_dirname is not None:
        raise OutputError(
            f"--output-dirname is {output_dirname}, but no --output is given; "
            "name the folder it goes to"
        )
    job = InferJob(
        choice=model_choice(model, compute),
        inputs=input,
        results=None if output is None else output / (output_dirname or "result"),
        settings=InferSettings(batch_size, loop, warmup, images.host_threads),
        outfmt=outfmt,
        overwrite=overwrite,
        args=tuple(sys.argv[1:]),
    )
    workers, pooled = pool.pool(), None
    if workers is None:
        performance = run_infer_job(job, progress)
    else:
        performance, pooled = infer_on_pool(job, workers, progress)
    for line in performance.lines():
        console().print(line, soft_wrap=True, markup=False)
    if pooled is not None:
        show_pool(pooled)
    if job.results is not None:
        console().print(f"wrote {job.results}", soft_wrap=True)


@command("reference", "max_drop")
def postprocess(
    *,
    omfile: Annotated[Path, Option("Folder of results, by effd0 or ais_bench.", "DIR")],
    images: ImageOptions,
    bins: Annotated[
        Path | None,
        Option("Folder of the inputs, where no manifest lies beside the results.", "DIR"),
    ] = None,
    model: Annotated[
        Path | None,
        Option("Model that the results must be of, by their summary.", "FILE", shown="any"),
    ] = None,
    arch: Arch = D0.arch,
    gate: GateOptions,
    reports: ReportOptions,
) -> None:
    """Score results of another run: COCO's twelve numbers and a verdict."""
    job = EvaluationJob(**vars(images), min_map=gate.min_map)
    engine = RecordedEngine(omfile, images.split, bins, model, spec_for(arch))
    reports.check()
    _finish(run_evaluation(job, engine, open_progress=progress), engine, reports)
