"""Which image each row of a results file is of: ids, their order, images missing or doubled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.coco import Dataset
from ..results_json import CocoResults
from ..tensors.manifest import listed
from .base import Suspicion
from .detection_rows import FIELDS, NEAR, Rows, same_rows

#: So many images, next to each other, are looked at for their order, and so many of their best
#: detections: what they have in common with those of other images is chance.
LOOKED_AT, BEST = 24, 20
#: The share of detections that images of the right order have in common, and of a wrong one: at
#: least 0.85 with float16 heads and at most 0.17, measured 2026-11-25.
ALIKE, UNLIKE = 0.6, 0.4
#: Images whose like is looked for among all others, and how many of them a line shows.
MIXED, SHOWN = 8, 3


@dataclass(frozen=True)
class Order:
    """
    Which image the rows under each id are of, and the suspicion that says so.

    Of images that are *mixed*, only some are known.
    """

    image_of: dict[int, int]
    suspicion: Suspicion | None = None
    mixed: bool = False


def rows_by_image(given: CocoResults, limit: int) -> dict[int, Rows]:
    """The rows under each image id, by falling score, no more than the evaluator's *limit*."""
    order = np.lexsort((-given.scores, given.image_ids))
    ids, starts = np.unique(given.image_ids[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {
        int(id_): Rows(given.boxes[part], given.scores[part], given.categories[part])[:limit]
        for id_, part in zip(ids, parts, strict=True)
    }


def without_copies(given: CocoResults) -> tuple[CocoResults, list[int]]:
    """*given* without rows that are there before, and the images that are all of copies."""
    table = np.column_stack([given.image_ids, given.categories, given.boxes, given.scores])
    _, first = np.unique(table, axis=0, return_index=True)
    first.sort()
    ids, before = np.unique(given.image_ids, return_counts=True)
    after = np.unique(given.image_ids[first], return_counts=True)[1]
    copied = ids[before >= 2 * after]
    if not copied.size:
        return given, []
    left = CocoResults(
        given.path,
        given.image_ids[first],
        given.categories[first],
        given.boxes[first],
        given.scores[first],
        given.text_ids,
    )
    return left, [int(id_) for id_ in copied]


def find_order(dataset: Dataset, own: Mapping[int, Rows], given: Mapping[int, Rows]) -> Order:
    """
    Find which images of *dataset* the rows *given* under an id are of.

    Tried, where they are not of the image of that id, are the next image's, the one before's,
    ids that count the images from 0 or from 1, the reversed order, and any other.
    """
    ids = dataset.image_ids
    right = {id_: id_ for id_ in ids}
    before = 1 - _alike(own, given, right)
    if before < 1 - UNLIKE:
        return Order(right)
    orders = _orders(ids)
    left = {name: 1 - _alike(own, given, image_of) for name, image_of in orders.items()}
    name = min(left, key=lambda name: left[name])
    if left[name] < 1 - ALIKE:
        explanation = "each detection is held against that image"
        return Order(orders[name], Suspicion(name, explanation, before, left[name]))
    mixed = _nearest_images(own, given, ids)
    after = 1 - _alike(own, given, mixed)
    if not mixed or after >= 1 - ALIKE:
        return Order(right)
    pairs = ", ".join(f"{id_} against {other}" for id_, other in list(mixed.items())[:SHOWN])
    suspicion = Suspicion("images mixed up", f"{pairs}, ... are compared", before, after)
    return Order(mixed, suspicion, mixed=True)


def _nearest_images(
    own: Mapping[int, Rows], given: Mapping[int, Rows], ids: Sequence[int]
) -> dict[int, int]:
    """For some of the *given* ids, the image whose detections they have most in common with."""
    known = [id_ for id_ in given if len(given[id_])][:MIXED]
    return {
        id_: max(ids, key=lambda other: _alike(own, {id_: given[id_]}, {id_: other}))
        for id_ in known
    }


def _orders(ids: Sequence[int]) -> dict[str, dict[int, int]]:
    count = len(ids)
    return {
        "images shifted by one (each has the next one's detections)": {
            ids[i]: ids[(i + 1) % count] for i in range(count)
        },
        "images shifted by one (each has the detections of the one before)": {
            ids[i]: ids[i - 1] for i in range(count)
        },
        "images in reversed order": dict(zip(ids, reversed(ids), strict=True)),
        "image ids are the images' places, counted from 0": dict(enumerate(ids)),
        "image ids are the images' places, counted from 1": dict(enumerate(ids, 1)),
    }


def _alike(
    own: Mapping[int, Rows], given: Mapping[int, Rows], image_of: Mapping[int, int]
) -> float:
    """The share of the best detections that are the same, whatever else was done to them."""
    known = [id_ for id_ in image_of if id_ in given and len(own.get(image_of[id_], ()))]
    pairs = [(given[id_][:BEST], own[image_of[id_]][: 2 * BEST]) for id_ in known[:LOOKED_AT]]
    count = sum(len(rows) for rows, _ in pairs)
    same = [
        sum(len(same_rows(rows, wanted, NEAR, but)[0]) for rows, wanted in pairs) for but in FIELDS
    ]
    return max(same) / count if count else 0.0


def coverage(
    dataset: Dataset, own: Mapping[int, Rows], images: Collection[int], floor: float
) -> Iterator[str]:
    """
    Say which images are not among *images*, though their best score is above *floor*.

    And which of *images* are foreign, but for a limited dataset: it does not know all that there
    are.
    """
    due = [id_ for id_ in dataset.image_ids if len(own[id_]) and own[id_].scores[0] > floor]
    if missing := [id_ for id_ in due if id_ not in images]:
        yield (
            f"{len(missing)} of {len(dataset.samples)} images have no detections, where effd0 "
            f"finds some: {listed(missing)}"
        )
    foreign = sorted(set(images) - set(dataset.image_ids))
    if foreign and not dataset.limited:
        yield f"{len(foreign)} of {len(images)} image ids are of no image: {listed(foreign)}"
