"""A row of a benchmark: what was timed, on what, how long each call took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ..errors import BenchmarkError
from ..results.environment import Fingerprint
from ..timing import Latency
from .ratio import Ratio, paired_ratio
from .targets import Target

#: What the published tables time: from the network's input to its heads.
NETWORK = "input to heads"
END_TO_END = "files to detections"
SINGLE_STREAM = "single-stream: input to detections"
OFFLINE = "offline: inputs to detections"


@dataclass(frozen=True)
class Rival:
    """Another way to do the same, timed in turn with ours, call by call."""

    name: str
    samples: Latency
    target: Target = field(default_factory=Target)


@dataclass(frozen=True)
class Row:
    """
    One thing that was timed.

    *timed* is what lies between the clock's start and its end; *images* how many real images a
    call had, padding left out; *runner* is empty for a library.  *apart* are parts of a call that
    the runner timed by itself.
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
    apart: Mapping[str, Latency] = field(default_factory=dict)
    rival: Rival | None = None
    notes: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Real images a second, from the median call."""
        return 1000 * self.images / self.samples.p50_ms

    @property
    def against_rival(self) -> Ratio | None:
        """Our time over the rival's, paired; None without a rival."""
        if self.rival is None:
            return None
        return paired_ratio(self.samples.samples_ms, self.rival.samples.samples_ms)

    def extra_info(self) -> dict[str, Any]:
        """All but name and samples, with the figures that a reader looks for, fit for JSON."""
        ratio = self.against_rival
        rival = None
        if self.rival is not None and ratio is not None:
            rival = {
                "name": self.rival.name,
                "samples_ms": list(self.rival.samples.samples_ms),
                "target": asdict(self.rival.target),
                "ours_over_rival": asdict(ratio),
                "verdict": self.rival.target.verdict(ratio),
            }
        return {
            "timed": self.timed,
            "images": self.images,
            "images_per_second": self.images_per_second,
            **_percentiles(self.samples),
            "batch": self.batch,
            "precision": self.precision,
            "dataset": self.dataset,
            "model_sha256": self.model_sha256,
            "runner": self.runner,
            "fingerprint": {**asdict(self.fingerprint), "key": self.fingerprint.key},
            "apart": {step: _percentiles(latency) for step, latency in self.apart.items()},
            "rival": rival,
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """The row as an entry of pytest-benchmark's JSON, so that one reader serves both."""
        return {"fullname": self.name, "extra_info": self.extra_info()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Read an entry of pytest-benchmark's JSON; raise `BenchmarkError` where it is not ours."""
        try:
            info = entry["extra_info"]
            return cls(
                name=entry["fullname"],
                timed=info["timed"],
                images=info["images"],
                samples=Latency(tuple(info["samples_ms"])),
                fingerprint=Fingerprint.from_json(info["fingerprint"]),
                batch=info["batch"],
                precision=info["precision"],
                dataset=info["dataset"],
                model_sha256=info["model_sha256"],
                runner=info.get("runner", ""),  # rows that were saved before have none
                apart={step: Latency(tuple(v["samples_ms"])) for step, v in info["apart"].items()},
                rival=_rival(info["rival"]),
                notes=tuple(info["notes"]),
            )
        except (KeyError, TypeError) as error:
            raise BenchmarkError(
                f"a benchmark lacks {error}, but effd0's figures were wanted; save a run of "
                "its benchmarks with --benchmark-json=FILE"
            ) from error


def _rival(content: Mapping[str, Any] | None) -> Rival | None:
    if content is None:
        return None
    samples = Latency(tuple(content["samples_ms"]))
    return Rival(content["name"], samples, Target.from_json(content["target"]))


def _percentiles(latency: Latency) -> dict[str, Any]:
    figures = {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms, "p99_ms": latency.p99_ms}
    return {**figures, "mean_ms": latency.mean_ms, "samples_ms": list(latency.samples_ms)}
