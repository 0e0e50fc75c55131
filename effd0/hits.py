"""
Which detections hit which objects: COCOeval's greedy matching, for a category at a time.

In each image, by falling score, a detection takes the free object that it overlaps most, at each
IoU threshold and for each range of object sizes.  All images take this turn together: first
their best detections, then their second best, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .arrays import Fractions, Indices
from .dataset import Dataset
from .overlaps import SIZES, Flags, PlacedBoxes, PlacedObjects, outside, overlapping, placed_objects

#: COCO's IoU thresholds.
THRESHOLDS: Fractions = np.linspace(0.5, 0.95, 10)
#: The most detections of a category that COCO looks at in an image.
MOST = 100


@dataclass(frozen=True)
class CategoryHits:
    """
    The detections of one category over all images, by falling score.

    *rows* are their rows in the table of results, *images* the place of each one's image in the
    dataset, *ranks* its place among those of its image.  *hits* are those that found an object,
    *ignored* those that count neither way, both (detections, sizes, thresholds); *truths* counts
    the objects to be found, (sizes, images).  *objects* says which of `placed_objects` was found
    at the lowest threshold, whatever its size; -1 is none.
    """

    category: int
    rows: Indices
    images: Indices
    ranks: Indices
    hits: Flags
    ignored: Flags
    truths: Indices
    objects: Indices


def category_hits(dataset: Dataset, results: Fractions) -> Iterator[CategoryHits]:
    """
    Match *results*, a table as `to_coco_results` gives it, with the objects of *dataset*.

    Yields each category of the dataset, by rising id.
    """
    images = np.array(dataset.image_ids)
    every = placed_objects(dataset)
    # Stable: of equal scores, the one that was given first stays first.
    in_turn = np.lexsort((-results[:, 5], results[:, 0], results[:, 6]))
    results = results[in_turn]
    for category in sorted(dataset.categories):
        start, stop = np.searchsorted(results[:, 6], (category, category + 1))
        rows = results[start:stop]
        place = np.searchsorted(images, rows[:, 0])
        ranks = np.arange(place.size) - np.searchsorted(place, place)
        seen = ranks < MOST
        found = PlacedBoxes(place[seen], rows[seen, 1:5])
        own = np.flatnonzero(every.categories == category)
        objects = every.at(own)
        hits, ignored, hit = _match(found, objects)
        order = np.argsort(-rows[seen, 5], kind="stable")
        yield CategoryHits(
            category=category,
            rows=in_turn[start:stop][seen][order],
            images=found.images[order],
            ranks=ranks[seen][order],
            hits=hits[order],
            ignored=ignored[order],
            truths=_count_truths(objects, len(images)),
            objects=np.append(own, -1)[hit[order]],
        )


def _count_truths(objects: PlacedObjects, images: int) -> Indices:
    return np.stack(
        [np.bincount(objects.images[own], minlength=images) for own in ~objects.ignored.T]
    )


def _match(found: PlacedBoxes, objects: PlacedObjects) -> tuple[Flags, Flags, Indices]:
    """
    Which detections hit and which are ignored, (detections, sizes, thresholds); and the objects
    that are hit at the lowest threshold, whatever their size, or -1.
    """
    shape = (len(SIZES), len(THRESHOLDS))
    hits = np.zeros((len(found.rows), *shape), bool)
    ignored = hits.copy()
    hit = np.full(len(found.rows), -1)
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
        plain = (own == 1) & (size == 0) & (threshold == 0)
        hit[rows[first][row[plain]]] = columns[at[plain]]
    # What found nothing counts against the sizes that it is of itself.
    ignored |= ~hits & outside(found.areas)[:, :, None]
    return hits, ignored, hit


def _turns(
    found: PlacedBoxes, objects: PlacedObjects
) -> Iterator[tuple[Indices, Indices, Fractions]]:
    """
    Pairs of a detection and an object that may match, at most one detection an image at a time.

    Gives detections, objects and IoUs, by detection, then by rising IoU, then as in the file.
    """
    pairs = list(overlapping(found, objects, THRESHOLDS[0]))
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
