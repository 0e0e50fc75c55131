"""
Ratios of times with an interval: how much slower, and how sure that is.

Medians, since a machine's hiccups only ever add time; intervals by bootstrap, since times follow
no distribution that has a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BenchmarkError

Samples = npt.NDArray[np.float64]
#: Probability that an interval holds the true ratio, were the samples independent.
LEVEL = 0.95
RESAMPLES = 1000
#: A bootstrap of fewer samples knows too little of their spread to accuse anyone.
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Ratio:
    """One time over another: *value*, the bounds of its interval, and the smaller sample count."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    def inverse(self) -> Ratio:
        """The ratio the other way round."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, self.count)

    def slower(self, allowed: float) -> bool:
        """Whether the numerator is slower by more than *allowed* (0.05), and surely slower."""
        return self.count >= MIN_SAMPLES and self.value > 1 + allowed and self.low > 1


def ratio_of_medians(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, *, seed: int = 0
) -> Ratio:
    """The ratio of the medians of two runs, which are resampled apart."""
    over, under = _samples(numerator), _samples(denominator)
    rng = np.random.default_rng(seed)
    drawn = _medians(over, rng) / _medians(under, rng)
    value = float(np.median(over) / np.median(under))
    return Ratio(value, *_interval(drawn), min(over.size, under.size))


def paired_ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike, *, seed: int = 0) -> Ratio:
    """
    The median of the ratios of times that were taken in turn, A B A B, resampled in pairs.

    What slows both of a pair cancels out.
    """
    over, under = _samples(numerator), _samples(denominator)
    if over.size != under.size:
        raise BenchmarkError(
            f"{over.size} times are to be paired with {under.size}, but each needs a partner; "
            "time both in turn"
        )
    # Logarithms, so that the ratio the other way round has the inverse interval.
    logs = np.log(over / under)
    drawn = np.exp(_medians(logs, np.random.default_rng(seed)))
    return Ratio(float(np.exp(np.median(logs))), *_interval(drawn), over.size)


def _samples(times: npt.ArrayLike) -> Samples:
    samples: Samples = np.asarray(times, np.float64)
    if samples.size == 0 or not (np.isfinite(samples) & (samples > 0)).all():
        raise BenchmarkError(
            f"the times are {samples.tolist()[:5]}, but a ratio needs times above 0; run it again"
        )
    return samples


def _medians(samples: Samples, rng: np.random.Generator) -> Samples:
    """Medians of `RESAMPLES` draws of *samples* with replacement."""
    drawn = rng.integers(0, samples.size, (RESAMPLES, samples.size))
    medians: Samples = np.median(samples[drawn], axis=1)
    return medians


def _interval(drawn: Samples) -> tuple[float, float]:
    tail: Any = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)
