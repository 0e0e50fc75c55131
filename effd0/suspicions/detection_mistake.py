"""DetectionMistake: one step from heads to a results file, done otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..spec import ModelSpec
from ..types import Indices
from .detection_rows import Rows
from .detection_steps import Found, ImageCandidates, clipped, decoded, make, picked

Doubles: TypeAlias = npt.NDArray[np.float64]
Make = Callable[[ImageCandidates, ModelSpec], Found]
#: Corners xyxy in pixels of the image -> what is written as ``bbox``.
WriteBoxes = Callable[[Doubles, ImageCandidates, ModelSpec], Doubles]
WriteClasses = Callable[[Indices], Indices]
WriteScores = Callable[[Found], Doubles]


@dataclass(frozen=True)
class DetectionMistake:
    """
    A mistake of *stage*: its *name*, and the one step that it does otherwise; the rest is None.

    *explanation* follows "the error falls if".  *make* is all up to the detections, *boxes*,
    *classes* and *scores* are how each is written.
    """

    name: str
    stage: str
    explanation: str
    make: Make | None = None
    boxes: WriteBoxes | None = None
    classes: WriteClasses | None = None
    scores: WriteScores | None = None

    @property
    def step(self) -> str:
        """The name of the step that is done otherwise."""
        steps = ("make", "boxes", "classes", "scores")
        return next(step for step in steps if getattr(self, step) is not None)


class Trial:
    """One image on which mistakes are tried: its candidates and the rows that were *given*."""

    def __init__(self, image: ImageCandidates, given: Rows, spec: ModelSpec) -> None:
        self.image, self.given, self.spec = image, given, spec
        self._made: dict[Make, Found] = {}

    def rows(self, *mistakes: DetectionMistake) -> Rows:
        """The rows of a results file in which *mistakes*, of different steps, were made."""
        steps = {mistake.step: mistake for mistake in mistakes}
        made = steps["make"].make if "make" in steps else make
        assert made is not None
        # Suppression costs a hundred times what writing costs.
        if made not in self._made:
            self._made[made] = made(self.image, self.spec)
        found = self._made[made]
        boxes = found.boxes.astype(np.float64)
        written, classes, scores = as_xywh(boxes), found.classes, found.scores.astype(np.float64)
        for mistake in mistakes:
            if mistake.boxes is not None:
                written = mistake.boxes(boxes, self.image, self.spec)
            elif mistake.classes is not None:
                classes = mistake.classes(found.classes)
            elif mistake.scores is not None:
                scores = mistake.scores(found)
        return Rows(written, scores, classes)

    def candidates(self) -> Rows:
        """The rows of all candidates, of which suppression keeps the detections."""
        boxes = clipped(self.image, decoded(self.image, self.spec))
        found = picked(self.image, boxes, slice(None))
        written = as_xywh(found.boxes.astype(np.float64))
        return Rows(written, found.scores.astype(np.float64), found.classes)


def as_xywh(boxes: Doubles) -> Doubles:
    """Corners xyxy as COCO's x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
