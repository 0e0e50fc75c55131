"""Results on the terminal."""

import itertools
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmark.measure import rivals_of
from ..benchmark.published import published_figures
from ..diagnosis.bisect import STATUSES, Finding
from ..diagnosis.explain_drop import NODES, DropExplained
from ..evaluation.evaluate import Evaluation
from ..export.verify import Built
from ..graph.rewrites import DEFAULT_EDITS, EDITS
from ..report.view import FIGURES, class_row, class_rows, operating_points
from ..results import check, compare, run
from ..timing import Latency
from ..tolerances import MAX_DROP

#: Color -> the words of verdicts that have it.
COLORS = {
    "green": ("pass", "no worse", "faster", "same"),
    "red": ("fail", "worse", "slower", "differs", "inputs differ"),
    "yellow": ("undecided", "hidden", "incomplete"),
    "cyan": ("not gated", "demo"),
}
#: Stages whose times are per image; those of others are per batch.
PER_IMAGE = ("preprocess", "read results", "postprocess")
#: Rows that are shown: the slowest workers, the first faults, the classes whose AP moved most.
WORKERS, FAULTS, CLASSES = 16, 10, 10
#: Wide enough for all tables where output goes to a file, which has no width of its own.
WIDTH = 180


def console() -> Console:
    """The terminal, or what stands in its place, without highlighting."""
    free = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if free else WIDTH)


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], **more: Any
) -> None:
    """
    Print *rows* below *columns*; nothing where there is no row.

    A column whose name begins with ``>`` is aligned to the right.  A float has two digits behind
    the point; what looks like markup is text.  A row of no cells is a line between two others.
    """
    shown = Table(title=title or None, title_justify="left", **more)
    for name in columns:
        side: Any = "right" if name.startswith(">") else "left"
        shown.add_column(name.removeprefix(">"), justify=side, overflow="fold")
    for row in rows:
        texts = [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row]
        if row:
            shown.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in texts))
        else:
            shown.add_section()
    if shown.row_count:
        console().print(shown)


def show_lines(*lines: str) -> None:
    """Print *lines* as they are; a terminal breaks long ones."""
    for line in lines:
        console().print(line, soft_wrap=True, markup=False)


def colored(word: str, shown: str | None = None) -> Text:
    """The *word* of a verdict, or what is *shown* for it, in its color."""
    color = next((f"bold {color}" for color, words in COLORS.items() if word in words), "")
    return Text(word if shown is None else shown, color)


def show_status(status: str, reason: str, stage: str | None = None) -> None:
    """Print a verdict with its reason."""
    where = f" in {stage}" if stage else ""
    word = colored(status, status.upper())
    console().print(Text.assemble(word, f"{where}  {reason}"), soft_wrap=True)


def _label(metric: str) -> str:
    """How COCO's own summary names a metric: IoU, size of the object, detections per image."""
    kind, rest = metric[:2], metric[2:]
    iou = f".{rest}" if kind == "AP" and rest.isdecimal() else ".50:.95"
    size = {"s": "small", "m": "medium", "l": "large"}.get(rest, "all")
    most = rest if kind == "AR" and rest.isdecimal() else "100"
    return f"{kind}   IoU {iou:<8} {size:<7} {most:>3}"


def show_evaluation(evaluation: Evaluation, verdict: check.Verdict) -> None:
    """Print the metrics, the times and the *verdict*."""
    metrics, accuracy = evaluation.metrics, evaluation.accuracy
    settings, images = accuracy.settings, f"{metrics.images} images"
    if metrics.images < evaluation.dataset.total:
        images = f"the first {metrics.images} of {evaluation.dataset.total} images"
    of = settings.get("spec")  # what others detected is of no known network
    network = f" ({run.Network(of['arch'], of['num_classes'], of['image_size'])})" if of else ""
    show_lines(f"{accuracy.backend}, {images}, model {accuracy.model_sha256[:12]}{network}")
    show_lines(*settings["notes"])
    numbers = [
        (name, _label(name), metrics.undefined[name] if value is None else 100 * value)
        for name, value in metrics.values.items()
    ]
    show_table("COCO", ("metric", "IoU, size, detections per image", ">%"), numbers)
    batch = f"batch of {settings['batch_size']}"
    times = [
        (stage, t.mean, t.p50, t.p90, t.p99, "image" if stage in PER_IMAGE else batch)
        for stage, t in accuracy.stages_ms.items()
    ]
    show_table("time", ("stage", ">mean ms", ">p50", ">p90", ">p99", "per"), times)
    if times:
        rate = f"{accuracy.images_per_second:.2f} images/s from file to detections"
        show_lines(f"{rate} (stages overlap), {accuracy.peak_memory}")
    elif accuracy.images_per_second is not None:
        show_lines("nothing was run: all images were in the run directory")
    if (pool := settings.get("pool")) is not None:
        show_pool(pool)
    if (against := accuracy.against) is not None:
        name = f"{against.runner}, model {against.model_sha256[:12]}"
        show_lines(f"reference: {name}", str(against.parity))
        if against.drop.worst_classes:
            show_lines(f"classes that lose most, in points: {against.drop.worst_classes}")
    show_status(verdict.status, evaluation.reason)


