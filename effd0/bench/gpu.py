"""What a GPU was to reach, the most that it could, and how far rows are from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .rows import Row

#: Throughput: batch after batch, whose pixels lie on the device already.
ON_DEVICE = "pixels on the device to detections"
#: Latency: from the host's pixels to the host's boxes.
FROM_HOST = "pixels on the host to detections"
#: Bytes of activations an image in 16 bits, counted from the graph's tensors: with every one that
#: an activation function or an addition makes fused into its convolution, and with none fused.
FUSED, UNFUSED = 184e6, 642e6


@dataclass(frozen=True)
class GpuTarget:
    """
    A bound for one row in fp16 on CUDA: images a second, or milliseconds where *latency*.

    *goal* is what was wanted, *least* what was wanted at least.
    """

    timed: str
    batch: int
    goal: float
    least: float | None = None
    latency: bool = False

    def line(self, rows: Sequence[Row]) -> str:
        """The target, and what the fastest of *rows* that it is for says of it."""
        unit, sign = ("ms", "<=") if self.latency else ("images/s", ">=")
        least = "" if self.least is None else f", at least {self.least:g}"
        wanted = f"target {sign} {self.goal:g} {unit} at batch {self.batch}{least}, {self.timed}"
        found = [self._value(row) for row in rows if self._is_for(row)]
        if not found:
            return f"{wanted}: not measured; run 'pytest benchmarks/bench_gpu.py' on a GPU"
        best = min(found) if self.latency else max(found)
        return f"{wanted}: {best:.4g} {unit}, {self._verdict(best)}"

    def _is_for(self, row: Row) -> bool:
        on_cuda = ", cuda" in row.fingerprint.backend
        mine = (row.timed, row.batch, row.precision) == (self.timed, self.batch, "fp16")
        return on_cuda and mine and row.rival is None

    def _value(self, row: Row) -> float:
        return row.samples.p50_ms if self.latency else row.images_per_second

    def _verdict(self, best: float) -> str:
        if best <= self.goal if self.latency else best >= self.goal:
            return "met"
        if self.least is not None and best >= self.least:
            return f"missed; at least {self.least:g} met"
        return "missed"


#: For one H200 and trained weights; 5,200 is twenty times the best that was published of a 310P3.
TARGETS = (
    GpuTarget(ON_DEVICE, 64, 10_000, 5_200),
    GpuTarget(FROM_HOST, 1, 1.6, latency=True),
)


def target_lines(rows: Sequence[Row]) -> list[str]:
    """Each target with what *rows* say of it; what no row measures is said not to be measured."""
    return [target.line(rows) for target in TARGETS]


def limit_line(row: Row, bytes_per_second: float) -> str:
    """How far *row* is from what memory allows, which moves *bytes_per_second* by measurement."""
    most, unfused = (bytes_per_second / size for size in (FUSED, UNFUSED))
    return (
        f"batch of {row.batch}, {row.precision}: {row.images_per_second:.0f} images/s is "
        f"{100 * row.images_per_second / most:.1f} % of the {most:.0f} that memory allows at "
        f"{bytes_per_second / 1e12:.2f} TB/s with every activation fused ({unfused:.0f} with none)"
    )
