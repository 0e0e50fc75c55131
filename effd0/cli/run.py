"""Commands that run a model: evaluate, detect, preprocess, infer, postprocess."""

import sys
from dataclasses import replace
from pathlib import Path

import typer

from ..data import coco, fixture
from ..detection.draw import draw_detections
from ..distributed.engine import RayEngine
from ..distributed.pool import Pool, PoolOptions
from ..errors import EvaluationError, OutputError, refuse, require_all
from ..evaluation import engines, pipeline
from ..evaluation.evaluate import DirectoryOptions, Evaluation, EvaluationJob, ImageOptions, run_of
from ..evaluation.evaluate import evaluate as run_evaluation
from ..evaluation.evaluate import score as run_score
from ..evaluation.infer import InferJob, run_infer_job
from ..evaluation.model import ArchOptions, ModelChoice
from ..io import write_csv, write_json
from ..progress import STDERR, progress, say
from ..report.insight import insight_of
from ..report.markdown import tell_github
from ..results.run import flat, write_run
from ..runners.registry import RunnerOptions
from ..tensors.inputs import write_inputs
from ..tolerances import MAX_DROP, MAX_DROP_INT8
from ..types import OUTPUT, OVERWRITE, option
from . import command as cli
from .show import class_table, show_classes, show_evaluation, show_lines, show_pool


@cli.command()
def evaluate(
    *,
    model: ModelChoice,
    arch: ArchOptions,
    images: ImageOptions,
    batch_size: int | None = cli.BATCH_SIZE,
    min_map: float | None = cli.least_map("none; for the embedded default its own record"),
    reference: Path | None = option(
        "ONNX model or weights that run on the same images, for --max-drop.", takes="source"
    ),
    max_drop: float | None = option(
        "Threshold: exit 1 unless the 95 % interval of the mAP drop against --reference ends at or "
        "below this.",
        shown=f"{MAX_DROP.limit} with --reference, of int8 {MAX_DROP_INT8.limit}",
        **cli.POINTS,
    ),
    max_class_drop: float | None = cli.MAX_CLASS_DROP,
    reports: cli.AccuracyReportOptions,
    directory: DirectoryOptions,
    compute: RunnerOptions,
    pool: PoolOptions,
) -> None:
    """Evaluate a model: from image files to COCO's twelve numbers and a verdict."""
    model.check_photographs("--root", images.root)
    remedy = "but no --reference is given; name what to compare with"
    alone = {
        f"--max-drop is {max_drop}, {remedy}": max_drop is not None,
        f"--max-class-drop is {max_class_drop}, {remedy}": max_class_drop is not None,
    }
    refuse(alone if reference is None else {}, EvaluationError)
    given = {**vars(images), **vars(directory), "min_map": min_map, "max_drop": max_drop}
    job = EvaluationJob(**given, max_class_drop=max_class_drop)
    spec = arch.spec(model.model, model.checkpoint, reference)
    choice = replace(model, spec=spec, options=compute)
    other = None if reference is None else engines.reference_choice(reference, choice)
    workers = pool.pool()
    needs = choice.needs() | (other.needs() if other else {}) | ({"ray": "ray"} if workers else {})
    require_all(needs)
    engine = _engine(choice, workers, batch_size)
    cpus = workers and replace(workers, devices=())
    beside = None if other is None else _engine(other, cpus)
    evaluation = run_evaluation(job, engine, beside, open_progress=progress, say=say)
    _report(evaluation, engine, reports)


def _engine(
    choice: ModelChoice, workers: Pool | None, batch_size: int | None = None
) -> engines.ModelEngine:
    """What runs *choice*: this process, or *workers*."""
    if workers is None:
        return engines.LocalEngine(choice, batch_size)
    return RayEngine(choice, workers, batch_size)


def _report(
    evaluation: Evaluation, engine: engines.Engine, reports: cli.AccuracyReportOptions
) -> None:
    """Print *evaluation*, write what was asked for; exit 1 where a check failed."""
    if reports.per_class:
        show_classes(evaluation.accuracy)
    pictures = reports.report_json and evaluation.found
    run = run_of(evaluation, engine, insight_of(evaluation) if pictures else None)
    show_evaluation(evaluation, run.verdict)
    if reports.csv is not None:
        write_csv(class_table(evaluation.accuracy), reports.csv)
    if reports.json is not None:
        write_json(flat(run), reports.json)
    if reports.report_json is not None:
        write_run(reports.report_json, run)
    tell_github(run)
    if run.verdict.next_step:
        show_lines(f"next step {run.verdict.next_step}")
    if not run.verdict.ok:
        raise typer.Exit(1)


