"""
Which detections hit which objects: COCOeval's greedy matching, for a category at a time.

In each image, by falling score, a detection takes the free object that it overlaps most, at each
IoU threshold and for each range of object sizes.  All images take this turn together: first
their best detections, then their second best, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .data.coco import Dataset
from .overlaps import SIZES, Flags, PlacedBoxes, PlacedObjects, outside, overlapping, placed_objects
from .types import Fractions, Indices

#: COCO's IoU thresholds.
THRESHOLDS: Fractions = np.linspace(0.5, 0.95, 10)
#: The most detections of a category that COCO looks at in an image.
MOST = 100
#: Detections that are matched together, unless they are of one category.
_TOGETHER = 100_000


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
class TracedHits(CategoryHits):
    """
    Hits that also tell what was matched with what.

    *rows* are the detections' rows in the table of results.  *objects* says which of
    `placed_objects` was found at the lowest threshold, whatever its size; -1 is none.
    """

    rows: Indices
    objects: Indices


@dataclass(frozen=True)
class Matches:
    """
    The detections of the categories *kinds*, by category, by image and by falling score.

    *categories* are their ids; the rest is as in `TracedHits`.
    """

    kinds: Indices
    categories: Indices
    rows: Indices
    images: Indices
    ranks: Indices
    hits: Flags
    ignored: Flags
    objects: Indices


def category_hits(dataset: Dataset, results: Fractions) -> Iterator[TracedHits]:
    """
    Match *results*, a table as `to_coco_results` gives it, with the objects of *dataset*.

    Yields each category of the dataset, by rising id.
    """
    every, images = placed_objects(dataset), len(dataset.samples)
    for some in match_results(dataset, every, results):
        starts = np.searchsorted(some.categories, some.kinds)
        stops = np.searchsorted(some.categories, some.kinds, side="right")
        for category, start, stop in zip(some.kinds.tolist(), starts, stops, strict=True):
            order = start + np.argsort(-results[some.rows[start:stop], 5], kind="stable")
            yield TracedHits(
                category=category,
                images=some.images[order],
                ranks=some.ranks[order],
                hits=some.hits[order],
                ignored=some.ignored[order],
                truths=count_truths(every, category, images),
                rows=some.rows[order],
                objects=some.objects[order],
            )


def count_truths(every: PlacedObjects, category: int, images: int) -> Indices:
    """The objects of *category* to be found, of each size, in each of *images*."""
    own = every.categories == category
    places, wanted = every.images[own], ~every.ignored[own].T
    return np.stack([np.bincount(places[of_size], minlength=images) for of_size in wanted])


def match_results(dataset: Dataset, every: PlacedObjects, results: Fractions) -> Iterator[Matches]:
    """
    Match *results* with *every* object of *dataset*, some whole categories at a time.

    No category is left out, though nothing be found of it.
    """
    kinds = np.array(sorted(dataset.categories), np.int64)
    ids, images = np.array(dataset.image_ids), len(dataset.samples)
    # Stable: of equal scores, the one that was given first stays first.
    rows = np.lexsort((-results[:, 5], results[:, 0], results[:, 6]))
    rows = rows[np.isin(results[rows, 6], kinds)]
    # A category in an image is a place of its own, so that all are matched together.
    places = np.searchsorted(kinds, results[rows, 6]) * images
    places += np.searchsorted(ids, results[rows, 0])
    ranks = np.arange(places.size) - np.searchsorted(places, places)
    rows, places, ranks = (column[ranks < MOST] for column in (rows, places, ranks))
    own = np.flatnonzero(np.isin(every.categories, kinds))
    owners = np.searchsorted(kinds, every.categories[own]) * images + every.images[own]
    in_turn = np.argsort(owners, kind="stable")
    own, owners = own[in_turn], owners[in_turn]
    ends = np.searchsorted(places, images * np.arange(1, kinds.size + 1))
    for some in np.split(np.arange(kinds.size), np.flatnonzero(np.diff(ends // _TOGETHER)) + 1):
        if not some.size:
            continue
        borders = images * np.array([some[0], some[-1] + 1])
        here, there = (slice(*np.searchsorted(one, borders)) for one in (places, owners))
        found = PlacedBoxes(places[here], results[rows[here], 1:5])
        hits, ignored, hit = _match(found, replace(every.at(own[there]), images=owners[there]))
        category, image = np.divmod(places[here], images)
        yield Matches(
            kinds=kinds[some],
            categories=kinds[category],
            rows=rows[here],
            images=image,
            ranks=ranks[here],
            hits=hits,
            ignored=ignored,
            objects=np.append(own[there], -1)[hit],
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