def class_table(accuracy: run.Accuracy) -> list[dict[str, Any]]:
    """
    A row of each class with an object or a detection, then one of all, where AP is the mean.

    Figures are fractions, counts whole numbers, None where they are undefined; with a reference
    its own follow.
    """
    against = accuracy.against
    aps = [accuracy.metrics["AP"], None if against is None else against.metrics.values["AP"]]
    total = class_row("all", aps, [point.total for point in operating_points(accuracy)])
    # Both sides have the same objects.
    left_out = "reference_" if against is None else "reference_objects"
    columns = [key for key in total if not key.startswith(left_out)]
    return [{key: row[key] for key in columns} for row in [*class_rows(accuracy), total]]


def show_classes(accuracy: run.Accuracy) -> None:
    """Print the table of classes, those that lose most against the reference first."""
    every = class_table(accuracy)
    columns = [key for key in ("class", "ap", "reference_ap", *FIGURES) if key in every[0]]

    def cell(value: object) -> object:
        return "-" if value is None else 100 * value if isinstance(value, float) else value

    rows = [[cell(row[key]) for key in columns] for row in every]
    names = [f">{key}".replace("_", " ").replace("ap", "AP").replace("f1", "F1") for key in columns]
    show_table("classes, %", ["class", *names[1:]], [*rows[:-1], (), rows[-1]])
    both = zip(("score", "the reference's score"), operating_points(accuracy), strict=False)
    scores = ", ".join(f"{name} {point.threshold:.2f}" for name, point in both)
    show_lines(f"precision, recall and F1 at IoU 0.50 and where F1 of all is highest: {scores}")


def show_pool(pool: Mapping[str, Any]) -> None:
    """Print what each worker did, and what went wrong; *pool* is of `Dispatcher.summary`."""
    slowest = sorted(pool["workers"], key=lambda one: one["rate"])[:WORKERS]
    some = "" if len(slowest) == len(pool["workers"]) else f", the slowest {WORKERS}"
    keys = ("worker", "opened_s", "units", "images", "rate")
    rows = [
        [*(one[key] for key in keys), Text("straggler" if one["straggler"] else "", "yellow")]
        for one in sorted(slowest, key=lambda one: str(one["worker"]))
    ]
    columns = ("worker", ">opened, s", ">units", ">images", ">images/s", "")
    show_table(f"workers{some}", columns, rows)
    took = "{images} images in {seconds:.1f} s, after {start_s:.1f} s in which the first worker "
    show_lines((took + "started: {images_per_second:.1f} images/s").format(**pool))
    if pool["again"]:
        show_lines(f"{pool['again']} units of work were given out again")
    show_lines(*(f"fault {fault}" for fault in pool["faults"][:FAULTS]))
    if (more := len(pool["faults"]) - FAULTS) > 0:
        show_lines(f"and {more} more faults, all in the file of results")


