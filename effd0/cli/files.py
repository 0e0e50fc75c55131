"""The run line cut in two by files: infer, postprocess."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import OutputError
from ..evaluation.engines import RecordedEngine
from ..evaluation.evaluate import EvaluationJob, evaluate
from ..evaluation.infer import InferJob, InferSettings, Performance, run_infer_job
from ..evaluation.model import ModelChoice
from ..io import check_writable
from ..progress import pool_progress, progress
from ..runners.registry import RunnerOptions
from ..scale.inference import infer_on_pool
from ..scale.pool import pool_of
from ..scale.start import Displays
from ..spec import spec_for
from . import options as opt
from .run import show_result
from .show_pool import show_pool

DEFAULTS = RunnerOptions()
Bins = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the inputs, where no manifest lies beside the results.",
        metavar="DIR",
        show_default=False,
    ),
]


class OutFormat(enum.StrEnum):
    """How results are written."""

    BIN = "BIN"
    NPY = "NPY"


def infer(
    model: opt.Model = None,
    checkpoint: opt.Checkpoint = None,
    input: Annotated[
        Path | None,
        typer.Option(
            help="Folder of .bin or .npy, of 'effd0 preprocess' or another tool.",
            metavar="DIR",
            show_default="zeros, to measure throughput",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the result folder goes.", metavar="DIR", show_default="nowhere"),
    ] = None,
    output_dirname: Annotated[
        str | None,
        typer.Option(help="Name of the result folder.", metavar="NAME", show_default="result"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result folder, once all is done.")
    ] = False,
    runner: opt.RunnerName = None,
    batch_size: opt.BatchSize = None,
    loop: Annotated[int, typer.Option(help="Runs of each batch; the last is saved.", min=1)] = 1,
    warmup: Annotated[int, typer.Option(help="Runs before, which are not counted.", min=0)] = 1,
    outfmt: Annotated[OutFormat, typer.Option(help="Format of the results.")] = OutFormat.BIN,
    arch: opt.Arch = opt.DEFAULT_ARCH,
    provider: opt.Provider = DEFAULTS.provider,
    provider_option: opt.ProviderOption = None,
    graph_optimization: opt.GraphOptimization = DEFAULTS.graph_optimization,
    device: opt.Device = DEFAULTS.device,
    precision: opt.Precision = DEFAULTS.precision,
    threads: opt.Threads = None,
    overlap: opt.Overlap = DEFAULTS.overlap,
    workers: opt.Workers = None,
    devices: opt.Devices = None,
    ray_address: opt.RayAddress = None,
    verbose: opt.Verbose = False,
) -> None:
    """From input files to <stem>_<i>.bin, a summary with ais_bench's keys, and throughput."""
    options = RunnerOptions(
        device,
        provider,
        precision,
        threads,
        overlap,
        graph_optimization=graph_optimization,
        provider_option=() if provider_option is None else tuple(provider_option),
    )
    job = InferJob(
        choice=ModelChoice(model, checkpoint, runner, spec_for(arch), options),
        inputs=input,
        results=_result_folder(output, output_dirname),
        settings=InferSettings(batch_size, loop, warmup),
        outfmt=outfmt.value,
        overwrite=overwrite,
        args=tuple(sys.argv[1:]),
    )
    pool = pool_of(workers, devices, ray_address, verbose=verbose)
    console = Console(highlight=False)
    if pool is None:
        _show_performance(run_infer_job(job, progress), console)
    else:
        done = infer_on_pool(job, pool, Displays(progress, pool_progress))
        _show_performance(done.performance, console)
        show_pool(done.summary.to_json(), console)
    if job.results is not None:
        console.print(f"wrote {job.results}", soft_wrap=True)


def _show_performance(performance: Performance, console: Console) -> None:
    for line in performance.lines():
        console.print(line, soft_wrap=True, markup=False)


def _result_folder(output: Path | None, dirname: str | None) -> Path | None:
    if output is None and dirname is not None:
        raise OutputError(
            f"--output-dirname is {dirname}, but no --output is given; name the folder it goes to"
        )
    return None if output is None else output / ("result" if dirname is None else dirname)


def postprocess(
    omfile: Annotated[
        Path, typer.Option(help="Folder of results, of effd0 or of ais_bench.", metavar="DIR")
    ],
    root: opt.Root = None,
    bins: Bins = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model that the results must be of, by their summary.",
            metavar="FILE",
            show_default="any",
        ),
    ] = None,
    min_map: Annotated[
        float | None,
        typer.Option(
            help="Gate: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017.",
            metavar="PERCENT",
            min=0,
            max=100,
            show_default="none",
        ),
    ] = None,
    json: opt.Json = None,
    report_json: opt.ReportJson = None,
    split: opt.Split = "val2017",
    image_limit: opt.ImageLimit = None,
    arch: opt.Arch = opt.DEFAULT_ARCH,
    host_threads: opt.HostThreads = 2,
) -> None:
    """From results made elsewhere to COCO's twelve numbers and a verdict."""
    job = EvaluationJob(root, split, image_limit, min_map, host_threads=host_threads)
    engine = RecordedEngine(omfile, split, bins, model, spec_for(arch))
    for path in (json, report_json):
        if path is not None:
            check_writable(path)
    show_result(evaluate(job, engine, open_progress=progress), engine, json, report_json)
