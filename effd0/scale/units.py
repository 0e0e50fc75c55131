"""
Units of work: runs of whole batches of neighbouring images, which one worker does at a time.

Batches begin where they begin in one process, so that every image has the neighbours that it would
have had there: some backends give an image other heads beside other images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..data.coco import Dataset, Sample
from ..data.remote import url_of

#: Batches of a unit: enough that filling and draining the pipeline cost little beside them ...
MOST_BATCHES = 16
#: ... but no more than leaves each worker so many units, for the fast to help out the slow.
UNITS_A_WORKER = 16


@dataclass(frozen=True)
class ImageUnit:
    """The images from place *first* of the dataset on, and their annotations."""

    first: int
    samples: tuple[Sample, ...]
    annotations: tuple[dict[str, Any], ...]

    @property
    def stop(self) -> int:
        """The place behind the last image."""
        return self.first + len(self.samples)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images' ids, in order."""
        return tuple(sample.image_id for sample in self.samples)

    @property
    def remedy(self) -> str:
        """What to do about an image that ends each process."""
        return "try each by itself with 'effd0 detect', and mend it or take it out of the dataset"

    def batches(self, size: int) -> list[ImageUnit]:
        """The same images in units of a batch each."""
        return [
            ImageUnit(self.first + start, self.samples[start : start + size], ())
            for start in range(0, len(self.samples), size)
        ]

    def of(self, dataset: Dataset) -> Dataset:
        """The images of this unit as a dataset of their own, with the categories of *dataset*."""
        return replace(
            dataset,
            samples=self.samples,
            annotations=self.annotations,
            total=len(self.samples),
            extra_files=(),
            left_out={},
        )


def cut(
    dataset: Dataset, batch_size: int, workers: int, done: Iterable[tuple[int, int]] = ()
) -> list[ImageUnit]:
    """
    Units of all images of *dataset* but those in *done*, places from first to stop.

    What is done was cut at whole batches too.
    """
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in dataset.annotations:
        annotations[annotation["image_id"]].append(annotation)
    units = []
    for start, stop in places(len(dataset.samples), batch_size, workers, done):
        samples = dataset.samples[start:stop]
        own = tuple(a for sample in samples for a in annotations[sample.image_id])
        units.append(ImageUnit(start, tuple(map(_absolute, samples)), own))
    return units


def _absolute(sample: Sample) -> Sample:
    """*sample* by a path that holds wherever a worker stands; a URL does as it is."""
    if sample.path.is_absolute() or url_of(sample.path) is not None:
        return sample
    return replace(sample, path=sample.path.absolute())


def places(
    images: int, batch_size: int, workers: int, done: Iterable[tuple[int, int]] = ()
) -> Iterator[tuple[int, int]]:
    """First and stop of each unit of so many *images* but those that are *done*; see `cut`."""
    batches = -(-images // batch_size)
    size = batch_size * max(1, min(MOST_BATCHES, batches // (workers * UNITS_A_WORKER)))
    for first, stop in _gaps(images, done):
        for start in range(first, stop, size):
            yield start, min(start + size, stop)


def _gaps(images: int, done: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The runs of places that *done*, which do not overlap, leave."""
    start = 0
    for first, stop in sorted(done):
        if start < first:
            yield start, first
        start = stop
    if start < images:
        yield start, images
