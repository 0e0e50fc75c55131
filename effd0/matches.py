"""
What was matched in some images, packed, so that many workers match and one process scores.

A unit is a run of images that follow each other in the dataset.  Detections and objects meet
within an image alone, so a unit is matched by itself; what units give, put together in any order,
is what matching all images at once gives, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .data.coco import Dataset
from .detection.postprocess import Detections
from .errors import EvaluationError
from .evaluate import to_coco_results
from .hits import THRESHOLDS, CategoryHits, count_truths, match_results
from .overlaps import SIZES, Flags, placed_objects
from .spec import ModelSpec
from .twins import twin_key
from .types import Fractions, Indices

_FLAGS = (len(SIZES), len(THRESHOLDS))
_COUNT = len(SIZES) * len(THRESHOLDS)
_FLAG_BYTES = -(-_COUNT // 8)
#: One detection: its category, the place of its image in the whole dataset, its place among those
#: of this category and image, its score, and the bits of `CategoryHits`.
MATCH = np.dtype(
    [
        ("category", "<i4"),
        ("image", "<u4"),
        ("rank", "u1"),
        ("score", "<f4"),
        ("hits", "u1", (_FLAG_BYTES,)),
        ("ignored", "u1", (_FLAG_BYTES,)),
    ]
)
#: The same as plain bytes, which numpy puts together without a look at each field.
_BYTES = np.dtype((np.void, MATCH.itemsize))
#: An array of `MATCH`.
Packed: TypeAlias = npt.NDArray[np.void]


@dataclass(frozen=True)
class UnitMatches:
    """
    All that scoring needs of the images *image_ids*, of which the first has the place *first*.

    *detections* counts those that were found, *twin_keys* are those of the images.
    """

    first: int
    image_ids: tuple[int, ...]
    matches: Packed
    detections: int
    twin_keys: tuple[bytes, ...]


def match_unit(
    unit: Dataset, found: Mapping[int, Detections], spec: ModelSpec, first: int
) -> UnitMatches:
    """
    Match what was *found*, by image id, with the objects of *unit*.

    *unit* is the part of a dataset that has these images alone, and *first* the place of their
    first one in the whole.
    """
    results = to_coco_results(found, spec)
    return UnitMatches(
        first=first,
        image_ids=tuple(found),
        matches=pack_matches(unit, results, first),
        detections=len(results),
        twin_keys=tuple(twin_key(one) for one in found.values()),
    )


def pack_matches(unit: Dataset, results: Fractions, first: int) -> Packed:
    """Match *results*, a table as `to_coco_results` gives it, with *unit*, as `match_unit` does."""
    parts = [np.empty(0, MATCH)]
    for some in match_results(unit, placed_objects(unit), results):
        packed = np.empty(some.rows.size, MATCH)
        packed["category"] = some.categories
        packed["image"] = first + some.images
        packed["rank"] = some.ranks
        packed["score"] = _single(results[some.rows, 5])
        packed["hits"] = _bits(some.hits)
        packed["ignored"] = _bits(some.ignored)
        parts.append(packed)
    return np.concatenate(parts)


def merged_hits(dataset: Dataset, parts: Sequence[Packed]) -> Iterator[CategoryHits]:
    """
    The hits of each category of *dataset*, by rising id, from the *parts* of its units.

    *parts* are as `pack_matches` gives them, in any order, and may be read-only.
    """
    every, images = placed_objects(dataset), len(dataset.samples)
    categories = sorted(dataset.categories)
    shape = (len(parts), len(categories))
    starts, stops = (
        np.array(
            [np.searchsorted(part["category"], categories, side) for part in parts], np.int64
        ).reshape(shape)
        for side in ("left", "right")
    )
    plain = [part.view(_BYTES) for part in parts]
    for category, start, stop in zip(categories, starts.T, stops.T, strict=True):
        here = [part[a:b] for part, a, b in zip(plain, start, stop, strict=True)]
        truths = count_truths(every, category, images)
        # Given away by name, the copy would live as long as what is made of it.
        yield _in_turn(np.concatenate([np.empty(0, _BYTES), *here]).view(MATCH), category, truths)


def _in_turn(own: Packed, category: int, truths: Indices) -> CategoryHits:
    """The hits of a category, by falling score; of equal ones, by image and place in it."""
    place = own["image"].astype(np.int64) << 8 | own["rank"]
    order = np.lexsort((place, -own["score"]))
    return CategoryHits(
        category=category,
        images=own["image"][order].astype(np.int64),
        ranks=own["rank"][order].astype(np.int64),
        hits=_flags(own["hits"][order]),
        ignored=_flags(own["ignored"][order]),
        truths=truths,
    )


def _single(scores: Fractions) -> npt.NDArray[np.float32]:
    """*scores* in the precision that detections have; one of more would lose its place."""
    single = scores.astype(np.float32)
    lost = np.flatnonzero(single != scores)
    if lost.size:
        raise EvaluationError(
            f"{lost.size} scores, as {scores[lost[0]]!r}, are no float32, as those of detections "
            "are; round them before they are matched"
        )
    return single


def _bits(flags: Flags) -> npt.NDArray[np.uint8]:
    return np.packbits(flags.reshape(len(flags), _COUNT), axis=1)


def _flags(bits: npt.NDArray[Any]) -> Flags:
    return np.unpackbits(bits, axis=1, count=_COUNT).view(bool).reshape(len(bits), *_FLAGS)
