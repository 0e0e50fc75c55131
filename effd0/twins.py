"""Images that were given the detections of another: a result that stands twice is one too few."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .data.coco import Sample
from .data.preprocess import preprocess
from .data.remote import localized
from .detection.postprocess import Detections
from .errors import EvaluationError
from .spec import ModelSpec

#: So many different scores agree to the last bit by chance in no two images.
DISTINCT = 10
#: No two of all images that there are share so long a digest by chance.
_KEY_BYTES = 16


def twin_key(found: Detections) -> bytes:
    """
    What images with the same scores and classes have in common; empty where that says nothing.

    They do not depend on an image's size, as boxes do.
    """
    if len(np.unique(found.scores)) < DISTINCT:
        return b""
    told = found.scores.astype("<f4").tobytes() + found.classes.astype("<i8").tobytes()
    return hashlib.blake2b(told, digest_size=_KEY_BYTES).digest()


def check_twins(samples: Sequence[Sample], keys: Mapping[int, bytes], spec: ModelSpec) -> None:
    """
    Raise `EvaluationError` where two pictures that differ have the same scores to the last bit.

    *keys* are the `twin_key` of each image, by its id.  Who stores one picture under two ids
    rightly finds the same in both.
    """
    alike: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        if keys[sample.image_id]:
            alike[keys[sample.image_id]].append(sample)
    for first, *others in alike.values():
        for other in others:
            with localized((first, other), Path(tempfile.gettempdir())) as pair:
                one, two = (preprocess(sample.path, spec).tensor for sample in pair)
            if not np.array_equal(one, two):
                raise EvaluationError(
                    f"images {first.image_id} ({first.path.name}) and {other.image_id} "
                    f"({other.path.name}) differ, but their detections have the same scores to "
                    "the last bit: one was given the results of the other, or the model does not "
                    "look at its input; run the inference again"
                )
