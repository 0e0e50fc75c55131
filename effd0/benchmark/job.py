"""
One benchmark of one model without pytest: a sweep over batches, or a scenario in MLPerf's terms.

Real images are read before the clock starts.  In a sweep a call is a batch from the network's
input to its heads.  The scenarios take MLPerf's terms, not its rules: in ``single-stream`` a call
is one image to its detections, and the 90th percentile counts; in ``offline`` all images at once,
and the images per second count.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data import fixture
from ..data.coco import Sample, load_coco
from ..data.preprocess import ModelInput, preprocess
from ..detection.heads import HeadOutputs, check_head, named_heads, split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import BenchmarkError, refuse
from ..evaluation.model import ModelChoice
from ..progress import OpenProgress
from ..results.compare import MAX_SLOWDOWN
from ..results.run import Run, TimedRival, TimedRow, artefact_of, dataset_name, new_run
from ..runners.base import DetectingRunner, Runner, choose_batch_size, make_feed, takes_pixels
from ..spec import ModelSpec
from ..tensors.diff import compare_tensors
from ..types import GATE, Tensors, check_choices, option
from . import measure

SCENARIOS = ("single-stream", "offline")


@dataclass(frozen=True)
class BenchmarkJob:
    """
    Everything that a benchmark depends on.

    *batch_sizes* are swept in their order, *loop* calls each after *warmup* calls; *against* is
    a file that is timed in turn with the model's, which may lose *max_slowdown* percent to it;
    *accuracy_report* is of the model that is timed.
    """

    choice: ModelChoice = field(default_factory=ModelChoice)
    batch_sizes: tuple[int, ...] = ()
    loop: int = option("Timed calls of each batch size.", default=100)
    warmup: int = option("Warm-up calls, not timed.", default=3, min=0)
    scenario: str | None = option(
        "To detections, in MLPerf's terms.",
        shown="a sweep over batch sizes, to heads",
        choices=SCENARIOS,
    )
    root: Path | None = None
    split: str = "val2017"
    against: Path | None = option(
        "Model that is timed in turn with --model, A B A B.", takes="model"
    )
    max_slowdown: float | None = option(
        "Threshold: exit 1 if slower than --against by more, with 95 % confidence; "
        f"{100 * MAX_SLOWDOWN:g} is a good start.",
        "PERCENT",
        shown="none",
        min=0,
        panel=GATE,
    )
    host_threads: int = 2
    accuracy_report: Path | None = None

    def check(self) -> None:
        """Raise `BenchmarkError` for options that contradict each other."""
        name, sizes, other = self.scenario, self.batch_sizes, self.against
        slower = self.max_slowdown
        check_choices(self, BenchmarkError)
        wrong = {
            f"--batch-size is {', '.join(map(str, sizes))}, but single-stream is one image at a "
            "time; leave it out, or choose --scenario offline": (
                name == "single-stream" and set(sizes) - {1}
            ),
            f"--max-slowdown is {slower or 0:g}, but no --against is given; name what to compare "
            "with": slower is not None and other is None,
            f"--against is {other}, but it is for sweeps; leave out --scenario": name and other,
        }
        refuse(wrong, BenchmarkError)


@dataclass(frozen=True)
class Batch:
    """
    A batch of real images in memory: the *feed* of the network, and the *images* it was made of.

    A runner that detects by itself takes *images*, as pixels.
    """

    feed: Tensors
    images: tuple[ModelInput, ...]


def load_batches(
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
    images = batches(normalized=False) if isinstance(runner, DetectingRunner) else inputs
    return [Batch(make_feed(i, runner), own) for i, own in zip(inputs, images, strict=True)]


def detect_batches(
    runner: Runner, batches: Sequence[Batch], spec: ModelSpec, pool: Executor | None = None
) -> list[Detections]:
    """The detections of each image; *pool* postprocesses a batch while the next one is run."""
    if isinstance(runner, DetectingRunner):
        stream = runner.detect_stream([batch.images for batch in batches])
        return list(itertools.chain.from_iterable(stream))

    def decoded(heads: HeadOutputs, image: ModelInput) -> Detections:
        return postprocess(heads, image.image_scale, image.image_size, spec)

    found: list[Detections] = []
    pending: Iterable[Detections] = ()
    outputs_of = runner.infer_stream(batch.feed for batch in batches)
    for outputs, batch in zip(outputs_of, batches, strict=True):
        found += pending  # the batch before ends here, so that memory stays bounded
        heads = split_heads(outputs, spec)
        pending = (map if pool is None else pool.map)(decoded, heads, batch.images)
    return [*found, *pending]


def run_benchmark(job: BenchmarkJob, open_progress: OpenProgress) -> Run:
    """
    Time what *job* says; each row that was timed in turn with another is a check if it is gated.

    Raises `BenchmarkError`, before a model is opened, where options contradict each other or the
    accuracy report is of another model.
    """
    job.check()
    job.choice.checked_runner()
    root = fixture.coco_root() if job.root is None else job.root
    # No more images than the largest batch needs.
    dataset = load_coco(root, job.split, max(8, *job.batch_sizes, 1))
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            opening = measure.open_subject(job.choice, job.accuracy_report)
            subject = stack.enter_context(opening)
            advance(1)
        rival = None
        if job.against is not None:
            choice = replace(job.choice, model=job.against, checkpoint=None)
            rival = stack.enter_context(measure.open_subject(choice)).runner
        rows = []
        for size in job.batch_sizes or (choose_batch_size(subject.runner, None),):
            choose_batch_size(subject.runner, size)
            batches = load_batches(dataset.samples, subject.runner, size, job.choice.spec)
            with open_progress(f"batch of {size}", job.loop) as advance:
                rows.append(_time(job, subject, rival, batches, advance))
    checks = []
    if job.max_slowdown is not None:
        allowed = job.max_slowdown / 100
        for row, other, ratio in measure.rivals_of(rows):
            slower = ratio.slower(allowed)
            said = f"takes {ratio} times as long as {other.name}" if slower else ""
            name = f"{row.name}: no slower than --against"
            checks.append(ratio.check(name, "failed" if slower else "passed", said, allowed))
    return new_run(
        artefact_of(job.choice.model, job.choice.weights(), None, spec=job.choice.spec),
        exit_status=int(any(check.status == "failed" for check in checks)),
        checks=checks,
        otherwise="times have no threshold",
        latency=rows,
    )


def _time(
    job: BenchmarkJob,
    subject: measure.Subject,
    rival: Runner | None,
    batches: Sequence[Batch],
    advance: Callable[[int], None],
) -> TimedRow:
    """Time one batch size of *subject* as *job* says."""
    runner, spec, size = subject.runner, job.choice.spec, len(batches[0].images)

    def infer(index: int, runner: Runner = runner) -> Tensors:
        return runner.infer(batches[index % len(batches)].feed)

    def checked(heads: Tensors) -> Tensors:
        """Raise `HeadError` unless *heads* are those of the spec, and finite."""
        for name, head in named_heads(heads, spec).items():
            check_head(name, head)
        return heads

    def detect(index: int) -> list[Detections]:
        return detect_batches(runner, [batches[index % len(batches)]], spec)

    calls: list[measure.Call] = [infer if job.scenario is None else detect]
    heads, notes = checked(infer(0)), []
    if rival is not None:
        worst = compare_tensors(checked(infer(0, rival)), heads)[0]
        notes.append(f"batch of {size}: heads differ most in {worst}")
        calls.append(lambda index: infer(index, rival))
    for index in range(job.warmup):
        for call in calls:
            call(index)
    before = measure.step_times(runner)
    timed, images = measure.NETWORK if job.scenario is None else measure.SINGLE_STREAM, size
    if job.scenario == "offline":
        timed, images = measure.OFFLINE, size * job.loop
        every = list(itertools.islice(itertools.cycle(batches), job.loop))
        with ThreadPoolExecutor(job.host_threads, "effd0") as pool:
            whole: list[measure.Call] = [lambda _: detect_batches(runner, every, spec, pool)]
            samples, *_ = measure.time_in_turn(whole, 1, lambda _: advance(job.loop))
    else:
        samples, *theirs = measure.time_in_turn(calls, job.loop, advance)
    if job.scenario == "single-stream":
        notes.append(
            f"single-stream: {samples.p90_ms:.2f} ms is the 90th percentile of {job.loop} "
            "queries; MLPerf's rules want 1024 and 600 s"
        )
    return measure.timed_row(
        f"effd0 benchmark[runner={subject.about['runner']}-batch={size}]",
        timed,
        images,
        samples,
        subject,
        batch=size,
        dataset=dataset_name(job.root, job.split),
        notes=notes,
        steps=measure.step_times(runner, before),
        rival=None if rival is None else TimedRival(str(job.against), list(theirs[0].samples_ms)),
    )
