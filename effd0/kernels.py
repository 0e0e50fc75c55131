"""
The loops that numpy has no fast form of, compiled by numba; every kernel releases the GIL.

A kernel has one signature, so it is compiled when this module is imported: in seconds once on a
host, then read from numba's cache (``NUMBA_CACHE_DIR``, or beside this file, or in the user's
cache).  To import it is half a second, which is why a module that computes imports it where it
computes, and why whoever measures imports it before.  Arithmetic keeps the order that is written.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba as nb
import numpy as np
import numpy.typing as npt

from .types import Fractions, Indices

_Function = TypeVar("_Function", bound=Callable[..., Any])

_types: Any = nb.types  # half typed


def _kernel(result: Any, *arguments: Any, **flags: Any) -> Callable[[_Function], _Function]:
    """Compile a function of these types; where numba finds no place for a cache, without one."""

    def compiled(function: _Function) -> _Function:
        # As numpy's: a division by zero gives infinity or NaN.
        settings = {"nogil": True, "error_model": "numpy", **flags}
        try:
            made = nb.njit(result(*arguments), cache=True, **settings)(function)
        except RuntimeError:
            made = nb.njit(result(*arguments), **settings)(function)
        kernel: _Function = made
        return kernel

    return compiled


def _given(of: Any, axes: int) -> Any:
    """The type of an array that is read; one that may be written is taken too."""
    return _types.Array(of, axes, "C", readonly=True)


#: Boxes, objects and the IoUs of their pairs; columns of the match table.
_PAIRS: Any = _types.Tuple((nb.int64[::1], nb.int64[::1], nb.float64[::1]))
_COLUMNS: Any = _types.UniTuple(nb.int64[::1], 3)


@_kernel(_types.UniTuple(nb.int64[::1], 2), _given(nb.int64, 1), _given(nb.float64, 1))
def ranked(places: Indices, scores: Fractions) -> tuple[Indices, Indices]:
    """
    The order of (n,) int64 *places* from 0 on, by falling (n,) float64 score in each, and ranks.

    Of equal scores, the one that was given first stays first.  Scores that already fall in each
    place, as a model gives them, take linear time.
    """
    start = np.zeros(places.max() + 2, np.int64)
    for place in places:
        start[place + 1] += 1
    start = start.cumsum()
    stop, order, ranks = start.copy(), np.empty_like(places), np.empty_like(places)
    for row in range(places.size):
        first, at = start[places[row]], stop[places[row]]
        stop[places[row]] += 1
        ranks[at] = at - first
        while at > first and scores[order[at - 1]] < scores[row]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = row
    return order, ranks


@_kernel(
    _PAIRS, _given(nb.int64, 1), _given(nb.float64, 2), _given(nb.int64, 1), _given(nb.float64, 2),
    _given(nb.boolean, 1), nb.float64,
)  # fmt: skip
def overlapping(
    images: Indices,
    boxes: Fractions,
    truth_images: Indices,
    truth_boxes: Fractions,
    crowds: npt.NDArray[np.bool_],
    least: float,
) -> tuple[Indices, Indices, Fractions]:
    """
    All pairs of a box and an object of the same image whose IoU is at least *least*, above 0.

    *images* (n,) int64 and *truth_images* (m,) int64, which rise, are whole numbers from 0 on;
    *boxes* (n, 4) and *truth_boxes* (m, 4) float64 are x, y, width, height; *crowds* is (m,) bool.
    Gives the indices of the boxes, those of the objects, and the IoUs, by box, then by rising IoU,
    then by object; the IoU with a crowd is the part of the box that lies in it.
    """
    rows: list[int] = []
    columns: list[int] = []
    ious: list[float] = []
    start = np.zeros(truth_images[-1] + 2 if truth_images.size else 1, np.int64)
    for image in truth_images:
        start[image + 1] += 1
    start = start.cumsum()
    for row in range(images.size):
        if images[row] + 1 >= start.size:
            continue
        first = len(rows)
        x, y, width, height = boxes[row]
        for column in range(start[images[row]], start[images[row] + 1]):
            u, v, across, down = truth_boxes[column]
            # COCO's order of operations, so that each IoU is COCO's to the last bit.
            wide = min(x + width, u + across) - max(x, u)
            high = min(y + height, v + down) - max(y, v)
            if wide <= 0 or high <= 0:
                continue
            overlap, area = wide * high, width * height
            iou = overlap / (area if crowds[column] else area + across * down - overlap)
            if not iou >= least:
                continue
            rows.append(row)
            columns.append(column)
            ious.append(iou)
            at = len(rows) - 1
            while at > first and ious[at - 1] > iou:
                columns[at], ious[at] = columns[at - 1], ious[at - 1]
                at -= 1
            columns[at], ious[at] = column, iou
    return np.array(rows), np.array(columns), np.array(ious)


@_kernel(
    _COLUMNS, _PAIRS, _given(nb.boolean, 1), _given(nb.int64, 1), _given(nb.float64, 2),
    _given(nb.float64, 1), _given(nb.float64, 2),
)  # fmt: skip
def match_pairs(
    pairs: tuple[Indices, Indices, Fractions],
    crowds: npt.NDArray[np.bool_],
    beyond: Indices,
    boxes: Fractions,
    thresholds: Fractions,
    areas: Fractions,
) -> tuple[Indices, Indices, Indices]:
    """
    COCO's greedy matching at ten *thresholds* and in four ranges of *areas*, (4, 2) float64.

    *pairs* are those of `overlapping`; the *boxes* (n, 4) float64 of a place go by falling score;
    *crowds* is (objects,) bool.  Bits are int64, ``10 * area + threshold``: *beyond* (objects,)
    tells where an object is not to be found.  Gives, (n,) int64 each, the bits where a detection
    found an object, those where it counts neither way, and the object that it found at bit 0 or -1.
    """
    rows, columns, ious = pairs
    hit, ignored = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.int64)
    truth, taken = np.full(len(boxes), -1), np.zeros(crowds.size, np.int64)
    stop = 0
    while stop < rows.size:
        start, row, left = stop, rows[stop], -1
        while stop < rows.size and rows[stop] == row:
            stop += 1
        # Any object to be found goes before one that is not.
        for real in (True, False):
            for n in range(stop - 1, start - 1, -1):
                column = columns[n]
                reached = (1 << np.searchsorted(thresholds, ious[n], side="right")) - 1
                fits = left & (reached | reached << 10 | reached << 20 | reached << 30)
                fits &= ~beyond[column] if real else beyond[column]
                fits &= -1 if crowds[column] else ~taken[column]
                taken[column] |= fits
                left &= ~fits
                (hit if real else ignored)[row] |= fits
                if real and fits & 1:
                    truth[row] = column
    # What found nothing counts against the areas that its own is in.
    for row in range(len(boxes)):
        size = boxes[row, 2] * boxes[row, 3]
        for n in range(4):
            if size < areas[n, 0] or size > areas[n, 1]:
                ignored[row] |= 1023 << 10 * n & ~hit[row]
    return hit, ignored, truth


@_kernel(nb.float64[::1], _given(nb.int64, 1), nb.int64, _given(nb.float64, 1))
def precision_at_recalls(shown: Indices, wanted: int, recalls: Fractions) -> Fractions:
    """
    COCO's precision at each of *recalls*, which rise, of detections to find *wanted* objects.

    *shown*, (hits,) int64, counts the detections down to each hit.  Only hits matter: after one
    precision falls, and recall stands still, until the next.
    """
    highest, result = np.zeros(shown.size + 1), np.zeros(recalls.size)
    for n in range(shown.size - 1, -1, -1):
        # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
        highest[n] = max(highest[n + 1], (n + 1) / (shown[n] + np.spacing(1.0)))
    n = 0
    for k in range(recalls.size):
        while n < shown.size and (n + 1) / wanted < recalls[k]:
            n += 1
        result[k] = highest[n]
    return result


@_kernel(
    _types.UniTuple(nb.float64[:, :, ::1], 2), _COLUMNS, _given(nb.int64, 1),
    _given(nb.float64, 1), _given(nb.int64, 1),
)  # fmt: skip
def curves(
    matches: tuple[Indices, ...], wanted: Indices, recalls: Fractions, limits: Indices
) -> tuple[Fractions, Fractions]:
    """
    COCO's curves of one category: precision (10 thresholds, recalls, areas), and recall (10
    thresholds, areas, limits), meaningless where an area has no object.

    *matches* are, (rows,) int64 each by falling score, the bits ``10 * area + threshold`` where a
    detection found an object and where it counts neither way, and its rank in its image; *wanted*
    (areas,) int64 counts the objects; recall is of ranks below each of *limits*.
    """
    hits, ignored, ranks = matches
    bits = 10 * wanted.size
    precision = np.empty((10, recalls.size, wanted.size))
    recall = np.zeros((10, wanted.size, limits.size))
    counted, found = np.zeros(bits, np.int64), np.zeros(bits, np.int64)
    shown = np.empty((bits, hits.size), np.int64)
    for row in range(hits.size):
        for bit in range(bits):
            counted[bit] += 1 - (ignored[row] >> bit & 1)
        for bit in range(bits if hits[row] else 0):
            if hits[row] >> bit & 1:
                shown[bit, found[bit]] = counted[bit]
                found[bit] += 1
                for n in range(limits.size):
                    recall[bit % 10, bit // 10, n] += ranks[row] < limits[n]
    for bit in range(bits):
        area, k = divmod(bit, 10)
        own = precision_at_recalls(shown[bit, : found[bit]], wanted[area], recalls)
        for n in range(recalls.size):
            precision[k, n, area] = own[n]
        for n in range(limits.size):
            recall[k, area, n] /= wanted[area]
    return precision, recall


@_kernel(nb.void, nb.int32[::1], _given(nb.int32, 1), nb.int64)
def _add(total: npt.NDArray[np.int32], drawn: npt.NDArray[np.int32], times: int) -> None:
    """Add *drawn* (draws,) int32 to *total* so many *times*."""
    for d in range(total.size):
        total[d] += times * drawn[d]


@_kernel(nb.float64[::1], _COLUMNS, _given(nb.int64, 1), _given(nb.int32, 2))
def resampled_ap(
    matches: tuple[Indices, ...], wanted: Indices, weights: npt.NDArray[np.int32]
) -> Fractions:
    """
    AP of one category in each draw of images, (draws,) float64; NaN where it has no object.

    COCO's: the mean over ten thresholds and the 101 recalls 0, 0.01 to 1.

    *matches* are, (rows,) int64 each by falling score, the bits of the ten thresholds at which a
    detection found an object and at which it counts neither way, and its image; *wanted* (images,)
    int64 counts the objects; *weights* (images, draws) int32 tell how often an image was drawn;
    """
    hits, ignored, images = matches
    draws, eps = weights.shape[1], np.spacing(1.0)
    objects, counted = np.zeros(draws, np.int32), np.zeros(draws, np.int32)
    got, left_out = np.zeros((10, draws), np.int32), np.zeros((10, draws), np.int32)
    highest, total, points = np.zeros((10, draws)), np.zeros(draws), np.zeros(draws)
    for image in range(wanted.size):
        _add(objects, weights[image], wanted[image])
    for row in range(hits.size):
        own = weights[images[row]]
        _add(counted, own, 1)
        for n in range(10 if (hits[row] | ignored[row]) & 1023 else 0):
            _add(got[n], own, hits[row] >> n & 1)
            _add(left_out[n], own, ignored[row] >> n & 1)
    # Back from the last one: where a hit is the most precise from there on, all recalls up to its
    # own gain the difference.
    for row in range(hits.size - 1, -1, -1):
        own = weights[images[row]]
        for n in range(10 if (hits[row] | ignored[row]) & 1023 else 0):
            _add(left_out[n], own, -(ignored[row] >> n & 1))
            if hits[row] >> n & 1:
                hit, out, best = got[n], left_out[n], highest[n]
                # Loops of few arrays each, which the compiler turns into vector instructions.
                for d in range(draws):
                    recall = hit[d] / max(objects[d], 1)
                    near = np.int32(recall * 100 + 0.5)
                    points[d] = near + (near * 0.01 <= recall)
                for d in range(draws):
                    precision = hit[d] / (np.int32(counted[d] - out[d]) + eps)
                    gain = precision - best[d]
                    total[d] += gain * points[d] if gain > 0 else 0.0
                    best[d] = precision if gain > 0 else best[d]
                _add(hit, own, -1)
        _add(counted, own, -1)
    for d in range(draws):
        # NaN where there is nothing to divide by.
        total[d] /= 10 * 101 * (objects[d] > 0)
    return total