def show_comparison(found: compare.RunComparison) -> None:
    """Print every figure that both runs have, what only one has, and the verdict."""
    sides = [
        (name, verdict.status, verdict.stage or "", verdict.evidence)
        for name, verdict in zip(("baseline", "candidate"), found.verdicts, strict=True)
    ]
    show_table("verdict", ("run", "status", "stage", "evidence"), sides, box=SIMPLE)
    moved = [pair for pair in found.classes if pair.change]
    most = moved[:CLASSES]
    classes = f"AP of the classes that moved most ({len(most)} of {len(moved)}), %"
    for title, pairs, form, unit in (
        ("COCO, %", found.metrics, ".2f", "points"),
        (classes, most, ".2f", "points"),
        ("heads, furthest from the reference", found.parity, ".2g", "change"),
    ):
        rows: list[Sequence[object]] = []
        for of, group in itertools.groupby(pairs, lambda pair: pair.of):
            for one in group:
                both = (
                    "undefined" if v is None else f"{v:{form}}" for v in (one.before, one.after)
                )
                change = "" if one.change is None else f"{one.change:+{form}}"
                rows.append((of, one.name.replace("_", " "), *both, change))
            rows.append(())
        columns = ("of", "figure", ">baseline", ">candidate", f">{unit}")
        show_table(title, columns, rows, box=SIMPLE)
    speeds = [
        (one.name, one.before, one.after, one.ratio or "", colored(one.status), one.reason)
        for one in found.speeds
    ]
    title = "times (candidate / baseline, with 95 % interval)"
    sides_timed = ("baseline, images/s", "candidate, images/s")
    show_table(title, ("of", *sides_timed, "time is x", "status", "why"), speeds, box=SIMPLE)
    show_lines(*found.intervals, *found.alone)
    reasons = [*found.worse, *found.undecided]
    first, *others = reasons or ["no figure of both runs is worse than allowed"]
    show_status(found.status, first)
    show_lines(*(f"also: {reason}" for reason in others))


def show_bisection(finding: Finding) -> None:
    """Print what was paired, the suspects in the order of the graph, and the verdict."""
    reason = STATUSES[finding.status]
    if finding.pairs is not None:
        rules = ", ".join(f"{count} by {rule}" for rule, count in finding.pairs.items())
        paired = sum(finding.pairs.values())
        show_lines(f"{paired} of {finding.nodes} nodes have a partner: {rules or 'none'}")
        off = f"{finding.worst:.2e} (relative L2), {finding.noise:.0e} is noise"
        reason += f": worst output off by {off}"
    show_lines(*finding.notes)
    rows = []
    for one in finding.suspects:
        reads, gives = (
            " ".join("x".join(map(str, shape)) for shape in shapes)
            for shapes in (one.input_shapes, [one.output_shape])
        )
        found = (
            f"{one.upstream:.2e}",
            f"{one.error:.2e}",
            one.partner or "-",
            one.paired_by or "-",
        )
        rows.append((one.node, one.op, reads, gives, *found))
    names = ("node", "op", "reads", "gives", ">upstream", ">error", "in the reference", "paired by")
    show_table("nodes that make an error of their own", names, rows)
    show_status(finding.status, reason)
    if finding.explanation:
        show_lines(f"first: {finding.explanation}")


def show_drop(found: DropExplained, max_drop: float) -> None:
    """Print what a quantised build loses, where, and which nodes to leave in float."""
    graph, title = found.graph, "what quantisation costs, as the graph computes it"
    costs = [(name, one, other, f"{other - one:+.2f}") for name, one, other in found.rows]
    show_table(title, ("points", ">reference", ">build", ">change"), costs, box=SIMPLE)
    worst = [
        (one.group, one.node.rpartition(f"{one.group}/")[2], one.op, f"{one.error:.3f}")
        for one in found.nodes[:NODES]
    ]
    title = f"the worst of {len(found.nodes)} quantised nodes by themselves"
    show_table(title, ("group", "node", "operator", ">error"), worst, box=SIMPLE)
    gained = {n: f"{graph.points - drop.points:.2f}" for n, drop in found.trials.items()}
    rows = []
    for place, one in enumerate(found.groups, 1):
        alone = (f"{error:.3f}" for error in (one.worst.error, one.classes, one.boxes))
        rows.append((one.name, len(one.nodes), *alone, gained.get(place, "")))
    columns = ("group", ">nodes", ">worst", ">class heads", ">box heads", ">regained")
    title = "one group quantised alone: relative L2; points regained, in float down to here"
    show_table(title, columns, rows, box=SIMPLE)
    lines = [f"the graph: {graph}"]
    if found.unpaired:
        lines.append(f"{found.unpaired} nodes have no partner: their weights stay quantised")
    host = 100 * (graph.candidate_ap - found.runtime.candidate_ap)
    if abs(host) > MAX_DROP.limit:
        lines.append(
            f"ONNX Runtime's kernels reach {100 * found.runtime.candidate_ap:.2f} % on this host, "
            f"{abs(host):.2f} points {'less' if host > 0 else 'more'}: that is not of the graph"
        )
    show_lines(*lines, *found.advice(max_drop))


