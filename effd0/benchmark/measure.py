"""A row of a benchmark: what was timed, on what, and how long each call took."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BenchmarkError
from ..evaluation.model import ModelChoice
from ..graph.onnx_info import load_graph, precision_of
from ..io import sha256
from ..results.environment import Fingerprint, chip_kind, fingerprint
from ..results.ratio import Ratio, paired_ratio
from ..runners.base import DeviceTimes, Runner
from ..timing import Latency

#: What the published tables time: from the network's input to its heads.
NETWORK = "input to heads"
END_TO_END = "files to detections"
SINGLE_STREAM = "single-stream: input to detections"
OFFLINE = "offline: inputs to detections"

#: Does the n-th piece of work; its result is on the host when it returns.
Call = Callable[[int], Any]
#: Counts calls that are done.
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Accuracy:
    """AP of a model as a fraction, None where undefined, on *images* of *total*."""

    model_sha256: str
    ap: float | None
    images: int
    total: int

    def __str__(self) -> str:
        if self.ap is None:
            return "undefined"
        part = "" if self.images == self.total else f" (first {self.images})"
        return f"{100 * self.ap:.2f}{part}"

    def check_model(self, *fingerprints: str) -> None:
        """Raise `BenchmarkError` unless the report is of one of the files with *fingerprints*."""
        if self.model_sha256 not in fingerprints:
            timed = ", ".join(one[:12] for one in fingerprints)
            raise BenchmarkError(
                f"the accuracy report is of model {self.model_sha256[:12]}, but {timed} is timed; "
                "evaluate the same file: 'effd0 evaluate --model FILE --json FILE'"
            )


def read_accuracy(path: Path) -> Accuracy:
    """Read what ``effd0 evaluate --json`` wrote; raise `BenchmarkError` for another file."""
    try:
        report = json.loads(path.read_bytes())
        return Accuracy(
            model_sha256=str(report["model_sha256"]),
            ap=report["metrics"]["AP"],
            images=report["images"],
            total=report["images_total"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is not an accuracy report ({type(error).__name__}: {error}), but one was "
            "wanted; write it with 'effd0 evaluate --json FILE'"
        ) from error


@dataclass(frozen=True)
class Rival:
    """Another implementation of the same work, timed in turn with ours, call by call."""

    name: str
    samples: Latency


@dataclass(frozen=True)
class Row:
    """
    One thing that was timed.

    *timed* is what lies between the clock's start and its end; *images* the number of real images
    a call, padding left out; *runner* is empty for a library.  *steps* are parts of a call that
    were timed one by one, such as uploads; *accuracy* is that of the model with *model_sha256*.
    """

    name: str
    timed: str
    images: int
    samples: Latency
    fingerprint: Fingerprint
    batch: int | None = None
    precision: str = ""
    dataset: str = ""
    model_sha256: str = ""
    runner: str = ""
    accuracy: Accuracy | None = None
    steps: Mapping[str, Latency] = field(default_factory=dict)
    rival: Rival | None = None
    notes: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Real images per second, from the median call."""
        return 1000 * self.images / self.samples.p50_ms

    @property
    def against_rival(self) -> Ratio | None:
        """Our time over the rival's, paired; None without a rival."""
        if self.rival is None:
            return None
        return paired_ratio(self.samples.samples_ms, self.rival.samples.samples_ms)

    def extra_info(self) -> dict[str, Any]:
        """The row for pytest-benchmark's JSON, with the figures that a reader looks for."""
        samples, ratio = self.samples, self.against_rival
        return {
            "images_per_second": self.images_per_second,
            "p50_ms": samples.p50_ms,
            "p90_ms": samples.p90_ms,
            "p99_ms": samples.p99_ms,
            "ours_over_rival": None if ratio is None else msgspec.to_builtins(ratio),
            "row": msgspec.to_builtins(self),
        }


def rows_of(config: Any) -> list[Row]:
    """The rows of the pytest session of *config*; a failed benchmark leaves none."""
    session = getattr(config, "_benchmarksession", None)
    return [
        msgspec.convert(one.extra_info["row"], Row)
        for one in ([] if session is None else session.benchmarks)
        if not one.has_error and "row" in one.extra_info
    ]


@dataclass(frozen=True)
class Subject:
    """An open model, and what its rows say of it."""

    runner: Runner
    fingerprint: Fingerprint
    model_sha256: str
    precision: str
    label: str
    accuracy: Accuracy | None = None

    def row(self, name: str, timed: str, images: int, samples: Latency) -> Row:
        """A row of this model; its dataset and batch are yet to be filled in."""
        return Row(
            name,
            timed,
            images,
            samples,
            self.fingerprint,
            precision=self.precision,
            model_sha256=self.model_sha256,
            runner=self.label,
            accuracy=self.accuracy,
        )


@contextlib.contextmanager
def open_subject(choice: ModelChoice, accuracy: Accuracy | None = None) -> Iterator[Subject]:
    """Open the model of *choice* for timing; its rows show *accuracy* if it is of that model."""
    with choice.opened() as (runner, path):
        name, options = choice.checked_runner(), choice.options
        threads = "" if options.threads is None else f", {options.threads} threads"
        digest = sha256(path)
        # The file of a compiled model does not say, and torch computes in what it is asked for.
        told = {"torch": options.precision, "acl": "as compiled"}
        yield Subject(
            runner,
            fingerprint(runner.description + threads, chip_kind(name, options)),
            digest,
            told[name] if name in told else precision_of(load_graph(path)),
            name,
            accuracy if accuracy is not None and accuracy.model_sha256 == digest else None,
        )


def dataset_name(root: Path | None, split: str) -> str:
    """The name of a dataset in tables."""
    return "drawn scenes" if root is None else f"{root.name} {split}"


def seconds_of(call: Call, index: int = 0) -> float:
    """The duration of one *call*, in seconds."""
    start = time.perf_counter()
    call(index)
    return time.perf_counter() - start


def time_calls(call: Call, loop: int, warmup: int, advance: Advance = lambda _: None) -> Latency:
    """Time *loop* calls one by one, after *warmup* calls that are not timed."""
    for index in range(warmup):
        call(index)
    samples = []
    for index in range(loop):
        samples.append(seconds_of(call, index))
        advance(1)
    return Latency.from_seconds(samples)


def time_in_turn(
    ours: Call, rival: Call, loop: int, warmup: int, advance: Advance = lambda _: None
) -> tuple[Latency, Latency]:
    """
    Time *loop* pairs of calls, after *warmup* pairs: A B A B.

    The two change places every second pair, so that neither gains by coming first.
    """
    for index in range(warmup):
        ours(index)
        rival(index)
    samples: tuple[list[float], list[float]] = ([], [])
    for index in range(loop):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            samples[side].append(seconds_of((ours, rival)[side], index))
        advance(1)
    return Latency.from_seconds(samples[0]), Latency.from_seconds(samples[1])


class StepTimes:
    """The times that an open *runner* takes of its own steps, from now on, if it takes any."""

    def __init__(self, runner: Runner) -> None:
        self._times = runner.device_times or DeviceTimes()
        self._before = {f.name: len(getattr(self._times, f.name)) for f in fields(self._times)}

    def since(self) -> dict[str, Latency]:
        """Step -> its time in each batch since this object was made."""
        taken = {name: getattr(self._times, name)[n:] for name, n in self._before.items()}
        return DeviceTimes(**taken).latencies()
