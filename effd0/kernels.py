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

from .types import Boxes, Floats, Indices, Tensor

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


#: Seconds that compiling, or reading the cache, took when this module was imported.
READY_S = time.perf_counter() - _STARTED