def show_built(built: Built) -> None:
    """Print what was made and how far each head is from its source's, on embedded images."""
    for change in built.changes:
        moved = f", heads moved by at most {change.worst.max_abs:.2e}" if change.matches else ""
        show_lines(f"{change}{moved}  ({change.edit.explanation})")
    diffs = sorted(built.diffs, key=lambda diff: (diff.name.startswith("box"), diff.name))
    rows = [(diff.name, f"{diff.max_abs:.2e}", f"{diff.relative_l2:.2e}") for diff in diffs]
    show_table("difference from the source", ("head", ">largest", ">relative L2"), rows)
    show_lines(f"wrote {built.path}")


def show_edits(wanted: bool) -> None:
    """Print all graph edits, if *wanted*, and stop: what each does, why, exact, by default."""
    if not wanted:
        return
    columns = ("edit", "what it does", "why a compiler likes it", "exact", "default")
    flag = ("no", "yes")
    rows = [
        (one.name, one.explanation, one.benefit, flag[one.exact], flag[one.name in DEFAULT_EDITS])
        for one in EDITS.values()
    ]
    show_table("edits of a graph", columns, rows, show_lines=True)
    raise typer.Exit


#: Percentiles of times, and how many there are.
_TIMES = (">p50 ms", ">p90 ms", ">p99 ms", ">samples")


def _times(of: run.TimedRow | Latency) -> tuple[object, ...]:
    return of.p50_ms, of.p90_ms, of.p99_ms, len(of.samples_ms)


def show_benchmark(rows: Sequence[run.TimedRow], artefact: run.Artefact) -> None:
    """Print every table that *rows* of *artefact* have something for, and their notes."""
    alone = [row for row in rows if row.rival is None]
    swept = [row for row in alone if row.batch is not None]
    # The recipe's table, and the times that it comes from.
    recipes = ("chip", ">batch", "dataset", ">mAP %", ">images/s")
    columns = [*recipes, *_TIMES, "timed", "precision", "backend"]
    lines: list[tuple[object, ...]] = []
    for row in swept:
        points = "not measured" if row.map is None else 100 * row.map
        of = (row.fingerprint.chip, row.batch, row.dataset, points, row.images_per_second)
        lines.append((*of, *_times(row), row.timed, row.precision, row.fingerprint.backend))
    title = "throughput (images/s from the median; padding never counts)"
    show_table(title, columns, lines, box=SIMPLE)
    lines, notes = [], dict[str, int]()
    for one in sorted(published_figures(artefact), key=lambda one: one.batch):
        alike = [row for row in swept if (row.batch, row.timed) == (one.batch, one.timed)]
        if alike:  # the fastest is shown
            ours = max(row.images_per_second for row in alike)
            note = notes.setdefault(f"{one.conditions}; {one.source}", len(notes) + 1)
            of = (one.chip, one.batch, one.dataset, one.map or "not said", one.images_per_second)
            ratio = f"{ours / one.images_per_second:.3f}"
            lines.append((*of, ours, ratio, one.timed, one.precision, f"[{note}]"))
    title = "published figures beside ours (other chips, other conditions: see below)"
    columns = [*recipes, ">ours, images/s", ">ours is x", "timed", "precision", "source"]
    show_table(title, columns, lines, box=SIMPLE)
    show_lines(*(f"- [{number}] {note}" for note, number in notes.items()))
    columns = ["timed", ">images", ">ms per image", ">images/s", *_TIMES, "backend"]
    stages = [
        (row.timed, row.images, f"{row.p50_ms / row.images:.3f}", f"{row.images_per_second:.1f}",
         *_times(row), row.fingerprint.backend) for row in alone if row.batch is None
    ]  # fmt: skip
    show_table("stages", columns, stages, box=SIMPLE)
    steps = [
        (row.timed, row.batch or "", step, *_times(Latency(tuple(ms))), row.fingerprint.backend)
        for row in rows
        for step, ms in row.steps.items()
    ]
    columns = ["timed", ">batch", "step", *_TIMES, "backend"]
    show_table("steps of a call", columns, steps, box=SIMPLE)
    sides = ("rival", ">images", ">rival, ms", ">ours, ms", ">ours / rival", ">rival / ours")
    both = [
        (row.timed, rival.name, row.images, statistics.median(rival.samples_ms), row.p50_ms, ratio,
         ratio.inverse(), len(row.samples_ms)) for row, rival, ratio in rivals_of(rows)
    ]  # fmt: skip
    title = "in turn with others (A B A B, same images, results compared; 95 % intervals)"
    show_table(title, ("timed", *sides, ">samples"), both, box=SIMPLE)
    show_lines(*dict.fromkeys(note for row in rows for note in row.notes))
