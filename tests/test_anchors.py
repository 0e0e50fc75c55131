"""Tests for `effd0.detection.anchors`."""

from __future__ import annotations

import numpy as np
import pytest

from effd0.detection.anchors import anchor_boxes
from effd0.spec import D0, ModelSpec

from .helpers import SMALL, TINY
from .reference import effdet_anchors


@pytest.mark.parametrize(
    "spec",
    [pytest.param(D0, id="d0"), pytest.param(SMALL, id="small"), pytest.param(TINY, id="tiny")],
)
def test_anchors_are_those_of_effdet(spec: ModelSpec) -> None:
    """Every corner of every anchor is effdet's, to the last bit and in its order."""
    boxes = anchor_boxes(spec)
    assert boxes.dtype == np.float32
    assert boxes.shape == (spec.num_anchors, 4)
    assert np.array_equal(boxes, effdet_anchors(spec).boxes.numpy())


def test_anchors_cannot_be_changed_by_who_gets_them() -> None:
    """They are shared by all images, so that writing to them must fail."""
    with pytest.raises(ValueError, match="read-only"):
        anchor_boxes(D0)[0, 0] = 0
