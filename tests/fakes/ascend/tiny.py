"""Tiny models as .om files: outputs that tell images and their slots apart, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from effd0.spec import ModelSpec

from .om import OmModel, OmTensor, read_om, write_om

INPUT = "x.1"
#: Outputs of `tiny_om` for one image.  ``slot`` is the image's place in the batch.
TINY_SHAPES: dict[str, tuple[int, ...]] = {"mark": (4,), "field": (2, 4, 4), "slot": (1,)}
TINY_SIZE = 8


def tiny_om(
    path: Path,
    *,
    batch: int = 1,
    gears: Sequence[int] = (),
    dtype: str = "float32",
    output_dtype: str | None = None,
    precision: str = "fp32",
) -> Path:
    """
    Write a model of (N, 3, 8, 8) images whose outputs tell each image and its slot; return *path*.

    ``mark`` (N, 4) and ``field`` (N, 2, 4, 4) are weighted sums of the image, ``slot`` (N, 1) is
    0, 1, 2, ... whatever the images are.  With *gears*, the batch is the largest of them.
    """
    rng = np.random.default_rng(5)
    weights = {
        "mark_w": rng.standard_normal((3 * TINY_SIZE**2, 4), np.float32),
        "field_w": rng.standard_normal((2, 3, 1, 1), np.float32),
        "zero": np.zeros((1,), np.float32),
        "one": np.ones((1,), np.float32),
        "axis": np.array(0, np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "ends": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Flatten", [INPUT], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "mark_w"], ["mark"]),
        helper.make_node("AveragePool", [INPUT], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "field_w"], ["field"]),
        # A column of ones, counted downwards: 0, 1, 2, ...
        helper.make_node("Slice", ["mark", "first", "second", "second"], ["column"]),
        helper.make_node("Shape", ["column"], ["column_shape"]),
        helper.make_node(
            "ConstantOfShape",
            ["column_shape"],
            ["ones"],
            value=numpy_helper.from_array(np.ones(1, np.float32)),
        ),
        helper.make_node("CumSum", ["ones", "axis"], ["slot"], exclusive=1),
    ]
    model = _model(nodes, weights, TINY_SHAPES, (3, TINY_SIZE, TINY_SIZE), None if gears else batch)
    return _write(
        path, model, TINY_SHAPES, (3, TINY_SIZE, TINY_SIZE), max(gears, default=batch), gears,
        dtype, output_dtype or dtype, precision,
    )  # fmt: skip


def small_d0_om(
    path: Path,
    spec: ModelSpec,
    *,
    batch: int = 1,
    gears: Sequence[int] = (),
    dtype: str = "float32",
    output_dtype: str | None = None,
    precision: str = "fp32",
) -> Path:
    """Write a model with the input and the ten heads of *spec*, cheap to run; return *path*."""
    model = small_d0_onnx(spec, None if gears else batch)
    return _write(
        path, model, spec.head_shapes, spec.input_shape, max(gears, default=batch), gears,
        dtype, output_dtype or dtype, precision,
    )  # fmt: skip


def small_d0_onnx(spec: ModelSpec, batch: int | None) -> Any:
    """
    Return an ONNX model with the input and heads of *spec*: pooled images, weighted by noise.

    *batch* None leaves the batch free.
    """
    rng = np.random.default_rng(7)
    weights: dict[str, Any] = {}
    nodes = []
    for level, size in zip(spec.levels, spec.feature_sizes, strict=True):
        side = spec.image_size // size
        pooled = f"pooled_p{level}"
        nodes.append(
            helper.make_node(
                "AveragePool", [INPUT], [pooled], kernel_shape=[side] * 2, strides=[side] * 2
            )
        )
        for name, shift in ((f"class_p{level}", -3.0), (f"box_p{level}", 0.0)):
            channels = spec.head_shapes[name][0]
            spread = 2.0 if shift else 0.3
            weights[f"{name}_w"] = rng.normal(0, spread, (channels, 3, 1, 1)).astype(np.float32)
            weights[f"{name}_b"] = rng.normal(shift, spread, channels).astype(np.float32)
            nodes.append(helper.make_node("Conv", [pooled, f"{name}_w", f"{name}_b"], [name]))
    return _model(nodes, weights, spec.head_shapes, spec.input_shape, batch)


def reference_outputs(path: Path, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """What the ONNX graph behind the model *path* gives for float32 *images*, unrounded."""
    session = ort.InferenceSession(read_om(path).onnx, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, {INPUT: images})
    return outputs


def _model(
    nodes: list[Any],
    weights: dict[str, Any],
    outputs: dict[str, Any],
    image: tuple[int, ...],
    batch: int | None,
) -> Any:
    rows = "N" if batch is None else batch
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [rows, *image])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, *shape])
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    return model


def _write(
    path: Path,
    model: Any,
    outputs: dict[str, Any],
    image: tuple[int, ...],
    batch: int,
    gears: Sequence[int],
    dtype: str,
    output_dtype: str,
    precision: str,
) -> Path:
    shown = tuple(
        OmTensor(f"Node_{index}:0:{name}", output_dtype, (batch, *shape))
        for index, (name, shape) in enumerate(outputs.items())
    )
    om = OmModel(
        onnx=model.SerializeToString(),
        inputs=(OmTensor(INPUT, dtype, (batch, *image)),),
        outputs=shown,
        soc_version="Ascend310P3",
        precision=precision,
        gears=tuple(gears),
    )
    write_om(om, path)
    return path
