"""
effdet's own way from an image file to detections, on the CPU; from a batch on any device.

Its loader calls ``.cuda()``, so the loader's normalisation (two lines) is repeated here; all else
is effdet's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from effdet.bench import DetBenchPredict, _batch_detection, _post_process
from effdet.data.transforms import transforms_coco_eval
from PIL import Image

from effd0.detection.heads import HeadOutputs
from effd0.detection.postprocess import Detections
from effd0.metrics.detection_diff import match_detections
from effd0.runners.checkpoint import load_model
from effd0.spec import ModelSpec
from effd0.types import Floats


class EffdetPath:
    """effdet's transform, network and bench for a checkpoint, each made once."""

    def __init__(
        self,
        checkpoint: Path,
        spec: ModelSpec,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = spec
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The network alone is rounded: anchors in 16 bits would be off by pixels.
            model = load_model(checkpoint, spec).to(dtype)
            self.bench = DetBenchPredict(model).eval().to(device)
        self._transform = transforms_coco_eval(
            spec.image_size, use_prefetcher=True, fill_color=spec.fill, mean=spec.mean, std=spec.std
        )
        self._mean, self._std = (
            torch.tensor([value * 255 for value in three]).view(1, 3, 1, 1)
            for three in (spec.mean, spec.std)
        )

    def preprocess(self, path: Path) -> tuple[Any, dict[str, Any]]:
        """A batch of one image, normalised, and what the bench wants to know of it."""
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        pixels, target = self._transform(rgb, {"img_size": rgb.size})
        batch = torch.from_numpy(pixels)[None].float().sub_(self._mean).div_(self._std)
        scale, size = float(target["img_scale"]), target["img_size"]
        return batch, {"img_scale": torch.tensor([scale]), "img_size": torch.tensor([size])}

    def postprocess(self, heads: Heads, scale: float, size: tuple[int, int]) -> Floats:
        """What the bench does after the network: rows x1, y1, x2, y2, score, category."""
        classes, boxes, indices, labels = _post_process(
            *heads,
            num_levels=self.bench.num_levels,
            num_classes=self.bench.num_classes,
            max_detection_points=self.bench.max_detection_points,
        )
        rows = _batch_detection(
            1, classes, boxes, self.bench.anchors.boxes, indices, labels,
            torch.tensor([scale]), torch.tensor([size]),
            max_det_per_image=self.bench.max_det_per_image, soft_nms=self.bench.soft_nms,
        )  # fmt: skip
        return _found(rows)

    def detect(self, path: Path) -> Floats:
        """Rows x1, y1, x2, y2, score, category of what is found in the file *path*."""
        batch, info = self.preprocess(path)
        with torch.inference_mode():
            return _found(self.bench(batch, info))

    def detect_batch(self, batch: Any, info: dict[str, Any]) -> Floats:
        """What the bench finds in a *batch* where it lies, (N, 100, 6), on the host."""
        with torch.inference_mode():
            found: Floats = self.bench(batch, info).float().cpu().numpy()
        return found


Heads = tuple[list[Any], list[Any]]


def as_tensors(heads: HeadOutputs) -> Heads:
    """The heads of one image as the bench takes them."""

    def tensors(arrays: Sequence[Floats]) -> list[Any]:
        return [torch.tensor(array[None]) for array in arrays]

    return tensors(heads.classes), tensors(heads.boxes)


def _found(rows: Any) -> Floats:
    """The detections of one image; effdet fills up to 100 with zeros."""
    found: Floats = rows[0].numpy()
    return found[found[:, 5] > 0]


def assert_same_found(
    ours: Detections, rows: Floats, *, min_iou: float, unsure: float, scores: float
) -> None:
    """
    The same detections, one for one, in pairs of at least *min_iou*.

    Scores of a pair differ by at most *scores*; a detection without its pair scores at most
    *unsure*.
    """
    found = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
    pairs = match_detections(found, ours, min_iou)
    assert max(pairs.missing.max(initial=0), pairs.extra.max(initial=0)) <= unsure
    assert np.abs(pairs.score_differences).max(initial=0) <= scores
