"""
A float32 ONNX file -> QDQ in 8 bits, by ONNX Runtime: the plain build to compare others with.

Weights have 7 of the 8 bits.  Where a CPU has no VNNI, ONNX Runtime adds products of 8 bits
in pairs in 16 bits, and they saturate: what a build of 8 bits finds depends on the host.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..data.coco import Dataset, Sample
from ..data.preprocess import preprocess
from ..errors import DatasetError, Effd0Error, ExportError, GraphError, listed, refuse, require
from ..graph.onnx_info import DOMAINS, load_graph, model_input, read_model
from ..graph.rewrites import save_graph
from ..spec import ModelSpec
from ..types import Tensor, Tensors
from .to_onnx import silenced

#: The first opset whose quantisers have a scale for each channel.
_PER_CHANNEL_OPSET = 13


@dataclass(frozen=True)
class Quantisation:
    """
    How a model is quantised: activations by the range that calibration images give.

    These are the last *images* of *dataset* by id, which ``--image-limit`` takes last.  *exclude*
    are names of nodes that are left in float.
    """

    dataset: Dataset
    images: int = 20
    per_channel: bool = True
    exclude: Collection[str] = ()

    def __str__(self) -> str:
        kind = "channel" if self.per_channel else "tensor"
        left = f", {len(self.exclude)} nodes left in float" if self.exclude else ""
        by = f"ONNX Runtime {version('onnxruntime')}"
        return f"{by}, QDQ, uint8 x int8 per {kind}, 7 bits, MinMax{left}"


def write_quantised(model: Path, out: Path, spec: ModelSpec, how: Quantisation) -> list[str]:
    """
    Quantise the float32 ONNX file *model* as *out*; say what was quantised and on which images.

    The metadata keep the origin and add this.  Raises `DatasetError` where there are too few
    images, `GraphError` for a model or a name that is not fit for it, both before any work, and
    `ExportError` for what ONNX Runtime cannot quantise.
    """
    file, loaded, samples = read_model(model, spec), load_graph(model), how.dataset.samples
    name, sides, dtype = model_input(loaded)
    unknown = sorted(set(how.exclude) - {node.name for node in loaded.graph.node})
    refuse({
        f"{model} is {file.precision}, but fp32 is quantised; give the model that it was made of":
            file.precision != "fp32",
        f"{model} takes {dtype} {sides}, but float32 [N, 3, S, S] is calibrated; export it with "
        "'effd0 export'": dtype != np.float32 or sides[1] != 3,  # noqa: PLR2004  # colours
        f"{model} has no node called {listed(unknown)}; take the names to exclude from this file":
            bool(unknown),
    }, GraphError)  # fmt: skip
    if how.images > len(samples):
        raise DatasetError(
            f"{how.images} images are to calibrate, but {how.dataset.annotation_file} lists "
            f"{len(samples)}; give --calibration-images at most that"
        )
    chosen = samples[-how.images :]
    feeds = ({name: network_input(one, file.batch or 1, spec)} for one in chosen)
    quantization = require("onnxruntime.quantization", extra="onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]  # imported late
        """The calibration images, as ONNX Runtime asks for them."""

        def get_next(self) -> Tensors | None:
            return next(feeds, None)

    opset = max(one.version for one in loaded.opset_import if one.domain in DOMAINS)
    kinds = quantization.QuantType
    try:
        with silenced():
            if how.per_channel and opset < _PER_CHANNEL_OPSET:
                converter = require("onnx.version_converter", extra="onnx")
                loaded = converter.convert_version(loaded, _PER_CHANNEL_OPSET)
            quantization.quantize_static(
                loaded, out, Reader(), per_channel=how.per_channel, reduce_range=True,
                activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
                nodes_to_exclude=list(how.exclude),
            )  # fmt: skip
    except Effd0Error:  # an image that cannot be read
        raise
    except Exception as error:  # onnx and ONNX Runtime raise whatever their many steps raise
        raise ExportError(
            f"{model} cannot be quantised: {error}; try 'effd0 simplify' first"
        ) from error
    made = load_graph(out)
    digest = hashlib.sha256(" ".join(str(one.image_id) for one in chosen).encode()).hexdigest()
    calibrated = f"{len(chosen)} images, sha256 of their ids {digest}"
    origin = file.origin | {"quantised": str(how), "calibrated": calibrated}
    require("onnx.helper", extra="onnx").set_model_props(made, origin)
    save_graph(made, out)
    ends = {o for n in made.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    nodes = [n for n in made.graph.node if not n.op_type.endswith(("uantizeLinear", "Constant"))]
    whole = sum(n.input[0] in ends and (n.op_type != "Conv" or n.input[1] in ends) for n in nodes)
    ids = f"ids {chosen[0].image_id} to {chosen[-1].image_id}"
    return [
        str(how),
        f"{whole} of {len(nodes)} nodes are quantised",
        f"calibrated on the last {len(chosen)} of {len(samples)} images, {ids}",
    ]


def network_input(sample: Sample, rows: int, spec: ModelSpec) -> Tensor:
    """*sample* in each row of a batch, (*rows*, 3, S, S) float32."""
    return preprocess(sample.path, spec).tensor.astype(np.float32)[None].repeat(rows, axis=0)
