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
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..data.coco import Dataset, Finite, Id
from ..detection.postprocess import Detections
from ..errors import EvaluationError, ResultError
from ..io import decoded, whole
from ..spec import ModelSpec
from ..types import Boxes, Fractions, Indices

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
#: One detection: the place of its image in the dataset, its rank among those of its category and
#: image, the object that it found at the lowest IoU threshold, whatever its area, or -1; and as
#: bits ``10 * area + threshold`` where it found an object, and where it counts neither way.
MATCH = np.dtype([
    ("score", "<f8"), ("box", "<f4", (4,)), ("category", "<i8"), ("image", "<i4"),
    ("truth", "<i4"), ("rank", "u1"), ("hit", "<i8"), ("ignored", "<i8"),
], align=True)  # fmt: skip
#: One entry of a COCO results file: ids, the box x, y, width, height in pixels, and the score.
RESULT = np.dtype([("image", "<i8"), ("category", "<i8"), ("box", "<f8", (4,)), ("score", "<f8")])
#: Rows of `TRUTH`, `MATCH` or `RESULT`.
Rows: TypeAlias = npt.NDArray[np.void]

#: Detections that are matched at a time.
_MATCHED_TOGETHER = 100_000

#: An image id that was written as text: its digits, or the name of COCO's file.
_TEXT_ID = re.compile(r"(?<!\d)\d{1,18}(?=(\.\w+)?$)", re.ASCII)
_WANTED = "but a COCO results file is one list of {image_id, category_id, bbox, score}"
_AGAIN = "write the file again"


class CocoResults(NamedTuple):
    """
    The detections in the file *path*, rows of `RESULT` by falling score, by rising image id.

    *text_ids* counts image ids that are text there.

    Images or categories that do not exist and boxes without size stay as they are: they tell of
    the fault that made them.
    """

    path: Path
    images: dict[int, Rows]
    text_ids: int

    @property
    def rows(self) -> Rows:
        """The rows of all images."""
        return np.concatenate([*self.images.values()])


class _Entry(msgspec.Struct):
    image_id: Id | str
    category_id: Id
    bbox: tuple[Finite, Finite, Finite, Finite]
    score: Finite


def read_results(path: Path) -> CocoResults:
    """Read the COCO results file *path*; raise `ResultError` unless it has their form."""

    def id_of(entry: _Entry, n: int, key: str) -> int:
        """An id of the entry *n*; text may be the number or the name of COCO's image file."""
        value: int | float | str = getattr(entry, key)
        if isinstance(value, str):
            if digits := _TEXT_ID.search(value):
                return int(digits[0])
            raise ValueError(f"[{n}].{key}: {value[:80]!r} is no id, which is a whole number")
        return value if isinstance(value, int) else whole(value, f"[{n}].{key}")

    try:
        entries = decoded(path.read_bytes(), list[_Entry])
        rows = np.empty(len(entries), RESULT)
        rows["image"] = [id_of(e, n, "image_id") for n, e in enumerate(entries)]
        rows["category"] = [id_of(e, n, "category_id") for n, e in enumerate(entries)]
        rows["box"] = np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4)
        rows["score"] = [entry.score for entry in entries]
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}; give a COCO results file"
        ) from error
    except ValueError as error:
        raise ResultError(f"{path}: {error}, {_WANTED}; {_AGAIN}") from error
    if not entries:
        raise ResultError(f"{path} holds no detection, {_WANTED}; {_AGAIN}")
    rows = rows.take(np.lexsort((-rows["score"], rows["image"])))
    found, starts = np.unique(rows["image"], return_index=True)
    parts = np.split(rows, starts[1:])
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
    table = results.rows
    starts = np.cumsum([0, *map(len, results.images.values())])[:-1]
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


def to_coco_results(detections: Mapping[int, Detections], spec: ModelSpec) -> Rows:
    """
    *detections*, by image id, as rows of `RESULT`.

    Detections below ``spec.score_floor`` are left out, as effdet's evaluator leaves them out.
    """
    found = [*detections.values()]
    if not found:
        return np.empty(0, RESULT)
    scores = np.concatenate([one.scores for one in found])
    x1, y1, x2, y2 = np.concatenate([one.boxes for one in found]).T
    rows = np.empty(scores.size, RESULT)
    rows["image"] = np.repeat(np.array([*detections], np.int64), [len(one) for one in found])
    rows["category"] = np.concatenate([one.classes for one in found])
    rows["box"] = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    rows["score"] = scores
    return rows.compress(scores >= spec.score_floor)


