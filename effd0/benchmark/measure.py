"""A row of a benchmark: what was timed, on what, and how long each call took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from ..errors import BenchmarkError
from ..evaluation.model import ModelChoice
from ..graph.onnx_info import load_graph, precision_of
from ..io import model_sha256, sha256
from ..results.compare import Ratio, paired_ratio
from ..results.environment import chip_kind, fingerprint
from ..results.run import TimedRival, TimedRow
from ..runners.base import Runner
from ..runners.registry import open_runner
from ..timing import Latency

#: What the published tables time: from the network's input to its heads.
NETWORK = "input to heads"
END_TO_END = "files to detections"
SINGLE_STREAM = "single-stream: input to detections"
OFFLINE = "offline: inputs to detections"

#: Does the n-th piece of work; its result is on the host when it returns.
Call = Callable[[int], Any]


class _Metrics(TypedDict):
    AP: float | None


class AccuracyReport(msgspec.Struct):
    """What ``effd0 evaluate --json`` wrote of a model file: AP as a fraction, None if undefined."""

    model_sha256: str
    metrics: _Metrics
    images: int
    images_total: int
    settings: dict[str, Any] = {}


def read_accuracy(path: Path, *models: str, weights: bool = False) -> AccuracyReport:
    """
    Read the report of one of *models*, SHA-256, or, with *weights*, of what was exported of one.

    Raises `BenchmarkError` for another file.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=AccuracyReport)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchmarkError(
            f"{path} is not an accuracy report ({type(error).__name__}: {error}), but one was "
            "wanted; write it with 'effd0 evaluate --json FILE'"
        ) from error
    checkpoint = report.settings.get("checkpoint_sha256") if weights else None
    if not {report.model_sha256, checkpoint} & {*models}:
        raise BenchmarkError(
            f"the accuracy report is of model {report.model_sha256[:12]}, but "
            f"{', '.join(one[:12] for one in models)} is timed; evaluate the same file: "
            "'effd0 evaluate --model FILE --json FILE'"
        )
    return report


@dataclass(frozen=True)
class Subject:
    """An open model; *about* are the fields of its `TimedRow` that do not depend on the calls."""

    runner: Runner
    about: dict[str, Any]

    def with_accuracy(self, report: AccuracyReport | None) -> Subject:
        """This model with the mAP of *report*, if that is of the same file."""
        if report is None or report.model_sha256 != self.about["model_sha256"]:
            return self
        ap = report.metrics["AP"]
        notes = ["mAP is undefined"] if ap is None else []
        if report.images < report.images_total:
            notes.append(f"mAP is of the first {report.images} of {report.images_total} images")
        return Subject(self.runner, {**self.about, "map": ap, "notes": notes})


@contextlib.contextmanager
def open_subject(choice: ModelChoice, accuracy_report: Path | None = None) -> Iterator[Subject]:
    """Open the model of *choice* for timing, with the mAP of a report that is of its file."""
    name, options = choice.checked_runner(), choice.options
    if accuracy_report is not None and (given := choice.weights()) is not None:
        # An export takes long, and only after it the model's own hash is known.
        read_accuracy(accuracy_report, sha256(given), weights=True)
    with choice.file() as path:
        digest = model_sha256(path)
        report = None if accuracy_report is None else read_accuracy(accuracy_report, digest)
        with open_runner(name, path, choice.spec, options) as runner:
            threads = "" if options.threads is None else f", {options.threads} threads"
            # A compiled model's file does not say, and torch computes in what it is asked for.
            known = {"torch": options.precision, "acl": "as compiled"}
            about = {
                "runner": name,
                "precision": known[name] if name in known else precision_of(load_graph(path)),
                "model_sha256": digest,
                "fingerprint": fingerprint(runner.description + threads, chip_kind(name, options)),
            }
            yield Subject(runner, about).with_accuracy(report)


def timed_row(
    name: str, timed: str, images: int, samples: Latency, on: Subject | str, **more: Any
) -> TimedRow:
    """
    The row of calls of *images* images each, padding left out, on a model or a library.

    *more* are other fields of the row; its dataset is one of them.
    """
    about: dict[str, Any] = {"runner": "", "precision": "", "model_sha256": None, "batch": None}
    about |= {"fingerprint": fingerprint(on)} if isinstance(on, str) else on.about
    about |= {name: getattr(samples, name) for name in ("p50_ms", "p90_ms", "p99_ms")}
    return TimedRow(
        name=name,
        timed=timed,
        images=images,
        images_per_second=1000 * images / samples.p50_ms,
        samples_ms=list(samples.samples_ms),
        **{**about, **more, "notes": [*about.get("notes", []), *more.get("notes", [])]},
    )


def rivals_of(rows: Sequence[TimedRow]) -> list[tuple[TimedRow, TimedRival, Ratio]]:
    """Each of *rows* that has a rival, the rival, and the time of the row over the rival's."""
    pairs = [(row, row.rival) for row in rows if row.rival is not None]
    return [(row, one, paired_ratio(row.samples_ms, one.samples_ms)) for row, one in pairs]


def rows_of(config: Any) -> list[TimedRow]:
    """The rows of the pytest session of *config*; a failed benchmark leaves none."""
    session = getattr(config, "_benchmarksession", None)
    return [
        msgspec.convert(one.extra_info, TimedRow)
        for one in ([] if session is None else session.benchmarks)
        if not one.has_error and "samples_ms" in one.extra_info
    ]


def seconds_of(call: Call, index: int = 0) -> float:
    """The duration of one *call*, in seconds."""
    start = time.perf_counter()
    call(index)
    return time.perf_counter() - start


def time_in_turn(
    calls: Sequence[Call], loop: int, advance: Callable[[int], None] = lambda _: None
) -> list[Latency]:
    """
    Time *loop* rounds of *calls*, each once a round; return the latency of each.

    Their order is reversed every second round, so that none gains by coming first.  *advance*
    counts rounds.
    """
    samples: list[list[float]] = [[] for _ in calls]
    for index in range(loop):
        for side in range(len(calls))[:: 1 if index % 2 == 0 else -1]:
            samples[side].append(seconds_of(calls[side], index))
        advance(1)
    return [Latency.from_seconds(one) for one in samples]


def step_times(
    runner: Runner, before: Mapping[str, Sequence[float]] | None = None
) -> dict[str, list[float]]:
    """Step -> its time in ms in each batch of *runner* after those *before*, if it takes any."""
    if runner.device_times is None:
        return {}
    skipped = {step: len(times) for step, times in (before or {}).items()}
    steps = runner.device_times.latencies().items()
    later = {step: list(one.samples_ms[skipped.get(step, 0) :]) for step, one in steps}
    return {step: times for step, times in later.items() if times}
