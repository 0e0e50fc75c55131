"""What the detections of a run depend on: two runs of the same identity find the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import fixture as embedded
from ..data.coco import Dataset, Sample
from ..detection.postprocess import Detections
from ..errors import OutputError, ResultError
from ..io import sha256, written_whole
from ..report import environment
from ..runners.registry import RunnerOptions
from ..spec import ModelSpec
from ..tensors.manifest import read_json
from .model import ModelChoice


@dataclass(frozen=True)
class UnderTest:
    """
    What is run, as far as it can be known without running it.

    *checkpoint_sha256* is None where a model was given that holds its own weights.
    """

    model_sha256: str
    checkpoint_sha256: str | None
    runner: str
    spec: ModelSpec
    options: RunnerOptions


def under_test(choice: ModelChoice, path: Path) -> UnderTest:
    """What *choice* runs; *path* is its file, exported or not."""
    return UnderTest(
        model_sha256=sha256(path),
        checkpoint_sha256=_checkpoint_sha256(choice),
        runner=choice.checked_runner(),
        spec=choice.spec,
        options=choice.options,
    )


def run_identity(
    what: UnderTest, dataset: Dataset, backend: str, *, batch_size: int
) -> dict[str, Any]:
    """
    All that decides what is found in *dataset*, fit for JSON; *backend* is what really computes.

    Image files are in it by `images_sha256`, which is the caller's to add.

    What only judges detections (the floor, the evaluator) is not in it, nor is what only moves
    files or threads of the host.
    """
    return {
        "model_sha256": what.model_sha256,
        "checkpoint_sha256": what.checkpoint_sha256,
        "annotations_sha256": sha256(dataset.annotation_file),
        "images": len(dataset.samples),
        "spec": asdict(what.spec),
        "settings": {
            "batch_size": batch_size,
            "runner": what.runner,
            "backend": backend,
            **{name: value for name, value in asdict(what.options).items() if name != "bins"},
        },
        # A new kernel of the system does not change a result; a new Pillow may.
        "environment": {k: v for k, v in environment().items() if k != "system"},
    }


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Each key, as ``spec.nms_iou``, in which the two differ, with both values."""
    mine, other = dict(_flat(recorded)), dict(_flat(asked))
    keys = [*mine, *(key for key in other if key not in mine)]
    return [
        f"{key} was {mine.get(key, 'not recorded')}, but is {other.get(key, 'not known')}"
        for key in keys
        if key not in mine or key not in other or mine[key] != other[key]
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checkpoint_sha256(choice: ModelChoice) -> str | None:
    """The fingerprint of the weights; None where a model was given that holds its own."""
    if choice.model is not None:
        return None
    return sha256(embedded.checkpoint() if choice.checkpoint is None else choice.checkpoint)


def images_sha256(images: Iterable[bytes]) -> str:
    """One fingerprint of all *images*, the SHA-256 of each file in order."""
    every = hashlib.sha256()
    for image in images:
        every.update(image)
    return every.hexdigest()


def image_sha256(sample: Sample) -> bytes:
    """The SHA-256 of an image file."""
    return bytes.fromhex(sha256(sample.path))


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


MANIFEST, RECORDS = "manifest.json", "detections.records"
RESULTS, EVALUATION = "detections.json", "evaluation.json"
#: In the manifest of a run by workers alone, which keep detections in other files.
KEPT_IN = "detections_in"

#: Tells the user one line.
Say = Callable[[str], object]


class RunDirectory:
    """A run directory that this process, and no other, may write; see `run_directory`."""

    def __init__(self, folder: Path, file: io.FileIO, say: Say) -> None:
        self.folder, self.images, self.say = folder, 0, say
        self._file, self._seed = file, 0

    def start(
        self, manifest: Mapping[str, Any], image_ids: Sequence[int], batch_size: int
    ) -> dict[int, Detections]:
        """
        Record *manifest*; return the detections, by image id, that an earlier run left.

        They are of the first of *image_ids*, in order, and of whole batches; what comes after them
        is cut off.  Raises `ResultError` where that run had another manifest.
        """
        self._seed = zlib.crc32(self.begin(manifest).encode())
        self._file.seek(0)
        data = self._file.readall()
        whole = list(whole_records(data, image_ids, self._seed))
        if len(whole) < len(image_ids):
            del whole[len(whole) - len(whole) % batch_size :]
        end = whole[-1][1] if whole else 0
        if end < len(data):
            with _keeping(self.folder):
                self._file.truncate(end)
        self.images = len(whole)
        if data:
            cut = f", {len(data) - end} bytes after them cut off" if len(data) > end else ""
            self.say(f"{self.folder}: {self.images} of {len(image_ids)} images are there{cut}")
        return dict(zip(image_ids, (found for found, _ in whole), strict=False))

    def begin(self, manifest: Mapping[str, Any]) -> str:
        """
        Record *manifest*, or see that it is what the directory was begun with; return its text.

        Raises `ResultError` where that is another.
        """
        text = json.dumps(manifest, indent=1, allow_nan=False)
        path = self.folder / MANIFEST
        if not path.exists():
            with written_whole(path) as temporary:
                temporary.write_text(text)
            return text
        recorded = read_json(path, "it cannot be continued; give another --out")
        if (KEPT_IN in recorded) != (KEPT_IN in manifest):
            begun = "with workers; ask for some with --workers or --devices"
            if KEPT_IN in manifest:
                begun = "without workers; leave --workers and --devices out"
            raise ResultError(f"{self.folder} was begun {begun}, or give another --out")
        if found := differences(recorded, json.loads(text)):
            raise ResultError(
                f"{self.folder} is of another run, whose {'; '.join(found)}; "
                "ask for what it was begun with, or give another --out"
            )
        return text

    def append(self, image_id: int, found: Detections) -> None:
        """Write what was *found* in the next image; raise `OutputError` if it cannot be."""
        left = memoryview(encode(image_id, found, self._seed))
        with _keeping(self.folder):
            while left:
                # A disk that is nearly full takes a part, and refuses the rest.
                left = left[os.write(self._file.fileno(), left) :]
        self.images += 1

    def finish(
        self, results: Iterable[npt.NDArray[np.float64]], evaluation: Mapping[str, Any]
    ) -> None:
        """
        Write *results*, tables as of `to_coco_results`, and, at the very last, *evaluation*.

        The tables are taken one at a time, so that they need not be in memory together.
        """
        with written_whole(self.folder / RESULTS) as temporary, temporary.open("w") as file:
            parts = (entries for table in results if (entries := _entries(table)))
            file.write("[" + next(parts, ""))
            file.writelines(f", {entries}" for entries in parts)
            file.write("]\n")
        with written_whole(self.folder / EVALUATION) as temporary:
            temporary.write_text(json.dumps(evaluation, allow_nan=False) + "\n")


def _entries(table: npt.NDArray[np.float64]) -> str:
    """The rows of *table* as COCO's results, without the brackets of a list."""
    entries = [
        {"image_id": int(image_id), "category_id": int(category), "bbox": box, "score": score}
        for image_id, *box, score, category in table.tolist()
    ]
    return json.dumps(entries, allow_nan=False)[1:-1]


@contextlib.contextmanager
def run_directory(folder: Path, *, resume: bool, say: Say) -> Iterator[RunDirectory]:
    """
    Make *folder*, or with *resume* go on with one; it is locked for the time of the block.

    *say* is told what was found there and, where the block fails, what is kept.  Raises
    `OutputError` where there is a run already and *resume* is not given, where another process
    writes it, and where the folder holds other things.
    """
    _check_ours(folder)
    with _keeping(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / RECORDS).open("a+b", buffering=0)
    with file:
        _lock(file, folder)
        if not resume and ((folder / MANIFEST).exists() or file.tell()):
            raise OutputError(
                f"{folder} holds a run already; continue it with --resume, or give another --out"
            )
        for left in _left_behind(folder):
            shutil.rmtree(left)
        place = RunDirectory(folder, file, say)
        try:
            yield place
        except BaseException:
            if place.images:
                say(f"{folder} keeps {place.images} images; continue with --resume")
            raise


def resume_without_out() -> OutputError:
    """The error of who would go on with a run, and does not say which."""
    return OutputError("--resume is given, but no --out; name the run directory to go on with")


def _check_ours(folder: Path) -> None:
    """Raise `OutputError` unless *folder* is a run directory, empty, or not there."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a run directory is wanted; give another --out")
    if not folder.exists() or (folder / MANIFEST).exists():
        return
    ours = {folder / RECORDS, *_left_behind(folder)}
    if others := sorted(path.name for path in folder.iterdir() if path not in ours):
        raise OutputError(
            f"{folder} holds {others[0]}, but no {MANIFEST}: it is no run directory; "
            "give --out a new or an empty folder"
        )


def _left_behind(folder: Path) -> list[Path]:
    """What a killed run leaves of a file that was to be written whole."""
    names = (MANIFEST, RESULTS, EVALUATION)
    return [path for name in names for path in folder.glob(f".{name}.*") if path.is_dir()]


def _lock(file: io.FileIO, folder: Path) -> None:
    with _keeping(folder):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder} is being written by another process; wait for it, or give another --out"
            ) from error


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
