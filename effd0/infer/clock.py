"""What each batch takes, told apart from reading its files and writing its results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..arrays import Tensors
from ..errors import RunnerError
from ..runners.base import Runner, TimedRunner, batch_size_of, infer_each
from .throughput import Performance

Times = tuple[list[float], list[float], list[float]]


class Clock:
    """Times an open *runner* from now on; *reading* is what its feeds have waited for, seconds."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.reading, self._images = runner, 0.0, 0
        self._infer: list[float] = []
        self._rows: list[int] = []
        # What the device has timed so far is the warm-up.
        self._warm = [len(times) for times in self._device_times()]
        self._start = time.perf_counter()

    def timed(
        self, feeds: Iterable[Tensors], batches: Iterable[Sequence[Path]], loop: int
    ) -> Iterator[tuple[Sequence[Path], Tensors]]:
        """Run *feeds*, *loop* for each of *batches*; yield each batch and its last outputs."""
        fixed = batch_size_of(self.runner.inputs)
        with contextlib.closing(infer_each(self.runner, feeds)) as stream:
            for batch in batches:
                outputs: Tensors = {}
                for _ in range(loop):
                    start, reading = time.perf_counter(), self.reading
                    outputs = next(stream)
                    waited = self.reading - reading
                    self._infer.append(time.perf_counter() - start - waited)
                    self._rows.append(len(batch) if fixed is None else fixed)
                    self._images += len(batch)
                rows = {name: tensor.shape[0] for name, tensor in outputs.items()}
                if set(rows.values()) != {len(batch)}:
                    raise RunnerError(f"the model gave {rows} rows, but {len(batch)} were fed")
                yield batch, outputs
            next(stream, None)  # lets a streaming runner end

    def performance(self) -> Performance:
        """All that was timed; the device's own times where the runner has them."""
        times = zip(self._device_times(), self._warm, strict=True)
        h2d, compute, d2h = (tuple(each[warm:]) for each, warm in times)
        if not isinstance(self.runner, TimedRunner):
            compute = tuple(1000 * seconds for seconds in self._infer)
        # A streaming runner computes while files are written, too.
        seconds = max(sum(self._infer), sum(compute) / 1000)
        return Performance(
            images=self._images,
            rows=tuple(self._rows),
            compute_ms=compute,
            h2d_ms=h2d,
            d2h_ms=d2h,
            infer_s=seconds,
            total_s=time.perf_counter() - self._start,
        )

    def _device_times(self) -> Times:
        if not isinstance(self.runner, TimedRunner):
            return ([], [], [])
        times = self.runner.device_times
        return (times.h2d_ms, times.compute_ms, times.d2h_ms)
