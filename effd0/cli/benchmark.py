"""The benchmark's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..bench.accuracy import read_accuracy
from ..bench.baseline import MAX_SLOWDOWN, run_to_json
from ..bench.job import SCENARIOS, BenchmarkJob, run_benchmark
from ..bench.tables import print_report
from ..evaluation.model import ModelChoice
from ..fingerprint import machine_record
from ..io import check_writable
from ..progress import progress
from ..report import write_json
from ..runfile import write_run
from ..runfile.commands import benchmark_run
from ..runners.registry import RunnerOptions
from ..spec import spec_for
from . import options as opt

DEFAULTS = RunnerOptions()


def benchmark(
    batch_sizes: Annotated[
        list[int] | None,
        typer.Argument(help="More of --batch-size.", min=1, metavar="[N]...", show_default=False),
    ] = None,
    model: opt.Model = None,
    checkpoint: opt.Checkpoint = None,
    runner: opt.RunnerName = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            help="Images a batch, one row each: 1 4 8. Repeatable.",
            min=1,
            metavar="N...",
            show_default="the model's, or 1",
        ),
    ] = None,
    loop: Annotated[int, typer.Option(help="Calls of each batch size.", min=1)] = 100,
    warmup: Annotated[int, typer.Option(help="Calls before, which are not timed.", min=0)] = 3,
    scenario: Annotated[
        str | None,
        typer.Option(
            help=f"{' or '.join(SCENARIOS)}, to detections, in MLPerf's terms.",
            metavar="NAME",
            show_default="a sweep over batches, to heads",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Model that is timed in turn with --model, A B A B.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option(
            help="Gate: exit 1 if surely slower than --against by more; "
            f"{100 * MAX_SLOWDOWN:g} is a good start.",
            metavar="PERCENT",
            min=0,
            show_default="none",
        ),
    ] = None,
    accuracy_report: Annotated[
        Path | None,
        typer.Option(
            help="What 'effd0 evaluate --json' wrote of the same model: its mAP.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write rows, samples and the machine.", metavar="FILE", show_default=False
        ),
    ] = None,
    report_json: opt.ReportJson = None,
    root: opt.Root = None,
    split: opt.Split = "val2017",
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
) -> None:
    """Time a model on real images; print the recipe's table, published figures beside it."""
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
    job = BenchmarkJob(
        choice=ModelChoice(model, checkpoint, runner, spec_for(arch), options),
        batch_sizes=(*(batch_size or ()), *(batch_sizes or ())),
        loop=loop,
        warmup=warmup,
        scenario=scenario,
        root=root,
        split=split,
        against=against,
        max_slowdown=None if max_slowdown is None else max_slowdown / 100,
        host_threads=host_threads,
    )
    for path in (json, report_json):
        if path is not None:
            check_writable(path)
    accuracy = None if accuracy_report is None else read_accuracy(accuracy_report)
    rows = run_benchmark(job, progress, accuracy)
    print_report(rows, accuracy)
    if json is not None:
        write_json(run_to_json(machine_record(), rows), json)
    if report_json is not None:
        write_run(report_json, benchmark_run(job, rows, accuracy))
    if job.regressed(rows):
        raise typer.Exit(1)
