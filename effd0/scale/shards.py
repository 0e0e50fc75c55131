"""
What was found in a run, as a folder of Parquet files: a shard for each unit of images.

``pandas.read_parquet`` of the folder gives a row an image.  A shard holds the SHA-256 of all its
other bytes, so that no change of it is taken for a result.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import ResultError, require
from ..io import writing_to, written_whole
from .tables import DETECTIONS, UnitFound, from_table, to_table

_SEED_KEY, _DIGEST_KEY = b"effd0.seed", b"effd0.digest"
#: What stands before the digest of a shard, in its footer, and in its place while it is made.
_MARK, _BLANK = b"effd0-shard-sha256:", b"0" * 64
#: float32 in Parquet's names: split into planes of bytes, of which those of exponents repeat.
_FLOATS = ("boxes.list.element", "scores.list.element")


def write_shard(folder: Path, found: UnitFound, seed: str) -> Path:
    """
    Write *found* as a shard of the run *seed* in *folder*; return its path.

    Several may write the same shard: each is whole, and the last stays.  Raises `OutputError` if
    it cannot be written.
    """
    path = folder / _name(found)
    data = _parquet(found, seed)
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


def read_shard(path: Path, seed: str, *, with_detections: bool = True) -> UnitFound:
    """
    What the shard *path* of the run *seed* holds; its detections only where they are wanted.

    Raises `ResultError` where any byte is another than was written, where it bears the name of
    another, and for the shard of another run or of another version.
    """
    pa, pq = require("pyarrow", extra="ray"), require("pyarrow.parquet", extra="ray")
    try:
        data = path.read_bytes()
        if not _is_whole(data):
            raise _refused(path, "is torn or was changed")
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            other = file.metadata.metadata[_SEED_KEY].decode()
            if other != seed:
                raise _refused(path, f"is of the run {other}, but {seed} was wanted")
            names = file.schema_arrow.names
            wanted = [name for name in names if with_detections or name not in DETECTIONS]
            found = from_table(file.read(columns=wanted, use_threads=False))
    except (pa.ArrowException, OSError) as error:
        raise _refused(path, f"cannot be read: {error}") from error
    if path.name != _name(found):
        raise _refused(path, f"holds what {_name(found)} should")
    return found


def whole_shards(
    folder: Path,
    seed: str,
    image_ids: Sequence[int],
    say: Callable[[str], object],
    *,
    with_detections: bool = True,
) -> Iterator[UnitFound]:
    """
    Yield what the shards of the run *seed* in *folder* hold, in order of the images.

    *image_ids* are those of the whole dataset.  A shard that is not whole, of other images, or of
    images that an earlier one holds is set aside, under a name that no reader looks at, for its
    images to be done again; *say* is told of it.
    """
    stop = 0
    for path in sorted(folder.glob("[!._]*.parquet")):
        try:
            found = read_shard(path, seed, with_detections=with_detections)
            if found.first < stop:
                raise _refused(path, "holds images of the shard before it")
            if found.image_ids != tuple(image_ids[found.first : found.stop]):
                raise _refused(path, "is of other images than this run")
        except ResultError as error:
            say(str(error))
            with writing_to(path):
                path.replace(folder / f".{path.name}.aside")
        else:
            stop = found.stop
            yield found


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in *folder*; no other may be writing."""
    with writing_to(folder):
        for left in folder.glob(".*.parquet.*"):
            if left.is_dir():
                shutil.rmtree(left)


def shard_name(first: int, stop: int) -> str:
    """The name of the shard with the images from place *first* to *stop*."""
    return f"{first:012d}-{stop:012d}.parquet"


def _name(found: UnitFound) -> str:
    return shard_name(found.first, found.stop)


def _refused(path: Path, why: str) -> ResultError:
    return ResultError(f"{path.name} {why}; its images are to be done again")


def _parquet(found: UnitFound, seed: str) -> bytes:
    """The bytes of a shard."""
    pq = require("pyarrow.parquet", extra="ray")
    table = to_table(found, detections=True)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        # Of boxes, scores and hashes hardly two are the same.
        use_dictionary=False,
        column_encoding=dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_SEED_KEY: seed, _DIGEST_KEY: _MARK + _BLANK})
    data = bytearray(sink.getbuffer())
    start = data.rindex(_MARK) + len(_MARK)
    data[start : start + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def _is_whole(data: bytes) -> bool:
    """Whether a shard's *data* are those that its digest was made of."""
    start = data.rfind(_MARK) + len(_MARK)
    stop = start + len(_BLANK)
    digest = hashlib.sha256(data[:start] + _BLANK)
    digest.update(data[stop:])
    return data[start:stop] == digest.hexdigest().encode()
