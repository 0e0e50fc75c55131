"""A pool of workers against one worker: what is lost between devices that take a fixed time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.measuring import Budget, Measure
from benchmarks.workers import LATENCY_S
from effd0.bench.rows import Row
from effd0.results.environment import installed_version
from effd0.timing import Latency

#: Images a worker: some eight seconds of work.
IMAGES = 400
WANTED = 0.9


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4, 8], ids="workers={}".format)
def bench_scale_workers(benchmark: Any, workers: int) -> None:
    """As many images for each worker, whatever their number; start-up is told apart."""
    measure = Measure(benchmark, "drawn pictures", Budget(0, 1))
    found = measure(
        lambda: _pool(workers, workers * IMAGES),
        "files to detections, on devices of a fixed time",
        images=workers * IMAGES,
        on=f"Ray {installed_version('ray')}",
    )
    note = (
        f"scale: {workers} workers with devices of {1000 * LATENCY_S:.0f} ms an image give "
        f"{found['images_per_second']:.1f} images/s, {found['of_linear']:.3f} of linear (target "
        f"{WANTED}); Ray started in {found['ray_start_s']:.1f} s, the workers in "
        f"{found['workers_start_s']:.1f} s; the driver took "
        f"{1000 * found['driver_cpu_s'] / found['units']:.1f} ms of a core a unit"
    )
    if info := benchmark.extra_info:
        # What is timed is the work of the pool, not its start.
        row = Row.from_json({"fullname": benchmark.fullname, "extra_info": info})
        work = Latency.from_seconds([found["seconds"]])
        info.update(replace(row, samples=work, notes=(note,)).extra_info())
    assert sum(found["shares"]) == workers * IMAGES
    assert len(found["shares"]) == workers


def _pool(workers: int, images: int) -> Any:
    """What `benchmarks.workers` says of such a pool."""
    command = [sys.executable, "-m", "benchmarks.workers", str(workers), str(images)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
