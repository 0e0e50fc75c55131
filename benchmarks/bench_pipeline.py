"""Image files to detections, and to the mAP: stages overlap as in `effd0 evaluate`."""

from __future__ import annotations

from benchmarks.measuring import Measure
from effd0.bench.rows import END_TO_END
from effd0.bench.subject import Subject
from effd0.data.coco import Dataset
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.summary import CocoMetrics, coco_metrics
from effd0.runners.base import choose_batch_size
from effd0.spec import ModelSpec


def bench_files_to_detections(
    measure: Measure, subject: Subject, dataset: Dataset, spec: ModelSpec
) -> None:
    """All images through the run line, in batches of the model's size or one by one."""
    batch = choose_batch_size(subject.runner, None)
    found = measure(
        lambda: list(run_dataset(dataset.samples, subject.runner, spec, batch_size=batch)),
        END_TO_END,
        images=len(dataset.samples),
        on=subject,
        batch=batch,
    )
    assert [sample.image_id for sample, _ in found] == dataset.image_ids
    assert any(len(detections) for _, detections in found)


def bench_files_to_map(
    measure: Measure, subject: Subject, dataset: Dataset, spec: ModelSpec
) -> None:
    """The same, and COCO's twelve numbers of what was found."""
    batch = choose_batch_size(subject.runner, None)

    def run() -> CocoMetrics:
        found = run_dataset(dataset.samples, subject.runner, spec, batch_size=batch)
        return coco_metrics(dataset, {sample.image_id: d for sample, d in found}, spec)

    metrics = measure(run, "files to mAP", images=len(dataset.samples), on=subject, batch=batch)
    assert metrics.images == len(dataset.samples)
    assert metrics.ap is not None
    assert metrics.ap > 0
