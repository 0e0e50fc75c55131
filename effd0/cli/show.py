"""Results on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..diagnosis.bisect import STATUSES, Finding
from ..evaluation.evaluate import Evaluation
from ..export.verify import Built
from ..graph.rewrites import DEFAULT_EDITS, EDITS
from ..results.compare import RunComparison

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
#: Color -> the words of verdicts that have it.
COLORS = {
    "green": ("pass", "no worse", "faster", "same"),
    "red": ("fail", "worse", "slower", "differs", "inputs differ"),
    "yellow": ("undecided", "hidden"),
    "cyan": ("not gated",),
}
#: Stages whose times are per image; those of others are per batch.
PER_IMAGE = ("preprocess", "read results", "postprocess")
#: Rows that are shown: the slowest workers, the first faults, the classes whose AP moved most.
WORKERS, FAULTS, CLASSES = 16, 10, 10
#: Wide enough for all tables where output goes to a file, which has no width of its own.
WIDTH = 140


def console() -> Console:
    """The terminal, or what stands in its place, without highlighting."""
    free = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if free else WIDTH)


def table(title: str, columns: Sequence[str], right: Sequence[str] = (), **more: Any) -> Table:
    """Return an empty table; the *columns* that are also in *right* are aligned there."""
    made = Table(title=title or None, title_justify="left", **more)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def colored(word: str, shown: str | None = None) -> str:
    """The *word* of a verdict in its color, as markup."""
    color = next((color for color, words in COLORS.items() if word in words), None)
    shown = word if shown is None else shown
    return shown if color is None else f"[bold {color}]{shown}[/]"


def show_status(status: str, reason: str, stage: str | None = None) -> None:
    """Print a verdict with its reason."""
    where = f" in {stage}" if stage else ""
    console().print(f"{colored(status, status.upper())}{where}  {escape(reason)}", soft_wrap=True)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the metrics, the times and the verdict."""
    out, metrics, accuracy = console(), evaluation.metrics, evaluation.accuracy
    settings = accuracy.settings
    images = f"{metrics.images} images"
    if metrics.images < evaluation.dataset.total:
        images = f"the first {metrics.images} of {evaluation.dataset.total} images"
    out.print(f"{escape(accuracy.backend)}, {images}, model {accuracy.model_sha256[:12]}")
    if settings["extra_files"]:
        out.print(f"{settings['extra_files']} files not in the annotations: left out")
    numbers = table("COCO", ("metric", "of", "%"), right="%")
    for name, value in metrics.values.items():
        text = metrics.undefined[name] if value is None else f"{100 * value:.2f}"
        numbers.add_row(name, LABELS[name], text, style="bold" if name == "AP" else None)
    out.print(numbers)
    figures = ("mean ms", "p50", "p90", "p99")
    times = table("time", ("stage", *figures, "per"), right=figures)
    for stage, latency in accuracy.stages_ms.items():
        values = (latency.mean, latency.p50, latency.p90, latency.p99)
        unit = "image" if stage in PER_IMAGE else f"batch of {settings['batch_size']}"
        times.add_row(stage, *(f"{value:.2f}" for value in values), unit)
    if times.row_count:
        out.print(times)
        out.print(
            f"{accuracy.images_per_second:.2f} images/s from file to detections (stages "
            f"overlap), peak memory {accuracy.peak_rss_mb:.0f} MB"
        )
    else:
        out.print("nothing was run: all images were in the run directory")
    if (pool := settings.get("pool")) is not None:
        show_pool(pool)
    if (against := accuracy.against) is not None:
        name = f"{escape(against.runner)}, model {against.model_sha256[:12]}"
        out.print(f"reference: {name}", soft_wrap=True)
        out.print(str(against.parity), soft_wrap=True, markup=False)
    show_status(evaluation.verdict.status, evaluation.reason)


def show_pool(pool: Mapping[str, Any]) -> None:
    """Print what each worker did, and what went wrong; *pool* is of `Dispatcher.summary`."""
    out = console()
    workers = sorted(pool["workers"], key=lambda one: one["rate"])[:WORKERS]
    some = "" if len(workers) == len(pool["workers"]) else f", the slowest {WORKERS}"
    figures = ("opened, s", "units", "images", "images/s")
    shown = table(f"workers{some}", ("worker", *figures, ""), right=figures)
    for one in sorted(workers, key=lambda worker: str(worker["worker"])):
        counts = (f"{one['opened_s']:.1f}", str(one["units"]), str(one["images"]))
        note = "[yellow]straggler[/]" if one["straggler"] else ""
        shown.add_row(escape(one["worker"]), *counts, f"{one['rate']:.1f}", note)
    out.print(shown)
    out.print(
        f"{pool['images']} images in {pool['seconds']:.1f} s, after {pool['start_s']:.1f} s in "
        f"which the first worker started: {pool['images_per_second']:.1f} images/s",
        soft_wrap=True,
    )
    if pool["again"]:
        out.print(f"{pool['again']} units of work were given out again")
    faults = pool["faults"]
    for fault in faults[:FAULTS]:
        out.print(f"[yellow]fault[/] {escape(fault)}", soft_wrap=True)
    if len(faults) > FAULTS:
        out.print(f"and {len(faults) - FAULTS} more faults, all in the file of results")


