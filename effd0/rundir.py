"""
A run directory: an evaluation written down as it goes, so that it can be continued.

``manifest.json`` comes first, whole: all that the detections depend on.  ``detections.records``
grows image by image (`effd0.records`).  ``detections.json``, in COCO's result format, and
``evaluation.json`` come last, each whole.

A run is continued at the beginning of the batch in which it stopped, so that every image has the
neighbours that it would have had.  That matters: PyTorch gives an image heads that differ by
1.1e-5 between batches of 1 and of 2, where ONNX Runtime gives the same bits for 1, 2, 4 and 8
(both on CPU, trained weights, 2026-11-23).  What a backend does not repeat, no resume can.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OutputError, ResultError
from .files import written_whole
from .identity import differences
from .postprocess import Detections
from .records import encode, whole_records
from .tensorfiles.manifest import read_json

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
