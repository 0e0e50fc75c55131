"""A detector of another make, on torch and effdet's parts, that can be made to go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from effdet.anchors import decode_box_outputs
from effdet.soft_nms import batched_soft_nms
from torchvision.ops import batched_nms, nms

from effd0.detection.heads import HeadOutputs
from effd0.spec import D0, ModelSpec
from tests.suite.reference import effdet_anchors

Entry = dict[str, Any]
Entries = list[Entry]


@dataclass(frozen=True)
class Picture:
    """Heads of an image, and what leads back to the image."""

    heads: HeadOutputs
    scale: float
    size: tuple[int, int]
    spec: ModelSpec = D0

    @cached_property
    def logits(self) -> torch.Tensor:
        """Logits, (anchors, classes)."""
        return torch.cat([_flat(head, self.spec.num_classes) for head in self.heads.classes])

    @cached_property
    def codes(self) -> torch.Tensor:
        """Box codes, (anchors, 4)."""
        return torch.cat([_flat(head, 4) for head in self.heads.boxes])

    @cached_property
    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The 5,000 highest logits and their places among all."""
        values, places = self.logits.flatten().topk(5000)
        return values, places


@dataclass(frozen=True)
class Wrong:
    """How the detector is set up; the defaults are right."""

    nms: str = "class"
    iou: float = 0.5
    topk: int = 5000
    keep: int = 100
    floor: float = 0.0
    clip: str = "picture"
    best_class: bool = False
    codes: tuple[int, int, int, int] = (0, 1, 2, 3)
    factors: tuple[float, float, float, float] = (1, 1, 1, 1)
    #: yxyx anchors -> yxyx anchors.
    anchors: Callable[[torch.Tensor], torch.Tensor] = field(default=lambda anchors: anchors)


def entries(pictures: Mapping[int, Picture], wrong: Wrong) -> Entries:
    """Return a results file's content, with ``logit`` and ``corners`` for who spoils it."""
    return [entry for id_, picture in pictures.items() for entry in _detect(id_, picture, wrong)]


def _detect(image_id: int, picture: Picture, wrong: Wrong) -> Entries:
    if wrong.best_class:
        best, label = picture.logits.max(dim=1)
        value, anchor = (part[: wrong.topk] for part in best.sort(descending=True, stable=True))
        label = label[anchor]
    else:
        value, place = (part[: wrong.topk] for part in picture.best)
        anchor, label = place // picture.spec.num_classes, place % picture.spec.num_classes
    chosen = picture.codes[anchor][:, list(wrong.codes)] * torch.tensor(wrong.factors)
    anchors = wrong.anchors(effdet_anchors(picture.spec).boxes)[anchor]
    boxes = decode_box_outputs(chosen, anchors, output_xyxy=True)
    if wrong.clip == "picture":
        sides = torch.tensor([*picture.size, *picture.size]) / picture.scale
        boxes = torch.minimum(boxes.clamp(min=0), sides.float())
    elif wrong.clip == "square":
        boxes = boxes.clamp(0, 512)
    keep, scores = _suppress(boxes, value.sigmoid(), label, wrong)
    ids = torch.tensor(picture.spec.category_ids or range(1, picture.spec.num_classes + 1))
    columns = (boxes[keep] * picture.scale, scores, value[keep], ids[label[keep]])
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
            "logit": logit,
            "corners": box,
            "picture": picture,
        }
        for box, score, logit, category in zip(*(c.tolist() for c in columns), strict=True)
        if score >= wrong.floor
    ][: wrong.keep]


def _flat(head: Any, per_anchor: int) -> torch.Tensor:
    return torch.tensor(head).permute(1, 2, 0).reshape(-1, per_anchor)


def _suppress(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, wrong: Wrong
) -> tuple[torch.Tensor, torch.Tensor]:
    if wrong.nms == "class":
        keep = batched_nms(boxes, scores, labels, wrong.iou)
    elif wrong.nms == "agnostic":
        keep = nms(boxes, scores, wrong.iou)
    elif wrong.nms == "none":
        keep = torch.arange(len(scores))
    else:
        # What ends below 0.02 is not among the first hundred, and lowers nothing above it.
        keep, scores = batched_soft_nms(
            boxes, scores, labels, wrong.nms == "gaussian", 0.5, wrong.iou, score_threshold=0.02
        )
        order = scores.argsort(descending=True, stable=True)[:100]
        return keep[order], scores[order]
    return keep[:100], scores[keep[:100]]


def write_entries(path: Path, content: Sequence[Entry]) -> Path:
    """Write *content* as a COCO results file; return its *path*."""
    keys = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([{key: entry[key] for key in keys} for entry in content]))
    return path
