"""Driving units through a cluster: what is told where a run ends before its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from effd0.errors import RunnerError
from effd0.scale.drive import FAULTS, Begun, Shown, drive
from effd0.scale.rounds import BARREN
from effd0.scale.units import cut
from effd0.scale.worker import UnitReport

from .fakes.here import HereCluster
from .test_scale_units import dataset_of


class LostCluster(HereCluster):
    """A cluster in which each round ends for another reason."""

    rounds = 0

    def run(self, *_: Any) -> Iterator[UnitReport]:
        """Give nothing back."""
        self.rounds += 1
        yield from ()
        raise RunnerError(f"round {self.rounds} ended early")


@contextmanager
def unseen(_what: str, _total: int) -> Iterator[Callable[[str, int], None]]:
    """Show no progress."""
    yield lambda _worker, _count: None


def test_a_run_that_ends_early_tells_what_went_wrong_before() -> None:
    """The error of the last round has the faults of all of them as notes."""
    cluster = LostCluster(2)
    cluster.begin(b"")
    units = cut(dataset_of(8), 2, 2)
    nothing: Any = None
    begun = Begun(cluster, nothing, nothing, 0.0)
    with pytest.raises(RunnerError, match=f"in {BARREN} rounds") as raised:
        drive(begun, units, nothing, nothing, Shown("doing", unseen), "")
    notes = raised.value.__notes__
    assert notes[:BARREN] == [f"round {n} ended early" for n in range(1, BARREN + 1)]
    assert len(notes) <= FAULTS + 1
