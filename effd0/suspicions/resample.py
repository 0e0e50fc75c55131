"""Resampling as other libraries do it: PIL's filters are not the only ones."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..types import Floats, Indices


def unsmoothed_bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB *image* to *size* (width, height), each pixel from its four neighbours only."""
    values = np.asarray(image, np.float32)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        there = values.shape[axis]
        # Pixels have centres: half a pixel is added before scaling and taken off after it.
        places = np.clip((np.arange(wanted) + 0.5) * there / wanted - 0.5, 0, there - 1)
        first = places.astype(np.int64)
        weight = (places - first).astype(np.float32).reshape((-1, 1) if axis else (-1, 1, 1))
        second = np.minimum(first + 1, there - 1)
        low, high = (np.take(values, index, axis) for index in (first, second))
        values = low + (high - low) * weight
    return _rounded(values)


def area(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB *image* to *size*, each pixel the mean of the area under it, parts counted."""
    values = np.asarray(image, np.float32)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        there = values.shape[axis]
        pixels, edges = np.arange(there), np.arange(wanted + 1)[:, None] * there / wanted
        shared = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        weights = (np.clip(shared, 0, None) * wanted / there).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return _rounded(values)


def aligned_nearest(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB *image* to *size*, each pixel the one whose corner is before its own corner."""
    columns, rows = map(_corners, image.size, size)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])


def _rounded(values: Floats) -> Image.Image:
    # Halves go up, as with the whole-number arithmetic of image libraries.
    return Image.fromarray(np.floor(values + np.float32(0.5)).astype(np.uint8))


def _corners(there: int, wanted: int) -> Indices:
    return np.arange(wanted) * there // wanted
