"""effd0.evaluation.run_dir: who may write a run directory, and what of it is continued."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.detection.postprocess import Detections
from effd0.errors import OutputError
from effd0.evaluation.run_dir import MANIFEST, RECORDS, encode, run_directory, whole_records
from effd0.metrics.coco import to_coco_results
from effd0.spec import D0
from tests.helpers import names_in

IDS = [10, 20, 30, 40, 50]
BATCH = 2
RUN: dict[str, Any] = {"model_sha256": "ab12", "spec": {"nms_iou": 0.5, "levels": (3, 4)}}


def detections(image_id: int) -> Detections:
    """Return what a run finds in *image_id*: none to two boxes of thirds, which no decimal ends."""
    count = image_id // 10 % 3
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4) * np.float32(7 / 3)
    scores = np.full(count, image_id / 300, np.float32)
    return Detections(boxes, scores, np.full(count, image_id // 10, np.int64))


def continued(
    folder: Path,
    *,
    resume: bool = True,
    manifest: dict[str, Any] = RUN,
    say: Callable[[str], object] = str,
    finish: bool = True,
) -> int:
    """Run to the end what is left in *folder*; return how many images were there."""
    with run_directory(folder, resume=resume, say=say) as place:
        found = place.start(manifest, IDS, BATCH)
        kept = len(found)
        for image_id in IDS[kept:]:
            place.append(image_id, detections(image_id))
            found[image_id] = detections(image_id)
        results = to_coco_results(found, D0)
        if finish:
            place.finish(results, {"images": len(found)})
    assert np.array_equal(results, to_coco_results({i: detections(i) for i in IDS}, D0))
    return kept


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run that nothing disturbed."""
    continued(tmp_path / "whole", resume=False)
    return tmp_path / "whole"


def left(folder: Path, data: bytes) -> Path:
    """Put *data* where the records of *folder* were; return it."""
    # A new file: to empty an old one waits for the disk on some file systems.
    (folder / RECORDS).unlink()
    (folder / RECORDS).write_bytes(data)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return all files of *folder*."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_leaves_its_files(whole: Path) -> None:
    """Manifest, records, detections and evaluation, and nothing besides."""
    assert names_in(whole) == [
        "detections.json", "detections.records", "evaluation.json", "manifest.json",
    ]  # fmt: skip
    assert json.loads((whole / "evaluation.json").read_text()) == {"images": 5}
    entries = json.loads((whole / "detections.json").read_text())
    third = np.float32(7 / 3)
    assert entries[0] == {
        "image_id": 10,
        "category_id": 1,
        "bbox": [0.0, *map(float, (third, 2 * third, np.float32(7) - third))],
        "score": float(np.float32(10 / 300)),
    }
    assert [entry["image_id"] for entry in entries] == [10, 20, 20, 40, 50, 50]


def test_a_run_cut_or_changed_at_any_byte_ends_as_the_whole_one(whole: Path) -> None:
    """Whole batches before the cut are kept; what is corrupt, and all after it, is found again."""
    data = (whole / RECORDS).read_bytes()
    counts = []
    for place in range(len(data) + 1):
        # Without the last files, which wait for the disk.
        counts.append(continued(left(whole, data[:place]), finish=False))
        assert (whole / RECORDS).read_bytes() == data
        if place < len(data):
            changed = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
            assert continued(left(whole, changed), finish=False) < len(IDS)
            assert (whole / RECORDS).read_bytes() == data
    assert sorted(set(counts)) == [0, 2, 4, 5]
    assert counts == sorted(counts)


def test_records_of_another_run_are_not_taken(whole: Path, tmp_path: Path) -> None:
    """Records that were copied beside another manifest are not whole there."""
    other = tmp_path / "other"
    continued(other, resume=False, manifest={**RUN, "model_sha256": "cd34"})
    assert continued(left(whole, (other / RECORDS).read_bytes())) == 0


