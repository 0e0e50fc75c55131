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

from .types import Flags, Fractions, Indices

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


#: What the kernels of the metrics are given.
_INDICES, _FLAGS = _given(nb.int64, 1), _given(nb.boolean, 1)
_FRACTIONS, _BOXES = _given(nb.float64, 1), _given(nb.float64, 2)
#: Boxes, objects and the IoUs of their pairs; columns of the match table.
_PAIRS: Any = _types.Tuple((nb.int64[::1], nb.int64[::1], nb.float64[::1]))
_COLUMNS: Any = _types.UniTuple(nb.int64[::1], 3)


@_kernel(_PAIRS, _INDICES, _BOXES, _types.Tuple((_INDICES, _BOXES, _FLAGS)), nb.float64)
def overlapping(images: Indices, boxes: Fractions, truths: Any, least: float) -> tuple[Any, ...]:
    """
    All pairs of a box and an object of the same image whose IoU is at least *least*, above 0.

    *images* (n,) int64 are those of the *boxes*, (n, 4) float64 x, y, width, height; *truths* are
    the images of the objects, (m,) int64, which rise, their boxes (m, 4), and whether each is a
    crowd, (m,) bool.  Gives the indices of the boxes, those of the objects, and the IoUs, by box,
    then by rising IoU, then by object; with a crowd it is the part of the box that lies in it.
    """
    owners, objects, crowds = truths
    rows, columns, ious = [], [], []  # type: ignore[var-annotated]  # numba finds the types
    for row in range(images.size):
        first = len(rows)
        x, y, width, height = boxes[row]
        for column in range(np.searchsorted(owners, images[row]), owners.size):
            if owners[column] != images[row]:
                break
            u, v, across, down = objects[column]
            # COCO's order of operations, so that each IoU is COCO's to the last bit.
            wide = max(min(x + width, u + across) - max(x, u), 0.0)
            overlap = wide * max(min(y + height, v + down) - max(y, v), 0.0)
            area = width * height
            iou = overlap / (area if crowds[column] else area + across * down - overlap)
            if iou >= least:
                at = len(rows)
                while at > first and ious[at - 1] > iou:
                    at -= 1
                rows.append(row)
                columns.insert(at, column)
                ious.insert(at, iou)
    return np.array(rows), np.array(columns), np.array(ious)


@_kernel(_COLUMNS, _PAIRS, _FLAGS, _INDICES, _BOXES, _FRACTIONS, _BOXES)
def match_pairs(
    pairs: Any, crowds: Flags, beyond: Indices, boxes: Fractions, ious: Fractions, areas: Fractions
) -> tuple[Indices, ...]:
    """
    COCO's greedy matching at ten thresholds *ious* and in four ranges of *areas*, (4, 2) float64.

    *pairs* are those of `overlapping`; the *boxes* (n, 4) float64 of a place go by falling score;
    *crowds* is (objects,) bool.  Bits are int64, ``10 * area + threshold``: *beyond* (objects,)
    tells where an object is not to be found.  Gives, (n,) int64 each, the bits where a detection
    found an object, those where it counts neither way, and the object that it found at bit 0 or -1.
    """
    rows, columns, overlaps = pairs
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
                reached = (1 << np.searchsorted(ious, overlaps[n], side="right")) - 1
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


@_kernel(nb.void, _INDICES, nb.int64, _FRACTIONS, nb.float64[::1])
def precision_at_recalls(shown: Indices, wanted: int, recalls: Fractions, out: Fractions) -> None:
    """
    Write COCO's precision at each of *recalls*, which rise, to *out*; *wanted* counts the objects.

    *shown*, (hits,) int64, counts the detections down to each hit.  Only hits matter: after one
    precision falls, and recall stands still, until the next.
    """
    highest = np.zeros(shown.size + 1)
    for n in range(shown.size - 1, -1, -1):
        # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
        highest[n] = max(highest[n + 1], (n + 1) / (shown[n] + np.spacing(1.0)))
    n = 0
    for k in range(recalls.size):
        while n < shown.size and (n + 1) / wanted < recalls[k]:
            n += 1
        out[k] = highest[n]


@_kernel(nb.void, _COLUMNS, _INDICES, _FRACTIONS, _INDICES, nb.float64[:, ::1], nb.float64[:, ::1])
def curves(
    matches: Any, wanted: Indices, recalls: Fractions, limits: Indices, out: Any, found: Any
) -> None:
    """
    Write COCO's precision of one category to *out* (bits, recalls), its recall to *found* (bits,
    limits), both float64; -1 where there is no object.

    A bit is ``10 * area + threshold``.  *matches* are, (rows,) int64 each by falling score, the
    bits where a detection found an object and where it counts neither way, and its rank in its
    image; *wanted* (areas,) int64 counts the objects.  Recall is of ranks below each of *limits*.
    """
    hits, ignored, ranks = matches
    counted, size = np.zeros(len(out), np.int64), np.zeros(len(out), np.int64)
    shown = np.empty((len(out), hits.size), np.int64)
    found[:] = 0
    for row in range(hits.size):
        for bit in range(len(out)):
            counted[bit] += 1 - (ignored[row] >> bit & 1)
        for bit in range(len(out) if hits[row] else 0):
            if hits[row] >> bit & 1:
                shown[bit, size[bit]] = counted[bit]
                size[bit] += 1
                found[bit] += ranks[row] < limits
    for bit in range(len(out)):
        objects = wanted[bit // 10]
        precision_at_recalls(shown[bit, : size[bit]], objects, recalls, out[bit])
        found[bit] /= objects
        if not objects:
            out[bit] = found[bit] = -1


@_kernel(nb.void, nb.int32[::1], _given(nb.int32, 1), nb.int64)
def _add(total: npt.NDArray[np.int32], drawn: npt.NDArray[np.int32], times: int) -> None:
    """Add *drawn* (draws,) int32 to *total* so many *times*."""
    for d in range(total.size):
        total[d] += times * drawn[d]


@_kernel(nb.float64[::1], _COLUMNS, _INDICES, _given(nb.int32, 2))
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
