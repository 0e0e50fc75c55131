"""Image files to network input, one thread."""

from __future__ import annotations

from benchmarks.measuring import Measure
from effd0.data.coco import Dataset
from effd0.data.preprocess import preprocess
from effd0.results.environment import installed_version
from effd0.spec import ModelSpec


def bench_preprocess(measure: Measure, dataset: Dataset, spec: ModelSpec) -> None:
    """Decode, resize, letterbox and normalise."""
    samples = dataset.samples[:8]
    inputs = measure(
        lambda: [preprocess(sample.path, spec) for sample in samples],
        "file to input",
        images=len(samples),
        on=f"Pillow {installed_version('pillow')}",
    )
    assert [i.image_size for i in inputs] == [sample.size for sample in samples]