def entries_of(results: Rows) -> Iterator[dict[str, Any]]:
    """The rows of `RESULT` as entries of a COCO results file."""
    for image, category, box, score in results.tolist():
        yield {"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score}


def truth_table(dataset: Dataset) -> Rows:
    """All annotations of *dataset* as rows of `TRUTH`, by image, then as in the file."""
    annotations = dataset.annotations
    truths = np.empty(len(annotations), TRUTH)
    truths["image"] = np.searchsorted(dataset.image_ids, [a["image_id"] for a in annotations])
    truths["category"] = [a["category_id"] for a in annotations]
    truths["box"] = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    truths["crowd"] = [bool(a.get("iscrowd", 0)) for a in annotations]
    areas = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64)
    outside = (areas[:, None] < AREAS[:, 0]) | (areas[:, None] > AREAS[:, 1])
    truths["ignored"] = truths["crowd"][:, None] | outside
    return truths.take(np.argsort(truths["image"], kind="stable"))


def columns(rows: Rows, *names: str) -> tuple[Indices, ...]:
    """The fields *names* of *rows*, each a column of its own."""
    return tuple(rows[name].astype(np.int64) for name in names)


def overlapping(
    images: Indices, boxes: Fractions | Boxes, truths: Rows, least: float
) -> tuple[Indices, Indices, Fractions]:
    """
    All pairs of one of *boxes*, x, y, width, height, and one of *truths* of the same image whose
    IoU is at least *least*, above 0.

    Gives the indices of the boxes, those of the objects, and the IoUs, by box, then by rising IoU,
    then by object; of a crowd, the part of the box that lies in it.  *truths* go by image.
    """
    from .. import kernels

    own = images.astype(np.int64), np.ascontiguousarray(boxes, np.float64)
    objects = tuple(truths[name].copy() for name in ("image", "box", "crowd"))
    return kernels.overlapping(*own, objects, least)


def _match(dataset: Dataset, truths: Rows, results: Rows) -> Rows:
    """Rows of `MATCH` of *results*, by category and image."""
    from .. import kernels

    kinds, ids = np.array(sorted(dataset.categories), np.int64), np.array(dataset.image_ids)
    results = results.compress(np.isin(results["category"], kinds))
    # A category in an image is a place of its own, so that all are matched together.
    category, scores = np.searchsorted(kinds, results["category"]), results["score"]
    places = category * len(ids) + np.searchsorted(ids, results["image"])
    # A model gives them by image and falling score, and few numbers are sorted in linear time.
    order = np.argsort(category.astype(np.min_scalar_type(kinds.size)), kind="stable")
    steps, rises = np.diff(places[order]), np.diff(scores[order]) > 0
    if ((steps < 0) | (steps == 0) & rises).any():
        order = np.lexsort((-scores, places))
    places = places[order]
    ranks = np.arange(places.size) - np.searchsorted(places, places)
    looked_at = ranks < MAX_DETECTIONS[-1]
    results, places, ranks = results.take(order[looked_at]), places[looked_at], ranks[looked_at]
    category, image = np.divmod(places, len(ids))
    ends = image.min(initial=len(ids)), image.max(initial=-1) + 1
    start, stop = np.searchsorted(truths["image"], ends)
    own = start + np.flatnonzero(np.isin(truths["category"][start:stop], kinds))
    objects = truths.take(own)
    objects["image"] += np.searchsorted(kinds, objects["category"]) * len(ids)
    order = np.argsort(objects["image"], kind="stable")
    own, objects = own[order], objects.take(order)
    boxes = results["box"].copy()
    hit, ignored, truth = kernels.match_pairs(
        overlapping(places, boxes, objects, THRESHOLDS[0]),
        objects["crowd"].copy(), objects["ignored"] @ (1023 << 10 * np.arange(len(AREAS))),
        boxes, np.minimum(THRESHOLDS, 1 - 1e-10), AREAS,
    )  # fmt: skip
    table = np.empty(len(boxes), MATCH)
    table["score"], table["box"] = results["score"], boxes
    table["category"], table["image"] = kinds[category], image
    # A truth of -1 is the last of all, none.
    table["truth"], table["rank"] = np.append(own, -1)[truth], ranks
    table["hit"], table["ignored"] = hit, ignored
    return table
