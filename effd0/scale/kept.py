"""The shards in a run directory: those of an earlier run, those that workers write, all at last."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..data.coco import Dataset
from ..errors import OutputError, ResultError
from ..evaluate import to_coco_results
from ..evaluation.run_dir import RunDirectory
from ..io import writing_to
from ..spec import ModelSpec
from .shards import read_shard, shard_name, sweep, whole_shards
from .tables import UnitFound, from_bytes
from .worker import UnitReport

SHARDS = "shards"


def shards_there(
    place: RunDirectory, seed: str, dataset: Dataset, *, detections: bool
) -> Iterator[UnitFound]:
    """What an earlier run left in *place*, which nobody else writes now."""
    folder = place.folder / SHARDS
    with writing_to(folder):
        folder.mkdir(exist_ok=True)
    sweep(folder)
    return whole_shards(folder, seed, dataset.image_ids, place.say, with_detections=detections)


def kept_tables(
    place: RunDirectory, seed: str, dataset: Dataset, spec: ModelSpec
) -> Iterator[npt.NDArray[np.float64]]:
    """
    COCO's table of each shard in *place*, in order of the images.

    Raises `ResultError` at the end unless all images are there: what a worker of a killed driver
    still wrote may have come in the place of a shard of this run.
    """
    folder, images = place.folder / SHARDS, 0
    for unit in whole_shards(folder, seed, dataset.image_ids, place.say):
        images += len(unit.image_ids)
        found = () if unit.detections is None else unit.detections
        yield to_coco_results(dict(zip(unit.image_ids, found, strict=True)), spec)
    if images < len(dataset.samples):
        raise ResultError(
            f"{folder} holds {images} of {len(dataset.samples)} images, though all were run; "
            "do the rest with --resume"
        )


def given_back(
    report: UnitReport, place: RunDirectory | None, seed: str, *, detections: bool
) -> UnitFound:
    """What *report* brings; raise `OutputError` where its shard is not to be seen from here."""
    found = from_bytes(report.found)
    if place is None:
        return found
    path = place.folder / SHARDS / shard_name(report.first, report.stop)
    if not path.is_file():
        raise OutputError(
            f"{report.worker} wrote {path}, but it is not there on the driver's host; "
            "give --out a folder that all hosts share"
        )
    return read_shard(path, seed) if detections else found
