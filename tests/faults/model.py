"""Faults inside an ONNX file: of its export, and of what was done to its graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.runners.checkpoint import load_model, read_weights
from tests.helpers.onnx_models import (  # fmt: skip
    change_weight,
    from_row_five,
    left_out,
    linear,
    moved_bias,
    nodes_of,
    one_channel,
    other_corner,
    over_batch,
    scaled,
    set_attribute,
    swapped_edges,
)

from .checkpoint import noisy
from .run import Fault, Good, Plant, Planted, base_options, detections_of, with_model


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


def _other_backbone(state: dict[str, Any]) -> dict[str, Any]:
    others = noisy(state, 0.05, 2)
    return {n: others[n] if n.startswith("backbone.") else value for n, value in state.items()}


def _last_weights(good: Good, folder: Path) -> Planted:
    """The checkpoint is a training file, and the export of its last weights, not of the average."""
    checkpoint, path = folder / "both.pth", folder / "d0.onnx"
    average = dict(read_weights(good.checkpoint))
    torch.save({"state_dict": noisy(average, 0.05, 3), "state_dict_ema": average}, checkpoint)
    settings = ExportSettings(batch_size=None, weights="state_dict")
    write_onnx(checkpoint, path, good.spec, settings)
    options = base_options(good, checkpoint=checkpoint)
    return Planted(
        (*options, f"--model={path}", "--runner=ort"),
        found=lambda: detections_of(path, good.dataset, good.spec),
    )


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


def unfused(good: Good, path: Path, *, training: bool = False) -> None:
    """Write the checkpoint's export with its batch norms as they are; in *training* mode too."""
    model = load_model(good.checkpoint, good.spec).train(training)
    ends = (good.spec.input_name, *good.spec.output_names)
    mode = torch.onnx.TrainingMode
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, which is an old one
        torch.onnx.export(
            model, (torch.zeros(2, *good.spec.input_shape),), str(path), dynamo=False,
            input_names=ends[:1], output_names=ends[1:], opset_version=14,
            dynamic_axes={name: {0: "N"} for name in ends},
            training=mode.TRAINING if training else mode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip


def _unfused(change: Callable[[Any], object] = lambda _: None, *, training: bool = False) -> Plant:
    """Change that export."""

    def plant(good: Good, folder: Path) -> Planted:
        path = folder / "d0.onnx"
        unfused(good, path, training=training)
        model = onnx.load(str(path))
        change(model)
        onnx.save(model, str(path))
        return with_model(good, path)

    return plant


def _linear(model: Any) -> None:
    """The Resize in the middle interpolates."""
    nodes = nodes_of(model, "Resize")
    linear(model, nodes[len(nodes) // 2])


def _kernels_transposed(model: Any, node: Any) -> None:
    change_weight(model, node, 1, lambda w: w.swapaxes(2, 3))


def _bgr_as_exported(good: Good, folder: Path) -> Planted:
    """The same in a file that was not simplified: its padding is a node of its own."""
    path = folder / "d0.onnx"
    write_onnx(good.checkpoint, path, good.spec, ExportSettings())
    model = onnx.load(str(path))
    _bgr_weights(model)
    onnx.save(model, str(path))
    return with_model(good, path)


def _bgr_weights(model: Any) -> None:
    """The first convolution's weights are those of a network that was trained on BGR."""
    change_weight(model, nodes_of(model, "Conv")[0], 1, lambda weight: weight[:, ::-1])


def _without_biases(model: Any) -> None:
    """The biases of the class head's last convolution are lost."""
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in nodes_of(model, "Conv"):
        shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        if len(node.input) > 2 and shapes[node.input[2]] == [classes]:
            change_weight(model, node, 2, np.zeros_like)


def _halved_outputs(model: Any) -> None:
    del model.graph.output[len(model.graph.output) // 2 :]


def rename(model: Any, names: Mapping[str, str]) -> None:
    """Call tensors by other names wherever nodes read and write them."""
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _constant(model: Any, name: str, value: Any, dtype: Any = np.float32) -> str:
    """Add a constant, and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def _replaced(model: Any, node: Any, *others: Any) -> None:
    """Put *others* in the place of *node*."""
    index = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    for place, other in enumerate(others, index):
        model.graph.node.insert(place, other)


def _twin(model: Any) -> None:
    """One head comes twice under names that tell nothing."""
    first, last = model.graph.output[0], f"output_{len(model.graph.output)}"
    rename(model, {output.name: f"output_{n}" for n, output in enumerate(model.graph.output)})
    for n, output in enumerate(model.graph.output):
        output.name = f"output_{n}"
    model.graph.node.append(helper.make_node("Identity", [first.name], [last]))
    copy = model.graph.output.add()
    copy.CopyFrom(first)
    copy.name = last


def _other_size(model: Any) -> None:
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 640


# Graph: the weights are right, what is computed is not.


def _behind(op: str, names: Callable[[str], bool], **attributes: Any) -> Callable[[Any], None]:
    """Put a node of *op* behind the outputs that *names* chooses."""

    def change(model: Any) -> None:
        for output in [o for o in model.graph.output if names(o.name)]:
            inner = f"{output.name}_inner"
            rename(model, {output.name: inner})
            model.graph.node.append(helper.make_node(op, [inner], [output.name], **attributes))

    return change


def _swapped_names(model: Any) -> None:
    """Two outputs have each other's names."""
    new = {"class_p3": "box_p3", "box_p3": "class_p3"}
    rename(model, new)
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
    for number, node in enumerate(nodes_of(model, "MaxPool")):
        pads, inner = _pads(node), f"padded_{number}"
        full = _constant(
            model, f"pads_{number}", [0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64
        )  # fmt: skip
        zero = _constant(model, f"zero_{number}", 0)
        pad = helper.make_node("Pad", [node.input[0], full, zero], [inner], mode="constant")
        model.graph.node.insert(list(model.graph.node).index(node), pad)
        node.input[0] = inner
        set_attribute(node, "pads", [0, 0, 0, 0])


def _pads(node: Any) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "pads"), [0, 0, 0, 0])


def _relu(model: Any, node: Any) -> None:
    """A swish became a ReLU: its sigmoid is replaced by a step."""
    step, zero = f"{node.output[0]}_step", _constant(model, f"{node.output[0]}_zero", 0)
    greater = helper.make_node("Greater", [node.input[0], zero], [step])
    cast = helper.make_node("Cast", [step], [node.output[0]], to=TensorProto.FLOAT)
    _replaced(model, node, greater, cast)


def _hard_sigmoid(model: Any, node: Any) -> None:
    """A backend's approximation of the sigmoid."""
    ends = list(node.input), list(node.output)
    _replaced(model, node, helper.make_node("HardSigmoid", *ends, alpha=1 / 6))


def _normalising(model: Any) -> None:
    """The graph normalises its input too."""
    name = model.graph.input[0].name
    rename(model, {name: "normalised"})
    mean = _constant(model, "mean_", np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1)))
    std = _constant(model, "std_", np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1)))
    model.graph.node.insert(0, helper.make_node("Sub", [name, mean], ["centred"]))
    model.graph.node.insert(1, helper.make_node("Div", ["centred", std], ["normalised"]))


