"""
One benchmark of one model without pytest: a sweep over batches, or a scenario in MLPerf's terms.

Real images are read before the clock starts.  In a sweep a call is a batch from the network's
input to its heads.  The scenarios take MLPerf's terms, not its rules: in ``single-stream`` a call
is one image to its detections, and the 90th percentile counts; in ``offline`` all images at once,
and the images per second count.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data import fixture as embedded
from ..data.coco import Sample, load_coco
from ..data.preprocess import ModelInput, preprocess
from ..detection.heads import HeadOutputs, check_finite, split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import BenchmarkError
from ..evaluation.model import ModelChoice
from ..progress import OpenProgress
from ..results.compare import MAX_SLOWDOWN
from ..runners.base import (
    DetectingRunner,
    Runner,
    choose_batch_size,
    infer_stream,
    make_feed,
    takes_pixels,
)
from ..spec import ModelSpec
from ..tensor_diff import compare_tensors
from ..types import Tensors, option
from .measure import (
    NETWORK,
    OFFLINE,
    SINGLE_STREAM,
    Accuracy,
    Advance,
    Rival,
    Row,
    StepTimes,
    Subject,
    dataset_name,
    open_subject,
    time_calls,
    time_in_turn,
)

SCENARIOS = ("single-stream", "offline")


@dataclass(frozen=True)
class BenchmarkJob:
    """
    Everything that a benchmark depends on.

    *batch_sizes* are swept in their order, *loop* calls each after *warmup* calls; *against* is
    a file that is timed in turn with the model's, which may lose *max_slowdown* percent to it.
    """

    choice: ModelChoice = field(default_factory=ModelChoice)
    batch_sizes: tuple[int, ...] = ()
    loop: int = option("Timed calls of each batch size.", default=100)
    warmup: int = option("Warm-up calls, not timed.", default=3, min=0)
    scenario: str | None = option(
        f"{' or '.join(SCENARIOS)}, to detections, in MLPerf's terms.",
        "NAME",
        shown="a sweep over batch sizes, to heads",
    )
    root: Path | None = None
    split: str = "val2017"
    against: Path | None = option("Model that is timed in turn with --model, A B A B.")
    max_slowdown: float | None = option(
        "Threshold: exit 1 if slower than --against by more, with 95 % confidence; "
        f"{100 * MAX_SLOWDOWN:g} is a good start.",
        "PERCENT",
        shown="none",
        min=0,
    )
    host_threads: int = 2

    def check(self) -> None:
        """Raise `BenchmarkError` for options that contradict each other."""
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
                f"--max-slowdown is {self.max_slowdown:g}, but no --against is given; "
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
        return allowed is not None and any(r.slower(allowed / 100) for r in ratios if r is not None)


@dataclass(frozen=True)
class Batch:
    """
    A batch of real images in memory: the *feed* of the network, and the *images* it was made of.

    *pixels* are the same images for a runner that detects by itself.
    """

    feed: Tensors
    images: tuple[ModelInput, ...]
    pixels: tuple[ModelInput, ...] = ()


def read_batches(
    samples: Sequence[Sample], runner: Runner, batch: int, spec: ModelSpec
) -> list[Batch]:
    """
    Read *samples* into batches of *batch* images for the open *runner*.

    Where there are fewer samples than a batch or the last one needs, the first come again.
    """

    def batches(*, normalized: bool) -> list[tuple[ModelInput, ...]]:
        read = [preprocess(sample.path, spec, normalized=normalized) for sample in samples]
        starts = range(0, len(read), batch)
        return [tuple(read[(s + i) % len(read)] for i in range(batch)) for s in starts]

    inputs = batches(normalized=not takes_pixels(runner))
    detects = isinstance(runner, DetectingRunner)
    pixels = batches(normalized=False) if detects else [()] * len(inputs)
    return [Batch(make_feed(i, runner), i, p) for i, p in zip(inputs, pixels, strict=True)]


def detect_batches(
    runner: Runner, batches: Sequence[Batch], spec: ModelSpec, pool: Executor | None = None
) -> list[Detections]:
    """The detections of each image; *pool* postprocesses a batch while the next one is run."""
    if isinstance(runner, DetectingRunner):
        stream = runner.detect_stream([batch.pixels for batch in batches])
        return list(itertools.chain.from_iterable(stream))

    def postprocess_one(heads: HeadOutputs, image: ModelInput) -> Detections:
        return postprocess(heads, image.image_scale, image.image_size, spec)

    found: list[Detections] = []
    pending: Iterable[Detections] = ()
    outputs_of = infer_stream(runner, (batch.feed for batch in batches))
    for outputs, batch in zip(outputs_of, batches, strict=True):
        found += pending  # the batch before ends here, so that memory stays bounded
        heads = split_heads(outputs, spec)
        pending = (map if pool is None else pool.map)(postprocess_one, heads, batch.images)
    return [*found, *pending]


def run_benchmark(
    job: BenchmarkJob, open_progress: OpenProgress, accuracy: Accuracy | None = None
) -> list[Row]:
    """Run *job*; raise `BenchmarkError` at once where *accuracy* is of another model."""
    job.check()
    job.choice.checked_runner()
    root = embedded.coco_root() if job.root is None else job.root
    # No more images than the largest batch needs.
    dataset = load_coco(root, job.split, max(8, *job.batch_sizes, 1))
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            subject = stack.enter_context(open_subject(job.choice, accuracy))
            advance(1)
        if accuracy is not None:
            accuracy.check_model(subject.model_sha256)
        rival = None
        if job.against is not None:
            choice = replace(job.choice, model=job.against, checkpoint=None)
            rival = stack.enter_context(open_subject(choice)).runner
        sizes = job.batch_sizes or (choose_batch_size(subject.runner, None),)
        rows = []
        for size in sizes:
            choose_batch_size(subject.runner, size)
            batches = read_batches(dataset.samples, subject.runner, size, job.choice.spec)
            with open_progress(f"batch of {size}", job.loop) as advance:
                row = _time(job, subject, rival, batches, advance)
            dataset_label = dataset_name(job.root, job.split)
            rows.append(replace(row, batch=size, dataset=dataset_label))
    return rows


def _time(
    job: BenchmarkJob,
    subject: Subject,
    rival: Runner | None,
    batches: Sequence[Batch],
    advance: Advance,
) -> Row:
    """Time one batch size of *subject* as *job* says."""
    runner, spec, size = subject.runner, job.choice.spec, len(batches[0].images)
    name = f"effd0 benchmark[runner={subject.label}-batch={size}]"

    def infer(index: int, runner: Runner = runner) -> Tensors:
        return runner.infer(batches[index % len(batches)].feed)

    def checked(heads: Tensors) -> Tensors:
        """Raise `HeadError` unless *heads* are those of a D0, and finite."""
        for one in split_heads(heads, spec):
            check_finite(one, spec)
        return heads

    heads = checked(infer(0))
    if rival is not None:
        worst = compare_tensors(checked(infer(0, rival)), heads)[0]
        ours, theirs = time_in_turn(infer, lambda n: infer(n, rival), job.loop, job.warmup, advance)
        return replace(
            subject.row(name, NETWORK, size, ours),
            rival=Rival(str(job.against), theirs),
            notes=(f"batch of {size}: heads differ most in {worst}",),
        )

    def detect(index: int) -> list[Detections]:
        return detect_batches(runner, [batches[index % len(batches)]], spec)

    call = infer if job.scenario is None else detect
    for index in range(job.warmup):
        call(index)
    steps = StepTimes(runner)
    if job.scenario == "offline":
        every = list(itertools.islice(itertools.cycle(batches), job.loop))
        with ThreadPoolExecutor(job.host_threads, "effd0") as pool:
            samples = time_calls(
                lambda _: detect_batches(runner, every, spec, pool),
                1,
                0,
                lambda _: advance(job.loop),
            )
        row = subject.row(name, OFFLINE, size * job.loop, samples)
    else:
        samples = time_calls(call, job.loop, 0, advance)
        timed = NETWORK if job.scenario is None else SINGLE_STREAM
        row = subject.row(name, timed, size, samples)
    if job.scenario == "single-stream":
        note = (
            f"single-stream: {samples.p90_ms:.2f} ms is the 90th percentile of {job.loop} "
            "queries; MLPerf's rules want 1024 and 600 s"
        )
        row = replace(row, notes=(note,))
    return replace(row, steps=steps.since())
