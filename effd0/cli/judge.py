"""Commands that compare: bisect, explain-drop, benchmark, merge, compare, report."""

from dataclasses import replace
from pathlib import Path

import typer

from ..benchmark.job import BenchmarkJob, run_benchmark
from ..diagnosis import bisect as bisection
from ..diagnosis import explain_drop as explaining
from ..errors import OptionError
from ..evaluation.evaluate import EvaluationJob, ImageOptions
from ..evaluation.model import ArchOptions, ModelChoice
from ..io import write_json
from ..progress import STDERR, progress
from ..report.markdown import add_to_summary, comparison, tell_github, write_markdown
from ..report.view import write_page
from ..results.compare import NO_WORSE, compare_runs
from ..results.run import merge_runs, read_run, write_run
from ..runners.registry import RunnerOptions
from ..tolerances import MAX_DROP, MAX_DROP_INT8
from ..types import option
from . import command as cli
from . import show
from .show import show_lines


@cli.command()
def bisect(
    *,
    model: Path = cli.ONNX_FILE,
    reference: Path = option(
        "Model that is right: an ONNX file, or weights.", default=cli.REQUIRED, takes="source"
    ),
    image: Path | None = option("Image to run.", shown="an embedded scene", takes="image"),
    json: Path | None = cli.JSON,
    arch: ArchOptions,
) -> None:
    """Find the first node of an ONNX model whose output differs from that of its reference."""
    with STDERR.status(f"comparing all tensors of {model.name} with {reference.name}"):
        finding = bisection.bisect(model, reference, arch.spec(model, reference), image)
    show.show_bisection(finding)
    if json is not None:
        write_json(finding.to_json(), json)
    if finding.status != "same":
        raise typer.Exit(1)


@cli.command()
def explain_drop(
    *,
    model: Path = option("Quantised build.", "MODEL", takes="onnx", **cli.ARGUMENT),
    reference: Path = option(
        "What it was quantised from: an ONNX file, or weights.",
        default=cli.REQUIRED,
        takes="source",
    ),
    arch: ArchOptions,
    images: ImageOptions,
    max_drop: float = option(
        "Drop that may remain: its 95 % interval ends at or below this.",
        default=MAX_DROP_INT8.limit,
        **cli.POINTS,
    ),
    out: Path | None = option(
        "Folder for what to leave in float, as ONNX Runtime, ATC and AMCT take it.",
        "DIR",
        takes="new folder",
    ),
    reports: cli.ReportOptions,
) -> None:
    """Explain what quantisation cost and where, and try which nodes to leave in float."""
    job = EvaluationJob(**vars(images), max_drop=max_drop)
    spec = arch.spec(model, reference)
    found = explaining.explain_drop(model, reference, job, spec, progress)
    show.show_drop(found, max_drop)
    if out is not None:
        found.write(out)
        show_lines(f"wrote {out}: nodes_to_exclude.json, keep_dtype.cfg, skip_layers.json")
    if reports.json is not None:
        write_json(found.to_json(), reports.json)
    if reports.report_json is not None and found.run is not None:
        found.run.checks.extend(found.checks(max_drop))
        write_run(reports.report_json, found.run)
    if not found.explained:
        raise typer.Exit(1)


@cli.command("image_limit")
def benchmark(
    *,
    model: ModelChoice,
    arch: ArchOptions,
    batch_sizes: tuple[int, ...] = option(
        "More values of --batch-size.", "[N]...", (), positional=True
    ),
    batch_size: tuple[int, ...] = option(
        "Images per batch, one row each: 1 4 8. Repeatable.", "N...", (), shown="the model's, or 1"
    ),
    job: BenchmarkJob,
    accuracy_report: Path | None = cli.ACCURACY_REPORT,
    reports: cli.ReportOptions,
    images: ImageOptions,
    compute: RunnerOptions,
) -> None:
    """Time a model on real images; print the recipe's table beside published figures."""
    given = {name: getattr(images, name) for name in ("root", "split", "host_threads")}
    given |= {"batch_sizes": (*batch_size, *batch_sizes), "accuracy_report": accuracy_report}
    spec = arch.spec(model.model, model.checkpoint)
    job = replace(job, choice=replace(model, spec=spec, options=compute), **given)
    run = run_benchmark(job, progress)
    show.show_benchmark(run.latency, run.artefact)
    for path in (reports.json, reports.report_json):
        if path is not None:
            write_run(path, run)
    tell_github(run)
    if run.exit_status:
        raise typer.Exit(1)


@cli.command()
def merge(
    runs: tuple[Path, ...] = option("Run files.", "RUN.json...", **cli.ARGUMENT),
    out: Path = option("File to write.", default=cli.REQUIRED, takes="new file"),
) -> None:
    """Merge the accuracy, parity and benchmark runs of one artefact into one file."""
    merged = merge_runs([read_run(path) for path in runs], [str(path) for path in runs])
    write_run(out, merged)
    parts = ("checks", "parity", "accuracy", "latency")
    counts = ", ".join(f"{part} {len(getattr(merged, part))}" for part in parts)
    show_lines(f"wrote {out}: {len(runs)} runs; {counts}")
    told = merged.verdict
    show.show_status(told.status, told.evidence, told.stage)


@cli.command()
def compare(
    baseline: Path = option("Run file to compare with.", "BASELINE.json", **cli.ARGUMENT),
    candidate: Path = option("Run file of the new build.", "CANDIDATE.json", **cli.ARGUMENT),
    max_drop: float = option(
        "Allowed drop of mAP against the baseline.", default=MAX_DROP.limit, **cli.POINTS
    ),
    max_slowdown: float = cli.max_slowdown("per benchmark"),
) -> None:
    """Compare two runs. Exit 0: no regression; 1: regression or undecided; 2: not comparable."""
    runs = read_run(baseline), read_run(candidate)
    found = compare_runs(*runs, max_drop=max_drop, max_slowdown=max_slowdown / 100)
    show.show_comparison(found)
    add_to_summary(comparison(found))
    if found.status != NO_WORSE:
        raise typer.Exit(1)


@cli.command()
def report(
    run: Path = option("Run file to show.", "RUN.json", **cli.ARGUMENT),
    html: Path | None = option("Page to write.", takes="new file"),
    markdown: Path | None = option(
        "Summary to write, for GitHub; - is the standard output.", takes="new file"
    ),
    baseline: Path | None = option(
        "Run file whose figures are shown beside.", "OLD.json", takes="json"
    ),
) -> None:
    """Write a run as a page that opens from disk, or as Markdown; the verdict is no exit code."""
    if html is None and markdown is None:
        raise OptionError("neither --html nor --markdown is given; name a file to write")
    shown, older = read_run(run), None if baseline is None else read_run(baseline)
    if html is not None:
        write_page(html, shown, older)
    if markdown is not None:
        write_markdown(markdown, shown, older)
    verdict = shown.verdict
    where = f" in {verdict.stage}" if verdict.stage else ""
    written = " and ".join(str(path) for path in (html, markdown) if path is not None)
    show_lines(f"wrote {written}: {verdict.status.upper()}{where}")
