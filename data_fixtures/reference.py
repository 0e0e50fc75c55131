"""
Record what effdet's own pipeline makes of the embedded checkpoint and images.

Nothing of effd0's run line takes part but the reading of the checkpoint: effdet's dataset,
transform and predictor in torch on the CPU, scored by pycocotools.  effdet's loader needs CUDA,
so its normalisation (two lines) is repeated here.
Run: python data_fixtures/reference.py  (writes data_fixtures/reference.json)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from effdet.bench import DetBenchPredict
from effdet.data.dataset import DetectionDatset
from effdet.data.parsers import CocoParserCfg, create_parser
from effdet.data.transforms import transforms_coco_eval
from effdet.evaluator import CocoEvaluator
from pycocotools.cocoeval import COCOeval

from effd0.io import sha256
from effd0.metrics.summary import METRICS
from effd0.runners.checkpoint import load_model
from effd0.spec import D0, ModelSpec

HERE = Path(__file__).parent


def effdet_metrics(root: Path, checkpoint: Path, spec: ModelSpec) -> dict[str, float]:
    """The twelve numbers of effdet's pipeline on the COCO folder *root*."""
    annotations = root / "annotations" / "instances_val2017.json"
    parser = create_parser("coco", cfg=CocoParserCfg(str(annotations)))
    dataset = DetectionDatset(root / "val2017", parser)
    dataset.transform = transforms_coco_eval(
        spec.image_size, use_prefetcher=True, fill_color=spec.fill, mean=spec.mean, std=spec.std
    )
    bench = DetBenchPredict(load_model(checkpoint, spec)).eval()
    evaluator = CocoEvaluator(dataset)
    mean = torch.tensor([x * 255 for x in spec.mean]).view(1, 3, 1, 1)
    std = torch.tensor([x * 255 for x in spec.std]).view(1, 3, 1, 1)
    for index in range(len(dataset)):
        image, target = dataset[index]
        batch = torch.from_numpy(image)[None].float().sub_(mean).div_(std)
        info = {key: torch.tensor(target[key])[None] for key in ("img_scale", "img_size")}
        info["img_scale"] = info["img_scale"].float()
        with torch.inference_mode():
            detections = bench(batch, info)
        evaluator.add_predictions(detections, {"img_idx": torch.tensor([index])})
    return _score(evaluator, parser.coco)


def _score(evaluator: CocoEvaluator, truth: Any) -> dict[str, float]:
    """All twelve numbers of effdet's predictions; its own ``evaluate`` gives the first only."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        predictions = Path(folder) / "predictions.json"
        evaluator.save(str(predictions))
        scored = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {name: float(value) for name, value in zip(METRICS, scored.stats, strict=True)}


def main() -> None:
    """Run effdet's pipeline on the embedded default and write reference.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=HERE / "coco_data")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "d0_embedded.pth")
    parser.add_argument("--out", type=Path, default=HERE / "reference.json")
    options = parser.parse_args()
    metrics = effdet_metrics(options.root, options.checkpoint, D0)
    content = {
        "pipeline": f"effdet {version('effdet')}, torch {version('torch')}, CPU, fp32",
        "checkpoint_sha256": sha256(options.checkpoint),
        "annotations_sha256": sha256(options.root / "annotations" / "instances_val2017.json"),
        "images": len(list((options.root / "val2017").iterdir())),
        "metrics": metrics,
    }
    options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
