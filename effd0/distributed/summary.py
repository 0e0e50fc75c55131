"""What a run on many workers was like: who did how much, who lagged, what went wrong."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..timing import Latency
from ..types import Tensor
from .worker import Reply

#: A worker that is so much slower than the median one is a straggler.
STRAGGLES = 1.5
#: Units from which a rate says anything.
FEW = 2
#: Times of a stage that are kept: a million say no more than these.
MOST_TIMES = 100_000


class Tally:
    """Sums up a run as replies come in; *begun* is when the first unit was given out."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.begun: float | None = None
        self._last = self._start_s = 0.0
        self._images = 0
        self._shares: dict[str, dict[str, Any]] = {}
        self._stages: dict[str, list[Tensor]] = {}

    def add_worker(self, reply: Reply) -> None:
        """Count a worker that has its model open."""
        self._start_s = self._start_s or time.perf_counter() - self.start
        share = {"images": 0, "units": 0, "seconds": 0.0, "opened_s": reply.seconds}
        self._shares[reply.worker] = {"worker": reply.worker, **share}

    def add(self, reply: Reply, images: int) -> None:
        """Count *reply*, which has just come, of so many *images*."""
        share = self._shares[reply.worker]
        share["images"] += images
        share["units"] += 1
        share["seconds"] += reply.seconds
        self._last = time.perf_counter()
        if self._images < MOST_TIMES:
            for name, seconds in reply.stages.items():
                self._stages.setdefault(name, []).append(seconds)
        self._images += images

    def latencies(self) -> dict[str, Latency]:
        """Stage -> its latency, of the first `MOST_TIMES` images or so."""
        every = {name: np.concatenate(parts).tolist() for name, parts in self._stages.items()}
        return {name: Latency.from_seconds(times) for name, times in every.items() if times}

    @property
    def seconds(self) -> float:
        """Seconds from the first unit to the last reply."""
        return 0.0 if self.begun is None else max(self._last - self.begun, 0.0)

    def summary(self, faults: Sequence[str], again: int) -> dict[str, Any]:
        """
        The whole run as plain values, with the workers in order of their names.

        *start_s* are the seconds until the first worker had its model open; *faults* are sentences,
        *again* is how many units were given out once more.
        """
        shares = [self._shares[name] for name in sorted(self._shares)]
        for one in shares:
            one["rate"] = one["images"] / one["seconds"] if one["seconds"] else 0.0
        rates = [one["rate"] for one in shares if one["units"] >= FEW]
        middle = statistics.median(rates) if rates else 0.0
        for one in shares:
            one["straggler"] = one["units"] >= FEW and one["rate"] * STRAGGLES < middle
        return {
            "workers": shares,
            "again": again,
            "start_s": self._start_s,
            "seconds": self.seconds,
            "images": self._images,
            "images_per_second": self._images / self.seconds if self.seconds else 0.0,
            "faults": list(dict.fromkeys(faults)),
        }
