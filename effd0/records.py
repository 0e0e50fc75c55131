"""
Detections as records of a file that grows: each shows by itself whether it is whole.

A record is the image id (int64), the number of detections (uint32), their boxes and scores
(float32) and classes (int64), all little endian and as they are in memory, and the CRC-32 of all
that.  The CRC begins with a seed, so that a record of another run is not taken for one of this.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from .postprocess import Detections

_HEAD = struct.Struct("<qI")
_CRC = struct.Struct("<I")
#: Four float32 of a box, one of a score, an int64 of a class.
_DETECTION_BYTES = 4 * 4 + 4 + 8


def encode(image_id: int, found: Detections, seed: int) -> bytes:
    """The record of what was *found* in the image *image_id*."""
    body = b"".join(
        (
            _HEAD.pack(image_id, len(found)),
            found.boxes.astype("<f4").tobytes(),
            found.scores.astype("<f4").tobytes(),
            found.classes.astype("<i8").tobytes(),
        )
    )
    return body + _CRC.pack(zlib.crc32(body, seed))


def whole_records(
    data: bytes, image_ids: Sequence[int], seed: int
) -> Iterator[tuple[Detections, int]]:
    """
    Yield the detections of each record at the beginning of *data*, and where the record ends.

    Stops at the first that is torn, changed, of another seed, or not of the next of *image_ids*.
    """
    start = 0
    for image_id in image_ids:
        if start + _HEAD.size > len(data):
            return
        found_id, count = _HEAD.unpack_from(data, start)
        end = start + _HEAD.size + count * _DETECTION_BYTES
        if found_id != image_id or end + _CRC.size > len(data):
            return
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[start:end], seed):
            return
        yield _decode(data, start + _HEAD.size, count), end + _CRC.size
        start = end + _CRC.size


def _decode(data: bytes, start: int, count: int) -> Detections:
    boxes = np.frombuffer(data, "<f4", 4 * count, start)
    scores = np.frombuffer(data, "<f4", count, start + 16 * count)
    classes = np.frombuffer(data, "<i8", count, start + 20 * count)
    return Detections(
        boxes.astype(np.float32).reshape(count, 4),
        scores.astype(np.float32),
        classes.astype(np.int64),
    )
