"""Published figures of EfficientDet-D0, each with its source and conditions."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Published:
    """
    One published throughput: *images_per_second* in a batch, on *chip*, as *source* says.

    *timed* is in the words of a run's rows; *map* is in percent.
    """

    chip: str
    batch: int
    images_per_second: float
    timed: str
    precision: str
    dataset: str
    map: str
    conditions: str
    source: str


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def published_accuracies() -> list[dict[str, Any]]:
    """The *map* on val2017 in percent, *by* whom, *conditions* and *source* of each."""
    return list(_content()["accuracy"])


def published_figures() -> list[Published]:
    """All published throughputs, in the order of the data file."""
    figures = []
    for run in _content()["run"]:
        conditions = {key: value for key, value in run.items() if key not in ("unit", "values")}
        for key, value in run["values"].items():
            batch = int(key)
            rate = 1000 * batch / value if run["unit"] == "ms" else float(value)
            figures.append(Published(batch=batch, images_per_second=rate, **conditions))
    return figures
