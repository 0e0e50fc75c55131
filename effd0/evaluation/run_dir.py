"""
A run directory: detections are written as they come, so that a run that was stopped can be resumed.

Its manifest says what detections depend on: two runs of the same identity find the same.
"""

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..detection.postprocess import Detections
from ..errors import OutputError
from ..io import flattened, write_text, written_whole
from ..metrics.coco import Rows, entries_of
from ..tensors.inputs import read_json

#: The key of the contents of all images.
IMAGES = "images_sha256"


def backend(description: str) -> str:
    """The *description* of a source without what decides nothing: which device, how many of it."""
    parts = description.split(", ")
    return ", ".join(part for part in parts if not re.fullmatch(r"device .+|\d+ workers", part))


def manifest_differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Each key, as ``settings.spec.nms_iou``, in which the two differ, with both values."""
    mine, other = (dict(flattened(one, ".")) for one in (recorded, asked))
    both = {k: (mine.get(k, "not recorded"), other.get(k, "not known")) for k in mine | other}
    return [f"{key} was {was}, but is {now}" for key, (was, now) in both.items() if was != now]


_HEAD = struct.Struct("<qI")
_CRC = struct.Struct("<I")
#: Four float32 of a box, one of a score, an int64 of a class.
_DETECTION_BYTES = 4 * 4 + 4 + 8


def encode(image_id: int, found: Detections, seed: int) -> bytes:
    """The record of what was *found* in the image *image_id*."""
    columns = found.boxes.astype("<f4"), found.scores.astype("<f4"), found.classes.astype("<i8")
    body = _HEAD.pack(image_id, len(found)) + b"".join(column.tobytes() for column in columns)
    return body + _CRC.pack(zlib.crc32(body, seed))


def whole_records(
    data: bytes, image_ids: Collection[int], seed: int
) -> Iterator[tuple[int, Detections, int]]:
    """
    Yield image id and detections of each record at the beginning of *data*, and where it ends.

    Stops at the first record that is torn, changed, of another seed, or of no image of *image_ids*.
    """
    start = 0
    while start + _HEAD.size <= len(data):
        image_id, count = _HEAD.unpack_from(data, start)
        boxes = start + _HEAD.size
        end = boxes + count * _DETECTION_BYTES
        if image_id not in image_ids or end + _CRC.size > len(data):
            return
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[start:end], seed):
            return
        found = Detections(
            np.frombuffer(data, "<f4", 4 * count, boxes).astype(np.float32).reshape(count, 4),
            np.frombuffer(data, "<f4", count, boxes + 16 * count).astype(np.float32),
            np.frombuffer(data, "<i8", count, boxes + 20 * count).astype(np.int64),
        )
        start = end + _CRC.size
        yield image_id, found, start


MANIFEST, RECORDS = "manifest.json", "detections.records"
RESULTS, EVALUATION = "detections.json", "evaluation.json"

#: Prints one line for the user.
Say = Callable[[str], object]


class RunDirectory:
    """A run directory that this process, and no other, may write; see `run_directory`."""

    def __init__(self, folder: Path, file: io.FileIO, say: Say) -> None:
        self.folder, self.images, self.say = folder, 0, say
        self._file, self._seed = file, 0

    def start(
        self, manifest: Mapping[str, Any], image_ids: Sequence[int], batch_size: int | None
    ) -> dict[int, Detections]:
        """
        Record *manifest*; return the detections, by image id, that an earlier run left.

        They are of whole batches: an image may come out otherwise beside other images.  What
        follows the last of them is cut off.  Raises `OutputError` where the directory was
        begun with another manifest.
        """
        text = json.dumps(manifest, indent=1, allow_nan=False)
        path = self.folder / MANIFEST
        if path.exists():
            remedy = "it cannot be continued; give another --out"
            recorded = read_json(path, dict[str, Any], remedy, OutputError)
            asked = json.loads(text)
            if None in (recorded.get(IMAGES, ""), asked.get(IMAGES, "")):  # one does not know
                asked[IMAGES] = recorded.get(IMAGES)
            if found := manifest_differences(recorded, asked):
                raise OutputError(
                    f"{self.folder} is of another run, whose {'; '.join(found)}; "
                    "ask for what it was begun with, or give another --out"
                )
            text = path.read_text()
        else:
            write_text(text, path)
        self._seed = zlib.crc32(text.encode())
        self._file.seek(0)
        data = self._file.readall()
        records = list(whole_records(data, frozenset(image_ids), self._seed))
        there = {image_id: detections for image_id, detections, _ in records}
        size = batch_size or 1
        batches = (image_ids[place : place + size] for place in range(0, len(image_ids), size))
        whole = {id_ for ids in batches if all(id_ in there for id_ in ids) for id_ in ids}
        end = max((end for id_, _, end in records if id_ in whole), default=0)
        if end < len(data):
            with _keeping(self.folder):
                self._file.truncate(end)
        self.images = len(whole)
        if data:
            cut = f", {len(data) - end} bytes after them cut off" if len(data) > end else ""
            self.say(f"{self.folder}: {self.images} of {len(image_ids)} images are there{cut}")
        return {image_id: there[image_id] for image_id in image_ids if image_id in whole}

    def append(self, image_id: int, found: Detections) -> None:
        """Write what was *found* in an image; raise `OutputError` if it cannot be."""
        left = memoryview(encode(image_id, found, self._seed))
        with _keeping(self.folder):
            while left:
                # A disk that is nearly full takes a part, and refuses the rest.
                left = left[os.write(self._file.fileno(), left) :]
        self.images += 1

    def finish(self, results: Rows, evaluation: Mapping[str, Any]) -> None:
        """Write *results*, rows of `to_coco_results`, and, at the very last, *evaluation*."""
        with written_whole(self.folder / RESULTS) as temporary, temporary.open("w") as file:
            file.write("[")
            encoded = json.JSONEncoder(allow_nan=False).encode
            for n, entry in enumerate(entries_of(results)):
                file.write((", " if n else "") + encoded(entry))
            file.write("]\n")
        write_text(json.dumps(evaluation, allow_nan=False) + "\n", self.folder / EVALUATION)


@contextlib.contextmanager
def run_directory(
    folder: Path, *, resume: bool, overwrite: bool = False, say: Say
) -> Iterator[RunDirectory]:
    """
    Make *folder*, or with *resume* go on with one; it is locked for the time of the block.

    *say* is told what was found there and, where the block fails, what is kept.  Raises
    `OutputError` where another process writes it, where the folder holds other things, and where
    there is a run already and neither *resume* nor *overwrite*, which deletes it, is given.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a run directory is wanted; give another --out")
    with contextlib.ExitStack() as stack:
        with _keeping(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # What a killed run leaves of a file that was to be written whole.
            names = (MANIFEST, RESULTS, EVALUATION)
            torn = [path for name in names for path in folder.glob(f".{name}.*")]
            others = sorted({*folder.iterdir()} - {folder / RECORDS, *torn})
            if others and not (folder / MANIFEST).exists():
                raise OutputError(
                    f"{folder} holds {others[0].name}, but no {MANIFEST}: it is no run directory; "
                    "give --out a new or an empty folder"
                )
            file = stack.enter_context((folder / RECORDS).open("a+b", buffering=0))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"{folder} is being written by another process; wait for it, "
                    "or give another --out"
                ) from error
        if not resume and ((folder / MANIFEST).exists() or file.tell()):
            if not overwrite:
                raise OutputError(
                    f"{folder} holds a run already; continue it with --resume, give another --out, "
                    "or --overwrite to replace it"
                )
            with _keeping(folder):
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                file.truncate(0)
        for path in torn:
            shutil.rmtree(path, ignore_errors=True)
        place = RunDirectory(folder, file, say)
        try:
            yield place
        except BaseException:
            if place.images:
                say(f"{folder} keeps {place.images} images; continue with --resume")
            raise


@contextlib.contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into an `OutputError` that says how to go on."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error}; make room or choose another place, "
            "then go on with --resume"
        ) from error
