"""What was found in units of images, as `effd0.scale` hands it around, for several test modules."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from effd0.detection.postprocess import Detections
from effd0.scale.tables import UnitFound

#: float32 that a conversion would not leave alone: zeros, subnormals, infinities, NaN with content.
_SPECIAL = np.array(
    [0, 0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC00123], np.uint32
)


def detections(count: int, seed: int = 0) -> Detections:
    """Return *count* detections of random bits, a quarter of the numbers special ones."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 5 * count, np.uint32)
    special = rng.random(5 * count) < 0.25
    bits[special] = rng.choice(_SPECIAL, special.sum())
    numbers = bits.view(np.float32)
    return Detections(
        numbers[: 4 * count].reshape(count, 4),
        numbers[4 * count :],
        rng.integers(1, 91, count, np.int64),
    )


def unit_of(
    first: int, image_ids: tuple[int, ...], seed: int = 0, most: int = 5, matches: bytes = b"\x00m"
) -> UnitFound:
    """Return a unit of random content: 0 to *most* detections an image."""
    rng = np.random.default_rng([seed, first])
    counts = rng.integers(0, most, len(image_ids), endpoint=True)
    return UnitFound(
        first=first,
        image_ids=image_ids,
        sha256=tuple(rng.bytes(32) for _ in image_ids),
        twins=tuple(rng.bytes(int(rng.integers(0, 20))) for _ in image_ids),
        detections=tuple(detections(int(count), seed + n) for n, count in enumerate(counts)),
        counted=int(counts.sum()),
        matches=matches,
    )


@st.composite
def units(draw: st.DrawFn) -> UnitFound:
    """Any unit of a few images."""
    image_ids = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
    return unit_of(
        draw(st.integers(0, 10**9)),
        tuple(image_ids),
        draw(st.integers(0, 2**32)),
        draw(st.integers(0, 30)),
        draw(st.binary(max_size=100)),
    )


def all_of(unit: UnitFound) -> tuple[object, ...]:
    """Return all that *unit* holds, to the last bit."""
    found = None
    if unit.detections is not None:
        each = [array for one in unit.detections for array in (one.boxes, one.scores, one.classes)]
        found = [(array.dtype, array.shape, array.tobytes()) for array in each]
    return unit.first, unit.image_ids, unit.sha256, unit.twins, found, unit.counted, unit.matches


#: Three images: two detections, none, three.
UNIT = UnitFound(
    first=3,
    image_ids=(40, 50, 60),
    sha256=(b"a" * 32, b"b" * 32, b"c" * 32),
    twins=(b"twin", b"", b""),
    detections=tuple(detections(count, seed) for seed, count in enumerate((2, 0, 3))),
    counted=5,
    matches=b"all matches",
)
