"""Published figures of EfficientDet-D0, each with its source and conditions."""

import functools
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import msgspec

from ..errors import BenchmarkError

TABLE = Path(__file__).with_suffix(".toml")
_Batch = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
_Figure = Annotated[float, msgspec.Meta(gt=1e-9, lt=1e9)]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """
    One published throughput: *images_per_second* in a batch, on *chip*, as *source* says.

    *timed* is in the words of a run's rows; *map* is in percent.  *values* are all that was
    published beside it, in *unit*, by batch.
    """

    chip: str
    unit: Literal["images/s", "ms"]
    timed: str
    precision: str
    dataset: str
    map: str
    conditions: str
    source: str
    values: dict[_Batch, _Figure]
    batch: int = 1
    images_per_second: float = 0.0


class _Accuracy(TypedDict):
    by: str
    map: Annotated[float, msgspec.Meta(gt=1, le=100)]
    conditions: str
    source: str


class _Table(TypedDict):
    accuracy: list[_Accuracy]
    run: list[Published]


def read_table(path: Path) -> _Table:
    """The table in the file *path*; raise `BenchmarkError` where it is none."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _Table, str_keys=True)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        why = error if isinstance(error, msgspec.ValidationError) else "it cannot be read as TOML"
        raise BenchmarkError(f"{path}: {why}; install effd0 again") from error


_content = functools.cache(lambda: read_table(TABLE))


def published_accuracies() -> list[_Accuracy]:
    """The *map* on val2017 in percent, *by* whom, *conditions* and *source* of each."""
    return list(_content()["accuracy"])


def published_figures() -> list[Published]:
    """All published throughputs, in the order of the data file."""
    figures = []
    for run in _content()["run"]:
        for batch, value in run.values.items():
            rate = 1000 * batch / value if run.unit == "ms" else value
            figures.append(msgspec.structs.replace(run, batch=batch, images_per_second=rate))
    return figures
