"""A model: loading it, its input to its heads, files to detections, files to mAP."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.measuring import Measure
from effd0.benchmark.job import load_batches
from effd0.benchmark.measure import END_TO_END, NETWORK, Subject, open_subject
from effd0.data.coco import Dataset
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.summary import CocoMetrics, coco_metrics
from effd0.runners.base import batch_size_of, choose_batch_size
from effd0.spec import ModelSpec
from effd0.types import Tensors


def bench_inference(
    measure: Measure, subject: Subject, batch: int, dataset: Dataset, spec: ModelSpec
) -> None:
    """Runner x precision x batch on real images, copies to and from a device included."""
    fixed = batch_size_of(subject.runner.inputs)
    if fixed is not None and batch > fixed:
        pytest.skip(f"--model takes batches of {fixed}: give one that takes {batch}")
    (one, *_) = load_batches(dataset.samples[:batch], subject.runner, batch, spec)
    heads = measure(
        lambda: subject.runner.infer(one.feed), NETWORK, images=batch, on=subject, batch=batch
    )
    assert all(head.shape[0] == batch and np.isfinite(head).all() for head in heads.values())


def bench_load(measure: Measure, choice: ModelChoice, dataset: Dataset) -> None:
    """What a process pays before its first result: open, first inference, close, step by step."""
    with open_subject(choice) as subject:
        (one, *_) = load_batches(dataset.samples[:1], subject.runner, 1, choice.spec)
    seconds: dict[str, list[float]] = {"open": [], "first inference": [], "close": []}

    def load() -> Tensors:
        times = [time.perf_counter()]
        with choice.opened() as (runner, _):
            times.append(time.perf_counter())
            heads = runner.infer(one.feed)
            times.append(time.perf_counter())
        times.append(time.perf_counter())
        for step, taken in zip(seconds, np.diff(times), strict=True):
            seconds[step].append(float(taken))
        return heads

    heads = measure(load, "open, first inference, close", images=1, on=subject, steps=seconds)
    assert all(np.isfinite(head).all() for head in heads.values())


def bench_files_to_detections(
    measure: Measure, subject: Subject, dataset: Dataset, spec: ModelSpec
) -> None:
    """All images through the pipeline of `effd0 evaluate`, in the model's batch size or 1."""
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
    """The same, and COCO's twelve numbers of the detections."""
    batch = choose_batch_size(subject.runner, None)

    def run() -> CocoMetrics:
        found = run_dataset(dataset.samples, subject.runner, spec, batch_size=batch)
        return coco_metrics(dataset, {sample.image_id: d for sample, d in found}, spec)

    metrics = measure(run, "files to mAP", images=len(dataset.samples), on=subject, batch=batch)
    assert metrics.images == len(dataset.samples)
    assert metrics.ap is not None
    assert metrics.ap > 0
