"""
Network inputs on disk: one ``<stem>.bin`` an image, as the recipe's runners read them.

A manifest beside them says what they are, by image id; it is written last, so that a folder
with a manifest is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from .dataset import Dataset, Sample
from .errors import OutputError
from .files import sha256, written_whole
from .preprocess import preprocess
from .spec import ModelSpec

MANIFEST = "manifest.json"


def write_inputs(
    dataset: Dataset, folder: Path, spec: ModelSpec, workers: int = 2
) -> Iterator[Sample]:
    """
    Write the network input of every image to *folder*, yielding each sample when it is written.

    Each file is 3 x 512 x 512 float32 in C order, little endian.  A manifest of an earlier run
    is removed first, since it no longer tells the truth.  Raises `OutputError` where two images
    have the same stem.
    """
    stems = {sample.path.stem for sample in dataset.samples}
    if len(stems) != len(dataset.samples):
        raise OutputError(
            f"{len(dataset.samples)} images have only {len(stems)} different stems, "
            f"but each needs a file of its own in {folder}; rename the images"
        )
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error}; choose another") from error
    entries = []
    with ThreadPoolExecutor(workers) as pool:
        entry_of = partial(_write_input, folder=folder, spec=spec)
        for sample, entry in zip(dataset.samples, pool.map(entry_of, dataset.samples), strict=True):
            entries.append(entry)
            yield sample
    manifest = {
        "spec": asdict(spec),
        "dtype": "float32",
        "annotations_sha256": sha256(dataset.annotation_file),
        "images_total": dataset.total,
        "images": entries,
    }
    with written_whole(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")


def _write_input(sample: Sample, *, folder: Path, spec: ModelSpec) -> dict[str, Any]:
    model_input = preprocess(sample.path, spec)
    path = folder / f"{sample.path.stem}.bin"
    with written_whole(path) as temporary:
        model_input.tensor.astype("<f4", copy=False).tofile(temporary)
    return {
        "image_id": sample.image_id,
        "file": path.name,
        "image_scale": model_input.image_scale,
        "image_size": list(model_input.image_size),
        "sha256": sha256(path),
    }
