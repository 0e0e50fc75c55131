"""
What was found in a unit of images, as an Arrow table of one row an image.

What belongs to the whole unit stands in the row of its first image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..detection.postprocess import Detections
from ..errors import ResultError, require

#: Raised by one when a reader of the tables would have to change.
VERSION = 1
#: The columns of the detections; all the others are always there.
DETECTIONS = ("boxes", "scores", "classes")
_VERSION_KEY = b"effd0.version"


@dataclass(frozen=True)
class UnitFound:
    """
    What was found in a unit: the images of the dataset from place *first* on, at least one.

    *sha256* are the fingerprints of the image files, 32 bytes each; *twins* a key an image, which
    may be empty; *counted* and *matches* are of the whole unit: how many detections are scored, and
    their `MATCH`.
    """

    first: int
    image_ids: tuple[int, ...]
    sha256: tuple[bytes, ...]
    twins: tuple[bytes, ...]
    detections: tuple[Detections, ...] | None
    counted: int
    matches: bytes

    @property
    def stop(self) -> int:
        """The place after that of the last image."""
        return self.first + len(self.image_ids)


def to_bytes(found: UnitFound, *, detections: bool) -> bytes:
    """*found* as an Arrow IPC stream, with its detections only where they are wanted."""
    pa = require("pyarrow", extra="ray")
    table = to_table(found, detections=detections)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_bytes(data: bytes) -> UnitFound:
    """What `to_bytes` was given; raise `ResultError` for other bytes, or those of a version."""
    pa = require("pyarrow", extra="ray")
    try:
        table = pa.ipc.open_stream(data).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ResultError(
            f"{len(data)} bytes from a worker are no table: {error}; "
            "install one version of pyarrow on all hosts"
        ) from error
    return from_table(table)


def to_table(found: UnitFound, *, detections: bool) -> Any:
    """*found* as a table, with its detections only where they are wanted."""
    pa = require("pyarrow", extra="ray")
    rest = [None] * (len(found.image_ids) - 1)
    columns = {
        "place": pa.array(range(found.first, found.stop), pa.int64()),
        "image_id": pa.array(found.image_ids, pa.int64()),
        "image_sha256": pa.array(found.sha256, pa.binary(32)),
        "twin": pa.array(found.twins, pa.binary()),
        "counted": pa.array([found.counted, *rest], pa.int64()),
        "matches": pa.array([found.matches, *rest], pa.binary()),
    }
    if detections and found.detections is not None:
        for name, dtype in zip(DETECTIONS, (np.float32, np.float32, np.int64), strict=True):
            arrays = [getattr(each, name).astype(dtype, copy=False) for each in found.detections]
            columns[name] = _lists(arrays, pa)
    return pa.table(columns, metadata={_VERSION_KEY: str(VERSION)})


def from_table(table: Any) -> UnitFound:
    """
    What `to_table` was given; the detections are None where their columns are not there.

    Raises `ResultError` for the table of another version.
    """
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(VERSION):
        raise ResultError(
            f"a unit's table is of version {version}, but {VERSION} was wanted; "
            "install one version of effd0 on all hosts, and begin the run anew"
        )
    return UnitFound(
        first=table["place"][0].as_py(),
        image_ids=tuple(table["image_id"].to_pylist()),
        sha256=tuple(table["image_sha256"].to_pylist()),
        twins=tuple(table["twin"].to_pylist()),
        detections=_detections(table) if DETECTIONS[0] in table.column_names else None,
        counted=table["counted"][0].as_py(),
        matches=table["matches"][0].as_py(),
    )


def _lists(arrays: Sequence[npt.NDArray[Any]], pa: Any) -> Any:
    """A list of each of *arrays*, of the numbers as they are in memory."""
    flat = [array.ravel() for array in arrays]
    ends = np.cumsum([0, *map(len, flat)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(flat)))


def _detections(table: Any) -> tuple[Detections, ...]:
    boxes, scores, classes = (_arrays(table[name]) for name in DETECTIONS)
    return tuple(
        Detections(box.reshape(-1, 4), score, label)
        for box, score, label in zip(boxes, scores, classes, strict=True)
    )


def _arrays(column: Any) -> Iterator[npt.NDArray[Any]]:
    """An array of each list of *column*, which may be written to."""
    for chunk in column.chunks:
        numbers = chunk.flatten().to_numpy().copy()
        ends = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()
        yield from (numbers[start:end] for start, end in pairwise(ends))
