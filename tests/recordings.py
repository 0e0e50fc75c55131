"""Folders of results as effd0 and each ais_infer and ais_bench have written them, from `SMALL`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effd0.data.coco import Dataset, load_coco
from effd0.spec import ModelSpec
from effd0.tensors.inputs import write_inputs
from effd0.types import Tensors

from .helpers import SMALL, coco_content, synthetic_heads, write_coco

#: Naming -> name of a file without its ending, by sample number, input's stem and output number.
NAMINGS: dict[str, Callable[[int, str, int], str]] = {
    "sample-id": lambda n, _, i: f"sample_id_{n}_output_{i}",
    "input-n": lambda n, _, i: f"input{n}_output_{i}",
    "cut-at-dot": lambda _, stem, i: f"{stem.split('.')[0]}_{i}",
    "whole-stem": lambda _, stem, i: f"{stem}_{i}",
}
FORMATS = (".bin", ".npy", ".txt")
#: The head outputs interleaved, as exports of 2022 gave them; no reader may count on an order.
INTERLEAVED = (0, 5, 1, 6, 2, 7, 3, 8, 4, 9)


def heads_of(seed: int, spec: ModelSpec = SMALL) -> Tensors:
    """Return the synthetic heads of one image, in the recipe's order, (1, C, H, W)."""
    heads = synthetic_heads(seed, spec)
    every = (*heads.classes, *heads.boxes)
    return {name: head[None] for name, head in zip(spec.output_names, every, strict=True)}


def write_array(path: Path, array: npt.NDArray[Any], dtype: Any = np.float32) -> None:
    """Write *array* to *path* by its ending, as ais_bench does."""
    if path.suffix == ".npy":
        np.save(path, array.astype(dtype))
    elif path.suffix == ".txt":
        np.savetxt(path, array.ravel(), fmt="%.9g")
    else:
        array.astype(np.dtype(dtype).newbyteorder("<")).tofile(path)


def write_results(
    folder: Path,
    stems: Sequence[str],
    naming: str,
    suffix: str = ".bin",
    *,
    batch: int = 1,
    padded: bool = True,
    dtype: Any = np.float32,
    order: Sequence[int] = INTERLEAVED,
) -> Path:
    """
    Write the heads of *stems*, seeded by their place in it, by *naming*; return *folder*.

    A file holds *batch* rows; the last is *padded* by its first image, as the models' batch asks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(-(-len(stems) // batch)):
        seeds = list(range(n * batch, min((n + 1) * batch, len(stems))))
        rows = seeds + seeds[:1] * (batch - len(seeds) if padded else 0)
        heads = [heads_of(seed) for seed in rows]
        for i, place in enumerate(order):
            name = SMALL.output_names[place]
            file = NAMINGS[naming](n, stems[seeds[0]], i) + suffix
            write_array(folder / file, np.concatenate([h[name] for h in heads]), dtype)
    return folder


def write_summary(path: Path, samples: Sequence[Sequence[str]], **more: object) -> Path:
    """Write ais_bench's summary of *samples*, the files that each was made of; return *path*."""
    content = {
        "filesinfo": {str(n): {"infiles": list(files)} for n, files in enumerate(samples)},
        **more,
    }
    path.write_text(json.dumps(content))
    return path


def coco_of(root: Path, names: Sequence[str]) -> Dataset:
    """Write a COCO folder of noise whose images have the file *names*; return it as read."""
    content = coco_content(len(names))
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    return load_coco(write_coco(root, content))


def write_bins(folder: Path, dataset: Dataset, **options: Any) -> Path:
    """Write the network inputs of *dataset*, with their manifest; return *folder*."""
    list(write_inputs(dataset, folder, SMALL, **options))
    return folder
