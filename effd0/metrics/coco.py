"""
COCO's matching of detections with annotated objects, once, into one table of matches.

Algorithm source: pycocotools' COCOeval.  In each image and category, by falling score, a detection
takes the free object that it overlaps most, at each of ten IoU thresholds and for each of four
ranges of object areas.  Metrics, bootstrap, bounds and kinds of errors all read the table.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..data.coco import Dataset
from ..detection.postprocess import Detections
from ..errors import EvaluationError, ResultError
from ..spec import ModelSpec
from ..types import Fractions, Indices

#: COCO's IoU thresholds.
THRESHOLDS: Fractions = np.linspace(0.5, 0.95, 10)
#: The ranges of object areas in square pixels, bounds included: all, small, medium, large.
AREAS: Fractions = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
#: COCO's limits of detections per category and image; those beyond the last are not matched.
MAX_DETECTIONS = (1, 10, 100)

#: One annotated object: the place of its image in the dataset, its box x, y, width, height in
#: pixels, and for which of `AREAS` it is not to be found, as a crowd never is.
TRUTH = np.dtype([
    ("image", "<i8"), ("category", "<i8"), ("box", "<f8", (4,)), ("crowd", "?"),
    ("ignored", "?", (len(AREAS),)),
], align=True)  # fmt: skip
_FLAGS = (len(AREAS), len(THRESHOLDS))
_FLAG_BYTES = len(AREAS) * len(THRESHOLDS) // 8
#: One detection: the place of its image in the dataset, its rank among those of its category and
#: image, the object that it found at the lowest IoU threshold, whatever its area, or -1; and for
#: each area and threshold, as bits, whether it found an object, and whether it counts neither way.
MATCH = np.dtype([
    ("score", "<f8"), ("box", "<f4", (4,)), ("category", "<i4"), ("image", "<i4"),
    ("truth", "<i4"), ("rank", "u1"), ("hit", "u1", (_FLAG_BYTES,)),
    ("ignored", "u1", (_FLAG_BYTES,)),
], align=True)  # fmt: skip
#: Rows of `TRUTH` or `MATCH`.
Rows: TypeAlias = npt.NDArray[np.void]
Flags: TypeAlias = npt.NDArray[np.bool_]

#: Detections that are matched at a time, and pairs of boxes whose IoU is computed at a time.
_MATCHED_TOGETHER, _PAIRS_TOGETHER = 100_000, 250_000

#: An image id that was written as text: its digits, or the name of COCO's file.
_TEXT_ID = re.compile(r"\d+(?=(\.\w+)?$)", re.ASCII)
_WANTED = "but a COCO results file is one list of {image_id, category_id, bbox, score}"
_AGAIN = "write the file again"


class CocoResults(NamedTuple):
    """
    The detections in the file *path* by image id; *text_ids* counts ids that are text there.

    Images or categories that do not exist and boxes without size stay as they are: they tell of
    the fault that made them.
    """

    path: Path
    images: dict[int, Fractions]
    text_ids: int


class _Entry(msgspec.Struct):
    image_id: int | float | str
    category_id: int | float
    bbox: tuple[float, float, float, float]
    score: float


def read_results(path: Path) -> CocoResults:
    """Read the COCO results file *path*; raise `ResultError` unless it has their form."""

    def whole(value: int | float | str) -> int:
        """The number of an id; text may be the number or the name of COCO's image file."""
        if isinstance(value, str) and (digits := _TEXT_ID.search(value)):
            return int(digits[0])
        if isinstance(value, str) or value != int(value):
            raise ValueError(f"{value!r} is no id, which is a whole number")
        return int(value)

    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
        ids = np.array([whole(e.image_id) for e in entries], np.int64)
        table = np.array([(*e.bbox, e.score, whole(e.category_id)) for e in entries], np.float64)
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}; give a COCO results file"
        ) from error
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
        raise ResultError(f"{path}: {error}, {_WANTED}; {_AGAIN}") from error
    if not entries:
        raise ResultError(f"{path} holds no detection, {_WANTED}; {_AGAIN}")
    order = np.lexsort((-table[:, 4], ids))
    found, starts = np.unique(ids[order], return_index=True)
    parts = np.split(table[order], starts[1:])
    text_ids = sum(isinstance(entry.image_id, str) for entry in entries)
    return CocoResults(path, dict(zip(found.tolist(), parts, strict=True)), text_ids)


