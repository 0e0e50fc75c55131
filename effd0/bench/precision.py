"""The precision that a model file holds its weights in."""

from __future__ import annotations

from pathlib import Path

from ..graph import load_graph
from ..runners.registry import RunnerOptions

#: ONNX's number of a type -> its name.
_TYPES = {1: "fp32", 10: "fp16", 16: "bf16", 3: "int8", 2: "uint8"}
#: Of a convolution's kernel; biases and shapes have fewer, and may stay in another type.
_KERNEL_SIDES = 4


def precision_of(model: Path, runner: str, options: RunnerOptions) -> str:
    """What *runner* computes *model* in, as far as the file or the options tell."""
    if runner == "torch":
        return options.precision
    if runner == "acl":
        return "as compiled"
    weights = load_graph(model).graph.initializer
    kinds = {t.data_type for t in weights if len(t.dims) == _KERNEL_SIDES}
    return "+".join(sorted(_TYPES.get(kind, f"type {kind}") for kind in kinds)) or "unknown"
