"""
The loops that numpy has no fast form of, compiled by numba; every kernel releases the GIL.

A kernel has one signature, so it is compiled when this module is imported: in seconds once on a
host, then read from numba's cache (``NUMBA_CACHE_DIR``, or beside this file, or in the user's
cache).  To import it is half a second, which is why a module that computes imports it where it
computes, and why whoever measures imports it before.  Arithmetic keeps the order that is written.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numba as nb
import numpy as np
import numpy.typing as npt

from .types import Boxes, Flags, Floats, Fractions, Indices, Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Pillow's fixed point of a weight by which an 8-bit value is multiplied: 32 - 8 - 2 bits.
_BITS = 22
_BYTE = np.uint64(255)
_types: Any = nb.types  # half typed
_STARTED = time.perf_counter()


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


_HEAD, _PLANES = _given(nb.float32, 2), nb.float32[:, :, ::1]


@_kernel(nb.boolean, _HEAD, nb.int64, nb.float32[:, ::1], fastmath={"reassoc", "nsz"})
def class_maxima(head: Floats, classes: int, maxima: Floats) -> bool:
    """
    Write the largest logit of each anchor to *maxima*, (anchors, places) float32.

    *head* is (anchors * classes, places) float32, read once.  Returns whether it is finite.
    """
    zeros = np.float32(0)
    for anchor in range(maxima.shape[0]):
        top = maxima[anchor]
        top[:] = head[anchor * classes]
        for label in range(classes):
            row = head[anchor * classes + label]
            zero = np.float32(0)
            for place in range(row.size):
                zero += row[place] * np.float32(0)  # NaN for NaN and for either infinity
                top[place] = max(top[place], row[place])
            zeros += zero
    return bool(zeros == 0)


@_kernel(nb.int64, _HEAD, nb.int64, _HEAD, nb.float32, nb.int64, nb.uint64[::1], nb.int64)
def gather_logits(
    head: Floats, classes: int, maxima: Floats, lowest: Any, start: int, keys: Any, count: int
) -> int:
    """
    Append a key for each logit of *head* from *lowest* up to *keys*, uint64; return the new count.

    Sorted keys have logits fall, and, where they tie, their flat indices rise: anchor * classes +
    class, where the first anchor is *start*.  *maxima* are those that `class_maxima` writes.
    """
    anchors, places = maxima.shape
    chosen = np.empty(places, np.uint64)
    for anchor in range(anchors):
        number = 0
        for place in range(places):
            chosen[number] = place
            number += maxima[anchor, place] >= lowest
        # Row by row, since what lies in a row shares cache lines.
        for label in range(classes):
            row = head[anchor * classes + label]
            for i in range(number):
                value = row[chosen[i]]
                if value >= lowest:
                    # The sum makes -0 a 0.  Of positive floats, the bits rise with the value.
                    bits = np.int64(np.float32(value + np.float32(0)).view(np.int32))
                    order = bits ^ 0x7FFFFFFF if bits >= 0 else bits & 0xFFFFFFFF
                    flat = (start + np.int64(chosen[i]) * anchors + anchor) * classes + label
                    keys[count] = order << 32 | flat
                    count += 1
    return count


@_kernel(nb.int64, _HEAD, nb.int64, nb.int64, _given(nb.int64, 1), nb.float32[:, ::1])
def gather_codes(head: Floats, per_place: int, start: int, anchors: Indices, codes: Floats) -> int:
    """
    Write the codes of those *anchors*, (n,) int64, that are in this level to *codes*, (n, 4).

    *head* is (*per_place* * 4, places) float32, its first anchor *start*; returns the next level's.
    """
    end = start + per_place * head.shape[1]
    for row in range(anchors.size):
        if start <= anchors[row] < end:
            place, anchor = divmod(anchors[row] - start, per_place)
            for side in range(4):
                codes[row, side] = head[anchor * 4 + side, place]
    return int(end)


@_kernel(nb.int64, _HEAD, _given(nb.int64, 1), nb.float32, nb.int64[::1])
def greedy_nms(boxes: Boxes, classes: Indices, threshold: np.float32, keep: Indices) -> int:
    """
    Write the indices of the first boxes that greedy NMS keeps to *keep*, int64; return how many.

    *boxes*, (n, 4) float32 xyxy, come by falling score and go if their IoU, in float32, with a kept
    one of their class is above *threshold*.
    """
    count = 0
    for index in range(boxes.shape[0]):
        if count == keep.size:
            break
        x1, y1, x2, y2 = boxes[index]
        alone, area, none = True, (x2 - x1) * (y2 - y1), np.float32(0)
        for i in range(count):
            if classes[keep[i]] == classes[index]:
                left, top, right, bottom = boxes[keep[i]]
                width, height = min(x2, right) - max(x1, left), min(y2, bottom) - max(y1, top)
                overlap = max(width, none) * max(height, none)
                if overlap / ((right - left) * (bottom - top) + area - overlap) > threshold:
                    alone = False
                    break
        if alone:
            keep[count] = index
            count += 1
    return count


@_kernel(_types.Tuple((nb.int64[::1], nb.int64[::1], nb.uint64[:, ::1])), nb.int64, nb.int64)
def _bilinear(size: int, scaled: int) -> tuple[Indices, Indices, Any]:
    """Pillow's antialiased bilinear along one axis: first pixel, their number, their weights."""
    scale = size / scaled
    reach = max(scale, 1.0)
    first, count = np.empty(scaled, np.int64), np.empty(scaled, np.int64)
    weights = np.zeros((scaled, math.ceil(reach) * 2 + 1))
    for to in range(scaled):
        centre, total = (to + 0.5) * scale, 0.0
        first[to] = max(int(centre - reach + 0.5), 0)
        count[to] = min(int(centre + reach + 0.5), size) - first[to]
        for i in range(count[to]):
            weights[to, i] = max(0.0, 1.0 - abs((i + first[to] - centre + 0.5) * (1.0 / reach)))
            total += weights[to, i]
        weights[to] = 0.5 + weights[to] / total * (1 << _BITS)
    return first, count, weights.astype(np.uint64)


