"""
Which known mistake a network input bears: each is made on purpose, and one may fit exactly.

A mistake is named only where the error vanishes with it; what fits no mistake has no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.coco import Sample
from ..data.preprocess import preprocess
from ..errors import ResultError
from ..spec import ModelSpec
from ..types import Floats, Tensor
from .base import Suspicion
from .mistakes import mistakes_for
from .source import Source

#: Largest relative L2 error of an input that is right, in whatever order it was computed: 9e-8 was
#: measured with the division by 255 first (three embedded scenes, 2026-11-23).
SAME = 1e-6
#: Share of the error that a mistake which fits may leave: 30 mistakes made by other code leave at
#: most 0.039 on three embedded scenes in float16 (zero fill, 2026-11-23).
FRACTION = 0.2
#: Largest relative L2 error of thumbnails of one image: 7e-5 in float16; those of two embedded
#: images of the 48 differ by 0.72 at least (2026-11-23).
SAME_THUMBNAIL = 1e-3
#: Grey levels by which two that round alike may differ: one, and what the spread of the values
#: leaves uncertain of it.
ROUNDING = 1.25
#: Share of the elements that may differ by more: a row that another tool takes from the neighbour.
STRAYS = 0.02
#: Sides of the thumbnail that tells images apart.
THUMBNAIL = 16


def suspect_input(path: Path, given: Floats, spec: ModelSpec) -> Suspicion | None:
    """
    Name the mistake that was made where *given* is not the network input of the image *path*.

    *given* is (3, size, size) float, as a pipeline elsewhere made it.  A mistake fits where it
    leaves at most `FRACTION` of the error, and no more than a grey level of it but for a few
    strays; of several, the one with the least error is named.  None where *given* is right, or
    none fits.  Raises `ResultError` for another shape and `ImageError` for an unreadable image.
    """
    if given.shape != spec.input_shape:
        raise ResultError(
            f"the input of {path.name} is {given.shape}, but {spec.input_shape} was wanted; "
            "write it again"
        )
    source = Source(path, spec)
    before = relative_error(given, source.tensor)
    if not SAME < before < np.inf:
        return None
    levels = max(int(np.ptp(source.pixels)), 1)
    best: Suspicion | None = None
    for mistake in mistakes_for(spec):
        remade = mistake.remake(source)
        # One grey level in the unit of this mistake, by how far its values spread.
        if not _within(given, remade, ROUNDING * float(np.ptp(remade)) / levels):
            continue
        after = relative_error(given, remade)
        if after <= (FRACTION * before if best is None else best.error_after * 0.999):
            best = Suspicion(mistake.name, mistake.inverse, before, after)
    return best


def relative_error(given: Floats, wanted: Floats) -> float:
    """L2 norm of the difference over that of *wanted*: NaN or infinite where *given* is."""
    given = given.astype(np.float64)
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted.astype(np.float64)))


def _within(given: Floats, remade: Floats, limit: float) -> bool:
    # Most mistakes miss by far: some rows say so, at little cost.
    for rows, allowed in ((slice(None, None, 17), 3 * STRAYS), (slice(None), STRAYS)):
        if np.mean(np.abs(given[:, rows] - remade[:, rows]) > limit) > allowed:
            return False
    return True


def thumbnail(tensor: Floats) -> Floats:
    """The means of blocks of *tensor* (3, size, size), (3, 16, 16): they tell images apart."""
    side = tensor.shape[-1] // THUMBNAIL
    blocks = tensor.astype(np.float32).reshape(3, THUMBNAIL, side, THUMBNAIL, side)
    means: Floats = blocks.mean(axis=(2, 4), dtype=np.float32)
    return means


def suspect_order(
    samples: Sequence[Sample], digests: Sequence[Floats], spec: ModelSpec
) -> Suspicion | None:
    """
    Name how the inputs, whose `thumbnail`s are *digests*, are out of the order of *samples*.

    Tried are shifts by one in either direction, reversed order and one image for all.  None where
    the order is right or none fits.  Raises `ImageError` for an image that cannot be read.
    """
    given = np.stack(digests)
    own = np.stack([thumbnail(_tensor(sample, spec)) for sample in samples])
    places, count = np.arange(len(samples)), len(samples)
    before = relative_error(given, own)
    orders = {
        "images shifted by one (each holds the next)": places + 1,
        "images shifted by one (each holds the one before)": places - 1,
        "images in reversed order": places[::-1],
        **{f"all images are {samples[i].path.name}": np.full(count, i) for i in (0, count - 1)},
    }
    best: Suspicion | None = None
    for name, order in orders.items():
        # What was shifted out at an end is not of these images.
        inside = (order >= 0) & (order < count)
        if inside.sum() < min(count, 2):
            continue
        after = relative_error(given[inside], own[order[inside]])
        if after < SAME_THUMBNAIL < before and (best is None or after < best.error_after):
            best = Suspicion(name, "each is compared with that image", before, after)
    return best


def _tensor(sample: Sample, spec: ModelSpec) -> Tensor:
    tensor: Tensor = preprocess(sample.path, spec).tensor.astype(np.float32, copy=False)
    return tensor
