"""A pool of workers against one worker: what is lost between devices that take a fixed time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.measuring import Measure
from benchmarks.workers import LATENCY_S
from effd0.results.environment import installed_version

#: Images per worker: some eight seconds of work.
IMAGES = 400


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4, 8], ids="workers={}".format)
def bench_scale_workers(measure: Measure, workers: int) -> None:
    """As many images for each worker, whatever their number; start-up is a step of its own."""
    images = workers * IMAGES
    command = [sys.executable, "-m", "benchmarks.workers", str(workers), str(images)]
    steps: dict[str, list[float]] = {"start Ray": [], "start workers": [], "work": []}

    def pool() -> Any:
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        for step, key in zip(steps, ("ray_start_s", "workers_start_s", "seconds"), strict=True):
            steps[step].append(found[key])
        return found

    found = measure(
        pool,
        "files to detections, on devices of a fixed time",
        images=images,
        on=f"Ray {installed_version('ray')}",
        rounds=1,
        steps=steps,
        note=lambda one: (
            f"scale: {workers} workers with devices of {1000 * LATENCY_S:.0f} ms per image give "
            f"{one['images_per_second']:.1f} images/s, {one['of_linear']:.3f} of linear; the "
            f"driver took {1000 * one['driver_cpu_s'] / one['units']:.1f} ms of a core per unit"
        ),
    )
    assert sum(found["shares"]) == images
    assert len(found["shares"]) == workers
