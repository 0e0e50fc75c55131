"""Detecting in a unit of images: the run line's own stages, and the matching of what they find."""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from ..data.coco import Dataset, Sample, check_images
from ..data.remote import localized
from ..detection.postprocess import Detections
from ..errors import ImageError
from ..evaluation.pipeline import StageTimes, run_dataset
from ..evaluation.run_dir import image_sha256
from ..matches import match_unit
from ..runners.base import Runner
from ..spec import ModelSpec
from .shards import write_shard
from .tables import UnitFound, to_bytes
from .unit import Unit
from .units import ImageUnit
from .worker import Announce


@dataclass(frozen=True)
class DetectWork:
    """
    How units are detected in, and where detections go.

    *dataset* holds the categories and no image.  With a folder *shards* detections are written
    there; else they are given back where *detections* is true, and dropped once they are matched
    where it is not.
    """

    spec: ModelSpec
    dataset: Dataset
    batch_size: int
    host_threads: int
    shards: Path | None
    seed: str
    detections: bool

    def do(
        self, runner: Runner, unit: Unit, stages: StageTimes, announce: Announce | None
    ) -> bytes:
        """As `Work.do`; gives back a `UnitFound`.  Raises `ImageError` for all broken images."""
        with self.brought(unit) as here:
            parts = [here] if announce is None else here.batches(self.batch_size)
            found: list[Detections] = []
            for part in parts:
                if announce is not None:
                    announce(part.image_ids)
                try:
                    found += chain.from_iterable(self.flow(runner, [part], stages))
                except ImageError as error:
                    raise _all_of(here, error) from error
            return self.keep(here, found)

    @contextlib.contextmanager
    def brought(self, unit: Unit) -> Iterator[ImageUnit]:
        """As `FlowingWork.brought`: images that lie elsewhere are copied."""
        assert isinstance(unit, ImageUnit)
        with localized(unit.samples, Path(tempfile.gettempdir())) as samples:
            yield replace(unit, samples=samples)

    def flow(
        self, runner: Runner, units: Iterable[Unit], stages: StageTimes
    ) -> Iterator[list[Detections]]:
        """As `FlowingWork.flow`: what is in each image."""
        counts: deque[int] = deque()

        def samples() -> Iterator[Sample]:
            for unit in units:
                assert isinstance(unit, ImageUnit)
                counts.append(len(unit.samples))
                yield from unit.samples

        stream = run_dataset(
            samples(),
            runner,
            self.spec,
            batch_size=self.batch_size,
            host_threads=self.host_threads,
            times=stages,
        )
        with contextlib.closing(stream):
            found: list[Detections] = []
            for _, detections in stream:
                found.append(detections)
                if len(found) == counts[0]:
                    counts.popleft()
                    yield found
                    found = []

    def keep(self, unit: Unit, raw: list[Detections]) -> bytes:
        """As `FlowingWork.keep`: matched with the unit's objects, and written if it is to be."""
        assert isinstance(unit, ImageUnit)
        by_id = dict(zip(unit.image_ids, raw, strict=True))
        matched = match_unit(unit.of(self.dataset), by_id, self.spec, unit.first)
        whole = UnitFound(
            first=unit.first,
            image_ids=unit.image_ids,
            sha256=tuple(map(image_sha256, unit.samples)),
            twins=matched.twin_keys,
            detections=tuple(raw),
            counted=matched.detections,
            matches=matched.matches.tobytes(),
        )
        if self.shards is not None:
            write_shard(self.shards, whole, self.seed)
        return to_bytes(whole, detections=self.detections and self.shards is None)


def _all_of(unit: ImageUnit, error: ImageError) -> ImageError:
    """All that is wrong with the images of *unit*, of which *error* is the first."""
    try:
        for _ in check_images(unit.samples):
            pass
    except ImageError as every:
        return every
    return error