@dataclass(frozen=True)
class MatchTable:
    """
    The *detections* of all images of *dataset*, by image id, matched with its objects.

    *truths* are rows of `TRUTH` by image; *parts* are rows of `MATCH`, each part of some images
    that follow those of the part before, by category, image and falling score.  *count* is how
    many detections reach the score threshold.  What a file holds has no *detections*.
    """

    dataset: Dataset
    detections: Mapping[int, Detections]
    truths: Rows
    parts: tuple[Rows, ...]
    count: int

    def by_category(self) -> Iterator[tuple[int, Rows]]:
        """
        Rows of `MATCH` of each category of the dataset, by rising id.

        They go by falling score; equal scores go by image, then as they were given.
        """
        categories = sorted(self.dataset.categories)
        bounds = [
            [*np.searchsorted(part["category"], categories), part.size] for part in self.parts
        ]
        # As plain bytes: numpy copies structured rows a field at a time.
        plain = [part.view(f"V{MATCH.itemsize}") for part in self.parts]
        for k, category in enumerate(categories):
            own = np.concatenate(
                [part[at[k] : at[k + 1]] for part, at in zip(plain, bounds, strict=True)]
            ).view(MATCH)
            yield category, own.take(np.argsort(-own["score"], kind="stable"))

    def wanted(self, category: int) -> Indices:
        """How many objects of *category* are to be found, (areas, images)."""
        own = self.truths[self.truths["category"] == category]
        images = len(self.dataset.samples)
        return np.stack(
            [np.bincount(own["image"][real], minlength=images) for real in ~own["ignored"].T]
        )


