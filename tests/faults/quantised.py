"""Faults inside builds in 8 and 16 bits, and such builds without a fault."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

from effd0.data.coco import load_coco
from effd0.data.preprocess import preprocess
from effd0.export.quantize import quantize_onnx
from effd0.export.to_onnx import silenced
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrites import apply_edits, save_graph
from effd0.metrics.summary import coco_metrics
from tests.helpers.onnx_models import linear, nodes_of, other_corner, swapped_edges

from .run import SCENES, Fault, Good, Plant, Planted, base_options, detections_of

#: Scenes that calibrate; the first ones are evaluated.
CALIBRATION = 4
#: Points below a build's own mAP at which its gate stands, and beyond its drop: who ships int8 has
#: measured one such build, and allows for another calibration.
_MARGIN = 1.0
_SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
_EIGHT_BITS = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
Build = Callable[[Good, Path], object]


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # published without types
    def __init__(self, good: Good, name: str, images: slice, *, bgr: bool) -> None:
        samples = load_coco(good.scenes).samples[SCENES:][images]
        self.tensors = (preprocess(sample.path, good.spec).tensor[None] for sample in samples)
        self.name, self.bgr = name, bgr

    def get_next(self) -> dict[str, Any] | None:
        """The next scene as the network's input."""
        tensor = next(self.tensors, None)
        if tensor is None:
            return None
        return {self.name: np.ascontiguousarray(tensor[:, ::-1]) if self.bgr else tensor}


def _own(images: int = CALIBRATION, *, per_channel: bool = False, heads: bool = True) -> Build:
    """What `effd0 quantize` writes, with its *heads* left in float or not."""

    def build(good: Good, out: Path) -> None:
        dataset = load_coco(good.scenes)
        named = [n.name for n in load_graph(good.model).graph.node if "_net/" in n.name]
        left = () if heads else named
        quantize_onnx(
            good.model, out, good.spec, dataset, images, per_channel=per_channel, exclude=left
        )

    return build


def _static(images: slice, *, bgr: bool = False, **options: Any) -> Build:
    """Another tool's build by ONNX Runtime, calibrated on *images* of those not evaluated."""

    def build(good: Good, out: Path) -> None:
        model = load_graph(good.model)
        if options.get("per_channel"):
            origin = {entry.key: entry.value for entry in model.metadata_props}
            model = version_converter.convert_version(model, 17)
            onnx.helper.set_model_props(model, origin)
        reader = _Reader(good, model.graph.input[0].name, images, bgr=bgr)
        with silenced():
            quantization.quantize_static(model, out, reader, **options)

    return build


def _dynamic(good: Good, out: Path) -> None:
    with silenced():
        quantization.quantize_dynamic(good.model, out, weight_type=QuantType.QUInt8)


