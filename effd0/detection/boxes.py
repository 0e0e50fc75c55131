"""
Boxes: anchors, regression, clipping and non-maximum suppression, in pixels of the network's input.

Source: the anchor generation of google/automl's EfficientDet, as ported by effdet, and the Faster
R-CNN box coder without scale factors.
"""

import functools

import numpy as np

from ..spec import ModelSpec
from ..types import Boxes, Floats, Indices


@functools.cache
def anchor_boxes(spec: ModelSpec) -> Boxes:
    """
    All anchors, (num_anchors, 4) float32 yxyx in input pixels.

    They run over levels from P3, then rows, columns, octave scales and aspect ratios: the order
    of the heads' places and channels.
    """
    levels = []
    for size in spec.feature_sizes:
        # A size that is no multiple of the stride is parted evenly all the same.
        strides = [side / cells for side, cells in zip(spec.image_size, size, strict=True)]
        both = zip(strides, spec.image_size, strict=True)
        centres = (np.arange(stride / 2, side, stride) for stride, side in both)
        y, x = np.meshgrid(*centres, indexing="ij")
        sides = [spec.anchor_scale * stride for stride in strides]
        octaves = [2 ** (n / spec.scales_per_octave) for n in range(spec.scales_per_octave)]
        halves = np.array(
            [
                (sides[0] * octave * height / 2, sides[1] * octave * width / 2)
                for octave in octaves
                for width, height in spec.aspect_ratios
            ]
        )
        centre = np.stack([y, x], -1).reshape(-1, 1, 2)
        levels.append(np.concatenate([centre - halves, centre + halves], -1).reshape(-1, 4))
    boxes: Boxes = np.concatenate(levels).astype(np.float32)
    boxes.setflags(write=False)
    return boxes


def decode_boxes(codes: Floats, anchors: Boxes) -> Boxes:
    """Apply regressions (ty, tx, th, tw) to yxyx *anchors*; (n, 4) xyxy in input pixels."""
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_y, centre_x = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    # A wild regression may overflow to infinity; clipping then gives the image's border.
    with np.errstate(over="ignore"):
        half_height, half_width = np.exp(codes[:, 2]) * height / 2, np.exp(codes[:, 3]) * width / 2
    y, x = codes[:, 0] * height + centre_y, codes[:, 1] * width + centre_x
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)


def clip_boxes(boxes: Boxes, image_size: tuple[int, int], image_scale: np.float32) -> Boxes:
    """Clip xyxy *boxes* in input pixels to the picture, which may end before the padding does."""
    width, height = (np.float32(side) / image_scale for side in image_size)
    clipped: Boxes = np.minimum(
        np.maximum(boxes, np.float32(0)), np.array([width, height, width, height], np.float32)
    )
    return clipped


def nms(boxes: Boxes, classes: Indices, iou_threshold: float, limit: int) -> Indices:
    """
    Greedy non-maximum suppression within each class; indices of the first *limit* kept.

    *boxes* are xyxy by falling score.  A box goes if its IoU with a kept one of its class is
    above the threshold; boxes without area have no IoU and stay, as in torchvision.
    """
    from ..kernels import greedy_nms

    keep = np.empty(min(limit, len(boxes)), np.int64)
    threshold = np.float32(iou_threshold)
    return keep[: greedy_nms(np.ascontiguousarray(boxes), classes, threshold, keep)]
