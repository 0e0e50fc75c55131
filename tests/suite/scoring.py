"""COCO's own scoring, which confirms that of effd0."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.metrics import coco
from effd0.metrics.summary import CocoMetrics, metrics_of
from effd0.spec import ModelSpec


def pycocotools_metrics(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> CocoMetrics:
    """
    What `coco_metrics` gives, computed by pycocotools: a reference to confirm it with.

    Takes about 100 times as long.  Raises as `coco_metrics` does.
    """
    coco.check_complete(dataset, detections)
    results = coco.to_coco_results(detections, spec)
    truth, found = COCO(), COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": id_} for id_ in dataset.image_ids],
        "annotations": [
            # What COCO files may leave out.
            {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3]} | annotation
            for annotation in dataset.annotations
        ],
        "categories": [{"id": id_, "name": name} for id_, name in dataset.categories.items()],
    }
    found.dataset = truth.dataset | {"annotations": []}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        if len(results):  # loadRes does not take an empty list.
            found = truth.loadRes([*coco.entries_of(results)])
        scored: Any = COCOeval(truth, found, "bbox")
        scored.params.imgIds = dataset.image_ids
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    means = [None if value == -1 else float(value) for value in scored.stats]
    return metrics_of(dataset, means, scored.eval["precision"][..., 0, -1], len(results))