@pytest.mark.parametrize("resume", [False, True], ids=["new", "resumed"])
def test_a_run_killed_before_its_manifest_is_begun_anew(resume: bool, tmp_path: Path) -> None:
    """What a kill leaves at the very first is no run yet, and is cleared away."""
    left = tmp_path / "run" / f".{MANIFEST}.x1y2"
    left.mkdir(parents=True)
    (left / MANIFEST).write_text("{")
    (tmp_path / "run" / RECORDS).touch()
    assert continued(tmp_path / "run", resume=resume) == 0
    assert len(names_in(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    "lost", [(), (MANIFEST,), (RECORDS,)], ids=["whole", "manifest", "records"]
)
def test_a_run_is_not_mixed_with_another(lost: tuple[str, ...], whole: Path) -> None:
    """Without --resume a directory that holds a run is refused and left as it is."""
    for name in ("detections.json", "evaluation.json", *lost):
        (whole / name).unlink()
    before = {name: data for name, data in files(whole).items() if data}
    with pytest.raises(OutputError, match="holds a run already; continue it with --resume"):
        continued(whole, resume=False)
    assert {name: data for name, data in files(whole).items() if data} == before


@pytest.mark.parametrize("resume", [False, True], ids=["new", "resumed"])
def test_a_folder_of_other_things_is_refused(resume: bool, tmp_path: Path) -> None:
    """Nothing is written among files that are not of a run."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"holds notes\.txt, but no manifest\.json"):
        continued(tmp_path, resume=resume)
    assert names_in(tmp_path) == ["notes.txt"]
    with pytest.raises(OutputError, match=r"notes\.txt is a file, but a run directory is wanted"):
        continued(tmp_path / "notes.txt", resume=resume)


def test_overwriting_begins_anew(whole: Path) -> None:
    """With --overwrite nothing of the old run is left, whatever it was of."""
    with run_directory(whole, resume=False, overwrite=True, say=str) as place:
        assert place.start(RUN | {"seed": 1}, IDS, BATCH) == {}
        assert names_in(whole) == [RECORDS, MANIFEST]
        assert (whole / RECORDS).read_bytes() == b""


def test_only_one_may_write(whole: Path) -> None:
    """A second writer is told; when the first is done, it may."""
    with (
        run_directory(whole, resume=True, say=str),
        pytest.raises(OutputError, match="is being written by another process; wait for it"),
    ):
        continued(whole)
    assert continued(whole) == len(IDS)


@given(
    count=st.integers(0, 100), seed=st.integers(0, 2**32), image_id=st.integers(-(2**63), 2**63 - 1)
)
def test_detections_come_back_bit_for_bit(count: int, seed: int, image_id: int) -> None:
    """Whatever the bits are, those of no number too, they are read as they were."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, (count, 5), np.uint32).view(np.float32)
    written = Detections(
        bits[:, :4].copy(), bits[:, 4].copy(), rng.integers(1, 91, count, np.int64)
    )
    data = encode(image_id, written, seed)
    ((id_, read, end),) = whole_records(data, [image_id], seed)
    assert (id_, end) == (image_id, len(data))
    for mine, was in zip(vars(read).values(), vars(written).values(), strict=True):
        assert (mine.dtype, mine.shape, mine.tobytes()) == (was.dtype, was.shape, was.tobytes())


def test_images_come_in_any_order(tmp_path: Path) -> None:
    """Workers are done in any order; of a batch that is not whole, all images are run again."""
    folder = tmp_path / "run"
    with run_directory(folder, resume=False, say=str) as place:
        place.start(RUN, IDS, BATCH)
        for image_id in (30, 20, 40, 50):
            place.append(image_id, detections(image_id))
    with run_directory(folder, resume=True, say=str) as place:
        assert list(place.start(RUN, IDS, BATCH)) == [30, 40, 50]


def test_another_run_is_refused_with_the_difference(whole: Path) -> None:
    """The message names each key and both values, and no file is touched."""
    expected = files(whole)
    message = (
        r"model_sha256 was ab12, but is not known; spec\.nms_iou was 0\.5, but is 0\.6; "
        r"spec\.levels was \[3, 4\], but is \[3\]; seed was not recorded, but is 1; ask"
    )
    with pytest.raises(OutputError, match=message):
        continued(whole, manifest={"spec": {"nms_iou": 0.6, "levels": [3]}, "seed": 1})
    assert files(whole) == expected
    (whole / MANIFEST).write_text("{")
    with pytest.raises(OutputError, match=r"cannot be continued; give another --out"):
        continued(whole)


class Disk:
    """A disk with room for a number of bytes, in place of ``os.write``."""

    def __init__(self, room: int) -> None:
        self.room, self.write = room, os.write

    def __call__(self, descriptor: int, data: memoryview) -> int:
        """Write what there is room for; refuse where there is none."""
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(descriptor, data[: self.room])
        self.room -= written
        return written


def test_a_full_disk_leaves_what_can_be_continued(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk is full, the error says how to go on, and the end is the same."""
    data = (whole / RECORDS).read_bytes()
    for room in range(0, len(data), 3):
        left(whole, b"")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", Disk(room))
            with pytest.raises(OutputError, match=r"No space left .*go on with --resume"):
                continued(whole, finish=False)
        assert (whole / RECORDS).read_bytes() == data[:room]
        continued(whole, finish=False)
        assert (whole / RECORDS).read_bytes() == data


def test_a_disk_full_at_the_end_keeps_the_detections(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the last files find no room, nothing has to be found again."""
    expected, said = files(whole), list[str]()
    (whole / "evaluation.json").unlink()
    with monkeypatch.context() as patch:
        full = mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"detections\.json cannot be written: .*No space"):
            continued(whole, say=said.append)
    assert said[-1] == f"{whole} keeps 5 images; continue with --resume"
    assert continued(whole) == len(IDS)
    assert files(whole) == expected
