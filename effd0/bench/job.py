"""
One benchmark of one model without pytest: a sweep over batches, or a scenario in MLPerf's terms.

Real images are read before the clock starts.  In a sweep a call is a batch from the network's
input to its heads; in ``single-stream`` an image to its detections, one at a time; in
``offline`` all images at once to their detections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data import fixture as embedded
from ..data.coco import Dataset, load_coco
from ..detection.heads import check_finite, split_heads
from ..errors import BenchmarkError
from ..evaluation.model import ModelChoice
from ..progress import OpenProgress
from ..runners.base import Runner, choose_batch_size
from ..tensor_diff import compare_tensors
from ..timing import Latency
from ..types import Tensors
from .accuracy import Accuracy, check_same_model
from .rows import NETWORK, OFFLINE, SINGLE_STREAM, Rival, Row
from .scenarios import Queries, offline, read_queries, single_stream
from .subject import Subject, opened
from .timing import Apart, time_calls, time_in_turn

SCENARIOS = ("single-stream", "offline")


@dataclass(frozen=True)
class BenchmarkJob:
    """
    Everything that a benchmark depends on.

    *batch_sizes* are swept in their order, *loop* calls each after *warmup* calls; *against* is
    a file that is timed in turn with the model's, which may lose *max_slowdown* (0.05) to it.
    """

    choice: ModelChoice
    batch_sizes: tuple[int, ...] = ()
    loop: int = 100
    warmup: int = 3
    scenario: str | None = None
    root: Path | None = None
    split: str = "val2017"
    against: Path | None = None
    max_slowdown: float | None = None
    host_threads: int = 2

    def check(self) -> None:
        """Raise `BenchmarkError` for what contradicts itself."""
        if self.scenario is not None and self.scenario not in SCENARIOS:
            raise BenchmarkError(
                f"--scenario is {self.scenario!r}, but {', '.join(SCENARIOS)} exist; "
                "leave it out to sweep batch sizes"
            )
        if self.scenario == "single-stream" and set(self.batch_sizes) - {1}:
            raise BenchmarkError(
                f"--batch-size is {', '.join(map(str, self.batch_sizes))}, but single-stream is "
                "one image at a time; leave it out, or choose --scenario offline"
            )
        if self.max_slowdown is not None and self.against is None:
            raise BenchmarkError(
                f"--max-slowdown is {100 * self.max_slowdown:g}, but no --against is given; "
                "name what to compare with"
            )
        if self.scenario is not None and self.against is not None:
            raise BenchmarkError(
                f"--against is {self.against}, but it is for sweeps; leave out --scenario"
            )

    def regressed(self, rows: Sequence[Row]) -> bool:
        """Whether any of *rows* is slower than its rival by more than is allowed, and surely."""
        ratios = [row.against_rival for row in rows]
        allowed = self.max_slowdown
        return allowed is not None and any(r.slower(allowed) for r in ratios if r is not None)

    def load(self) -> Dataset:
        """The dataset whose images are run, no more of them than the largest batch needs."""
        root = embedded.coco_root() if self.root is None else self.root
        return load_coco(root, self.split, max(8, *self.batch_sizes, 1))


Advance = Callable[[int], None]


def run_benchmark(
    job: BenchmarkJob, open_progress: OpenProgress, accuracy: Accuracy | None = None
) -> list[Row]:
    """Run *job*; raise `BenchmarkError` at once where *accuracy* is of another model."""
    job.check()
    job.choice.checked_runner()
    dataset = job.load()
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            subject = stack.enter_context(opened(job.choice))
            advance(1)
        if accuracy is not None:
            check_same_model(accuracy, subject.model_sha256)
        rival = None
        if job.against is not None:
            choice = replace(job.choice, model=job.against, checkpoint=None)
            rival = stack.enter_context(opened(choice))
        sizes = job.batch_sizes or (choose_batch_size(subject.runner, None),)
        rows = []
        for size in sizes:
            choose_batch_size(subject.runner, size)
            queries = read_queries(dataset.samples, subject.runner, size, job.choice.spec)
            with open_progress(f"batch of {size}", job.loop) as advance:
                row = _row(job, subject, rival, queries, advance)
            rows.append(replace(row, dataset=dataset_name(job.root, job.split)))
    return rows


def dataset_name(root: Path | None, split: str) -> str:
    """What the dataset is called in a table."""
    return "drawn scenes" if root is None else f"{root.name} {split}"


def _row(
    job: BenchmarkJob, subject: Subject, rival: Subject | None, queries: Queries, advance: Advance
) -> Row:
    """Time one batch size of *subject* as *job* says."""
    size = len(queries.images(0))
    blank = Row(
        name=f"effd0 benchmark[runner={subject.label}-batch={size}]",
        timed=NETWORK,
        images=size,
        samples=Latency(()),
        fingerprint=subject.fingerprint,
        batch=size,
        precision=subject.precision,
        model_sha256=subject.model_sha256,
        runner=subject.label,
    )
    heads = _checked_heads(subject.runner, queries, job)
    if rival is not None:
        worst = compare_tensors(_checked_heads(rival.runner, queries, job), heads)[0]
        row = _in_turn(job, blank, subject, rival, queries, advance)
        return replace(row, notes=(f"batch of {size}: heads differ most in {worst}",))
    for index in range(job.warmup):
        subject.runner.infer(queries.feed(index))
    apart = Apart(subject.runner)
    row = _MEASURES[job.scenario](job, blank, subject.runner, queries, advance)
    return replace(row, apart=apart.since())


def _sweep(job: BenchmarkJob, row: Row, runner: Runner, queries: Queries, advance: Advance) -> Row:
    """Each call a batch, from input to heads."""
    samples = time_calls(lambda n: runner.infer(queries.feed(n)), job.loop, 0, advance)
    return replace(row, samples=samples)


def _single_stream(
    job: BenchmarkJob, row: Row, runner: Runner, queries: Queries, advance: Advance
) -> Row:
    """Each call an image, from input to detections."""
    call = single_stream(runner, queries, job.choice.spec)
    samples = time_calls(call, job.loop, 1, advance)
    note = (
        f"single-stream: {samples.p90_ms:.2f} ms is the 90th percentile of {job.loop} queries; "
        "MLPerf's rules want 1024 and 600 s"
    )
    return replace(row, timed=SINGLE_STREAM, samples=samples, notes=(note,))


def _offline(
    job: BenchmarkJob, row: Row, runner: Runner, queries: Queries, advance: Advance
) -> Row:
    """One call that is given all there is."""
    call = offline(runner, queries, job.choice.spec, job.loop, job.host_threads)
    samples = time_calls(call, 1, 0, lambda _: advance(job.loop))
    return replace(row, timed=OFFLINE, images=row.images * job.loop, samples=samples)


_MEASURES = {None: _sweep, "single-stream": _single_stream, "offline": _offline}


def _in_turn(
    job: BenchmarkJob, row: Row, subject: Subject, rival: Subject, queries: Queries,
    advance: Advance,
) -> Row:  # fmt: skip
    """Each call a batch, and after it the rival's of the same images."""
    ours, theirs = time_in_turn(
        lambda n: subject.runner.infer(queries.feed(n)),
        lambda n: rival.runner.infer(queries.feed(n)),
        job.loop,
        job.warmup,
        advance,
    )
    return replace(row, samples=ours, rival=Rival(str(job.against), theirs))


def _checked_heads(runner: Runner, queries: Queries, job: BenchmarkJob) -> Tensors:
    """The heads of one batch; raise `HeadError` unless they are those of a D0, and finite."""
    outputs = runner.infer(queries.feed(0))
    for heads in split_heads(outputs, job.choice.spec):
        check_finite(heads, job.choice.spec)
    return outputs
