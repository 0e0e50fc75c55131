"""Annotations and detections of COCO's shape, drawn at random: as many images as wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effd0.categories import NAMES
from effd0.dataset import Dataset, Sample
from effd0.postprocess import Detections

#: COCO val2017 has 36,781 boxes in 5,000 images.
OBJECTS, DETECTIONS = 7, 100
_SIDE = 500.0


def scored_set(images: int, seed: int = 0) -> tuple[Dataset, dict[int, Detections]]:
    """Draw a dataset and 100 detections an image: the objects, a little off, and inventions."""
    rng = np.random.default_rng(seed)
    categories = np.array(sorted(NAMES))
    annotations: list[dict[str, Any]] = []
    found = {}
    for image_id in range(1, images + 1):
        boxes, classes = _boxes(rng, OBJECTS), rng.choice(categories, OBJECTS)
        for box, category in zip(boxes.tolist(), classes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        found[image_id] = _found(rng, boxes, classes, categories)
    samples = tuple(Sample(n, Path(f"{n}.jpg"), (640, 640)) for n in range(1, images + 1))
    return Dataset(Path("drawn"), samples, tuple(annotations), NAMES, images, ()), found


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Corners x1, y1, x2, y2 of boxes, small ones the most."""
    corners = rng.uniform(0, _SIDE, (count, 2))
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.concatenate([corners, corners + sides], 1)


def _found(
    rng: np.random.Generator, boxes: np.ndarray, classes: np.ndarray, categories: np.ndarray
) -> Detections:
    """The objects found some percent off, the rest of `DETECTIONS` invented, by falling score."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    near = boxes + rng.normal(0, 0.05, boxes.shape) * sides
    extra = DETECTIONS - len(boxes)
    scores = np.concatenate([rng.uniform(0.2, 1, len(boxes)), rng.beta(1, 8, extra) + 0.001])
    order = np.argsort(-scores, kind="stable")
    corners = np.concatenate([near, _boxes(rng, extra)])[order]
    labels = np.concatenate([classes, rng.choice(categories, extra)])[order]
    return Detections(
        corners.astype(np.float32), scores[order].astype(np.float32), labels.astype(np.int64)
    )
