"""Published figures of EfficientDet-D0, each with its source and conditions."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .measure import END_TO_END, NETWORK

DATA = Path(__file__).with_name("published.toml")
#: The data file's word for what was timed -> the rows of ours that are comparable.
SCOPES = {"network": NETWORK, "end to end": END_TO_END}
#: Images per second, or milliseconds per batch.
UNITS = ("images/s", "ms")


@dataclass(frozen=True)
class Published:
    """One published throughput: *value* in *unit* for a batch, on *chip*, as *source* says."""

    chip: str
    batch: int
    value: float
    unit: str
    scope: str
    precision: str
    dataset: str
    map: str
    conditions: str
    source: str

    @property
    def images_per_second(self) -> float:
        """Images per second, whatever was published."""
        return 1000 * self.batch / self.value if self.unit == "ms" else self.value

    @property
    def timed(self) -> str:
        """What lies between the clock's start and its end, in the words of `Row.timed`."""
        return SCOPES[self.scope]


@dataclass(frozen=True)
class PublishedAccuracy:
    """One published mAP in percent on val2017, *by* whom, and what was run as *source* says."""

    by: str
    map: float
    conditions: str
    source: str


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(DATA.read_text())


def published_accuracies() -> tuple[PublishedAccuracy, ...]:
    """All published mAPs, in the order of the data file."""
    return tuple(PublishedAccuracy(**one) for one in _content()["accuracy"])


@functools.cache
def published_figures() -> tuple[Published, ...]:
    """All published throughputs, in the order of the data file."""
    return tuple(
        Published(
            batch=int(batch), value=float(value), **{k: v for k, v in run.items() if k != "values"}
        )
        for run in _content()["run"]
        for batch, value in run["values"].items()
    )
