"""Whether detections cover every image of a dataset once, and whether any are another image's."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..data.coco import Dataset, Sample
from ..data.preprocess import preprocess
from ..data.remote import localized
from ..detection.postprocess import Detections
from ..errors import EvaluationError
from ..spec import ModelSpec

#: So many different float32 scores are equal to the last bit by chance in no two images.
DISTINCT_SCORES = 10


def check_complete(dataset: Dataset, image_ids: Iterable[int]) -> None:
    """Raise `EvaluationError` unless *image_ids* are those of *dataset*, each of them once."""
    wanted, counts = set(dataset.image_ids), Counter(iter(image_ids))
    missing, foreign = sorted(wanted - counts.keys()), sorted(counts.keys() - wanted)
    if missing or foreign:
        raise EvaluationError(
            f"detections cover {len(counts)} images, but the dataset has {len(wanted)}: "
            f"{len(missing)} are missing {missing[:5]}, {len(foreign)} are foreign {foreign[:5]}"
        )
    repeated = sorted(id_ for id_, count in counts.items() if count > 1)
    if repeated:
        raise EvaluationError(
            f"detections of {len(repeated)} images came more than once {repeated[:5]}, but each "
            "counts once; take those of one run of each image"
        )


def check_repeats(dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec) -> None:
    """
    Raise `EvaluationError` where two different images have the same scores to the last bit.

    Boxes are not compared, as they scale with the size of an image.  One picture that is stored
    under two ids rightly has the same detections twice, so the inputs of both are compared too.
    """
    alike: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        found = detections[sample.image_id]
        if len(np.unique(found.scores)) >= DISTINCT_SCORES:
            content = found.scores.astype("<f4").tobytes() + found.classes.astype("<i8").tobytes()
            alike[hashlib.blake2b(content, digest_size=16).digest()].append(sample)
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
