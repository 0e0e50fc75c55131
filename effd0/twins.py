"""Images that were given the detections of another: a result that stands twice is one too few."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from .dataset import Sample
from .errors import EvaluationError
from .postprocess import Detections
from .preprocess import preprocess
from .spec import ModelSpec

#: So many different scores agree to the last bit by chance in no two images.
DISTINCT = 10


def check_twins(
    samples: Sequence[Sample], found: Mapping[int, Detections], spec: ModelSpec
) -> None:
    """
    Raise `EvaluationError` where two pictures that differ have the same scores to the last bit.

    *found* are the detections by image id.  Scores and classes do not depend on an image's size,
    as boxes do; and who stores one picture under two ids rightly finds the same in both.
    """
    alike: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        here = found[sample.image_id]
        if len(np.unique(here.scores)) >= DISTINCT:
            alike[here.scores.tobytes() + here.classes.tobytes()].append(sample)
    for first, *others in alike.values():
        for other in others:
            one, two = (preprocess(sample.path, spec).tensor for sample in (first, other))
            if not np.array_equal(one, two):
                raise EvaluationError(
                    f"images {first.image_id} ({first.path.name}) and {other.image_id} "
                    f"({other.path.name}) differ, but their {len(found[first.image_id])} "
                    "detections have the same scores to the last bit: one was given the results "
                    "of the other, or the model does not look at its input; run the inference again"
                )
