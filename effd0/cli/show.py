"""An evaluation on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.evaluate import Evaluation
from .show_pool import show_pool

#: How COCO's own summary names the twelve numbers.
LABELS = {
    "AP": "AP   IoU .50:.95  all     100 detections",
    "AP50": "AP   IoU .50      all     100",
    "AP75": "AP   IoU .75      all     100",
    "APs": "AP   IoU .50:.95  small   100",
    "APm": "AP   IoU .50:.95  medium  100",
    "APl": "AP   IoU .50:.95  large   100",
    "AR1": "AR   IoU .50:.95  all       1",
    "AR10": "AR   IoU .50:.95  all      10",
    "AR100": "AR   IoU .50:.95  all     100",
    "ARs": "AR   IoU .50:.95  small   100",
    "ARm": "AR   IoU .50:.95  medium  100",
    "ARl": "AR   IoU .50:.95  large   100",
}
PER_IMAGE = ("preprocess", "read results", "postprocess")
COLORS = {"pass": "green", "fail": "red", "undecided": "yellow", "not gated": "cyan"}


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the metrics, the times and the verdict."""
    metrics = evaluation.metrics
    images = f"{metrics.images} images"
    if metrics.images < evaluation.dataset.total:
        images = f"the first {metrics.images} of {evaluation.dataset.total} images"
    console.print(f"{escape(evaluation.runner)}, {images}, model {evaluation.model_sha256[:12]}")
    if evaluation.settings["extra_files"]:
        console.print(
            f"{evaluation.settings['extra_files']} files not in the annotations: left out"
        )
    table = Table(title="COCO", title_justify="left")
    table.add_column("metric")
    table.add_column("of")
    table.add_column("%", justify="right")
    for name, value in metrics.values.items():
        text = metrics.undefined[name] if value is None else f"{100 * value:.2f}"
        table.add_row(name, LABELS[name], text, style="bold" if name == "AP" else None)
    console.print(table)
    _show_times(evaluation, console)
    if (pool := evaluation.settings.get("pool")) is not None:
        show_pool(pool, console)
    if evaluation.against is not None:
        against = evaluation.against
        name = f"{escape(against.runner)}, model {against.model_sha256[:12]}"
        console.print(f"reference: {name}", soft_wrap=True)
        console.print(str(against.parity), soft_wrap=True, markup=False)
    color = COLORS[evaluation.verdict.status]
    verdict = evaluation.verdict
    console.print(
        f"[bold {color}]{verdict.status.upper()}[/]  {escape(evaluation.reason)}", soft_wrap=True
    )


def _show_times(evaluation: Evaluation, console: Console) -> None:
    if not evaluation.stages:
        console.print("nothing was run: all images were in the run directory")
        return
    table = Table(title="time", title_justify="left")
    for name in ("stage", "mean ms", "p50", "p90", "p99", "per"):
        table.add_column(name, justify="left" if name in ("stage", "per") else "right")
    for stage, latency in evaluation.stages.items():
        figures = (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
        batch = evaluation.settings["batch_size"]
        unit = "image" if stage in PER_IMAGE else f"batch of {batch}"
        table.add_row(stage, *(f"{figure:.2f}" for figure in figures), unit)
    console.print(table)
    console.print(
        f"{evaluation.images_per_second:.2f} images/s from file to detections (stages overlap), "
        f"peak memory {evaluation.peak_rss_mb:.0f} MB"
    )
