"""Annotations and detections of COCO's shape, drawn at random: as many images as wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from effd0.data.coco import NAMES, Dataset, Sample
from effd0.detection.postprocess import Detections

#: COCO val2017 has 36,781 boxes in 5,000 images.
OBJECTS, DETECTIONS = 7, 100
_SIDE = 500.0


Annotations = list[dict[str, Any]]


def scored_set(images: int, seed: int = 0) -> tuple[Dataset, dict[int, Detections]]:
    """Draw a dataset and 100 detections an image: the objects, a little off, and inventions."""
    drawn = {id_: (own, found) for id_, own, found in drawn_images(images, seed)}
    dataset = dataset_of({id_: own for id_, (own, _) in drawn.items()})
    return dataset, {id_: found for id_, (_, found) in drawn.items()}


def dataset_of(annotations: Mapping[int, Annotations]) -> Dataset:
    """Images of these ids, and their annotations."""
    samples = tuple(Sample(n, Path(f"{n}.jpg"), (640, 640)) for n in annotations)
    every = tuple(itertools.chain.from_iterable(annotations.values()))
    return Dataset(Path("drawn"), samples, every, NAMES, len(samples), ())


def drawn_images(images: int, seed: int = 0) -> Iterator[tuple[int, Annotations, Detections]]:
    """Draw the id, the annotations and the detections of one image after another."""
    rng = np.random.default_rng(seed)
    categories = np.array(sorted(NAMES))
    for image_id in range(1, images + 1):
        boxes, classes = _boxes(rng, OBJECTS), rng.choice(categories, OBJECTS)
        first = OBJECTS * (image_id - 1) + 1
        annotations = [
            {
                "id": id_,
                "image_id": image_id,
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(rng.random() < 0.01),
            }
            for id_, (x1, y1, x2, y2), category in zip(
                itertools.count(first), boxes.tolist(), classes.tolist(), strict=False
            )
        ]
        yield image_id, annotations, _found(rng, boxes, classes, categories)


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
