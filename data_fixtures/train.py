"""
Train the embedded EfficientDet-D0 on drawn scenes, from scratch and from fixed seeds.

Small scenes come first (four times as many a minute), then whole ones at the real input size, so
that the far levels learn too.  Validation scenes use other seeds (see generate.py).
Run: python data_fixtures/train.py --out data_fixtures/d0_embedded.pth  (under two hours, 2 cores)
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import effdet
import numpy as np
import torch
from effdet.anchors import AnchorLabeler, Anchors
from effdet.loss import DetectionLoss

from effd0.data.preprocess import letterbox, normalize
from effd0.spec import D0
from scenes import draw_scene

FIRST_SEED = 1_000_000
SMALL_SIZES = ((256, 256), (256, 192), (192, 256), (224, 256))
SIZES = ((640, 480), (480, 640), (500, 500), (640, 427), (427, 640), (512, 512), (375, 500))


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training at one input size."""

    image_size: int
    scene_sizes: tuple[tuple[int, int], ...]
    steps: int
    batch_size: int
    peak_lr: float


PHASES = (
    Phase(256, SMALL_SIZES, 1100, 8, 2.5e-3),
    Phase(512, SIZES, 500, 4, 1.2e-3),
    Phase(512, SIZES, 700, 4, 1.5e-3),
)


class Scenes(torch.utils.data.Dataset[tuple[Any, Any, Any]]):
    """Fresh scenes, each drawn once from its own seed."""

    def __init__(self, phase: Phase, first_seed: int) -> None:
        self.phase, self.first_seed = phase, first_seed
        self.spec = dataclasses.replace(D0, image_size=(phase.image_size, phase.image_size))

    def __len__(self) -> int:
        return self.phase.steps * self.phase.batch_size

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        """Input tensor (3, S, S), boxes (N, 4) yxyx in input pixels, classes (N,) from 1."""
        seed = self.first_seed + index
        size = self.phase.scene_sizes[seed % len(self.phase.scene_sizes)]
        scene = draw_scene(seed, size)
        pixels, image_scale = letterbox(scene.image, self.spec)
        boxes = np.array([t.bbox for t in scene.truths], np.float32).reshape(-1, 4) / image_scale
        x, y, width, height = boxes.T
        yxyx = np.stack([y, x, y + height, x + width], 1)
        classes = np.array([t.category_id for t in scene.truths], np.float32)
        tensor = torch.from_numpy(normalize(pixels, self.spec))
        return tensor, torch.from_numpy(yxyx), torch.from_numpy(classes)


def collate(batch: list[tuple[Any, Any, Any]]) -> tuple[Any, list[Any], list[Any]]:
    """Stack the tensors; boxes and classes stay lists, a scene has as many as it has."""
    tensors, boxes, classes = zip(*batch, strict=True)
    return torch.stack(tensors), list(boxes), list(classes)


def build(image_size: int) -> Any:
    """An untrained D0 for *image_size*, with the quick batch-norm that a short training needs."""
    config = effdet.get_efficientdet_config(D0.arch)
    config.image_size = (image_size, image_size)
    config.norm_kwargs = {"eps": 0.001, "momentum": 0.1}
    config.backbone_args = {"drop_path_rate": 0.0}
    model = effdet.EfficientDet(config, pretrained_backbone=False)
    return model.to(memory_format=torch.channels_last)


def train_phase(model: Any, phase: Phase, first_seed: int) -> None:
    """Train *model* in place for one phase."""
    labeler = AnchorLabeler(Anchors.from_config(model.config), D0.num_classes, match_threshold=0.5)
    loss_of = DetectionLoss(model.config)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.peak_lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.peak_lr, total_steps=phase.steps, pct_start=0.15
    )
    scenes = Scenes(phase, first_seed)
    loader = torch.utils.data.DataLoader(
        scenes, batch_size=phase.batch_size, num_workers=1, collate_fn=collate
    )
    model.train()
    start, running = time.perf_counter(), 0.0
    for step, (images, boxes, classes) in enumerate(loader, 1):
        targets = labeler.batch_label_anchors(boxes, classes)
        outputs = model(images.contiguous(memory_format=torch.channels_last))
        loss, _, _ = loss_of(*outputs, *targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 1 else 0.95 * running + 0.05 * loss.item()
        if step % 20 == 0:
            rate = (time.perf_counter() - start) / step
            print(f"{phase.image_size} px step {step}/{phase.steps} loss {running:.3f} "
                  f"{rate:.2f} s/step", flush=True)  # fmt: skip


def save(state: dict[str, Any], path: Path) -> None:
    """Write the weights in half precision."""
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)


def main() -> None:
    """Train all phases and write the weights; a broken training goes on at a phase's end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--done", type=int, default=0, help="phases that --out has behind it")
    options = parser.parse_args()
    torch.manual_seed(options.done)
    torch.set_num_threads(options.threads)
    seed = FIRST_SEED + sum(p.steps * p.batch_size for p in PHASES[: options.done])
    state = torch.load(options.out, weights_only=True) if options.done else None
    for phase in PHASES[options.done :]:
        model = build(phase.image_size)
        if state is not None:
            model.load_state_dict(state)
        train_phase(model, phase, seed)
        seed += phase.steps * phase.batch_size
        state = model.state_dict()
        save(state, options.out)


if __name__ == "__main__":
    main()
