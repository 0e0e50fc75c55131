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
    # Boxes are laid out class by class, so that a kept one is compared with a plain slice.
    order = np.argsort(classes, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    ends = np.cumsum(np.bincount(classes))[classes].tolist()
    x1, y1, x2, y2 = boxes[order].T
    # With the near corner negated, the common box of two is a single minimum.
    corners = np.stack([-x1, -y1, x2, y2])
    areas = (x2 - x1) * (y2 - y1)
    # numpy takes arrays several times as fast as scalars.
    own_corners, own_area = np.ascontiguousarray(corners.T)[:, :, None], areas[:, None]
    zero, threshold = np.zeros((), np.float32), np.asarray(iou_threshold, np.float32)
    gone = np.zeros(order.size, bool)
    kept: list[int] = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for index, (at, end) in enumerate(zip(place.tolist(), ends, strict=True)):
            if gone[at]:
                continue
            kept.append(index)
            if len(kept) == limit:
                break
            common = np.minimum(corners[:, at:end], own_corners[at])
            sides = np.maximum(common[2:] + common[:2], zero)
            overlap = sides[0] * sides[1]
            iou = overlap / (own_area[at] + areas[at:end] - overlap)
            # Its own place is among those that go, but is not looked at again.
            gone[at:end] |= iou > threshold
    return np.array(kept, np.int64)
