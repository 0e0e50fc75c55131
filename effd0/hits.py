"""
Which detections hit which objects: COCOeval's greedy matching, for a category at a time.

In each image, by falling score, a detection takes the free object that it overlaps most, at each
IoU threshold and for each range of object sizes.  All images take this turn together: first
their best detections, then their second best, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Fractions, Indices
from .dataset import Dataset

Flags = npt.NDArray[np.bool_]

#: COCO's IoU thresholds, and the areas that an object of each size lies between.
THRESHOLDS: Fractions = np.linspace(0.5, 0.95, 10)
SIZES = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
#: The most detections of a category that COCO looks at in an image.
MOST = 100
_LOW, _HIGH = np.array(list(SIZES.values()), np.float64).T
#: Detections times objects whose overlap is in memory at a time.
_CHUNK = 1_000_000


@dataclass(frozen=True)
class CategoryHits:
    """
    The detections of one category over all images, by falling score.

    *images* is the place of each one's image in the dataset, *ranks* its place among those of its
    image.  *hits* are those that found an object, *ignored* those that count neither way, both
    (detections, sizes, thresholds); *truths* counts the objects to be found, (sizes, images).
    """

    category: int
    images: Indices
    ranks: Indices
    hits: Flags
    ignored: Flags
    truths: Indices


@dataclass(frozen=True)
class _Boxes:
    """Boxes of one category by image: *rows* are x, y, width, height."""

    images: Indices
    rows: Fractions

    @property
    def areas(self) -> Fractions:
        areas: Fractions = self.rows[:, 2] * self.rows[:, 3]
        return areas


@dataclass(frozen=True)
class _Objects(_Boxes):
    """Annotations, with those of each size that are not to be found, (objects, sizes)."""

    crowds: Flags
    ignored: Flags


def category_hits(dataset: Dataset, results: Fractions) -> Iterator[CategoryHits]:
    """
    Match *results*, a table as `to_coco_results` gives it, with the objects of *dataset*.

    Yields each category of the dataset, by rising id.
    """
    images = np.array(dataset.image_ids)
    objects = _objects_by_category(dataset, images)
    # Stable: of equal scores, the one that was given first stays first.
    results = results[np.lexsort((-results[:, 5], results[:, 0], results[:, 6]))]
    for category in sorted(dataset.categories):
        start, stop = np.searchsorted(results[:, 6], (category, category + 1))
        rows = results[start:stop]
        place = np.searchsorted(images, rows[:, 0])
        ranks = np.arange(place.size) - np.searchsorted(place, place)
        seen = ranks < MOST
        found = _Boxes(place[seen], rows[seen, 1:5])
        hits, ignored = _match(found, objects[category])
        order = np.argsort(-rows[seen, 5], kind="stable")
        yield CategoryHits(
            category=category,
            images=found.images[order],
            ranks=ranks[seen][order],
            hits=hits[order],
            ignored=ignored[order],
            truths=_count_truths(objects[category], len(images)),
        )


def _objects_by_category(dataset: Dataset, images: Indices) -> dict[int, _Objects]:
    """The annotations of each category, by image, in the order of the file."""
    by_category: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in dataset.categories}
    for annotation in dataset.annotations:
        by_category[annotation["category_id"]].append(annotation)
    return {id_: _objects(annotations, images) for id_, annotations in by_category.items()}


def _objects(annotations: list[dict[str, Any]], images: Indices) -> _Objects:
    place = np.searchsorted(images, [a["image_id"] for a in annotations])
    rows = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    areas = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64)
    crowds = np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool)
    order = np.argsort(place, kind="stable")
    ignored = crowds[:, None] | _outside(areas)
    return _Objects(place[order], rows[order], crowds[order], ignored[order])


def _outside(areas: Fractions) -> Flags:
    """Which *areas* are not of which size, (areas, sizes)."""
    outside: Flags = (areas[:, None] < _LOW) | (areas[:, None] > _HIGH)
    return outside


def _count_truths(objects: _Objects, images: int) -> Indices:
    return np.stack(
        [np.bincount(objects.images[own], minlength=images) for own in ~objects.ignored.T]
    )


def _match(found: _Boxes, objects: _Objects) -> tuple[Flags, Flags]:
    """Which detections hit and which are ignored, (detections, sizes, thresholds)."""
    shape = (len(SIZES), len(THRESHOLDS))
    hits = np.zeros((len(found.rows), *shape), bool)
    ignored = hits.copy()
    taken = np.zeros((len(objects.rows), *shape), bool)
    for rows, columns, ious in _turns(found, objects):
        reached = ious[:, None] >= np.minimum(THRESHOLDS, 1 - 1e-10)
        free = ~taken[columns] | objects.crowds[columns, None, None]
        # The highest IoU is last, and any object to be found goes before one that is not.
        worth = np.arange(1, rows.size + 1)[:, None] + rows.size * ~objects.ignored[columns]
        worth = np.where(free & reached[:, None, :], worth[:, :, None], 0)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(worth, first, axis=0)
        row, size, threshold = np.nonzero(best)
        own, at = np.divmod(best[row, size, threshold] - 1, rows.size)
        taken[columns[at], size, threshold] = True
        hits[rows[first][row], size, threshold] = own == 1
        ignored[rows[first][row], size, threshold] = own == 0
    # What found nothing counts against the sizes that it is of itself.
    ignored |= ~hits & _outside(found.areas)[:, :, None]
    return hits, ignored


def _turns(found: _Boxes, objects: _Objects) -> Iterator[tuple[Indices, Indices, Fractions]]:
    """
    Pairs of a detection and an object that may match, at most one detection an image at a time.

    Gives detections, objects and IoUs, by detection, then by rising IoU, then as in the file.
    """
    pairs = list(_pairs(found, objects))
    if not pairs:
        return
    rows, columns, ious = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.lexsort((columns, ious, rows))
    rows, columns, ious = rows[order], columns[order], ious[order]
    # The turn of a detection is its place among those of its image that overlap anything.
    new = np.diff(rows, prepend=-1) > 0
    images = found.images[rows[new]]
    turn = (np.arange(images.size) - np.searchsorted(images, images))[np.cumsum(new) - 1]
    order = np.argsort(turn, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1):
        yield rows[here], columns[here], ious[here]


def _pairs(found: _Boxes, objects: _Objects) -> Iterator[tuple[Indices, Indices, Fractions]]:
    """Detections and objects of the same image whose IoU reaches the lowest threshold."""
    start = np.searchsorted(objects.images, found.images)
    counts = np.searchsorted(objects.images, found.images, side="right") - start
    ends = np.cumsum(counts)
    for low in range(0, int(ends[-1]) if ends.size else 0, _CHUNK):
        pair = np.arange(low, min(low + _CHUNK, ends[-1]))
        rows = np.searchsorted(ends, pair, side="right")
        columns = start[rows] + pair - (ends - counts)[rows]
        ious = _ious(found, objects, rows, columns)
        near = ious >= THRESHOLDS[0]
        yield rows[near], columns[near], ious[near]


def _ious(found: _Boxes, objects: _Objects, rows: Indices, columns: Indices) -> Fractions:
    """IoU of pairs, in COCO's order of operations; of a crowd, the part that lies in it."""
    x, y, width, height = found.rows[rows].T
    u, v, across, down = objects.rows[columns].T
    wide = np.maximum(np.minimum(x + width, u + across) - np.maximum(x, u), 0)
    high = np.maximum(np.minimum(y + height, v + down) - np.maximum(y, v), 0)
    overlap = wide * high
    area = width * height
    union = np.where(objects.crowds[columns], area, area + across * down - overlap)
    ious: Fractions = np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
    return ious
