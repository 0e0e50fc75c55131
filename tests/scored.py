"""Detections made from ground truth, for tests of the score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effd0.data.coco import Dataset, Sample
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


def jittered(dataset: Dataset, seed: int) -> Found:
    """Return what a middling detector finds: shifted, doubled, mistaken, missed, invented."""
    rng = np.random.default_rng(seed)
    categories = list(dataset.categories)
    found = {}
    for image_id in dataset.image_ids:
        # Crowds are looked at too: what lies in them is neither right nor wrong.
        truth = [a for a in dataset.annotations if a["image_id"] == image_id]
        rows = []
        for annotation in truth:
            for _ in range(rng.integers(0, 3)):
                x, y, width, height = annotation["bbox"]
                shift = rng.normal(0, 0.07, 4) * (width, height, width, height)
                category = (
                    annotation["category_id"] if rng.random() < 0.8 else rng.choice(categories)
                )
                corners = np.array((x, y, x + width, y + height)) + shift
                rows.append((*corners, rng.random(), category))
        for _ in range(5):
            corner, size = rng.uniform(0, 200, 2), rng.uniform(4, 200, 2)
            rows.append((*corner, *(corner + size), rng.random(), rng.choice(categories)))
        found[image_id] = made(rows)
    return found


def drawn_scenes(seed: int, images: int, *, crowds: bool = True) -> Dataset:
    """Return annotations of *images* images that are nowhere on disk: 4 classes, some crowds."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.uniform(0, 200, 2), rng.uniform(4, 150, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([1, 2, 5, 9])),
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod()),
                    "iscrowd": int(crowds and rng.random() < 0.2),
                    "ignore": int(rng.random() < 0.2),
                }
            )
    samples = tuple(Sample(n, Path(f"{n}.png"), (400, 400)) for n in range(1, images + 1))
    categories = {1: "person", 2: "bicycle", 5: "airplane", 9: "boat"}
    return Dataset(Path("drawn"), samples, tuple(annotations), categories, images, ())


def as_dicts(found: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """Return detections as the list of dicts that COCO's server takes."""
    return [
        {
            "image_id": image_id,
            "category_id": int(category),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": float(score),
        }
        for image_id, found_here in found.items()
        for box, score, category in zip(
            found_here.boxes, found_here.scores, found_here.classes, strict=True
        )
    ]
