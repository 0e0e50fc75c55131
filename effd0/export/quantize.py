"""
A float32 ONNX file -> QDQ in 8 bits, by ONNX Runtime: the plain build to compare others with.

It is run once before it is named.  Weights have 7 of the 8 bits: where a CPU has no VNNI, ONNX
Runtime adds products of 8 bits in pairs in 16 bits, and they saturate.
"""

import hashlib
import itertools
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from ..data.coco import Dataset
from ..data.preprocess import preprocess
from ..errors import DatasetError, ExportError, GraphError, listed, refuse, require
from ..graph.onnx_info import DOMAINS, load_graph, model_input, read_model
from ..graph.rewrites import save_graph
from ..io import written_whole
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from .to_onnx import silenced

#: The first opset whose quantisers have a scale for each channel.
_PER_CHANNEL_OPSET = 13


def quantize_onnx(
    model: Path,
    out: Path,
    spec: ModelSpec,
    dataset: Dataset,
    images: int = 20,
    *,
    per_channel: bool = False,
    exclude: Collection[str] = (),
) -> tuple[str, ...]:
    """
    Quantise the float32 ONNX file *model* as *out*; say how, what of it, and on which images.

    The last *images* of *dataset* by id, which ``--image-limit`` takes last, give the ranges of
    activations.  Nodes called as in *exclude* are left in float.  The metadata keep the origin and
    add how it was quantised.  Raises `DatasetError` where there are too few images and `GraphError`
    for a model or a name that is not fit for it, both before any work, and `ExportError` for what
    ONNX Runtime cannot quantise.
    """
    file, loaded, samples = read_model(model, spec), load_graph(model), dataset.samples
    unknown = sorted(set(exclude) - {node.name for node in loaded.graph.node})
    refuse({
        f"{model} is {file.precision}, but fp32 is quantised; give the model that it was made of":
            file.precision != "fp32",
        f"{model} has no node called {listed(unknown)}; take the names to exclude from this file":
            bool(unknown),
    }, GraphError)  # fmt: skip
    few = f"{images} images are to calibrate, but {dataset.annotation_file} lists {len(samples)}"
    refuse({f"{few}; give --calibration-images at most that": images > len(samples)}, DatasetError)
    chosen, (name, *_) = samples[-images:], model_input(loaded)
    tensors = (preprocess(sample.path, spec).tensor[None] for sample in (*chosen, samples[0]))
    feeds = ({name: tensor.repeat(file.batch or 1, axis=0)} for tensor in tensors)
    calibrating = itertools.islice(feeds, images)
    quantization = require("onnxruntime.quantization", extra="onnx")
    opset = max(one.version for one in loaded.opset_import if one.domain in DOMAINS)
    how = f"QDQ, uint8 x int8 per {'channel' if per_channel else 'tensor'}, 7 bits, MinMax"
    with written_whole(out) as temporary:
        try:
            with silenced():
                if per_channel and opset < _PER_CHANNEL_OPSET:
                    converter = require("onnx.version_converter", extra="onnx")
                    loaded = converter.convert_version(loaded, _PER_CHANNEL_OPSET)
                quantization.quantize_static(
                    loaded, temporary, SimpleNamespace(get_next=lambda: next(calibrating, None)),
                    per_channel=per_channel, reduce_range=True, nodes_to_exclude=list(exclude),
                    activation_type=quantization.QuantType.QUInt8,
                )  # fmt: skip
            with open_runner("ort", temporary, spec, RunnerOptions()) as runner:
                runner.infer(next(feeds))
        except DatasetError:  # an image that cannot be read
            raise
        except Exception as error:  # onnx and ONNX Runtime raise whatever their many steps raise
            raise ExportError(
                f"{model} cannot be quantised: {error}; try 'effd0 simplify' first"
            ) from error
        made = load_graph(temporary)
        digest = hashlib.sha256(" ".join(str(one.image_id) for one in chosen).encode()).hexdigest()
        require("onnx.helper", extra="onnx").set_model_props(made, file.origin | {
            "quantised": f"ONNX Runtime {version('onnxruntime')}, {how}",
            "calibrated": f"{images} images, sha256 of their ids {digest}",
        })  # fmt: skip
        save_graph(made, temporary)
    ends = {o for n in made.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    nodes = [n for n in made.graph.node if not n.op_type.endswith(("uantizeLinear", "Constant"))]
    whole = sum(n.input[0] in ends and (n.op_type != "Conv" or n.input[1] in ends) for n in nodes)
    ids = f"ids {chosen[0].image_id} to {chosen[-1].image_id}"
    return (
        f"{how}: {whole} nodes of {len(nodes)}, {len(exclude)} left in float as asked",
        f"calibrated on the last {images} of {len(samples)} images, {ids}",
    )
