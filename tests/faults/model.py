"""Faults inside an ONNX file: of its export, and of what was done to its graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.runners.checkpoint import read_weights
from tests.helpers.onnx_models import (  # fmt: skip
    change_weight,
    left_out,
    linear,
    moved_bias,
    nodes_of,
    one_channel,
    other_corner,
    scaled,
    set_attribute,
    swapped_edges,
)

from .checkpoint import noisy
from .run import Fault, Good, Plant, Planted, with_model


def _graph(change: Callable[[Any], object], *, runs: bool = True) -> Plant:
    """Change a copy of the good model; its notes on shapes and on its origin are dropped."""

    def plant(good: Good, folder: Path) -> Planted:
        model, path = onnx.load(str(good.model)), folder / "d0.onnx"
        before = model.SerializeToString()
        change(model)
        del model.graph.value_info[:]
        assert model.SerializeToString() != before, "the model is as it was: no fault"
        onnx.save(model, str(path))
        return with_model(good, path, runs=runs)

    return plant


def _node(op: str, share: float, fault: Callable[[Any, Any], object]) -> Plant:
    """Plant *fault* in the node of *op* that comes after *share* of all such nodes."""

    def change(model: Any) -> None:
        nodes = nodes_of(model, op)
        fault(model, nodes[int(share * len(nodes))])

    return _graph(change)


def _file(content: Callable[[bytes], bytes]) -> Plant:
    def plant(good: Good, folder: Path) -> Planted:
        path = folder / "d0.onnx"
        path.write_bytes(content(good.model.read_bytes()))
        return with_model(good, path, runs=False)

    return plant


def _of_weights(change: Callable[[dict[str, Any]], dict[str, Any]], *, named: bool) -> Plant:
    """The export of weights as *change* makes them; *named*: it says so in its notes."""

    def plant(good: Good, folder: Path) -> Planted:
        raw, path = folder / "raw.onnx", folder / "d0.onnx"
        torch.save(change(dict(read_weights(good.checkpoint))), folder / "other.pth")
        write_onnx(folder / "other.pth", raw, good.spec, ExportSettings(batch_size=None))
        write_simplified(raw, path)
        if not named:
            model = onnx.load(str(path))
            del model.metadata_props[:]
            onnx.save(model, str(path))
        return with_model(good, path)

    return plant


def _epsilon(state: dict[str, Any]) -> dict[str, Any]:
    """Batch norms folded with PyTorch's default epsilon, 1e-5, in place of the model's 1e-3."""
    # What the exporter adds is 1e-3, so that 1e-5 is all that is left.
    return {
        name: (value - 1e-3 + 1e-5).clamp(min=-1e-3 + 1e-6)
        if name.endswith("running_var")
        else value
        for name, value in state.items()
    }


def _as_int8(model: Any, node: Any) -> None:
    """The weights are rounded to 255 steps, as by a quantisation with one scale."""

    def change(weight: Any) -> Any:
        step = np.abs(weight).max() / 127
        return np.round(weight / step) * step

    change_weight(model, node, 1, change)


def _kernels_transposed(model: Any, node: Any) -> None:
    change_weight(model, node, 1, lambda w: w.swapaxes(2, 3))


def _without_biases(model: Any) -> None:
    """The biases of the class head's last convolution are lost."""
    for node in nodes_of(model, "Conv"):
        if len(node.input) > 2 and _side(model, node.input[2]) == 810:
            change_weight(model, node, 2, np.zeros_like)


def _side(model: Any, name: str) -> int:
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    return int(tensor.dims[0])


def _halved_outputs(model: Any) -> None:
    del model.graph.output[5:]


def _twin(model: Any) -> None:
    """One head comes twice under names that tell nothing."""
    first = model.graph.output[0]
    for n, output in enumerate(model.graph.output):
        _rename_output(model, output, f"output_{n}")
    model.graph.node.append(helper.make_node("Identity", [first.name], ["output_10"]))
    copy = model.graph.output.add()
    copy.CopyFrom(first)
    copy.name = "output_10"


def _rename_output(model: Any, output: Any, name: str) -> None:
    for node in model.graph.node:
        node.output[:] = [name if n == output.name else n for n in node.output]
        node.input[:] = [name if n == output.name else n for n in node.input]
    output.name = name


