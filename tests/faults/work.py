"""All faults by stage, and one run of the suite on one of them, in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effd0.data.coco import load_coco
from effd0.errors import Effd0Error
from effd0.metrics.summary import coco_metrics
from effd0.results.check import STAGES

from . import checkpoint, dataset, detections, inputs, model, own, quantised, runner
from .clean import CLEAN
from .run import Fault, Good, Outcome, Planted, run_suite

_TABLES = (dataset, inputs, checkpoint, model, quantised, runner, own, detections)
#: Id -> fault, in the order of the stages.
FAULTS: dict[str, Fault] = {
    fault.id: fault
    for stage in STAGES
    for table in _TABLES
    for fault in table.FAULTS
    if fault.stage == stage
}


@contextmanager
def _room(good: Good, name: str) -> Iterator[Path]:
    """An empty folder beside what is good, for the time of the block."""
    folder = good.model.parent / name
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_fault(good: Good, name: str) -> tuple[Outcome, float | None]:
    """Plant the fault *name*; return what the suite said, and the points of mAP that it moves."""
    with _room(good, name) as folder:
        planted = FAULTS[name].plant(good, folder)
        outcome = run_suite(planted)
        if planted.found is None:
            return outcome, None
        images = good.dataset if planted.dataset is None else load_coco(planted.dataset)
        try:
            with planted.patched():
                ap = coco_metrics(images, planted.found(), good.spec).ap
        except Effd0Error:
            return outcome, None  # it does not get as far as a score
        before = good.points if planted.points is None else planted.points
        return outcome, (0 if ap is None else 100 * ap) - before


def run_clean(good: Good, name: str) -> Outcome:
    """Run the suite on the pipeline *name*, in which nothing is wrong."""
    with _room(good, name) as folder:
        return run_suite(Planted(tuple(CLEAN[name](good, folder))), first_only=False)
