"""Boxes: regression, clipping and non-maximum suppression, in pixels of the network's input."""

from __future__ import annotations

import numpy as np

from ..types import Boxes, Floats, Indices


def decode_boxes(codes: Floats, anchors: Boxes) -> Boxes:
    """
    Apply regressions (ty, tx, th, tw) to yxyx *anchors*; return (n, 4) xyxy in input pixels.

    Source: the Faster R-CNN box coder without scale factors.
    """
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_y, centre_x = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    # A wild regression may overflow to infinity; clipping then gives the image's border.
    with np.errstate(over="ignore"):
        half_height, half_width = np.exp(codes[:, 2]) * height / 2, np.exp(codes[:, 3]) * width / 2
    y, x = codes[:, 0] * height + centre_y, codes[:, 1] * width + centre_x
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)


def encode_boxes(boxes: Boxes, anchors: Boxes) -> Floats:
    """Inverse of `decode_boxes`: the regressions that lead from *anchors* to xyxy *boxes*."""
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_y, centre_x = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    box_width, box_height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return np.stack(
        [
            (y - centre_y) / height,
            (x - centre_x) / width,
            np.log(box_height / height),
            np.log(box_width / width),
        ],
        1,
    )


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
