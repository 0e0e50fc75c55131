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
from pathlib import Path
from typing import Any

from effd0.distributed.pool import Pool
from effd0.distributed.ray_cluster import started
from effd0.timing import peak_rss_mb
from tests.helpers.runners import coloured_coco, on_pool

LATENCY_S = 0.020
#: Memory is looked at so often in a run.
LOOKS = 20


def _rss_mb(pid: int | str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def run_pool(workers: int, images: int) -> dict[str, Any]:
    """Run so many *images* on so many *workers*; the rates leave the start-up out."""
    done, last, every = 0, 0.0, max(1, images // LOOKS)
    rss_mb: list[tuple[int, float, float]] = []

    def advance(worker: str, count: int) -> None:
        nonlocal done, last
        last = time.time()
        before, done = done, done + count
        if before // every < done // every:
            rss_mb.append((done, _rss_mb("self"), _rss_mb(worker.rpartition(" ")[2])))

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dataset = coloured_coco(place / "coco", images)
        plan = place / "plan"
        plan.mkdir()
        (plan / f"together-{workers}").touch()
        start = time.perf_counter()
        with started(Pool(workers, verbose="-v" in sys.argv), None) as ray:
            ray_start_s, cpu = time.perf_counter() - start, time.process_time()
            _, summary = on_pool(
                dataset,
                ray,
                plan,
                latency_s=LATENCY_S,
                advance=advance,
                batch_size=1,
                detects=True,
            )
            cpu = time.process_time() - cpu
        # All are here when the last one is; the clock is that of the whole machine.
        seconds = last - max(path.stat().st_mtime for path in plan.glob("here-*"))
    return {
        "workers": workers,
        "images": images,
        "seconds": seconds,
        "of_linear": images * LATENCY_S / workers / seconds,
        "images_per_second": images / seconds,
        "ray_start_s": ray_start_s,
        "workers_start_s": summary["start_s"],
        "rss_mb": rss_mb,
        "units": sum(share["units"] for share in summary["workers"]),
        "driver_cpu_s": cpu,
        "driver_peak_mb": peak_rss_mb(),
        "shares": [share["images"] for share in summary["workers"]],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_pool(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
