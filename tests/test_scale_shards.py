"""Tests for `effd0.scale.shards`: what is read back, and what is not taken for whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.errors import OutputError, ResultError
from effd0.scale import shards as shards_module
from effd0.scale import tables
from effd0.scale.shards import read_shard, sweep, whole_shards, write_shard
from effd0.scale.tables import UnitFound

from .found_units import UNIT, all_of, unit_of, units
from .helpers import names_in

SEED = "0123456789abcdef"
IDS = tuple(range(10, 100, 10))
UNITS = [unit_of(first, IDS[first : first + 3], first) for first in (0, 3, 6)]


def shards(folder: Path, wanted: list[UnitFound] = UNITS) -> list[Path]:
    """Write *wanted* into *folder*."""
    return [write_shard(folder, unit, SEED) for unit in wanted]


def whole(folder: Path) -> tuple[list[int], list[str]]:
    """Return at which places the whole shards begin, which are true, and what was said."""
    said: list[str] = []
    found = list(whole_shards(folder, SEED, IDS, said.append))
    true = {unit.first: all_of(unit) for unit in UNITS}
    assert all(all_of(unit) == true[unit.first] for unit in found)
    return [unit.first for unit in found], said


@settings(max_examples=50)
@given(unit=units())
def test_a_shard_comes_back_bit_for_bit(
    unit: UnitFound, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the bits of boxes, scores and classes are, they are read as they were."""
    path = write_shard(tmp_path_factory.mktemp("shards"), unit, SEED)
    assert all_of(read_shard(path, SEED)) == all_of(unit)
    without = read_shard(path, SEED, with_detections=False)
    assert all_of(without) == all_of(replace(unit, detections=None))


def test_shards_come_in_order_and_stay_alone(tmp_path: Path) -> None:
    """Whoever wrote first, they come by place; the folder holds them and nothing else."""
    shards(tmp_path, UNITS[::-1])
    shards(tmp_path, UNITS[1:2])
    assert whole(tmp_path) == ([0, 3, 6], [])
    assert names_in(tmp_path) == [
        "000000000000-000000000003.parquet",
        "000000000003-000000000006.parquet",
        "000000000006-000000000009.parquet",
    ]


def test_several_may_write_one_shard_at_once(tmp_path: Path) -> None:
    """Whoever is first or last, a reader finds it whole at any time, and nothing else is left."""
    shards(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(shards, tmp_path, UNITS[1:2]) for _ in range(40)]
        while not all(future.done() for future in writing):
            assert whole(tmp_path) == ([0, 3, 6], [])
    assert [future.exception() for future in writing] == [None] * len(writing)
    assert len(names_in(tmp_path)) == len(UNITS)


def test_a_folder_that_is_not_there_has_no_shards(tmp_path: Path) -> None:
    """A run that was killed before its first unit starts from nothing."""
    assert whole(tmp_path / "shards") == ([], [])


def test_no_changed_byte_is_taken_for_whole(tmp_path: Path) -> None:
    """Wherever in the file one byte is another, the shard is refused."""
    path = write_shard(tmp_path, UNIT, SEED)
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert not shards_module._is_whole(bytes(changed))
        if place % 50 == 0:
            path.write_bytes(changed)
            with pytest.raises(ResultError, match=r"parquet is torn or was changed; its images"):
                read_shard(path, SEED)


@settings(max_examples=50)
@given(cut=st.integers(0, 10**5))
def test_a_shard_cut_anywhere_is_refused(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A beginning of a file is no file."""
    path = write_shard(tmp_path_factory.mktemp("shards"), UNIT, SEED)
    data = path.read_bytes()
    path.write_bytes(data[: cut % len(data)])
    with pytest.raises(ResultError, match="is torn or was changed"):
        read_shard(path, SEED)


def _rename(path: Path) -> None:
    path.rename(path.with_name("000000000003-000000000005.parquet"))


def _write(unit: UnitFound, seed: str = SEED) -> Callable[[Path], object]:
    return lambda path: write_shard(path.parent, unit, seed)


@pytest.mark.parametrize(
    ("fault", "firsts", "message"),
    [
        pytest.param(lambda path: path.write_bytes(b""), [0, 6], "is torn or", id="empty"),
        pytest.param(lambda path: path.write_bytes(bytes(500)), [0, 6], "is torn or", id="zeros"),
        pytest.param(
            _write(UNITS[1], "another"), [0, 6], f"is of the run another, but {SEED}", id="seed"
        ),
        pytest.param(_rename, [0, 6], "holds what 000000000003-000000000006", id="name"),
        pytest.param(
            _write(replace(UNITS[1], image_ids=(40, 50, 61))), [0, 6], "of other images", id="ids"
        ),
        pytest.param(
            _write(unit_of(2, IDS[2:5])), [0, 3, 6], "images of the shard before", id="overlap"
        ),
        pytest.param(_write(unit_of(9, (100,))), [0, 3, 6], "of other images", id="beyond-the-end"),
    ],
)
def test_a_shard_out_of_place_is_set_aside(
    fault: Callable[[Path], object], firsts: list[int], message: str, tmp_path: Path
) -> None:
    """One line says why; the next reading finds only what is whole, and nothing to say."""
    fault(shards(tmp_path)[1])
    found, said = whole(tmp_path)
    assert found == firsts
    assert len(said) == 1
    assert message in said[0]
    assert whole(tmp_path) == (firsts, [])
    shards(tmp_path)
    assert whole(tmp_path) == ([0, 3, 6], [])


def test_a_shard_of_another_version_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another version of the package wrote is not misread."""
    with monkeypatch.context() as patch:
        patch.setattr(tables, "VERSION", 0)
        shards(tmp_path, UNITS[:1])
    shards(tmp_path, UNITS[1:])
    found, said = whole(tmp_path)
    assert found == [3, 6]
    assert len(said) == 1
    assert "of version 0, but 1 was wanted" in said[0]


def test_pandas_sees_a_row_an_image(tmp_path: Path) -> None:
    """A user reads the folder as one table, whatever was set aside in it."""
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    shards(tmp_path)[0].write_bytes(b"torn")
    whole(tmp_path)
    shards(tmp_path, UNITS[:1])
    frame = pandas.read_parquet(tmp_path)
    assert list(frame["image_id"]) == list(IDS)
    found = [each for unit in UNITS for each in unit.detections or ()]
    assert [len(boxes) for boxes in frame["boxes"]] == [4 * len(each) for each in found]
    assert [scores.dtype for scores in frame["scores"]] == ["float32"] * len(IDS)
    assert [list(labels) for labels in frame["classes"]] == [list(each.classes) for each in found]


def test_a_full_disk_leaves_the_earlier_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was whole stays, half of a new one has no name, and nothing else is left."""
    (path,) = shards(tmp_path, [UNIT])
    data = path.read_bytes()

    def full(place: Path, data: bytes) -> None:
        with place.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"parquet cannot be written: .*No space left"):
        shards(tmp_path, [UNIT])
    assert names_in(tmp_path) == [path.name]
    assert path.read_bytes() == data


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    """Shards stay, and what was set aside."""
    path = shards(tmp_path)[1]
    left = tmp_path / f".{path.name}.x1y2z3"
    left.mkdir()
    (left / path.name).write_bytes(b"half")
    path.write_bytes(b"")
    assert whole(tmp_path)[0] == [0, 6]
    before = set(names_in(tmp_path))
    sweep(tmp_path)
    assert set(names_in(tmp_path)) == before - {left.name}
    assert f".{path.name}.aside" in before
