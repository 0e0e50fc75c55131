"""
Anchors: where each box regression starts from.

Source: the anchor generation of google/automl's EfficientDet, as ported by effdet.
"""

from __future__ import annotations

import functools

import numpy as np

from ..spec import ModelSpec
from ..types import Boxes


@functools.cache
def anchor_boxes(spec: ModelSpec) -> Boxes:
    """
    All anchors, (num_anchors, 4) float32 yxyx in input pixels.

    They run over levels from P3, then rows, columns, octave scales and aspect ratios: the order
    of the heads' places and channels.
    """
    boxes = np.concatenate([_level_boxes(spec, size) for size in spec.feature_sizes])
    boxes = boxes.astype(np.float32)
    boxes.setflags(write=False)
    return boxes


def _level_boxes(spec: ModelSpec, size: int) -> np.ndarray:
    """Anchors of one level of *size* rows and columns, (size * size * 9, 4) float64."""
    stride = spec.image_size / size
    centres = np.arange(stride / 2, spec.image_size, stride)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    halves = np.array(
        [
            (side * height / 2, side * width / 2)
            for octave in range(spec.scales_per_octave)
            for side in [spec.anchor_scale * stride * 2 ** (octave / spec.scales_per_octave)]
            for width, height in spec.aspect_ratios
        ]
    )
    centre = np.stack([y, x], -1).reshape(-1, 1, 2)
    return np.concatenate([centre - halves, centre + halves], -1).reshape(-1, 4)
