"""What an inference run took: ais_bench's figures, and images a second as a user meets them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Performance:
    """
    One run after its warm-up, in milliseconds a batch and seconds in all.

    *rows* are the rows of each batch with its padding, *images* the real images, both once for
    each loop.  *compute_ms* is the device's own time if the runner measures it, else the wall
    time of ``infer``; the copies' times are empty where nobody measured them.  *infer_s* is wall
    time in ``infer``, copies included, of several *workers* that of the one that took longest;
    *total_s* adds files read and written.
    """

    images: int
    rows: tuple[int, ...]
    compute_ms: tuple[float, ...]
    h2d_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]
    infer_s: float
    total_s: float
    workers: int = 1

    @property
    def ais_bench_throughput(self) -> float:
        """Rows a second while the device computes: padded ones count, copies do not."""
        return 1000 * float(np.mean(self.rows)) / float(np.mean(self.compute_ms))

    @property
    def images_per_second(self) -> float:
        """Real images a second of ``infer``, copies to and from the device included."""
        return self.images / self.infer_s

    @property
    def images_per_second_with_files(self) -> float:
        """Real images a second, files read and written."""
        return self.images / self.total_s

    def lines(self) -> list[str]:
        """Both figures for the terminal, and why they differ."""
        batch, latency = float(np.mean(self.rows)), float(np.mean(self.compute_ms))
        formula = f"1000*batchsize.mean({batch:g})/NPU_compute_time.mean({latency:.4f})"
        files = self.images_per_second_with_files
        one = "" if self.workers == 1 else f" on one of {self.workers} workers"
        return [
            f"[INFO] throughput {formula}: {self.ais_bench_throughput:.4f}",
            f"images/s {self.images_per_second:.2f}, copies included; {files:.2f} with the files",
            f"the first, as ais_bench counts, is of computing alone{one}, and padding counts too",
        ]

    def ais_bench_summary(self) -> dict[str, Any]:
        """The figures under the keys of ais_bench's summary; null where nothing was measured."""
        return {
            "NPU_compute_time": _statistics(self.compute_ms),
            "H2D_latency": _statistics(self.h2d_ms),
            "D2H_latency": _statistics(self.d2h_ms),
            "npu_compute_time_list": list(self.compute_ms),
            "throughput": self.ais_bench_throughput,
        }


def together(
    parts: Sequence[tuple[Hashable, Performance]], seconds: float, workers: int
) -> Performance:
    """*parts* of one run, each with the worker that did it; it took so many *seconds* in all."""
    infer_s: dict[Hashable, float] = defaultdict(float)
    for worker, part in parts:
        infer_s[worker] += part.infer_s

    def every(of: Callable[[Performance], Sequence[Number]]) -> tuple[Number, ...]:
        return tuple(itertools.chain.from_iterable(of(part) for _, part in parts))

    return Performance(
        images=sum(part.images for _, part in parts),
        rows=every(lambda part: part.rows),
        compute_ms=every(lambda part: part.compute_ms),
        h2d_ms=every(lambda part: part.h2d_ms),
        d2h_ms=every(lambda part: part.d2h_ms),
        infer_s=max(infer_s.values()),
        total_s=seconds,
        workers=workers,
    )


def _statistics(samples_ms: Sequence[float]) -> dict[str, float | int | None]:
    if not samples_ms:
        keys = ("min", "max", "mean", "median", "percentile(99%)")
        return {**dict.fromkeys(keys), "count": 0}
    return {
        "min": float(np.min(samples_ms)),
        "max": float(np.max(samples_ms)),
        "mean": float(np.mean(samples_ms)),
        "median": float(np.median(samples_ms)),
        "percentile(99%)": float(np.percentile(samples_ms, 99)),
        "count": len(samples_ms),
    }
