"""Times as a machine gives them, drawn with a seed; rows that hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from effd0.bench.rows import NETWORK, Row
from effd0.results.environment import Fingerprint
from effd0.timing import Latency

Times = npt.NDArray[np.float64]
HERE = Fingerprint("chip", "processor", 2, "", "", "backend 1.0")


def times(rng: np.random.Generator, count: int, median: float, spread: float = 0.03) -> Times:
    """Return *count* times around *median*: each some percent off, one in twenty a hiccup."""
    hiccups = np.where(rng.random(count) < 0.05, 1 + rng.exponential(0.5, count), 1)
    drawn: Times = median * np.exp(rng.normal(0, spread, count)) * hiccups
    return drawn


def drifting_pairs(rng: np.random.Generator, count: int, ratio: float) -> tuple[Times, Times]:
    """Return times of two, taken in turn while the machine's speed wanders by a tenth a call."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.1, 2 * count)))
    first, second = times(rng, count, 10 * ratio), times(rng, count, 10)
    return first * drift[::2], second * drift[1::2]


def row(
    samples: Sequence[float] | Times = (10.0,) * 10,
    name: str = "bench.py::bench[batch=1]",
    timed: str = NETWORK,
    images: int = 1,
    batch: int | None = 1,
    fingerprint: Fingerprint = HERE,
) -> Row:
    """Return a row of these samples."""
    latency = Latency(tuple(float(sample) for sample in samples))
    return Row(name, timed, images, latency, fingerprint, batch, "fp32", "drawn scenes", "abc" * 20)
