"""
Which head a file holds, by its size alone.

No head of any spec has the size of another, in float32 as in float16, so that neither a file's
number nor the order of a model's outputs is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..arrays import Floats
from ..errors import ResultError
from ..spec import ModelSpec

#: Rows that one file of an early ais_infer may hold.
MAX_ROWS = 1024


@dataclass(frozen=True)
class HeadFile:
    """One image's *row* among the *rows* of a file, whose raw values have *itemsize* bytes."""

    path: Path
    row: int = 0
    rows: int = 1
    itemsize: int = 4

    def head(self, spec: ModelSpec) -> str | None:
        """Name of the head that the file holds; None if it holds none of *spec*."""
        name = self._named(value_count(self.path, self.itemsize), spec)
        if name is None or self.path.suffix != ".npy":
            return name
        shape = np.load(self.path, mmap_mode="r", allow_pickle=False).shape
        # A flat one says nothing; one of another layout says that it is not to be read.
        return name if len(shape) == 1 or shape[-3:] == spec.head_shapes[name] else None

    def load(self, spec: ModelSpec) -> tuple[str, Floats]:
        """Name and values of this image's head, (1, C, H, W) float32; `ResultError` if none."""
        try:
            values = _values(self.path, self.itemsize)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(
                f"{self.path} cannot be read: {error}; run the inference again"
            ) from error
        name = self._named(values.size, spec)
        if name is None:
            raise ResultError(
                f"{self.path} holds {values.size} values, but {self.rows} times one of "
                f"{sorted(head_sizes(spec))} were wanted; run the inference again"
            )
        rows = values.reshape(self.rows, *spec.head_shapes[name])
        # Of a batch, a copy: the other rows are not to stay in memory.
        return name, rows[self.row : self.row + 1].astype(np.float32, copy=self.rows > 1)

    def _named(self, values: int, spec: ModelSpec) -> str | None:
        size, rest = divmod(values, self.rows)
        return None if rest else head_sizes(spec).get(size)


@cache
def head_sizes(spec: ModelSpec) -> dict[int, str]:
    """How many values each head of one image has -> its name."""
    return {math.prod(shape): name for name, shape in spec.head_shapes.items()}


def value_count(path: Path, itemsize: int) -> int:
    """How many values *path* holds; -1 if it is broken.  A text file has to be read for it."""
    if path.suffix == ".bin":
        count, rest = divmod(path.stat().st_size, itemsize)
        return -1 if rest else count
    try:
        if path.suffix == ".npy":
            return int(np.load(path, mmap_mode="r", allow_pickle=False).size)
        return int(_values(path, itemsize).size)
    except (OSError, ValueError, EOFError):
        return -1


def _values(path: Path, itemsize: int) -> np.ndarray:
    """The content of *path*."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    if path.suffix == ".txt":
        return np.loadtxt(path, np.float32, ndmin=1).ravel()
    return np.fromfile(path, f"<f{itemsize}")


def fit_rows(
    files: Sequence[Path], possible: Iterable[int], itemsizes: Sequence[int], spec: ModelSpec
) -> tuple[int, int] | None:
    """The first number of rows, and itemsize, with which *files* are all heads of *spec*, once."""
    counts = {size: sorted(value_count(path, size) for path in files) for size in itemsizes}
    sizes = sorted(head_sizes(spec))
    for rows in possible:
        wanted = [rows * size for size in sizes]
        for itemsize in itemsizes:
            if counts[itemsize] == wanted:
                return rows, itemsize
    return None
