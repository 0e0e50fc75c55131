"""What was run, on what, with what result: the record of an evaluation, and its verdict."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .io import written_whole
from .metrics.bootstrap import MIN_IMAGES, PairedDrop, ReferenceComparison
from .metrics.summary import CocoMetrics
from .timing import Latency
from .tolerances import AP_ARITHMETIC

#: Raised by one when a reader of the JSON would have to change.
SCHEMA = 1
PACKAGES = (
    "effd0", "numpy", "pillow", "pycocotools", "torch", "torchvision", "timm",
    "effdet", "onnx", "onnxruntime", "onnxsim", "onnxscript", "openvino",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """
    What an evaluation says of a model.

    *status* is ``pass``, ``fail``, ``undecided`` (a gate was asked for, but the images that were
    run cannot decide it) or ``not gated`` (none was asked for).
    """

    status: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether nothing that was asked for is missing."""
        return self.status in ("pass", "not gated")


def judge(
    metrics: CocoMetrics,
    total: int,
    min_map: float | None,
    against: ReferenceComparison | None = None,
    reachable: float | None = None,
) -> Verdict:
    """
    Hold AP against *min_map*, in percent, and *against* its reference, where these are given.

    What fails either fails, and what is undecided in either is not passed.  A limited run (fewer
    than *total* images) never passes; it fails where it loses too much against the reference, and
    where *reachable*, the most that AP of all images can still be, is below the floor.
    """
    absolute = _judge_floor(metrics, total, min_map, reachable)
    if against is None:
        return absolute
    paired = judge_drop(against.drop, against.max_drop, limited=metrics.images < total)
    # What decides is said first.
    first, second = sorted((absolute, paired), key=lambda verdict: GRAVITY.index(verdict.status))
    return Verdict(first.status, f"{first.reason}; {second.reason}")


#: Of several verdicts the gravest stands.
GRAVITY = ("fail", "undecided", "pass", "not gated")


def judge_drop(drop: PairedDrop, max_drop: float, *, limited: bool) -> Verdict:
    """
    Hold the whole interval of *drop* against *max_drop*, in points.

    A *limited* run, of not all images, can fail, but never pass.
    """
    status, allowed = drop.status(max_drop), f"{max_drop:.2f} points"
    if status == "fail":
        return Verdict("fail", f"{drop}, but at most {allowed} were allowed")
    if limited:
        return Verdict(
            "undecided", f"{drop}, but {allowed} are for all images; run without --image-limit"
        )
    if status == "pass":
        return Verdict("pass", f"{drop}, at most {allowed} were allowed")
    why = (
        f"fewer than {MIN_IMAGES} images decide nothing"
        if drop.images < MIN_IMAGES
        else f"the {allowed} allowed lie within the interval"
    )
    return Verdict("undecided", f"{drop}, but {why}; run on more images")


def _judge_floor(
    metrics: CocoMetrics, total: int, min_map: float | None, reachable: float | None
) -> Verdict:
    limited = metrics.images < total
    part = f"on the first {metrics.images} of {total} images by id" if limited else ""
    if metrics.ap is None:
        return Verdict("fail", f"mAP is {metrics.undefined['AP']}")
    figure = f"mAP is {100 * metrics.ap:.2f} %"
    if min_map is None:
        reason = f"{figure} {part}".rstrip()
        return Verdict("not gated", f"{reason}; no floor was given (--min-map)")
    if limited and reachable is not None and 100 * reachable < min_map - AP_ARITHMETIC.limit:
        return Verdict(
            "fail",
            f"{figure} {part} and cannot reach {min_map:.2f} %: "
            f"if all others were perfect, it would be {100 * reachable:.2f} %",
        )
    if limited:
        return Verdict(
            "undecided",
            f"{figure} {part}, but the floor of {min_map:.2f} % is for all of them; "
            "run without --image-limit",
        )
    # A floor is met by what rounds to it nowhere: the full figure is compared.
    if 100 * metrics.ap >= min_map:
        return Verdict("pass", f"{figure}, at least {min_map:.2f} % was wanted")
    return Verdict("fail", f"{figure}, but at least {min_map:.2f} % was wanted")


@dataclass(frozen=True)
class Evaluation:
    """
    One evaluation, complete enough to be repeated.

    *floor* is the part of the verdict that *against* has no say in; None where nobody asked.
    *insight* is what pictures of it need, where that was asked for; `to_json` leaves it out.
    """

    metrics: CocoMetrics
    verdict: Verdict
    total_images: int
    images_per_second: float
    stages: Mapping[str, Latency]
    peak_rss_mb: float
    runner: str
    model_sha256: str
    settings: Mapping[str, Any]
    against: ReferenceComparison | None = None
    floor: Verdict | None = None
    insight: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain values; metrics are fractions, None is undefined."""
        return {
            "schema": SCHEMA,
            "verdict": asdict(self.verdict),
            "metrics": self.metrics.values,
            "undefined": self.metrics.undefined,
            "per_class": self.metrics.per_class,
            "images": self.metrics.images,
            "images_total": self.total_images,
            "detections": self.metrics.detections,
            "images_per_second": self.images_per_second,
            "stages_ms": {name: _stage(latency) for name, latency in self.stages.items()},
            "peak_rss_mb": self.peak_rss_mb,
            "runner": self.runner,
            "model_sha256": self.model_sha256,
            "settings": dict(self.settings),
            "against": None if self.against is None else self.against.to_json(),
            "environment": environment(),
        }


def _stage(latency: Latency) -> dict[str, float]:
    return {
        "mean": latency.mean_ms,
        "p50": latency.p50_ms,
        "p90": latency.p90_ms,
        "p99": latency.p99_ms,
        "count": len(latency.samples_ms),
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write *content* as JSON, whole or not at all; raise `OutputError` if it cannot be."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def environment() -> dict[str, Any]:
    """The machine and the versions of everything that takes part in a result."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(package: str) -> str | None:
    """The installed version of *package*, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