def _other_size(model: Any) -> None:
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 640


# Graph: the weights are right, what is computed is not.


def _behind(op: str, names: Callable[[str], bool], **attributes: Any) -> Callable[[Any], None]:
    """Put a node of *op* behind the outputs that *names* chooses."""

    def change(model: Any) -> None:
        for output in [o for o in model.graph.output if names(o.name)]:
            inner = f"{output.name}_inner"
            for node in model.graph.node:
                node.output[:] = [inner if n == output.name else n for n in node.output]
                node.input[:] = [inner if n == output.name else n for n in node.input]
            model.graph.node.append(helper.make_node(op, [inner], [output.name], **attributes))

    return change


def _swapped_names(model: Any) -> None:
    """Two outputs have each other's names."""
    new = {"class_p3": "box_p3", "box_p3": "class_p3"}
    for node in model.graph.node:
        node.output[:] = [new.get(n, n) for n in node.output]
        node.input[:] = [new.get(n, n) for n in node.input]
    for output in model.graph.output:
        output.name = new.get(output.name, output.name)


def _fusion_edges(model: Any) -> None:
    """Two tensors that a fusion of the BiFPN joins have each other's weights."""
    maker = {output: node.op_type for node in model.graph.node for output in node.output}
    fusions = [
        node
        for node in nodes_of(model, "Concat")
        if all(maker.get(name) == "Unsqueeze" for name in node.input)
    ]
    swapped_edges(model, fusions[len(fusions) // 2])


def _zero_pads(model: Any) -> None:
    """The pooling takes zeros, not minus infinity, beyond the border (the recipe's modify.py)."""
    nodes = nodes_of(model, "MaxPool")
    for number, node in enumerate(nodes):
        pads = next(list(a.ints) for a in node.attribute if a.name == "pads")
        name, inner = f"pads_{number}", f"padded_{number}"
        full = [0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]]
        zero = f"zero_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.array(full, np.int64), name))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), zero))
        pad = helper.make_node("Pad", [node.input[0], name, zero], [inner], mode="constant")
        model.graph.node.insert(list(model.graph.node).index(node), pad)
        node.input[0] = inner
        set_attribute(node, "pads", [0, 0, 0, 0])


def _relu(model: Any, node: Any) -> None:
    """A swish became a ReLU: its sigmoid is replaced by a step."""
    index = list(model.graph.node).index(node)
    step, zero = f"{node.output[0]}_step", f"{node.output[0]}_zero"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), zero))
    greater = helper.make_node("Greater", [node.input[0], zero], [step])
    cast = helper.make_node("Cast", [step], [node.output[0]], to=TensorProto.FLOAT)
    model.graph.node.remove(node)
    model.graph.node.insert(index, greater)
    model.graph.node.insert(index + 1, cast)


def _hard_sigmoid(model: Any, node: Any) -> None:
    """A backend's approximation of the sigmoid."""
    index = list(model.graph.node).index(node)
    hard = helper.make_node("HardSigmoid", list(node.input), list(node.output), alpha=1 / 6)
    model.graph.node.remove(node)
    model.graph.node.insert(index, hard)


def _normalising(model: Any) -> None:
    """The graph normalises its input too."""
    name = model.graph.input[0].name
    for n in model.graph.node:
        n.input[:] = ["normalised" if i == name else i for i in n.input]
    values = (
        ("mean_", [0.485, 0.456, 0.406]), ("std_", [0.229, 0.224, 0.225]),
    )  # fmt: skip
    for key, value in values:
        array = np.array(value, np.float32).reshape(1, 3, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(array, key))
    model.graph.node.insert(0, helper.make_node("Sub", [name, "mean_"], ["centred"]))
    model.graph.node.insert(1, helper.make_node("Div", ["centred", "std_"], ["normalised"]))


def _dilated(model: Any, node: Any) -> None:  # noqa: ARG001  # all faults are called alike
    """A depthwise convolution's padding is on the other side."""
    pads = next(list(a.ints) for a in node.attribute if a.name == "pads")
    set_attribute(node, "pads", [pads[0] + 1, pads[1] + 1, pads[2] - 1, pads[3] - 1])