@_kernel(nb.void, _given(nb.uint32, 2), nb.int64, nb.int64, *[_given(nb.float32, 1)] * 2, _PLANES)
def resize_normalized(  # noqa: C901 - one pass over memory, not two
    pixels: Any, rows: int, columns: int, mean: Floats, std: Floats, out: Tensor
) -> None:
    """
    Resize as Pillow's antialiased bilinear does, to the bit; write (value - *mean*) / *std*.

    *pixels* are (height, width) uint32, R in the lowest byte, then G and B; *mean* and *std* are
    (3,) float32 in pixel values; *out* is (3, at least *rows*, at least *columns*) float32.
    Columns come first, and are rounded to 8 bits before the rows.
    """
    height, width = pixels.shape
    left, across, column_weights = _bilinear(width, columns)
    top, down, row_weights = _bilinear(height, rows)
    pair, narrow = np.empty((3, width), np.uint64), np.empty((height + 1, 3, columns), np.uint8)
    red, green, blue = pair
    line, ready = np.empty(columns, np.int32), 0
    for y in range(rows):
        while ready < top[y] + down[y]:
            # Two rows at a time, one in each half of 64 bits: no sum overflows its half.
            upper, lower = pixels[ready], pixels[min(ready + 1, height - 1)]
            one, two = narrow[ready], narrow[ready + 1]
            for channel in range(3):
                shift, both = np.uint32(8 * channel), pair[channel]
                for x in range(width):
                    high, low = np.uint64(lower[x] >> shift), np.uint64(upper[x] >> shift)
                    both[x] = (high & _BYTE) << np.uint64(32) | (low & _BYTE)
            for x in range(columns):
                r = g = b = np.uint64((1 << (_BITS - 1)) | (1 << (_BITS + 31)))
                for i in range(across[x]):
                    weight, at = column_weights[x, i], np.uint64(left[x] + i)
                    r += red[at] * weight
                    g += green[at] * weight
                    b += blue[at] * weight
                for channel, sums in enumerate((r, g, b)):
                    one[channel, x] = sums >> np.uint64(_BITS) & _BYTE
                    two[channel, x] = sums >> np.uint64(_BITS + 32)
            ready += 2
        for channel in range(3):
            line[:] = 1 << (_BITS - 1)
            for i in range(down[y]):
                row_weight, row = np.int32(row_weights[y, i]), narrow[top[y] + i, channel]
                for x in range(columns):
                    line[x] += np.int32(row[x]) * row_weight
            plane, middle, spread = out[channel, y], mean[channel], std[channel]
            for x in range(columns):
                plane[x] = (np.float32(line[x] >> _BITS) - middle) / spread


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


#: Seconds that compiling, or reading the cache, took when this module was imported.
READY_S = time.perf_counter() - _STARTED
