"""What the detections of a run depend on: two runs of the same identity find the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import embedded
from .choice import ModelChoice
from .dataset import Dataset, Sample
from .files import sha256
from .report import environment
from .runners import RunnerOptions
from .spec import ModelSpec


@dataclass(frozen=True)
class UnderTest:
    """
    What is run, as far as it can be known without running it.

    *checkpoint_sha256* is None where a model was given that holds its own weights.
    """

    model_sha256: str
    checkpoint_sha256: str | None
    runner: str
    spec: ModelSpec
    options: RunnerOptions


def under_test(choice: ModelChoice, path: Path) -> UnderTest:
    """What *choice* runs; *path* is its file, exported or not."""
    return UnderTest(
        model_sha256=sha256(path),
        checkpoint_sha256=_checkpoint_sha256(choice),
        runner=choice.checked_runner(),
        spec=choice.spec,
        options=choice.options,
    )


def run_identity(
    what: UnderTest, dataset: Dataset, backend: str, *, batch_size: int
) -> dict[str, Any]:
    """
    All that decides what is found in *dataset*, fit for JSON; *backend* is what really computes.

    Image files are in it by `images_sha256`, which is the caller's to add.

    What only judges detections (the floor, the evaluator) is not in it, nor is what only moves
    files or threads of the host.
    """
    return {
        "model_sha256": what.model_sha256,
        "checkpoint_sha256": what.checkpoint_sha256,
        "annotations_sha256": sha256(dataset.annotation_file),
        "images": len(dataset.samples),
        "spec": asdict(what.spec),
        "settings": {
            "batch_size": batch_size,
            "runner": what.runner,
            "backend": backend,
            **{name: value for name, value in asdict(what.options).items() if name != "bins"},
        },
        # A new kernel of the system does not change a result; a new Pillow may.
        "environment": {k: v for k, v in environment().items() if k != "system"},
    }


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Each key, as ``spec.nms_iou``, in which the two differ, with both values."""
    mine, other = dict(_flat(recorded)), dict(_flat(asked))
    keys = [*mine, *(key for key in other if key not in mine)]
    return [
        f"{key} was {mine.get(key, 'not recorded')}, but is {other.get(key, 'not known')}"
        for key in keys
        if key not in mine or key not in other or mine[key] != other[key]
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checkpoint_sha256(choice: ModelChoice) -> str | None:
    """The fingerprint of the weights; None where a model was given that holds its own."""
    if choice.model is not None:
        return None
    return sha256(embedded.checkpoint() if choice.checkpoint is None else choice.checkpoint)


def images_sha256(images: Iterable[bytes]) -> str:
    """One fingerprint of all *images*, the SHA-256 of each file in order."""
    every = hashlib.sha256()
    for image in images:
        every.update(image)
    return every.hexdigest()


def image_sha256(sample: Sample) -> bytes:
    """The SHA-256 of an image file."""
    return bytes.fromhex(sha256(sample.path))
