"""Tests for `effd0.evaluation.run_dir`: what is read back, and what is not taken for whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.detection.postprocess import Detections
from effd0.evaluation.run_dir import encode, whole_records

SEED = 7
IDS = [10, 20, 30]


def detections(count: int, seed: int = 0) -> Detections:
    """Return *count* detections of random bits: any float32, those that are no numbers too."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 5 * count, np.uint32).view(np.float32)
    return Detections(
        bits[: 4 * count].reshape(count, 4), bits[4 * count :], rng.integers(1, 91, count, np.int64)
    )


def bits_of(found: Detections) -> tuple[object, ...]:
    """Return all that *found* holds, to the last bit."""
    arrays = (found.boxes, found.scores, found.classes)
    return tuple((array.dtype, array.shape, array.tobytes()) for array in arrays)


THREE = [detections(count, seed) for seed, count in enumerate((2, 0, 3))]
RECORDS = [encode(image_id, found, SEED) for image_id, found in zip(IDS, THREE, strict=True)]
DATA = b"".join(RECORDS)
ENDS = [sum(map(len, RECORDS[: n + 1])) for n in range(len(RECORDS))]


def whole(data: bytes, image_ids: list[int] = IDS, seed: int = SEED) -> int:
    """Return how many records of *data* are whole, having seen that they are the true ones."""
    found = list(whole_records(data, image_ids, seed))
    for (read, end), written, true_end in zip(found, THREE, ENDS, strict=False):
        assert (bits_of(read), end) == (bits_of(written), true_end)
    return len(found)


@given(
    count=st.integers(0, 100), seed=st.integers(0, 2**32), image_id=st.integers(-(2**63), 2**63 - 1)
)
def test_detections_come_back_bit_for_bit(count: int, seed: int, image_id: int) -> None:
    """Whatever the bits of boxes, scores and classes are, they are read as they were."""
    written = detections(count, seed)
    data = encode(image_id, written, seed)
    ((read, end),) = whole_records(data, [image_id], seed)
    assert bits_of(read) == bits_of(written)
    assert end == len(data)


def test_a_file_cut_anywhere_gives_the_records_before_the_cut() -> None:
    """Of every beginning of the file just the records that end in it are taken."""
    for cut in range(len(DATA) + 1):
        assert whole(DATA[:cut]) == sum(end <= cut for end in ENDS)


def test_no_changed_byte_is_taken_for_whole() -> None:
    """Wherever one byte is another, reading ends before the record that it is in."""
    for place in range(len(DATA)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(DATA)
            changed[place] ^= change
            assert whole(bytes(changed)) == sum(end <= place for end in ENDS)


@pytest.mark.parametrize(
    ("data", "image_ids", "seed", "count"),
    [
        pytest.param(DATA, IDS, SEED + 1, 0, id="another-run"),
        pytest.param(DATA, [20, 10, 30], SEED, 0, id="another-order"),
        pytest.param(DATA, [10, 30], SEED, 1, id="foreign-image"),
        pytest.param(RECORDS[0] * 2, IDS, SEED, 1, id="twice"),
        pytest.param(DATA[: ENDS[0]] + bytes(500), [10, 0, 0], SEED, 1, id="zeros-after-power-cut"),
        pytest.param(DATA + RECORDS[0], IDS, SEED, 3, id="more-than-all"),
    ],
)
def test_a_record_out_of_place_is_not_taken(
    data: bytes, image_ids: list[int], seed: int, count: int
) -> None:
    """What is of another run, of another image or of none ends the reading."""
    assert whole(data, image_ids, seed) == count
