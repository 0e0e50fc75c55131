"""Which boxes and objects of an image overlap: pairs and their IoU, for all images at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .data.coco import Dataset
from .types import Fractions, Indices

Flags: TypeAlias = npt.NDArray[np.bool_]

#: The areas that an object of each of COCO's sizes lies between.
SIZES = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
_LOW, _HIGH = np.array(list(SIZES.values()), np.float64).T
#: Detections times objects whose overlap is in memory at a time.
_CHUNK = 250_000


@dataclass(frozen=True)
class PlacedBoxes:
    """Boxes, each with the place of its image in the dataset; *rows* are x, y, width, height."""

    images: Indices
    rows: Fractions

    @property
    def areas(self) -> Fractions:
        """Width times height."""
        areas: Fractions = self.rows[:, 2] * self.rows[:, 3]
        return areas


@dataclass(frozen=True)
class PlacedObjects(PlacedBoxes):
    """
    Annotations by image, in the order of the file.

    *ignored* are those of each size that are not to be found, (objects, sizes).
    """

    categories: Indices
    crowds: Flags
    ignored: Flags

    def at(self, indices: Indices) -> PlacedObjects:
        """The objects with these *indices*, in this order."""
        return PlacedObjects(
            self.images[indices],
            self.rows[indices],
            self.categories[indices],
            self.crowds[indices],
            self.ignored[indices],
        )


def placed_objects(dataset: Dataset) -> PlacedObjects:
    """All annotations of *dataset*."""
    annotations = dataset.annotations
    place = np.searchsorted(dataset.image_ids, [a["image_id"] for a in annotations])
    rows = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    areas = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64)
    crowds = np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool)
    categories = np.array([a["category_id"] for a in annotations], np.int64)
    ignored = crowds[:, None] | outside(areas)
    order = np.argsort(place, kind="stable")
    return PlacedObjects(place, rows, categories, crowds, ignored).at(order)


def outside(areas: Fractions) -> Flags:
    """Which *areas* are not of which size, (areas, sizes)."""
    beyond: Flags = (areas[:, None] < _LOW) | (areas[:, None] > _HIGH)
    return beyond


def overlapping(
    found: PlacedBoxes, objects: PlacedObjects, least: float
) -> Iterator[tuple[Indices, Indices, Fractions]]:
    """
    Detections and objects of the same image whose IoU is at least *least*, a part at a time.

    Gives their indices and their IoU; of a crowd, the part of the detection that lies in it.
    """
    start = np.searchsorted(objects.images, found.images)
    counts = np.searchsorted(objects.images, found.images, side="right") - start
    ends = np.cumsum(counts)
    for low in range(0, int(ends[-1]) if ends.size else 0, _CHUNK):
        pair = np.arange(low, min(low + _CHUNK, ends[-1]))
        rows = np.searchsorted(ends, pair, side="right")
        columns = start[rows] + pair - (ends - counts)[rows]
        ious = _ious(found, objects, rows, columns)
        near = ious >= least
        yield rows[near], columns[near], ious[near]


def _ious(found: PlacedBoxes, objects: PlacedObjects, rows: Indices, columns: Indices) -> Fractions:
    """IoU of pairs, in COCO's order of operations."""
    x, y, width, height = found.rows[rows].T
    u, v, across, down = objects.rows[columns].T
    wide = np.maximum(np.minimum(x + width, u + across) - np.maximum(x, u), 0)
    high = np.maximum(np.minimum(y + height, v + down) - np.maximum(y, v), 0)
    overlap = wide * high
    area = width * height
    union = np.where(objects.crowds[columns], area, area + across * down - overlap)
    ious: Fractions = np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
    return ious
