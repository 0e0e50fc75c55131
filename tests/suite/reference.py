"""effdet's own steps, which the run line must repeat."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from effdet import get_efficientdet_config
from effdet.anchors import Anchors, clip_boxes_xyxy, decode_box_outputs
from effdet.bench import _batch_detection, _post_process
from effdet.data import resolve_input_config
from effdet.data.transforms import transforms_coco_eval
from PIL import Image

from effd0.detection.heads import HeadOutputs
from effd0.spec import ModelSpec
from effd0.types import Floats, Tensor


@dataclass(frozen=True)
class Geometry:
    """An image's original (width, height) and the factor from input back to its pixels."""

    size: tuple[int, int]
    scale: float

    @classmethod
    def of(cls, size: tuple[int, int], spec: ModelSpec) -> Geometry:
        """Return the geometry that effdet's ``ResizePad`` gives an image of *size*."""
        width, height = size
        return cls(size, 1.0 / min(spec.image_size[0] / height, spec.image_size[1] / width))


def effdet_input(path: Path, spec: ModelSpec) -> tuple[Tensor, float]:
    """Return the network input and scale that effdet's dataset, transform and loader give."""
    with warnings.catch_warnings():
        # Pillow finds fault with transparent palettes; the pixels are what is asked for here.
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    own = get_efficientdet_config(spec.arch)
    own.image_size = spec.image_size
    config = resolve_input_config({"interpolation": "bilinear"}, own)
    mean, std = config["mean"], config["std"]
    transform = transforms_coco_eval(
        config["input_size"][-2:],
        config["interpolation"],
        use_prefetcher=True,
        fill_color=config["fill_color"],
        mean=mean,
        std=std,
    )
    pixels, annotations = transform(rgb, {})
    # What effdet's PrefetchLoader does, which cannot be used without CUDA.
    mean, std = (torch.tensor([x * 255 for x in three]).view(3, 1, 1) for three in (mean, std))
    tensor = torch.from_numpy(pixels.copy()).float().sub_(mean).div_(std)
    return tensor.numpy(), annotations["img_scale"]


def effdet_anchors(spec: ModelSpec) -> Anchors:
    """Return effdet's anchors for *spec*."""
    return Anchors(
        spec.levels[0],
        spec.levels[-1],
        spec.scales_per_octave,
        spec.aspect_ratios,
        spec.anchor_scale,
        spec.image_size,
    )


def _candidates(heads: HeadOutputs, spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """What effdet selects: class logits, box codes, anchors' indices and labels of one image."""
    candidates: tuple[torch.Tensor, ...] = _post_process(
        [torch.tensor(head[None]) for head in heads.classes],
        [torch.tensor(head[None]) for head in heads.boxes],
        num_levels=len(spec.levels),
        num_classes=spec.num_classes,
        max_detection_points=spec.max_candidates,
    )
    return candidates


def effdet_detections(heads: HeadOutputs, image: Geometry, spec: ModelSpec) -> Floats:
    """Return what effdet's bench finds in *heads*: rows x1, y1, x2, y2, score, category."""
    classes, boxes, indices, labels = _candidates(heads, spec)
    rows = _batch_detection(
        1,
        classes,
        boxes,
        effdet_anchors(spec).boxes,
        indices,
        labels,
        torch.tensor([image.scale]),
        torch.tensor([image.size]),
        max_det_per_image=spec.max_detections,
        soft_nms=False,
    )
    found: Floats = rows[0].numpy()
    return found[found[:, 5] > 0]  # effdet fills up to 100 rows with zeros


def effdet_candidates(heads: HeadOutputs, image: Geometry, spec: ModelSpec) -> Floats:
    """Return what effdet decodes of *heads* before NMS: rows x1, y1, x2, y2, score, category."""
    classes, boxes, indices, labels = _candidates(heads, spec)
    anchors = effdet_anchors(spec).boxes[indices[0]]
    corners = decode_box_outputs(boxes[0].float(), anchors, output_xyxy=True)
    corners = clip_boxes_xyxy(corners, torch.tensor(image.size) / image.scale) * image.scale
    rows: Floats = torch.cat([corners, classes[0].sigmoid(), labels[0, :, None] + 1], 1).numpy()
    return rows
