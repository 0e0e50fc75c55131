"""A folder of network inputs against effd0's own: what differs, and the mistake behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.coco import Dataset, Sample
from ..data.preprocess import normalize, preprocess
from ..spec import ModelSpec
from ..tensors.inputs import InputFiles, open_inputs
from ..tensors.manifest import listed
from ..tolerances import INPUTS
from ..types import Floats, Pixels
from .base import Suspicion
from .inputs import suspect_input, suspect_order, thumbnail

#: The first images and every so many behind them are compared, the others only counted.
FIRST, EVERY = 20, 50
#: How many wrong inputs are looked into.
EXPLAINED = 5


@dataclass(frozen=True)
class InputFault:
    """What is wrong with an input or with the folder, and the mistake that explains it."""

    text: str
    suspicion: Suspicion | None = None

    def __str__(self) -> str:
        return self.text if self.suspicion is None else f"{self.text}; {self.suspicion}"


def faults_of_inputs(dataset: Dataset, folder: Path, spec: ModelSpec) -> list[InputFault]:
    """
    Say what is wrong with the inputs in *folder* as those of *dataset*.

    Missing and foreign files are faults; the latter are not looked for where the dataset is
    limited.  The first `FIRST` images and every `EVERY`-th behind them are compared: bit for bit
    where effd0's manifest is beside them, else within `INPUTS`' limits.  Raises `ResultError` where
    the folder cannot be read as inputs of *spec*.
    """
    inputs = open_inputs(folder, spec)
    files = {file.stem: file for file in inputs.files}
    samples = [sample for sample in dataset.samples if sample.path.stem in files]
    wrong = {
        sample: fault
        for sample in [*samples[:FIRST], *samples[FIRST::EVERY]]
        if (fault := _difference(sample, inputs.read(files[sample.path.stem]), inputs, spec))
    }

    def planes(sample: Sample) -> Floats:
        return _planes(inputs.read(files[sample.path.stem]), spec)

    faults = [InputFault(text) for text in _unmatched(dataset, files)]
    if wrong:
        first = samples[:FIRST]
        order = suspect_order(first, [thumbnail(planes(sample)) for sample in first], spec)
        if order is not None:
            faults.append(InputFault(f"{len(wrong)} inputs are those of other images", order))
    for n, (sample, text) in enumerate(wrong.items()):
        suspicion = suspect_input(sample.path, planes(sample), spec) if n < EXPLAINED else None
        faults.append(InputFault(text, suspicion))
    return faults


def _unmatched(dataset: Dataset, files: dict[str, Path]) -> Iterator[str]:
    stems = {sample.path.stem for sample in dataset.samples}
    if missing := sorted(stems - files.keys()):
        yield f"{len(missing)} of {len(stems)} images have no input: {listed(missing)}"
    # A limited dataset does not know all the images that the folder may hold.
    if not dataset.limited and (foreign := sorted(files.keys() - stems)):
        yield f"{len(foreign)} of {len(files)} inputs are of no image: {listed(foreign)}"


def _difference(
    sample: Sample, given: npt.NDArray[Any], inputs: InputFiles, spec: ModelSpec
) -> str | None:
    """How *given* differs from effd0's own input of *sample*; None where it is right."""
    own = preprocess(sample.path, spec, normalized=inputs.dtype != np.uint8).tensor
    wanted = own.astype(inputs.dtype, copy=False)
    if np.array_equal(given, wanted):
        return None
    differences = np.abs(given.astype(np.float64) - wanted)
    worst = np.unravel_index(np.argmax(differences), differences.shape)
    allowed = 0.0 if inputs.manifest is not None else INPUTS[str(inputs.dtype)].limit
    # Not the other way round: NaN is not within any tolerance.
    if differences[worst] <= allowed:
        return None
    return (
        f"{sample.path.name}: the largest difference is {differences[worst]:.3g} at "
        f"{tuple(map(int, worst))}, {given[worst]:.6g} where {wanted[worst]:.6g} was wanted "
        f"(allowed: {allowed:g})"
    )


def _planes(given: npt.NDArray[Any], spec: ModelSpec) -> Floats:
    """*given* as float32 (3, size, size), whatever the folder holds."""
    if given.dtype == np.uint8:
        pixels: Pixels = given
        return normalize(pixels, spec)
    return given.astype(np.float32, copy=False)
