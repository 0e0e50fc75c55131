"""The stages around the network, one by one: file to input, heads to detections, to mAP."""

from __future__ import annotations

from benchmarks.measuring import Measure
from benchmarks.synthetic import scored_set
from effd0.data.coco import Dataset
from effd0.data.preprocess import ModelInput, preprocess
from effd0.detection.heads import HeadOutputs
from effd0.detection.postprocess import postprocess
from effd0.metrics.summary import coco_metrics
from effd0.results.environment import installed_version
from effd0.spec import ModelSpec


def bench_preprocess(measure: Measure, dataset: Dataset, spec: ModelSpec) -> None:
    """Decode, resize, letterbox and normalise, one thread."""
    samples = dataset.samples[:8]
    inputs = measure(
        lambda: [preprocess(sample.path, spec) for sample in samples],
        "file to input",
        images=len(samples),
        on=f"Pillow {installed_version('pillow')}",
    )
    assert [i.image_size for i in inputs] == [sample.size for sample in samples]


def bench_postprocess(
    measure: Measure, seen: list[tuple[HeadOutputs, ModelInput]], spec: ModelSpec
) -> None:
    """Top-k, decode, clip and NMS of trained heads, each image with its own size, one thread."""
    found = measure(
        lambda: [postprocess(heads, i.image_scale, i.image_size, spec) for heads, i in seen],
        "heads to detections",
        images=len(seen),
        on=f"numba {installed_version('numba')}",
    )
    assert all(0 < len(detections) <= spec.max_detections for detections in found)


def bench_evaluate(measure: Measure, quick: bool, spec: ModelSpec) -> None:
    """COCO's twelve numbers in the size of val2017: 100 detections and 7 objects per image."""
    images = 500 if quick else 5000
    dataset, found = scored_set(images)
    metrics = measure(
        lambda: coco_metrics(dataset, found, spec),
        "detections to mAP",
        images=images,
        on=f"numba {installed_version('numba')}",
    )
    assert metrics.detections == 100 * images
    assert metrics.ap is not None
    # Drawn detections lie mostly on their objects: all but the strictest IoUs are met.
    assert 0.2 < metrics.ap < 0.9