def show_comparison(found: RunComparison) -> None:
    """Print every figure that both runs have, what only one has, and the verdict."""
    out = console()
    sides = table("verdict", ("run", "status", "stage", "evidence"), box=SIMPLE)
    for name, verdict in zip(("baseline", "candidate"), found.verdicts, strict=True):
        text = (verdict.status, verdict.stage or "", escape(verdict.evidence))
        sides.add_row(name, *text)
    moved = [pair for pair in found.classes if pair.change]
    most = moved[:CLASSES]
    classes = f"AP of the classes that moved most ({len(most)} of {len(moved)}), %"
    tables = [sides]
    for title, pairs, form, unit in (
        ("COCO, %", found.metrics, "{:.2f}", "points"),
        (classes, most, "{:.2f}", "points"),
        ("heads, furthest from the reference", found.parity, "{:.2g}", "change"),
    ):
        right = ("baseline", "candidate", unit)
        shown, group = table(title, ("of", "figure", *right), right=right, box=SIMPLE), None
        for pair in pairs:
            if group not in (None, pair.of):
                shown.add_section()
            group = pair.of
            name = pair.name if pair.name in LABELS else pair.name.replace("_", " ")
            both = ("undefined" if v is None else form.format(v) for v in (pair.before, pair.after))
            change = "" if pair.change is None else form.replace(":", ":+").format(pair.change)
            shown.add_row(escape(pair.of), escape(name), *both, change)
        tables.append(shown)
    rates = ("baseline, images/s", "candidate, images/s")
    speeds = table(
        "times (candidate / baseline, with 95 % interval)",
        ("of", *rates, "time is x", "status", "why"),
        box=SIMPLE,
    )
    for speed in found.speeds:
        before, after = f"{speed.before:.2f}", f"{speed.after:.2f}"
        ratio = "" if speed.ratio is None else str(speed.ratio)
        status = (colored(speed.status), escape(speed.reason))
        speeds.add_row(escape(speed.name), before, after, ratio, *status)
    for shown in (*tables, speeds):
        if shown.row_count:
            out.print(shown)
    for line in (*found.intervals, *found.alone):
        out.print(line, markup=False, soft_wrap=True)
    reasons = [*found.worse, *found.undecided]
    first = reasons[0] if reasons else "no figure of both runs is worse than allowed"
    show_status(found.status, first)
    for reason in reasons[1:]:
        out.print(f"also: {reason}", markup=False, soft_wrap=True)


def show_bisection(finding: Finding) -> None:
    """Print what was paired, the suspects in the order of the graph, and the verdict."""
    out = console()
    if finding.pairs is not None:
        rules = ", ".join(f"{count} by {rule}" for rule, count in finding.pairs.items())
        paired = sum(finding.pairs.values())
        out.print(f"{paired} of {finding.nodes} nodes have a partner: {rules or 'none'}")
    for note in finding.notes:
        out.print(escape(note), soft_wrap=True)
    shown = table(
        "nodes that make an error of their own",
        ("node", "op", "reads", "gives", "upstream", "error", "paired by"),
        right=("upstream", "error"),
    )
    for suspect in finding.suspects:
        shown.add_row(
            escape(suspect.node),
            suspect.op,
            " ".join("x".join(map(str, shape)) for shape in suspect.input_shapes),
            "x".join(map(str, suspect.output_shape)),
            f"{suspect.upstream:.2e}",
            f"{suspect.error:.2e}",
            suspect.paired_by or "-",
        )
    if shown.row_count:
        out.print(shown)
    reason = STATUSES[finding.status]
    if finding.pairs is not None:
        reason += (
            f": worst output off by {finding.worst:.2e} (relative L2), {finding.noise:.0e} is noise"
        )
    show_status(finding.status, reason)
    if finding.pairs is not None and (culprit := finding.culprit) is not None:
        partner = f" (in the reference {culprit.partner})" if culprit.partner else ""
        out.print(
            f"first: {culprit.op} {escape(culprit.node + partner)}: what it reads is off by "
            f"{culprit.upstream:.2e}, what it gives by {culprit.error:.2e}",
            soft_wrap=True,
        )
        for sentence in culprit.differences:
            out.print(f"  {escape(sentence)}", soft_wrap=True)


def show_built(built: Built) -> None:
    """Print what was made and how far each head is from its source's, on embedded images."""
    out = console()
    for change in built.changes:
        moved = f", heads moved by at most {change.worst.max_abs:.2e}" if change.matches else ""
        out.print(f"{change}{moved}  [dim]({change.edit.explanation})[/]", soft_wrap=True)
    right = ("largest", "relative L2")
    shown = table("difference from the source", ("head", *right), right=right)
    for diff in sorted(built.diffs, key=lambda diff: (diff.name.startswith("box"), diff.name)):
        shown.add_row(diff.name, f"{diff.max_abs:.2e}", f"{diff.relative_l2:.2e}")
    out.print(shown)
    out.print(f"wrote {built.path}", soft_wrap=True)


def show_edits() -> None:
    """Print all graph edits: what each does, why, and whether it is exact and on by default."""
    columns = ("edit", "what it does", "why a compiler likes it", "exact", "default")
    shown = table("edits of a graph", columns, show_lines=True)
    for edit in EDITS.values():
        flags = ("yes" if flag else "no" for flag in (edit.exact, edit.name in DEFAULT_EDITS))
        shown.add_row(edit.name, edit.explanation, edit.benefit, *flags)
    console().print(shown)
