"""
``python -m tests.pool_driver COCO PLAN OUT``: a run on two workers, as a process of its own.

It prints what the run directory has to say, then the faults, and pickles what was found into
*OUT*; *PLAN* is the folder that tells the workers what to do.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from effd0.data.coco import load_coco
from effd0.scale.pool import Pool
from effd0.scale.ray_start import cluster

from .pool_runs import on_pool

#: Seconds a batch: long enough for a run to be stopped in the middle.
LATENCY_S = 0.3
FOUND = "found.pickle"


def main(coco: str, plan: str, out: str) -> None:
    """Run it."""
    dataset = load_coco(Path(coco))
    with cluster(Pool(2), None) as ray:
        run = on_pool(dataset, ray, Path(plan), out=Path(out), latency_s=LATENCY_S, say=print)
    print(*run.summary.faults, sep="\n")
    Path(out, FOUND).write_bytes(pickle.dumps(run.what.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
