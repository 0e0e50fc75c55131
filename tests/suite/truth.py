"""Truths given as detections, and detections made of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections

Found = dict[int, Detections]


def truth_of(dataset: Dataset, image_id: int) -> list[dict[str, Any]]:
    """Return the annotations of an image that are not crowd."""
    return [
        annotation
        for annotation in dataset.annotations
        if annotation["image_id"] == image_id and not annotation.get("iscrowd")
    ]


def made(rows: npt.ArrayLike) -> Detections:
    """Return detections from rows x1, y1, x2, y2, score, category, put by falling score."""
    table = np.asarray(rows, np.float32).reshape(-1, 6)
    table = table[np.argsort(-table[:, 4], kind="stable")]
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


NOTHING = made([])


def perfect(dataset: Dataset) -> Found:
    """Return every annotation as a detection of score 1."""
    found = {}
    for image_id in dataset.image_ids:
        truth = truth_of(dataset, image_id)
        boxes = [(a["bbox"], a["category_id"]) for a in truth]
        found[image_id] = made([(x, y, x + w, y + h, 1, c) for (x, y, w, h), c in boxes])
    return found