def _weights_only(good: Good, out: Path) -> None:
    """The plain build, whose activations stay in float."""
    model = onnx.load(str(base(good, "plain")))
    made = {node.output[0]: node for node in nodes_of(model, "QuantizeLinear")}
    data = [node for node in nodes_of(model, "DequantizeLinear") if node.input[0] in made]
    now = {node.output[0]: made[node.input[0]].input[0] for node in data}
    ends = {output.name for output in model.graph.output}
    for node in [*data, *made.values()]:
        model.graph.node.remove(node)
    new = {source: name for name, source in now.items() if name in ends}
    now = {name: new.get(source, source) for name, source in now.items()} | new
    for node in model.graph.node:
        node.input[:] = [now.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    save_graph(model, out)


def _fp16(good: Good, out: Path) -> None:
    model = load_graph(good.model)
    apply_edits(model, ["fp16"])
    save_graph(model, out)


#: Name of a build -> what makes it.
BASES: dict[str, Build] = {
    "plain": _own(),
    "per-channel": _own(per_channel=True),
    "twelve-images": _own(12),
    "heads-in-float": _own(heads=False),
    "other-images": _static(slice(0, CALIBRATION), reduce_range=True, **_EIGHT_BITS),
    "signed": _static(slice(4, 8), per_channel=True, **_SIGNED),
    "symmetric": _static(
        slice(4, 8), per_channel=True, **_SIGNED, extra_options={"ActivationSymmetric": True}),
    "eight-bits": _static(slice(4, 8), per_channel=True, **_EIGHT_BITS),
    "entropy": _static(
        slice(0, 2), calibrate_method=CalibrationMethod.Entropy, reduce_range=True, **_EIGHT_BITS),
    "percentile": _static(
        slice(0, 2), calibrate_method=CalibrationMethod.Percentile, reduce_range=True,
        **_EIGHT_BITS),
    "dynamic": _dynamic,
    "weights-only": _weights_only,
    "fp16": _fp16,
    "bgr-calibration": _static(slice(-CALIBRATION, None), bgr=True, reduce_range=True,
                               **_EIGHT_BITS),
    "one-image": _static(slice(0, 1), reduce_range=True, **_EIGHT_BITS),
    "qoperator": _static(
        slice(-CALIBRATION, None), per_channel=True, quant_format=QuantFormat.QOperator,
        reduce_range=True, **_EIGHT_BITS),
}  # fmt: skip


def base(good: Good, name: str) -> Path:
    """The build *name* of `BASES`, made once for both processes of a zoo; its mAP beside it."""
    path = good.model.with_name(f"{name}.onnx")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.with_suffix(".json").exists():
            BASES[name](good, path)
            found = detections_of(path, good.dataset, good.spec)
            ap = coco_metrics(good.dataset, found, good.spec).ap
            assert ap is not None
            path.with_suffix(".json").write_text(json.dumps(100 * ap))
    return path


def points(good: Good, name: str) -> float:
    """The mAP of the build *name*, in percent."""
    return float(json.loads(base(good, name).with_suffix(".json").read_text()))


def gate(good: Good, name: str) -> tuple[str, ...]:
    """The options of a run on a build like *name*, by whoever knows what such a one costs."""
    if name == "fp16":
        return base_options(good)
    own = points(good, name)
    drop = max(good.points - own, 0) + _MARGIN
    return (*base_options(good)[:-1], f"--min-map={own - _MARGIN}", f"--max-drop={drop}")


def clean(name: str, *options: str) -> Callable[[Good, Path], Sequence[str]]:
    """A run on the build *name*."""
    return lambda good, _: (
        *gate(good, name), f"--model={base(good, name)}", "--runner=ort", *options,
    )  # fmt: skip


def _planted(name: str, change: Callable[[Any], object] = lambda _: None) -> Plant:
    """*change* made in the build *name*, or the build itself, under the gate of the plain one."""

    def plant(good: Good, folder: Path) -> Planted:
        model, path = onnx.load(str(base(good, name))), folder / "d0.onnx"
        change(model)
        del model.graph.value_info[:]
        onnx.save(model, str(path))
        # These builds are faults themselves.
        of = "plain" if name in ("bgr-calibration", "one-image", "qoperator") else name
        return Planted(
            (*gate(good, of), f"--model={path}", "--runner=ort"),
            found=lambda: detections_of(path, good.dataset, good.spec),
            points=points(good, of),
        )

    return plant


# What a fault changes.  A quantiser's inputs: the tensor, its scale, its zero point.


def _conv(
    share: float, position: int, of: int, change: Callable[[Any], Any]
) -> Callable[..., None]:
    """*change* of input *of* of what turns back a Conv's data (*position* 0), weight or bias."""

    def plant(model: Any) -> None:
        convs = nodes_of(model, "Conv")
        convs = [node for node in convs if len(node.input) > 2]
        back = _maker(model, convs[int(share * len(convs))].input[position])
        _change(model, back, of, change)

    return plant


def _maker(model: Any, name: str) -> Any:
    return next(node for node in model.graph.node if name in node.output)


def _change(model: Any, node: Any, position: int, change: Callable[[Any], Any]) -> None:
    """Give *node* a stored input of its own, of the same type: *change* of what it read."""
    (tensor,) = [t for t in model.graph.initializer if t.name == node.input[position]]
    before = numpy_helper.to_array(tensor)
    after = np.asarray(change(before.copy())).astype(before.dtype)
    assert not np.array_equal(before, after), f"{tensor.name} is as it was: no fault"
    node.input[position] = f"{tensor.name}_of_{node.output[0]}"
    model.graph.initializer.append(numpy_helper.from_array(after, node.input[position]))


def _first(factor: float) -> Callable[[Any], Any]:
    """*factor* times the first channel."""
    return lambda values: np.concatenate([values[:1] * factor, values[1:]])


def _flipped(values: Any) -> Any:
    """The sign bit of one number is the other way."""
    values.view(np.uint8).reshape(-1)[values.size // 2] ^= 0x80
    return values


def _noisy(model: Any) -> None:
    """Whole numbers of other weights, a twentieth of their spread away."""
    rng = np.random.default_rng(0)

    def other(values: Any) -> Any:
        moved = values + np.rint(values.std() * 0.05 * rng.standard_normal(values.shape))
        return np.clip(moved, -64, 64)

    for conv in nodes_of(model, "Conv"):
        _change(model, _maker(model, conv.input[1]), 0, other)


def _data_scale(factor: float, named: Callable[[str], bool]) -> Callable[[Any], None]:
    """The range of tensors of data, on both sides, is *factor* times what it was."""

    def plant(model: Any) -> None:
        for node in nodes_of(model, "QuantizeLinear"):
            back = next(n for n in nodes_of(model, "DequantizeLinear") if n.input[0] in node.output)
            if named(back.output[0]):
                for one in (node, back):
                    _change(model, one, 1, lambda scale: scale * factor)

    return plant


def _edges(model: Any) -> None:
    maker = {out: node for node in model.graph.node for out in node.output}

    def terms(node: Any) -> bool:
        made = [maker.get(name) for name in node.input]
        above = [maker[maker[m.input[0]].input[0]] for m in made if m and m.input[0] in maker]
        return len(above) == len(made) and all(one.op_type == "Unsqueeze" for one in above)

    fusions = [n for n in nodes_of(model, "Concat") if "combine/Concat" in n.name and terms(n)]
    swapped_edges(model, fusions[len(fusions) // 2])
    # A quantiser stands beside its first reader, behind which others read it now.
    left, made = list(model.graph.node), {name for n in model.graph.node for name in n.output}
    del model.graph.node[:]
    while left:
        node = next(n for n in left if made.isdisjoint(n.input))
        left.remove(node)
        made -= {*node.output}
        model.graph.node.append(node)


def _in_node(op: str, fault: Callable[[Any, Any], object]) -> Callable[[Any], None]:
    def plant(model: Any) -> None:
        nodes = nodes_of(model, op)
        fault(model, nodes[len(nodes) // 2])

    return plant


def _half(factor: float) -> Callable[[Any], None]:
    """One number of a float16 weight is *factor* times what it was."""

    def plant(model: Any) -> None:
        convs = nodes_of(model, "Conv")

        def change(values: Any) -> Any:
            values.reshape(-1)[np.abs(values).argmax()] *= values.dtype.type(factor)
            return values

        with np.errstate(over="ignore"):
            _change(model, convs[len(convs) // 2], 1, change)

    return plant


def _of_integers(factor: float) -> Callable[[Any], None]:
    """The weight scale of one ConvInteger is *factor* times what it was."""

    def plant(model: Any) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        scales = [n for n in nodes_of(model, "Mul") if any(i.endswith("_scale") for i in n.input)]
        scales = [n for n in scales if sum(i in stored for i in n.input) == 1]
        node = scales[len(scales) // 2]
        position = next(p for p, name in enumerate(node.input) if name in stored)
        _change(model, node, position, lambda scale: scale * factor)

    return plant


def _class_output(name: str) -> bool:
    return name.startswith("class_p")


def _one_in_the_backbone(name: str) -> bool:
    return name.startswith("/network/backbone/blocks.3/blocks.3.1/conv_pw/Conv_output_0")


FAULTS = (
    Fault("int8-weight-scale", "export", "a scale of another layer", "scale|1[.]5",
          _planted("plain", _conv(0.3, 1, 1, lambda scale: scale * 1.5))),
    Fault("int8-one-channels-scale", "export", "a scale written in another order", "scale|channel",
          _planted("per-channel", _conv(0.6, 1, 1, _first(2)))),
    Fault("int8-weight-zero-point", "export", "uint8 weights read as int8", "zero point|weight",
          _planted("plain", _conv(0.4, 1, 2, lambda zero: zero + 8))),
    Fault("int8-activation-zero-point", "graph", "two tools' zero points", "zero point",
          _planted("plain", _conv(0.5, 0, 2, lambda zero: zero ^ 8))),
    Fault("int8-bias-scale", "export", "bias scale without the input's", "bias|scale",
          _planted("plain", _conv(0.5, 2, 1, lambda scale: scale * 2))),
    Fault("int8-bias-zeroed", "export", "a bias that a converter lost", "bias|weight",
          _planted("plain", _conv(0.2, 2, 0, np.zeros_like))),
    Fault("int8-bit-flipped", "export", "a damaged file", "weight",
          _planted("plain", _conv(0.7, 1, 0, _flipped))),
    Fault("int8-of-other-weights", "export", "peers 2(d): TEST01", "weight|checkpoint",
          _planted("plain", _noisy)),
    Fault("int8-classes-saturated", "graph", "a calibration without objects", "rang|clip|satur",
          _planted("plain", _data_scale(0.25, _class_output))),
    Fault("int8-one-range-too-small", "graph", "a calibration of another layer", "rang|clip|satur",
          _planted("plain", _data_scale(0.25, _one_in_the_backbone))),
    Fault("int8-one-range-too-large", "graph", "an outlier in the calibration", "rang|bits|scale",
          _planted("plain", _data_scale(16, _one_in_the_backbone))),
    Fault("int8-calibrated-on-bgr", "graph", "OpenCV's order of colours", "rang|clip|calibr",
          _planted("bgr-calibration")),
    Fault("int8-calibrated-on-one-image", "graph", "a quick start of a tool", "rang|clip|calibr",
          _planted("one-image")),
    Fault("int8-bifpn-edges-swapped", "graph", "a refactored BiFPN", "reads",
          _planted("plain", _edges)),
    Fault("int8-max-pool-corner", "graph", "peers F33", "pads",
          _planted("plain", _in_node("MaxPool", other_corner))),
    Fault("int8-resize-mode", "graph", "peers F37", "mode is linear",
          _planted("plain", _in_node("Resize", linear))),
    Fault("int8-dynamic-weight-scale", "export", "a scale of another layer", "scale|1[.]5",
          _planted("dynamic", _of_integers(1.5))),
    Fault("int8-shared-biases", "export", "ONNX Runtime's QOperator", "bias",
          _planted("qoperator")),
    Fault("fp16-weight-overflowed", "export", "peers F34", "weight|finite|infinite",
          _planted("fp16", _half(1e9))),
    Fault("fp16-one-number", "export", "a damaged file", "weight",
          _planted("fp16", _half(-1))),
)  # fmt: skip
#: Id -> a run on a build without a fault.
CLEAN = {
    f"int8-{name}": clean(name)
    for name in (
        "plain", "per-channel", "twelve-images", "heads-in-float", "other-images", "signed",
        "symmetric", "entropy", "percentile", "dynamic", "weights-only",
    )
} | {
    # Its sums saturate where the host has no VNNI: the graph is right.
    "int8-eight-bits-unoptimised": clean("eight-bits", "--graph-optimization=disable"),
}  # fmt: skip
