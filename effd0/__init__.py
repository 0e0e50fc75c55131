"""
effd0 decides whether an EfficientDet build may ship.

The command line is ``effd0`` (or ``python -m effd0``), the suite is run by pytest; the same steps
for a notebook::

    import effd0

    dataset = effd0.load_coco(effd0.coco_root())             # the bundled scenes, or a Path
    image = effd0.preprocess(dataset.samples[0].path, effd0.D0)
    with effd0.open_runner("torch", effd0.checkpoint(), effd0.D0) as runner:
        outputs = runner.infer({"images": image.tensor[None]})
    (heads,) = effd0.split_heads(outputs, effd0.D0)
    found = effd0.postprocess(heads, image.image_scale, image.image_size, effd0.D0)

    choice = effd0.ModelChoice(checkpoint=effd0.checkpoint())  # or model=Path("d0.onnx")
    evaluation = effd0.evaluate(effd0.EvaluationJob(), effd0.LocalEngine(choice))
    print(evaluation.metrics.values["AP"], evaluation.verdict.status)

A name is imported when it is first asked for, so that ``import effd0`` needs none of the backends.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.coco import Dataset, Sample, load_coco
    from .data.fixture import checkpoint, coco_root
    from .data.preprocess import ModelInput, preprocess
    from .detection.draw import draw_detections
    from .detection.heads import HeadOutputs, split_heads
    from .detection.postprocess import Detections, postprocess
    from .errors import Effd0Error
    from .evaluation.engines import LocalEngine, RecordedEngine
    from .evaluation.evaluate import Evaluation, EvaluationJob, evaluate
    from .evaluation.model import ModelChoice
    from .export.quantize import quantize_onnx
    from .export.to_onnx import ExportSettings
    from .export.verify import export_onnx, modify_onnx, simplify_onnx
    from .metrics.summary import CocoMetrics, coco_metrics
    from .runners.registry import RunnerOptions, open_runner
    from .spec import D0, ModelSpec, spec_for

__version__ = "0.1.0"
__all__ = [
    "D0", "CocoMetrics", "Dataset", "Detections", "Effd0Error", "Evaluation", "EvaluationJob",
    "ExportSettings", "HeadOutputs", "LocalEngine", "ModelChoice", "ModelInput", "ModelSpec",
    "RecordedEngine", "RunnerOptions", "Sample", "checkpoint", "coco_metrics",
    "coco_root", "draw_detections", "evaluate", "export_onnx", "load_coco", "modify_onnx",
    "open_runner", "postprocess", "preprocess", "quantize_onnx", "simplify_onnx", "spec_for",
    "split_heads",
]  # fmt: skip
#: Module -> the public names that it defines.
_DEFINED = {
    "data.coco": ("Dataset", "Sample", "load_coco"),
    "data.fixture": ("checkpoint", "coco_root"),
    "data.preprocess": ("ModelInput", "preprocess"),
    "detection.draw": ("draw_detections",),
    "detection.heads": ("HeadOutputs", "split_heads"),
    "detection.postprocess": ("Detections", "postprocess"),
    "errors": ("Effd0Error",),
    "evaluation.engines": ("LocalEngine", "RecordedEngine"),
    "evaluation.evaluate": ("Evaluation", "EvaluationJob", "evaluate"),
    "evaluation.model": ("ModelChoice",),
    "export.to_onnx": ("ExportSettings",),
    "export.quantize": ("quantize_onnx",),
    "export.verify": ("export_onnx", "modify_onnx", "simplify_onnx"),
    "metrics.summary": ("CocoMetrics", "coco_metrics"),
    "runners.registry": ("RunnerOptions", "open_runner"),
    "spec": ("D0", "ModelSpec", "spec_for"),
}


def __getattr__(name: str) -> Any:
    """Import the public *name* from the module that defines it."""
    for module, names in _DEFINED.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module 'effd0' has no attribute {name!r}")
