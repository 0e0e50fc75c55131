"""
An evaluation on two workers in a process of its own.

    python -m tests.unit.distributed.driver COCO PLAN OUT

It prints what the run directory has to say; *PLAN* is the folder that tells the workers what to do,
see `ToldRunner`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest import mock

from effd0.distributed import engine
from effd0.distributed.engine import RayEngine
from effd0.distributed.pool import Pool
from effd0.evaluation.evaluate import EvaluationJob, evaluate
from effd0.evaluation.model import ModelChoice
from tests.helpers import SMALL
from tests.helpers.runners import BATCH, ToldRunner, told_model

#: Seconds a batch: long enough for a run to be stopped in the middle.
LATENCY_S = 0.3


def main(coco: str, plan: str, out: str) -> None:
    """Run it."""
    folder = Path(plan)
    folder.mkdir(exist_ok=True)
    model = folder / "told.onnx"
    model.write_bytes(b"no model")
    told = partial(told_model, folder, LATENCY_S, ToldRunner)
    ray_engine = RayEngine(ModelChoice(model, spec=SMALL), Pool(2), BATCH)
    job = EvaluationJob(Path(coco), out=Path(out), resume=Path(out).exists())
    with mock.patch.object(engine, "open_on", lambda _r, _s, _o, *where: told(*where)):
        evaluate(job, ray_engine, say=print)


if __name__ == "__main__":
    main(*sys.argv[1:])
