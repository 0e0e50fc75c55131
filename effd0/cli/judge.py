"""Commands that compare: bisect, benchmark, merge, compare, report."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from ..benchmark.job import SCENARIOS, BenchmarkJob, run_benchmark
from ..benchmark.tables import print_report
from ..diagnosis import bisect as bisection
from ..io import check_writable, write_json
from ..progress import STDERR, progress
from ..report.view import write_page
from ..results.compare import MAX_SLOWDOWN, NO_WORSE, compare_runs
from ..results.run import merge_runs, read_run, write_run
from ..runners.registry import RunnerOptions
from ..spec import spec_for
from ..tolerances import MAX_DROP
from ..types import option
from . import options as shared
from .command import REQUIRED, command
from .show import console, show_bisection, show_comparison, show_status


@command()
def bisect(
    model: Path = shared.ONNX_FILE,
    reference: Path = option("Model that is right: an ONNX file, or weights.", default=REQUIRED),
    image: Path | None = option("Image to run.", shown="an embedded scene"),
    json: Path | None = option("Write the finding as JSON."),
    arch: str = shared.ARCH,
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


@command("image_limit")
def benchmark(
    *,
    model: shared.ModelOptions,
    batch_sizes: tuple[int, ...] = option(
        "More values of --batch-size.", "[N]...", (), positional=True
    ),
    batch_size: tuple[int, ...] = option(
        "Images per batch, one row each: 1 4 8. Repeatable.", "N...", (), shown="the model's, or 1"
    ),
    loop: int = option("Timed calls of each batch size.", default=100),
    warmup: int = option("Warm-up calls, not timed.", default=3, min=0),
    scenario: str | None = option(
        f"{' or '.join(SCENARIOS)}, to detections, in MLPerf's terms.",
        "NAME",
        shown="a sweep over batch sizes, to heads",
    ),
    against: Path | None = option("Model that is timed in turn with --model, A B A B."),
    max_slowdown: float | None = option(
        "Threshold: exit 1 if slower than --against by more, with 95 % confidence; "
        f"{100 * MAX_SLOWDOWN:g} is a good start.",
        "PERCENT",
        shown="none",
        min=0,
    ),
    accuracy_report: Path | None = shared.ACCURACY_REPORT,
    reports: shared.ReportOptions,
    images: shared.ImageOptions,
    compute: RunnerOptions,
) -> None:
    """Time a model on real images; print the recipe's table beside published figures."""
    job = BenchmarkJob(
        choice=model.choice(compute),
        batch_sizes=(*batch_size, *batch_sizes),
        loop=loop,
        warmup=warmup,
        scenario=scenario,
        root=images.root,
        split=images.split,
        against=against,
        max_slowdown=None if max_slowdown is None else max_slowdown / 100,
        host_threads=images.host_threads,
        accuracy_report=accuracy_report,
    )
    reports.check()
    run = run_benchmark(job, progress)
    print_report(run.latency)
    for path in (reports.json, reports.report_json):
        if path is not None:
            write_run(path, run)
    if run.exit_status:
        raise typer.Exit(1)


@command()
def merge(
    runs: tuple[Path, ...] = option("Run files.", "RUN.json...", REQUIRED, positional=True),
    out: Path = option("File to write.", default=REQUIRED),
) -> None:
    """Merge the accuracy, parity and benchmark runs of one artefact into one file."""
    check_writable(out)
    merged = merge_runs([read_run(path) for path in runs], [str(path) for path in runs])
    write_run(out, merged)
    parts = ("checks", "parity", "accuracy", "latency")
    counts = ", ".join(f"{part} {len(getattr(merged, part))}" for part in parts)
    console().print(f"wrote {escape(str(out))}: {len(runs)} runs; {counts}", soft_wrap=True)
    verdict = merged.verdict
    show_status(verdict.status, verdict.evidence, verdict.stage)


@command()
def compare(
    baseline: Path = option(
        "Run file to compare with.", "BASELINE.json", REQUIRED, positional=True
    ),
    candidate: Path = option(
        "Run file of the new build.", "CANDIDATE.json", REQUIRED, positional=True
    ),
    max_drop: float = option(
        "Allowed drop of mAP against the baseline.", default=MAX_DROP.limit, **shared.POINTS
    ),
    max_slowdown: float = option(
        "Maximum slowdown allowed per benchmark, in percent (95 % confidence).",
        "PERCENT",
        100 * MAX_SLOWDOWN,
        min=0,
    ),
) -> None:
    """Compare two runs. Exit 0: no regression; 1: regression or undecided; 2: not comparable."""
    runs = read_run(baseline), read_run(candidate)
    found = compare_runs(*runs, max_drop=max_drop, max_slowdown=max_slowdown / 100)
    show_comparison(found)
    if found.status != NO_WORSE:
        raise typer.Exit(1)


@command()
def report(
    run: Path = option("Run file to show.", "RUN.json", REQUIRED, positional=True),
    html: Path = option("File to write.", default=REQUIRED),
    baseline: Path | None = option("Run file whose figures are shown beside.", "OLD.json"),
) -> None:
    """Write a run as one HTML page, which opens from disk; the exit code ignores the verdict."""
    check_writable(html)
    shown = read_run(run)
    write_page(html, shown, None if baseline is None else read_run(baseline))
    verdict = shown.verdict
    where = f" in {verdict.stage}" if verdict.stage else ""
    console().print(f"wrote {escape(str(html))}: {verdict.status.upper()}{where}", soft_wrap=True)
