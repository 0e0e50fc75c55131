"""Heads of trained weights on real images to detections, one thread."""

from __future__ import annotations

from benchmarks.measuring import Measure
from benchmarks.seen import Seen
from effd0.detection.postprocess import postprocess
from effd0.results.environment import installed_version
from effd0.spec import ModelSpec


def bench_postprocess(measure: Measure, seen: tuple[Seen, ...], spec: ModelSpec) -> None:
    """Top-k, decode, clip and NMS, each image with its own size."""
    found = measure(
        lambda: [postprocess(one.heads, one.scale, one.size, spec) for one in seen],
        "heads to detections",
        images=len(seen),
        on=f"numpy {installed_version('numpy')}",
    )
    assert all(0 < len(detections) <= spec.max_detections for detections in found)