def _depthwise_pads(model: Any) -> None:
    """A depthwise convolution's padding is on the other side."""
    nodes = [node for node in nodes_of(model, "Conv") if min(_pads(node)) > 0]
    node = nodes[len(nodes) // 2]
    top, left, bottom, right = _pads(node)
    set_attribute(node, "pads", [top + 1, left + 1, bottom - 1, right - 1])


def _clipped(model: Any) -> None:
    """What a conversion to 8 bits bounds: class logits end at 0."""
    bounds = [_constant(model, "low_", -6.0), _constant(model, "high_", 0.0)]
    _behind("Clip", _class_names)(model)
    for node in nodes_of(model, "Clip"):
        if node.output[0].startswith("class"):
            node.input.extend(bounds)


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
    Fault("of-another-backbone", "export", "a backbone of other pretraining",
          r"another checkpoint: .* all \d+ in backbone", _of_weights(_other_backbone, named=False)),
    Fault("of-the-last-weights", "export", "timm's checkpoints: state_dict_ema was validated",
          "these are its state_dict, not its state_dict_ema", _last_weights),
    Fault("training-mode", "export", "an export without model.eval()", "",
          _unfused(training=True)),
    Fault("weights-scaled-in-a-head", "export", "peers F37", "scaled by 1.02",
          _node("Conv", 0.9, scaled)),
    Fault("channel-lost-in-the-backbone", "export", "peers F37", "weight",
          _node("Conv", 0.3, one_channel)),
    Fault("bias-moved", "export", "peers 3.22: wrong bias", "0.1", _node("Conv", 0.5, moved_bias)),
    Fault("one-layer-in-int8", "export", "peers F40", "weight", _node("Conv", 0.02, _as_int8)),
    Fault("kernels-transposed", "export", "HWIO read as WHIO", "weight",
          _node("Conv", 0.0, _kernels_transposed)),
    Fault("bgr-in-the-weights", "export", "weights of a network for BGR", "^the model expects BGR",
          _graph(_bgr_weights)),
    Fault("bgr-in-the-weights-as-exported", "export", "weights of a network for BGR",
          "^the model expects BGR", _bgr_as_exported),
    Fault("class-biases-lost", "export", "peers 3.22: wrong bias", "weight",
          _graph(_without_biases)),
    Fault("names-swapped-over-shapes", "export", "peers F23", "",
          _graph(_swapped_names, runs=False)),
    Fault("resize-mode", "graph", "peers F37", "mode is linear", _node("Resize", 0.5, linear)),
    Fault("resize-mode-unfused", "graph", "an export whose batch norms are nodes of their own",
          "mode is linear", _unfused(_linear)),
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
    Fault("se-mean-over-batch", "graph", "a mean over one axis too many",
          "depend on the batch.*ReduceMean", _node("ReduceMean", 0.3, over_batch)),
    Fault("wrong-from-row-five", "graph", "a tile of a batch", "depend on the batch.*Concat",
          _node("Conv", 0.5, from_row_five), in_part=True),
    Fault("heads-transposed", "graph", "peers F26", "transposed",
          _graph(_behind("Transpose", lambda _: True, perm=[0, 1, 3, 2]))),
)  # fmt: skip
