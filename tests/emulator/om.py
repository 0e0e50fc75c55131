"""
The emulated offline model: an ONNX graph behind a header, sealed by its SHA-256; and tiny ones.

Only the emulated ``atc`` writes such files and only the emulated pyACL reads them.  They share
nothing with a real .om but the suffix and the first four bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MAGIC = b"IMOD"
INPUT = "x.1"
#: Outputs of `tiny_om` for one image.  ``slot`` is the image's place in the batch.
TINY_SHAPES: dict[str, tuple[int, ...]] = {"mark": (4,), "field": (2, 4, 4), "slot": (1,)}
TINY_IMAGE = (3, 8, 8)


@dataclass(frozen=True)
class OmTensor:
    """An input or output as the model declares it; with gears, the first side is the largest."""

    name: str
    dtype: str  # a numpy name: float32, float16, uint8
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OmModel:
    """
    What ``atc`` made of an ONNX file.

    *precision* is how the network computes: ``fp32``, or ``fp16`` (weights are rounded in *onnx*
    already; inputs and outputs are rounded by whoever runs it).  *gears* are the dynamic batch
    sizes, rising, empty for a static batch.  *aipp* is the parsed ``aipp_op``, None without one.
    The ONNX graph always takes float32 NCHW and gives float32; its batch dimension is free where
    there are gears.  *outputs* stand in the order of the graph's own.
    """

    onnx: bytes
    inputs: tuple[OmTensor, ...]
    outputs: tuple[OmTensor, ...]
    soc_version: str
    precision: str = "fp32"
    gears: tuple[int, ...] = ()
    aipp: dict[str, Any] | None = None
    command: tuple[str, ...] = ()


class CorruptModel(Exception):
    """The file is no emulated model, or not a whole one."""


def write_om(model: OmModel, path: Path) -> None:
    """Write *model* to *path*."""
    header = asdict(model)
    header.pop("onnx")
    encoded = json.dumps(header).encode()
    body = MAGIC + len(encoded).to_bytes(8, "little") + encoded + model.onnx
    path.write_bytes(body + hashlib.sha256(body).digest())


def read_om(path: Path) -> OmModel:
    """Read *path*; raise `CorruptModel` if it is cut off, changed, or something else."""
    content = path.read_bytes()
    body, seal = content[:-32], content[-32:]
    if content[:4] != MAGIC or hashlib.sha256(body).digest() != seal:
        raise CorruptModel(f"{path} is not a whole model")
    size = int.from_bytes(body[4:12], "little")
    header = json.loads(body[12 : 12 + size])
    for key in ("inputs", "outputs"):
        header[key] = tuple(OmTensor(t["name"], t["dtype"], tuple(t["shape"])) for t in header[key])
    header["gears"], header["command"] = tuple(header["gears"]), tuple(header["command"])
    return OmModel(onnx=body[12 + size :], **header)


def reference_outputs(path: Path, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """What the ONNX graph behind the model *path* gives for float32 *images*, unrounded."""
    import onnxruntime as ort

    session = ort.InferenceSession(read_om(path).onnx, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, {INPUT: images})
    return outputs


def tiny_om(
    path: Path,
    *,
    batch: int = 1,
    gears: Sequence[int] = (),
    dtype: str = "float32",
    precision: str = "fp32",
) -> Path:
    """
    Write a model of (N, 3, 8, 8) images whose outputs tell each image and its slot; return *path*.

    ``mark`` (N, 4) and ``field`` (N, 2, 4, 4) are weighted sums of the image, ``slot`` (N, 1) is
    0, 1, 2, ... whatever the images are.  *dtype* is that of all tensors.
    """
    rng = np.random.default_rng(5)
    weights: dict[str, Any] = {
        "mark_w": rng.standard_normal((int(np.prod(TINY_IMAGE)), 4), np.float32),
        "field_w": rng.standard_normal((2, 3, 1, 1), np.float32),
        "axis": np.array(0, np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
    }
    one = numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        helper.make_node("Flatten", [INPUT], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "mark_w"], ["mark"]),
        helper.make_node("AveragePool", [INPUT], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "field_w"], ["field"]),
        # A column of ones, counted downwards: 0, 1, 2, ...
        helper.make_node("Slice", ["mark", "first", "second", "second"], ["column"]),
        helper.make_node("Shape", ["column"], ["column_shape"]),
        helper.make_node("ConstantOfShape", ["column_shape"], ["ones"], value=one),
        helper.make_node("CumSum", ["ones", "axis"], ["slot"], exclusive=1),
    ]
    rows = "N" if gears else batch
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [rows, *TINY_IMAGE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, *shape])
            for name, shape in TINY_SHAPES.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    batch = max(gears, default=batch)
    shown = tuple(
        OmTensor(f"Node_{index}:0:{name}", dtype, (batch, *shape))
        for index, (name, shape) in enumerate(TINY_SHAPES.items())
    )
    inputs, content = (OmTensor(INPUT, dtype, (batch, *TINY_IMAGE)),), model.SerializeToString()
    write_om(OmModel(content, inputs, shown, "Ascend310P3", precision, tuple(gears)), path)
    return path
