"""The detections of a data set by a pool of workers, scored where they are made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco import Dataset
from ..detection.postprocess import Detections
from ..evaluation.run_dir import KEPT_IN, RunDirectory, UnderTest, run_identity
from ..matches import MATCH, UnitMatches
from ..progress import OpenPoolProgress
from ..timing import Latency
from .cluster import Cluster
from .detect_work import DetectWork
from .drive import Begun, Shown, begin, drive
from .kept import SHARDS, given_back, shards_there
from .subject import Opened, Subject, without_device
from .summary import PoolSummary
from .tables import UnitFound
from .units import cut
from .worker import UnitReport

#: What an error says of the images that were run.
NOT_KEPT = "nothing of this run is kept: give --out a folder, and what was done stays"


@dataclass
class PoolFound:
    """
    What all workers found, *units* in any order; *found*, by image id, only where it was asked for.

    *sha256* are the fingerprints of the image files, by image id.
    """

    units: list[UnitMatches] = field(default_factory=list)
    sha256: dict[int, bytes] = field(default_factory=dict)
    found: dict[int, Detections] = field(default_factory=dict)

    def add(self, unit: UnitFound) -> None:
        """Add what was found in *unit*."""
        matches = np.frombuffer(unit.matches, MATCH)
        self.units.append(
            UnitMatches(unit.first, unit.image_ids, matches, unit.counted, unit.twins)
        )
        self.sha256.update(zip(unit.image_ids, unit.sha256, strict=True))
        if unit.detections is not None:
            self.found.update(zip(unit.image_ids, unit.detections, strict=True))

    @property
    def places(self) -> list[tuple[int, int]]:
        """First and stop of each unit."""
        return [(unit.first, unit.first + len(unit.image_ids)) for unit in self.units]


@dataclass(frozen=True)
class PoolRun:
    """What a pool of workers did: what was found, and what `detecting.Detected` says of a run."""

    what: PoolFound
    images: int
    stages: dict[str, Latency]
    runner: str
    model_sha256: str
    batch_size: int
    seed: str
    summary: PoolSummary

    @property
    def images_per_second(self) -> float:
        """Of the images that were run, all workers together, start-up left out."""
        return self.summary.images_per_second


def detect_on_pool(
    dataset: Dataset,
    under_test: UnderTest,
    model: Path,
    cluster: Cluster,
    *,
    batch_size: int | None,
    host_threads: int,
    place: RunDirectory | None,
    collect: bool,
    open_progress: OpenPoolProgress,
    subject: Subject | None = None,
) -> PoolRun:
    """
    Detect in all images of *dataset* that *place* does not hold yet, on the workers of *cluster*.

    With *collect*, detections come back; else they go to *place* alone, if there is one.  Raises
    one error at the end for all images that could not be run; the others are kept by then.
    *subject* stands for the file *model* as workers open it.
    """
    subject = subject_of(under_test, model) if subject is None else subject
    return detect_begun(
        dataset,
        under_test,
        begin(cluster, subject, model, batch_size),
        host_threads=host_threads,
        place=place,
        collect=collect,
        open_progress=open_progress,
    )


def detect_begun(
    dataset: Dataset,
    under_test: UnderTest,
    run: Begun,
    *,
    host_threads: int,
    place: RunDirectory | None,
    collect: bool,
    open_progress: OpenPoolProgress,
) -> PoolRun:
    """As `detect_on_pool`, in a *run* that has begun: the batch size is known already."""
    opened = run.opened
    what, seed = PoolFound(), ""
    if place is not None:
        identity = pool_identity(under_test, dataset, opened)
        seed = hashlib.sha256(place.begin(identity).encode()).hexdigest()
        for unit in shards_there(place, seed, dataset, detections=collect):
            what.add(unit)
        place.images = len(what.sha256)
        if what.units:
            place.say(f"{place.folder}: {place.images} of {len(dataset.samples)} images are there")
    units = cut(dataset, opened.batch_size, run.cluster.pool.workers, what.places)
    work = DetectWork(
        spec=under_test.spec,
        dataset=replace(dataset, samples=(), annotations=(), extra_files=(), left_out={}),
        batch_size=opened.batch_size,
        host_threads=host_threads,
        shards=None if place is None else place.folder.absolute() / SHARDS,
        seed=seed,
        detections=collect,
    )

    def take(report: UnitReport) -> None:
        what.add(given_back(report, place, seed, detections=collect))
        if place is not None:
            place.images = len(what.sha256)

    shown = Shown("detecting", open_progress)
    summary, stages = drive(run, units, work, take, shown, NOT_KEPT if place is None else "")
    return PoolRun(
        what=what,
        images=summary.images,
        stages=stages,
        runner=run.description,
        model_sha256=under_test.model_sha256,
        batch_size=opened.batch_size,
        seed=seed,
        summary=summary,
    )


def pool_identity(under_test: UnderTest, dataset: Dataset, opened: Opened) -> dict[str, Any]:
    """
    All that decides what is found, as `run_identity`; image files are fingerprinted as they are
    read, not before.
    """
    backend = without_device(opened.description)
    identity = run_identity(under_test, dataset, backend, batch_size=opened.batch_size)
    return {**identity, "workers": dict(opened.packages), KEPT_IN: "Parquet shards"}


def subject_of(under_test: UnderTest, model: Path) -> Subject:
    """What workers open: the file *model*, of which *under_test* tells."""
    return Subject(
        runner=under_test.runner,
        spec=under_test.spec,
        options=under_test.options,
        name=model.name,
        sha256=under_test.model_sha256,
    )
