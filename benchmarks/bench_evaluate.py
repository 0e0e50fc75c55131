"""Detections in arrays to COCO's twelve numbers, in the size of val2017."""

from __future__ import annotations

import pytest

from benchmarks.measuring import Measure
from benchmarks.synthetic import scored_set
from effd0.metrics.summary import coco_metrics
from effd0.results.environment import installed_version
from effd0.spec import ModelSpec


@pytest.fixture(scope="session")
def scored_images(quick: bool) -> int:
    """5000 as in val2017; fewer where time is short."""
    return 500 if quick else 5000


def bench_evaluate(measure: Measure, scored_images: int, spec: ModelSpec) -> None:
    """Every image has 100 detections and 7 objects."""
    dataset, found = scored_set(scored_images)
    metrics = measure(
        lambda: coco_metrics(dataset, found, spec),
        "detections to mAP",
        images=scored_images,
        on=f"numpy {installed_version('numpy')}",
    )
    assert metrics.detections == 100 * scored_images
    assert metrics.ap is not None
    # What was drawn lies mostly on its object: all but the strictest IoUs are met.
    assert 0.2 < metrics.ap < 0.9
