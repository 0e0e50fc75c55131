"""
A pool of workers whose devices take 20 ms an image: what the pool itself costs, in time and memory.

``python -m benchmarks.workers WORKERS IMAGES`` runs one pool in a process of its own and prints one
JSON object.  The devices give detections by themselves, so that two cores can feed eight.  Workers
wait for each other before they begin, so that start-up is told apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effd0.scale.pool import Pool
from effd0.scale.ray_start import cluster
from effd0.timing import peak_rss_mb
from tests.pool_runs import coloured_coco, on_pool

LATENCY_S = 0.020
#: Memory is looked at so often in a run.
LOOKS = 20


@dataclass
class Watch:
    """Looks at the memory of driver and workers as units come back; *every* so many images."""

    every: int
    done: int = 0
    last: float = 0.0
    rss_mb: list[tuple[int, float, float]] = field(default_factory=list)

    def advance(self, worker: str, count: int) -> None:
        """Count a unit; look at memory if it is time."""
        self.last = time.time()
        before, self.done = self.done, self.done + count
        if before // self.every < self.done // self.every:
            pid = int(worker.rpartition(" ")[2])
            self.rss_mb.append((self.done, _rss_mb("self"), _rss_mb(pid)))


def _rss_mb(pid: int | str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def run_pool(workers: int, images: int) -> dict[str, Any]:
    """Run so many *images* on so many *workers*, with detections going to shards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dataset = coloured_coco(place / "coco", images)
        plan = place / "plan"
        plan.mkdir()
        (plan / f"together-{workers}").touch()
        watch = Watch(max(1, images // LOOKS))
        start = time.perf_counter()
        with cluster(Pool(workers, verbose="-v" in sys.argv), None) as ray:
            started, cpu = time.perf_counter(), time.process_time()
            run = on_pool(
                dataset,
                ray,
                plan,
                out=place / "out",
                latency_s=LATENCY_S,
                advance=watch.advance,
                collect=False,
                batch_size=1,
                detects=True,
            )
            cpu = time.process_time() - cpu
        # All are here when the last one is; the clock is that of the whole machine.
        begun = max(path.stat().st_mtime for path in plan.glob("here-*"))
        seconds = watch.last - begun
    ideal = images * LATENCY_S / workers
    return {
        "workers": workers,
        "images": images,
        "seconds": seconds,
        "of_linear": ideal / seconds,
        "images_per_second": images / seconds,
        "ray_start_s": started - start,
        "workers_start_s": run.summary.start_s,
        "rss_mb": watch.rss_mb,
        "units": sum(share.units for share in run.summary.workers),
        "driver_cpu_s": cpu,
        "driver_peak_mb": peak_rss_mb(),
        "shares": [share.images for share in run.summary.workers],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_pool(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