def match_table(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> MatchTable:
    """
    Match *detections*, by image id, with the objects of *dataset*.

    Raises `EvaluationError` unless every image is there and none is foreign.
    """
    check_complete(dataset, detections)
    truths, ids = truth_table(dataset), dataset.image_ids
    ends = np.cumsum([len(detections[id_]) for id_ in ids], dtype=np.int64)
    parts, count = [], 0
    for some in np.split(np.array(ids), np.flatnonzero(np.diff(ends // _MATCHED_TOGETHER)) + 1):
        results = to_coco_results({id_: detections[id_] for id_ in some.tolist()}, spec)
        parts.append(_match(dataset, truths, results))
        count += len(results)
    return MatchTable(dataset, detections, truths, tuple(parts), count)


def match_results(dataset: Dataset, results: CocoResults) -> MatchTable:
    """
    Match *results* with the objects of *dataset*, boxes as they are in the file.

    In other numbers, or as corners, IoUs that lie on a threshold would fall on its other side.
    """
    table = np.vstack([np.insert(rows, 0, id_, axis=1) for id_, rows in results.images.items()])
    starts = np.flatnonzero(np.diff(table[:, 0], prepend=np.nan))
    cuts = starts[np.flatnonzero(np.diff(starts // _MATCHED_TOGETHER)) + 1]
    truths = truth_table(dataset)
    parts = tuple(_match(dataset, truths, part) for part in np.split(table, cuts))
    return MatchTable(dataset, {}, truths, parts, len(table))


def check_complete(dataset: Dataset, detections: Mapping[int, Detections]) -> None:
    """Raise `EvaluationError` unless *detections* are of the images of *dataset*, by id."""
    wanted = set(dataset.image_ids)
    missing, foreign = sorted(wanted - detections.keys()), sorted(detections.keys() - wanted)
    if missing or foreign:
        raise EvaluationError(
            f"detections cover {len(detections)} images, but the dataset has {len(wanted)}: "
            f"{len(missing)} are missing {missing[:5]}, {len(foreign)} are foreign {foreign[:5]}"
        )


def to_coco_results(detections: Mapping[int, Detections], spec: ModelSpec) -> Fractions:
    """
    *detections*, by image id, as COCO's result table, (n, 7) float64.

    Its columns are image id, x, y, width, height, score and category id.  Detections below
    ``spec.score_floor`` are left out, as effdet's evaluator leaves them out.
    """
    found = list(detections.values())
    if not found:
        return np.empty((0, 7))
    images = np.repeat(list(detections), [len(one) for one in found])
    scores = np.concatenate([one.scores for one in found])
    keep = scores >= spec.score_floor
    x1, y1, x2, y2 = np.concatenate([one.boxes for one in found])[keep].T
    classes = np.concatenate([one.classes for one in found])
    columns = (images[keep], x1, y1, x2 - x1, y2 - y1, scores[keep], classes[keep])
    return np.stack(columns, 1).astype(np.float64, copy=False)


def truth_table(dataset: Dataset) -> Rows:
    """All annotations of *dataset* as rows of `TRUTH`, by image, then as in the file."""
    annotations = dataset.annotations
    truths = np.empty(len(annotations), TRUTH)
    truths["image"] = np.searchsorted(dataset.image_ids, [a["image_id"] for a in annotations])
    truths["category"] = [a["category_id"] for a in annotations]
    truths["box"] = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    truths["crowd"] = [bool(a.get("iscrowd", 0)) for a in annotations]
    areas = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64)
    truths["ignored"] = truths["crowd"][:, None] | _outside(areas)
    return truths.take(np.argsort(truths["image"], kind="stable"))


def flags(rows: Rows, field: str) -> Flags:
    """The bits of *field*, ``hit`` or ``ignored``, as (rows, areas, thresholds)."""
    return np.unpackbits(rows[field].flatten()).view(bool).reshape(len(rows), *_FLAGS)


def overlapping(
    images: Indices, boxes: Fractions, truths: Rows, least: float
) -> tuple[Indices, Indices, Fractions]:
    """
    All pairs of one of *boxes*, x, y, width, height, and one of *truths* of the same image whose
    IoU is at least *least*, above 0.

    Gives the indices of the boxes, rising, those of the objects, and the IoUs; of a crowd, the
    part of the box that lies in it.  *truths* go by image.
    """
    start = np.searchsorted(truths["image"], images)
    counts = np.searchsorted(truths["image"], images, side="right") - start
    ends = np.cumsum(counts)
    crowds, objects = truths["crowd"].copy(), truths["box"].copy()
    parts = []
    for low in range(0, int(counts.sum()), _PAIRS_TOGETHER):
        pair = np.arange(low, min(low + _PAIRS_TOGETHER, ends[-1]))
        rows = np.searchsorted(ends, pair, side="right")
        columns = start[rows] + pair - (ends - counts)[rows]
        # COCO's order of operations, so that each IoU is COCO's to the last bit.
        x, y, width, height = boxes[rows].T
        u, v, across, down = objects[columns].T
        wide = np.maximum(np.minimum(x + width, u + across) - np.maximum(x, u), 0)
        high = np.maximum(np.minimum(y + height, v + down) - np.maximum(y, v), 0)
        overlap, area = wide * high, width * height
        union = np.where(crowds[columns], area, area + across * down - overlap)
        ious = np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
        near = ious >= least
        parts.append((rows[near], columns[near], ious[near]))
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    rows, columns, ious = (np.concatenate(part) for part in zip(none, *parts, strict=True))
    return rows, columns, ious


def _outside(areas: Fractions) -> Flags:
    """Which *areas* are not in which of `AREAS`, (n, areas)."""
    return np.asarray((areas[:, None] < AREAS[:, 0]) | (areas[:, None] > AREAS[:, 1]))


def _match(dataset: Dataset, truths: Rows, results: Fractions) -> Rows:
    """Rows of `MATCH` of *results*, as `to_coco_results` gives them, by category and image."""
    kinds, ids = np.array(sorted(dataset.categories), np.int64), np.array(dataset.image_ids)
    results = results[np.isin(results[:, 6].astype(np.int64), kinds)]
    # A category in an image is a place of its own, so that all are matched together.
    places = np.searchsorted(kinds, results[:, 6].astype(np.int64)) * len(ids)
    places += np.searchsorted(ids, results[:, 0].astype(np.int64))
    # Stable: of equal scores, the one that was given first stays first.
    order = np.lexsort((-results[:, 5], places))
    places = places[order]
    ranks = np.arange(places.size) - np.searchsorted(places, places)
    looked_at = ranks < MAX_DETECTIONS[-1]
    results, places, ranks = results[order[looked_at]], places[looked_at], ranks[looked_at]
    category, image = np.divmod(places, len(ids))
    if not image.size:
        return np.empty(0, MATCH)
    start, stop = np.searchsorted(truths["image"], (image.min(), image.max() + 1))
    own = start + np.flatnonzero(np.isin(truths["category"][start:stop], kinds))
    objects = truths.take(own)
    objects["image"] += np.searchsorted(kinds, objects["category"]) * len(ids)
    order = np.argsort(objects["image"], kind="stable")
    own, objects = own[order], objects.take(order)

    boxes = results[:, 1:5]
    hit = np.zeros((len(boxes), *_FLAGS), bool)
    ignored, taken = hit.copy(), np.zeros((objects.size, *_FLAGS), bool)
    truth = np.full(len(boxes), -1)
    crowds, beyond = objects["crowd"].copy(), objects["ignored"].copy()
    for rows, columns, ious in _turns(places, boxes, objects):
        reached = ious[:, None] >= np.minimum(THRESHOLDS, 1 - 1e-10)
        free = ~taken[columns] | crowds[columns, None, None]
        # The highest IoU is last, and any object to be found goes before one that is not.
        worth = np.arange(1, rows.size + 1)[:, None] + rows.size * ~beyond[columns]
        worth = np.where(free & reached[:, None, :], worth[:, :, None], 0)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(worth, first, axis=0)
        row, area, threshold = np.nonzero(best)
        real, at = np.divmod(best[row, area, threshold] - 1, rows.size)
        taken[columns[at], area, threshold] = True
        hit[rows[first][row], area, threshold] = real == 1
        ignored[rows[first][row], area, threshold] = real == 0
        plain = (real == 1) & (area == 0) & (threshold == 0)
        truth[rows[first][row[plain]]] = own[columns[at[plain]]]
    # What found nothing counts against the areas that its own is in.
    ignored |= ~hit & _outside(boxes[:, 2] * boxes[:, 3])[:, :, None]

    table = np.empty(len(boxes), MATCH)
    table["score"], table["box"] = results[:, 5], boxes
    table["category"], table["image"] = kinds[category], image
    table["truth"], table["rank"] = truth, ranks
    table["hit"] = np.packbits(hit).reshape(-1, _FLAG_BYTES)
    table["ignored"] = np.packbits(ignored).reshape(-1, _FLAG_BYTES)
    return table


def _turns(
    places: Indices, boxes: Fractions, objects: Rows
) -> Iterator[tuple[Indices, Indices, Fractions]]:
    """
    Pairs that may match: first the best detection of each place, then the second best, and so on.

    Gives detections, objects and IoUs, by detection, then by rising IoU, then as in the file.
    """
    rows, columns, ious = overlapping(places, boxes, objects, THRESHOLDS[0])
    if not rows.size:
        return
    order = np.lexsort((columns, ious, rows))
    rows, columns, ious = rows[order], columns[order], ious[order]
    # The turn of a detection is its rank among those of its place that overlap anything.
    new = np.diff(rows, prepend=-1) > 0
    place = places[rows[new]]
    turn = (np.arange(place.size) - np.searchsorted(place, place))[np.cumsum(new) - 1]
    order = np.argsort(turn, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1):
        yield rows[here], columns[here], ious[here]
