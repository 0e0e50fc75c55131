"""Images read ahead in batches, by threads of the host, into memory that is used again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .arrays import Tensor
from .dataset import Sample, other_size
from .errors import ImageError
from .preprocess import ModelInput


@dataclass(frozen=True)
class Read:
    """An image that was read, without its pixels: what its detections need."""

    sample: Sample
    image_scale: float
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Images that were read: *rows*, where given, are the inputs' tensors as one array."""

    reads: list[Read]
    inputs: list[ModelInput]
    rows: Tensor | None


class Arrays:
    """Arrays for batches of network input: those that were given back are taken again."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[Tensor] = []

    def take(self) -> Tensor:
        """Return an array whose contents nobody needs."""
        return self._free.pop() if self._free else np.empty(self._shape, np.float32)

    def give_back(self, array: Tensor) -> None:
        """Say that the contents of *array* are not needed any more."""
        self._free.append(array)


def read_batches(
    samples: Iterable[Sample],
    pool: ThreadPoolExecutor,
    read: Callable[[Path, Tensor | None], ModelInput],
    batch_size: int,
    arrays: Arrays | None,
) -> Iterator[Batch]:
    """
    Batches of preprocessed images, read at most one batch ahead.

    Raises what *read* raises, and `ImageError` for an image that is not of the annotated size.
    """
    source = iter(samples)

    def read_on() -> tuple[list[tuple[Sample, Future[ModelInput]]], Tensor | None]:
        taken = list(islice(source, batch_size))
        array = arrays.take() if arrays is not None and taken else None
        places = [None] * len(taken) if array is None else array
        return [
            (sample, pool.submit(read, sample.path, place))
            for sample, place in zip(taken, places, strict=False)
        ], array

    reading, array = read_on()
    while reading:
        ready, rows = reading, array
        reading, array = read_on()
        inputs = [future.result() for _, future in ready]
        reads = [_read(sample, one) for (sample, _), one in zip(ready, inputs, strict=True)]
        yield Batch(reads, inputs, rows)


def _read(sample: Sample, one: ModelInput) -> Read:
    """What is kept of *sample*, which was read as *one*."""
    if one.image_size != sample.size:
        raise ImageError(
            f"{other_size(sample, one.image_size)}; "
            "copy or download it again, or correct the annotation file"
        )
    return Read(sample, one.image_scale, one.image_size)
