"""Published figures of EfficientDets, each with its source and conditions."""

import functools
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypedDict, TypeVar

import msgspec

from ..errors import BenchmarkError
from ..results.run import Artefact, Network
from ..spec import D0, SPECS

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
    arch: str = D0.arch
    batch: int = 1
    images_per_second: float = 0.0


class PublishedMap(msgspec.Struct, frozen=True, kw_only=True):
    """The published *map* on val2017 in percent, *by* whom, as *source* says."""

    by: str
    map: Annotated[float, msgspec.Meta(gt=1, le=100)]
    conditions: str
    source: str
    arch: str = D0.arch


_Row = TypeVar("_Row", Published, PublishedMap)


class _Table(TypedDict):
    accuracy: list[PublishedMap]
    run: list[Published]


def read_table(path: Path) -> _Table:
    """The table in the file *path*; raise `BenchmarkError` where it is none."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _Table, str_keys=True)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        why = error if isinstance(error, msgspec.ValidationError) else "it cannot be read as TOML"
        raise BenchmarkError(f"{path}: {why}; install effd0 again") from error


_content = functools.cache(lambda: read_table(TABLE))


def published_accuracies(artefact: Artefact | None = None) -> list[PublishedMap]:
    """The published mAPs in the order of the data file: all, or those of *artefact*'s network."""
    return _of_network(_content()["accuracy"], artefact)


def published_figures(artefact: Artefact | None = None) -> list[Published]:
    """The published throughputs, as `published_accuracies` chooses."""
    figures = []
    for run in _of_network(_content()["run"], artefact):
        for batch, value in run.values.items():
            rate = 1000 * batch / value if run.unit == "ms" else value
            figures.append(msgspec.structs.replace(run, batch=batch, images_per_second=rate))
    return figures


def _of_network(rows: list[_Row], artefact: Artefact | None) -> list[_Row]:
    """The *rows* of one architecture with COCO's classes and its own size; without one all."""
    if artefact is None:
        return list(rows)
    return [one for one in rows if Network.of(SPECS[one.arch]) == artefact.network]
