"""Whether detections are of all images of a dataset: none missing, none foreign, none twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .data.coco import Dataset
from .errors import EvaluationError


def check_complete(dataset: Dataset, image_ids: Iterable[int]) -> None:
    """Raise `EvaluationError` unless *image_ids* are those of *dataset*, each of them once."""
    wanted, counts = set(dataset.image_ids), Counter(iter(image_ids))
    missing, foreign = sorted(wanted - counts.keys()), sorted(counts.keys() - wanted)
    if missing or foreign:
        raise EvaluationError(
            f"detections cover {len(counts)} images, but the dataset has {len(wanted)}: "
            f"{len(missing)} are missing {missing[:5]}, {len(foreign)} are foreign {foreign[:5]}"
        )
    doubled = sorted(id_ for id_, count in counts.items() if count > 1)
    if doubled:
        raise EvaluationError(
            f"detections of {len(doubled)} images came more than once {doubled[:5]}, but each "
            "counts once; take those of one run of each image"
        )