def _depthwise_pads(model: Any) -> None:
    nodes = [
        n
        for n in nodes_of(model, "Conv")
        if any(a.name == "pads" and min(a.ints) > 0 for a in n.attribute)
    ]
    _dilated(model, nodes[len(nodes) // 2])


def _clipped(model: Any) -> None:
    """What a conversion to 8 bits bounds: class logits end at 0."""
    for key, value in (("low_", -6.0), ("high_", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), key))
    _behind("Clip", lambda name: name.startswith("class"))(model)
    for node in model.graph.node:
        if node.op_type == "Clip" and node.output[0].startswith("class"):
            node.input.extend(["low_", "high_"])


def _class_names(name: str) -> bool:
    return name.startswith("class")


FAULTS = (
    Fault("text-named-onnx", "export", "a wrong path in a script", "",
          _file(lambda _: b"this is no model\n")),
    Fault("onnx-cut-off", "export", "an interrupted copy", "", _file(lambda b: b[: len(b) // 2])),
    Fault("box-heads-missing", "export", "peers 3.2", "", _graph(_halved_outputs, runs=False)),
    Fault("a-head-twice", "export", "peers F23", "", _graph(_twin, runs=False)),
    Fault("other-input-size", "export", "peers 3.5", "", _graph(_other_size, runs=False)),
    Fault("of-another-checkpoint", "export", "peers 2(d): TEST01", "another checkpoint",
          _of_weights(lambda state: noisy(state, 0.05, 1), named=True)),
    Fault("batch-norm-epsilon", "export", "effdet's 1e-3, PyTorch's default 1e-5", "weight",
          _of_weights(_epsilon, named=False)),
    Fault("weights-scaled-in-a-head", "export", "peers F37", "scaled by 1.02",
          _node("Conv", 0.9, scaled)),
    Fault("channel-lost-in-the-backbone", "export", "peers F37", "weight",
          _node("Conv", 0.3, one_channel)),
    Fault("bias-moved", "export", "peers 3.22: wrong bias", "0.1", _node("Conv", 0.5, moved_bias)),
    Fault("one-layer-in-int8", "export", "peers F40", "weight", _node("Conv", 0.02, _as_int8)),
    Fault("kernels-transposed", "export", "HWIO read as WHIO", "weight",
          _node("Conv", 0.0, _kernels_transposed)),
    Fault("class-biases-lost", "export", "peers 3.22: wrong bias", "weight",
          _graph(_without_biases)),
    Fault("names-swapped-over-shapes", "export", "peers F23", "",
          _graph(_swapped_names, runs=False)),
    Fault("resize-mode", "graph", "peers F37", "mode is linear", _node("Resize", 0.5, linear)),
    Fault("max-pool-corner", "graph", "peers F33", "pads", _node("MaxPool", 0.5, other_corner)),
    Fault("zeros-around-max-pool", "graph", "peers F33: the recipe's modify.py", "Pad|pads",
          _graph(_zero_pads)),
    Fault("bifpn-edges-swapped", "graph", "a refactored BiFPN", "reads",
          _graph(_fusion_edges)),
    Fault("sigmoid-left-out", "graph", "peers F37", "reads", _node("Sigmoid", 0.1, left_out)),
    Fault("swish-became-relu", "graph", "peers F41", "Greater", _node("Sigmoid", 0.6, _relu)),
    Fault("hard-sigmoid", "graph", "peers F41", "HardSigmoid",
          _node("Sigmoid", 0.3, _hard_sigmoid)),
    Fault("convolution-shifted", "graph", "TF's SAME padding", "pads", _graph(_depthwise_pads)),
    Fault("normalises-twice", "graph", "peers F3", "[Nn]ormalis.* twice", _graph(_normalising)),
    Fault("sigmoid-in-the-graph", "graph", "TensorRT's samples", "through a sigmoid",
          _graph(_behind("Sigmoid", _class_names))),
    Fault("softmax-in-the-graph", "graph", "TFLite's conversions", "Softmax",
          _graph(_behind("Softmax", _class_names, axis=1))),
    Fault("logits-clipped", "graph", "peers F41", "[Cc]lip", _graph(_clipped)),
    Fault("heads-transposed", "graph", "peers F26", "transposed",
          _graph(_behind("Transpose", lambda _: True, perm=[0, 1, 3, 2]))),
)  # fmt: skip