@cli.command("overlap", "postprocess", "launch")
def detect(
    *,
    image: Path = option("Image to detect in.", "IMAGE", takes="image", **cli.ARGUMENT),
    out: Path = option("Image to write.", default=cli.REQUIRED, takes="new file"),
    min_score: float = option("Leave out detections below this score.", default=0.3, min=0, max=1),
    model: ModelChoice,
    arch: ArchOptions,
    compute: RunnerOptions,
) -> None:
    """Detect objects in one image and draw the labelled boxes."""
    model.check_photographs("IMAGE", image)
    if model.runner is None and model.model is None:
        model = replace(model, runner="torch")  # nothing to export for one image
    choice = replace(model, spec=arch.spec(model.model, model.checkpoint), options=compute)
    with choice.opened() as (backend, _):
        detections = pipeline.detect(image, backend, choice.spec)
    count = draw_detections(image, detections, out, min_score, coco.names_of(choice.spec))
    show_lines(f"drew {count} boxes of at least {min_score} to {out}")


@cli.command("num_classes")
def preprocess(
    *,
    bin_save: Path = option("Folder for the .bin files.", "DIR", cli.REQUIRED, takes="new folder"),
    overwrite: bool = OVERWRITE,
    images: ImageOptions,
    arch: ArchOptions,
    dtype: str = option(
        "float32, as the recipe; float16; uint8 pixels, for a model with AIPP.",
        default="float32",
        choices=("float32", "float16", "uint8"),
    ),
) -> None:
    """Write each image as network input, <stem>.bin, and a manifest."""
    root = fixture.coco_root() if images.root is None else images.root
    dataset = coco.load_coco(root, images.split, images.image_limit)
    count, threads = len(dataset.samples), images.host_threads
    with progress("checking images", count) as advance:
        for _ in coco.check_images(dataset.samples, threads):
            advance(1)
    for path in bin_save.glob("*.bin") if overwrite else ():  # of an earlier run, no file stays
        path.unlink()
    with progress("preprocessing", count) as advance:
        for _ in write_inputs(dataset, bin_save, arch.spec(), threads, dtype=dtype):
            advance(1)
    for note in dataset.notes:
        STDERR.print(note, markup=False)
    show_lines(f"wrote {count} inputs to {bin_save}")


@cli.command("postprocess", "launch", "root", "split", "image_limit")
def infer(
    *,
    model: ModelChoice,
    arch: ArchOptions,
    input: Path | None = option(
        "Folder of .bin or .npy, by 'effd0 preprocess' or another tool.",
        "DIR",
        shown="zeros, to measure throughput",
        takes="inputs",
    ),
    output: Path | None = option(
        "Where the result folder goes.", "DIR", shown="nowhere", takes="folder", panel=OUTPUT
    ),
    output_dirname: str | None = option(
        "Name of the result folder.", "NAME", shown="result", panel=OUTPUT
    ),
    job: InferJob,
    images: ImageOptions,
    compute: RunnerOptions,
    pool: PoolOptions,
) -> None:
    """Run input files: <stem>_<i>.bin, a summary with ais_bench's keys, and throughput."""
    if output is None and output_dirname is not None:
        raise OutputError(
            f"--output-dirname is {output_dirname}, but no --output is given; "
            "name the folder it goes to"
        )
    choice = replace(model, spec=arch.spec(model.model, model.checkpoint), options=compute)
    place = None if output is None else output / (output_dirname or "result")
    threads, words = images.host_threads, tuple(sys.argv[1:])
    job = replace(job, inputs=input, results=place, host_threads=threads, args=words)
    engine = _engine(choice, pool.pool(), job.batch_size)
    performance, source = run_infer_job(job, engine, progress)
    show_lines(source.description, *performance.lines())
    if "pool" in source.settings:
        show_pool(source.settings["pool"])
    if job.results is not None:
        show_lines(f"wrote {job.results}")


@cli.command()
def postprocess(
    *,
    omfile: Path = option(
        "Folder of results, by effd0 or ais_bench.", "DIR", cli.REQUIRED, takes="results"
    ),
    images: ImageOptions,
    bins: Path | None = option(
        "Folder of the inputs, where results have no manifest.", "DIR", takes="inputs"
    ),
    model: Path | None = option("Model that the results must be of.", shown="any", takes="model"),
    arch: ArchOptions,
    min_map: float | None = cli.least_map("none"),
    reports: cli.AccuracyReportOptions,
) -> None:
    """Score results of another run: COCO's twelve numbers and a verdict."""
    job = EvaluationJob(**vars(images), min_map=min_map)
    engine = engines.RecordedEngine(omfile, images.split, bins, model, arch.spec(model))
    _report(run_evaluation(job, engine, open_progress=progress), engine, reports)


@cli.command()
def score(
    *,
    results: Path = option(
        "COCO results file, by any tool.", "RESULTS.json", takes="json", **cli.ARGUMENT
    ),
    annotations: Path = option(
        "COCO annotation file of the same images.", default=cli.REQUIRED, takes="json"
    ),
    min_map: float | None = cli.least_map("none"),
    reports: cli.AccuracyReportOptions,
) -> None:
    """Score detections of any tool: COCO's twelve numbers and a verdict, without the images."""
    evaluation = run_score(results, annotations, min_map, say=say)
    _report(evaluation, engines.RecordedEngine(results), reports)
