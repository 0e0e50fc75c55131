"""Tests for `effd0.scale.tables`: what a worker found comes to the driver as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from effd0.errors import ResultError
from effd0.scale import tables
from effd0.scale.tables import UnitFound, from_bytes, to_bytes

from .found_units import UNIT, all_of, units


@given(unit=units())
def test_a_unit_comes_back_bit_for_bit(unit: UnitFound) -> None:
    """Whatever the bits of boxes, scores and classes are, they are read as they were."""
    assert all_of(from_bytes(to_bytes(unit, detections=True))) == all_of(unit)


@given(unit=units())
def test_detections_stay_behind_where_nobody_wants_them(unit: UnitFound) -> None:
    """All else comes, and the bytes do not grow with what was detected."""
    data = to_bytes(unit, detections=False)
    assert all_of(from_bytes(data)) == all_of(replace(unit, detections=None))
    assert data == to_bytes(replace(unit, detections=None), detections=True)


def test_detections_that_were_read_may_be_written_to() -> None:
    """An array that came from a table is one like any other, and each is alone."""
    found = from_bytes(to_bytes(UNIT, detections=True)).detections
    assert found is not None
    found[0].scores[:] = 0
    found[0].boxes[:] = 0
    assert np.array_equal(found[2].scores.view(np.uint32), _scores(UNIT, 2).view(np.uint32))


def _scores(unit: UnitFound, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert unit.detections is not None
    return unit.detections[n].scores


def test_a_table_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts with two versions of the package do not misread each other."""
    monkeypatch.setattr(tables, "VERSION", 0)
    data = to_bytes(UNIT, detections=True)
    monkeypatch.undo()
    with pytest.raises(ResultError, match=r"of version 0, but 1 was wanted; install one version"):
        from_bytes(data)


@pytest.mark.parametrize("keep", [0, 100], ids=["nothing", "a-part"])
def test_what_is_no_table_is_refused(keep: int) -> None:
    """Bytes that are cut off say so, and are not a shorter unit."""
    data = to_bytes(UNIT, detections=True)[:keep]
    with pytest.raises(ResultError, match=f"{keep} bytes from a worker are no table"):
        from_bytes(data)
