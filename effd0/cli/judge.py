"""Commands that compare: benchmark, bisect, merge, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..benchmark.job import SCENARIOS, BenchmarkJob, run_benchmark
from ..benchmark.measure import read_accuracy
from ..benchmark.record import benchmark_run
from ..benchmark.tables import print_report
from ..diagnosis import bisect as bisection
from ..io import check_writable, write_json
from ..progress import STDERR, progress
from ..report.view import write_page
from ..results.compare import MAX_SLOWDOWN, NO_WORSE, compare_runs
from ..results.run import merge_runs, read_run, write_run
from ..spec import D0, spec_for
from ..tolerances import MAX_DROP
from .command import command
from .options import (
    Arch,
    Argument,
    ComputeOptions,
    ImageOptions,
    ModelOptions,
    OnnxFile,
    Option,
    ReportOptions,
    model_choice,
)
from .show import console, show_bisection, show_comparison, show_status

AccuracyReport = Annotated[
    Path | None,
    Option("What 'effd0 evaluate --json' wrote of the same model; its mAP is shown.", "FILE"),
]


@command("image_limit")
def benchmark(
    *,
    model: ModelOptions,
    batch_sizes: Annotated[
        tuple[int, ...], Argument("More values of --batch-size.", "[N]...", min=1)
    ] = (),
    batch_size: Annotated[
        tuple[int, ...],
        Option(
            "Images per batch, one row each: 1 4 8. Repeatable.",
            "N...",
            shown="the model's, or 1",
            min=1,
        ),
    ] = (),
    loop: Annotated[int, Option("Timed calls of each batch size.", "N", min=1)] = 100,
    warmup: Annotated[int, Option("Warm-up calls, not timed.", "N", min=0)] = 3,
    scenario: Annotated[
        str | None,
        Option(
            f"{' or '.join(SCENARIOS)}, to detections, in MLPerf's terms.",
            "NAME",
            shown="a sweep over batch sizes, to heads",
        ),
    ] = None,
    against: Annotated[
        Path | None, Option("Model that is timed in turn with --model, A B A B.", "FILE")
    ] = None,
    max_slowdown: Annotated[
        float | None,
        Option(
            "Threshold: exit 1 if slower than --against by more, with 95 % confidence; "
            f"{100 * MAX_SLOWDOWN:g} is a good start.",
            "PERCENT",
            shown="none",
            min=0,
        ),
    ] = None,
    accuracy_report: AccuracyReport = None,
    reports: ReportOptions,
    images: ImageOptions,
    compute: ComputeOptions,
) -> None:
    """Time a model on real images; print the recipe's table beside published figures."""
    job = BenchmarkJob(
        choice=model_choice(model, compute),
        batch_sizes=(*batch_size, *batch_sizes),
        loop=loop,
        warmup=warmup,
        scenario=scenario,
        root=images.root,
        split=images.split,
        against=against,
        max_slowdown=None if max_slowdown is None else max_slowdown / 100,
        host_threads=images.host_threads,
    )
    reports.check()
    accuracy = None if accuracy_report is None else read_accuracy(accuracy_report)
    rows = run_benchmark(job, progress, accuracy)
    print_report(rows)
    for path in (reports.json, reports.report_json):
        if path is not None:
            write_run(path, benchmark_run(job, rows))
    if job.regressed(rows):
        raise typer.Exit(1)


@command()
def bisect(
    model: OnnxFile,
    reference: Annotated[
        Path, Option("Model that is right: an ONNX file, or a checkpoint.", "FILE")
    ],
    image: Annotated[
        Path | None, Option("Image to run.", "FILE", shown="an embedded scene")
    ] = None,
    json: Annotated[Path | None, Option("Write the finding as JSON.", "FILE")] = None,
    arch: Arch = D0.arch,
) -> None:
    """Find the first node of an ONNX model whose output differs from that of its reference."""
    if json is not None:
        check_writable(json)
    with STDERR.status(f"comparing all tensors of {model.name} with {reference.name}"):
        finding = bisection.bisect(model, reference, spec_for(arch), image)
    show_bisection(finding)
    if json is not None:
        write_json(finding.to_json(), json)
    if finding.status != "same":
        raise typer.Exit(1)


@command()
def merge(
    runs: Annotated[tuple[Path, ...], Argument("Run files.", "RUN.json...")],
    out: Annotated[Path, Option("File to write.", "FILE")],
) -> None:
    """Merge the accuracy, parity and benchmark runs of one artefact into one file."""
    check_writable(out)
    merged = merge_runs([read_run(path) for path in runs], [str(path) for path in runs])
    write_run(out, merged)
    counts = (
        f"{part} {len(getattr(merged, part))}"
        for part in ("checks", "parity", "accuracy", "latency")
    )
    shown = f"wrote {escape(str(out))}: {len(runs)} runs; {', '.join(counts)}"
    console().print(shown, soft_wrap=True)
    verdict = merged.verdict
    show_status(verdict.status, verdict.evidence, verdict.stage)


@command()
def compare(
    baseline: Annotated[Path, Argument("Run file to compare with.", "BASELINE.json")],
    candidate: Annotated[Path, Argument("Run file of the new build.", "CANDIDATE.json")],
    max_drop: Annotated[
        float,
        Option("Allowed drop of mAP against the baseline.", "POINTS", min=0, max=100),
    ] = MAX_DROP.limit,
    max_slowdown: Annotated[
        float,
        Option(
            "Maximum slowdown allowed per benchmark, in percent (95 % confidence).",
            "PERCENT",
            min=0,
        ),
    ] = 100 * MAX_SLOWDOWN,
) -> None:
    """Compare two runs. Exit 0: no regression; 1: regression or undecided; 2: not comparable."""
    found = compare_runs(
        read_run(baseline),
        read_run(candidate),
        max_drop=max_drop,
        max_slowdown=max_slowdown / 100,
    )
    show_comparison(found)
    if found.status != NO_WORSE:
        raise typer.Exit(1)


@command()
def report(
    run: Annotated[Path, Argument("Run file to show.", "RUN.json")],
    html: Annotated[Path, Option("File to write.", "FILE")],
    baseline: Annotated[
        Path | None, Option("Run file whose figures are shown beside.", "OLD.json")
    ] = None,
) -> None:
    """Write a run as one HTML page, which opens from disk; the exit code ignores the verdict."""
    check_writable(html)
    shown = read_run(run)
    write_page(html, shown, None if baseline is None else read_run(baseline))
    verdict = shown.verdict
    where = f" in {verdict.stage}" if verdict.stage else ""
    console().print(f"wrote {escape(str(html))}: {verdict.status.upper()}{where}", soft_wrap=True)
