"""`effd0.graph.onnx_info`: what a file says of itself is read, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effd0.errors import ExportError, GraphError
from effd0.graph.onnx_info import (
    ModelFile,
    check_support,
    class_count,
    model_input,
    read_model,
    stored_precision,
)
from tests.helpers import TINY
from tests.helpers.onnx_models import halved, head_model, pad_model, parsed, with_merged_heads

SHAPES = TINY.head_shapes
Plant = Callable[[Any], object]


def heads(**options: Any) -> Any:
    """A model with the heads of `TINY`."""
    return head_model(SHAPES, TINY.image_size, **options)


def read(model: Any, folder: Path) -> ModelFile:
    """*model*, written and read."""
    path = folder / "d0.onnx"
    onnx.save(model, str(path))
    return read_model(path, TINY)


@pytest.mark.parametrize("batch", [None, 16], ids=["free", "batch=16"])
def test_a_whole_model_is_read(batch: int | None, tmp_path: Path) -> None:
    """Its batch, its precision and where it comes from."""
    model = heads(batch=batch)
    helper.set_model_props(model, {"checkpoint_sha256": "abc", "tool": "x"})
    assert read(model, tmp_path) == ModelFile(
        tmp_path / "d0.onnx", "fp32", batch, {"checkpoint_sha256": "abc", "tool": "x"}
    )


# Precision.


def _in_bf16(model: Any) -> None:
    """Store weights as bfloat16 and cast them as they are read."""
    for tensor in model.graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            helper.make_tensor(f"{name}_raw", TensorProto.BFLOAT16, values.shape, values.ravel())
        )
        cast = helper.make_node("Cast", [f"{name}_raw"], [name], to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)


def _quantised(model: Any) -> None:
    """Store one head's weights in int8, dequantised as they are read."""
    (tensor,) = [t for t in model.graph.initializer if t.name == "box_p7_weight"]
    shape = numpy_helper.to_array(tensor).shape
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.int8), "quantised"))
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    model.graph.initializer.append(scale)
    node = helper.make_node("DequantizeLinear", ["quantised", "scale"], ["box_p7_weight"])
    model.graph.node.insert(0, node)


def _half_in_nodes(model: Any) -> None:
    """Hold every weight in a Constant node, in float16, as some converters do."""
    model.CopyFrom(halved(model))
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]


@pytest.mark.parametrize(
    ("plant", "precision"),
    [
        pytest.param(lambda m: m.CopyFrom(halved(m)), "fp16", id="all-in-fp16"),
        pytest.param(_half_in_nodes, "fp16", id="fp16-in-constant-nodes"),
        pytest.param(_in_bf16, "bf16", id="weights-in-bf16"),
        pytest.param(_quantised, "int8", id="one-layer-in-int8"),
    ],
)
def test_precision_is_what_weights_are_stored_in(
    plant: Plant, precision: str, tmp_path: Path
) -> None:
    """A graph that quantises anywhere is int8."""
    model = heads()
    plant(model)
    file = read(model, tmp_path)
    assert file.precision == stored_precision(file.path) == precision


# Training.


def _behind(op: str, *constants: Any, outputs: int = 1, **attributes: Any) -> Plant:
    """Put a node of *op*, called behind, behind the mean that box_p7 reads."""

    def plant(model: Any) -> None:
        (conv,) = [node for node in model.graph.node if node.output[0] == "box_p7"]
        tensors = [numpy_helper.from_array(np.array(v), f"c{i}") for i, v in enumerate(constants)]
        model.graph.initializer.extend(tensors)
        reads = [conv.input[0], *(tensor.name for tensor in tensors)]
        gives = [f"behind_{number}" for number in range(outputs)]
        node = helper.make_node(op, reads, gives, name="behind", **attributes)
        model.graph.node.insert(len(model.graph.node) - 1, node)
        conv.input[0] = "behind_0"

    return plant


STATISTICS = tuple(np.ones(3, np.float32) for _ in range(4))
RATIO = np.float32(0.2)


@pytest.mark.parametrize(
    ("plant", "opset"),
    [
        pytest.param(_behind("BatchNormalization", *STATISTICS, outputs=3, training_mode=1), 15,
                     id="batch-norm"),
        pytest.param(_behind("BatchNormalization", *STATISTICS, outputs=5), 13, id="older-opset"),
        pytest.param(_behind("Dropout", RATIO, True), 15, id="dropout"),
        pytest.param(_behind("Bernoulli"), 15, id="mask"),
        pytest.param(_behind("RandomNormalLike"), 15, id="noise"),
    ],
)  # fmt: skip
def test_a_graph_of_training_is_refused(plant: Plant, opset: int, tmp_path: Path) -> None:
    """Its heads depend on the batch or on chance: the message names the nodes and the remedy."""
    model = heads()
    model.opset_import[0].version = opset
    plant(model)
    message = r"d0\.onnx was exported in training mode: behind \(.* after model\.eval\(\)"
    with pytest.raises(ExportError, match=message):
        read(model, tmp_path)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(_behind("BatchNormalization", *STATISTICS, training_mode=0), id="batch-norm"),
        pytest.param(_behind("Dropout", RATIO, False), id="dropout-switched-off"),
        pytest.param(_behind("Dropout", RATIO), id="dropout-without-switch"),
    ],
)
def test_an_unfused_graph_is_of_inference(plant: Plant, tmp_path: Path) -> None:
    """Batch norms with the trained statistics and dropout that is off are no training."""
    model = heads()
    model.opset_import[0].version = 15
    plant(model)
    assert read(model, tmp_path).batch is None


# Files.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "does not exist; make it with 'effd0 export'", id="missing"),
        pytest.param(b"this is a text\n", "is not an ONNX file", id="text"),
        pytest.param(b"", "is not an ONNX model: its graph has no node", id="empty"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The message says what it is not, and how to get one that is."""
    path = tmp_path / "d0.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=rf"^{re.escape(str(path))} {message}") as caught:
        read_model(path, TINY)
    assert "make it with 'effd0 export'" in str(caught.value)


# Inputs and outputs.


def sigmoid(opset: int = 11, sides: str = "N,3,512,512", kind: str = "float", to: str = "") -> Any:
    """Return a graph that any ATC takes, but for what is given; *to* are its output's sides."""
    fed, given = f"{kind}[{sides}] x", f"{kind}[{to or sides}] y"
    return parsed(f"g ({fed}) => ({given}) {{ y = Sigmoid(x) }}", opset)


def listing_weights() -> Any:
    """A model that lists initializers as inputs too, as old exporters do."""
    model = heads(batch=2)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.insert(0, value)
    return model


RENAMED = {f"t{n}": shape for n, shape in enumerate(reversed(SHAPES.values()))}


def tables() -> Any:
    """A model of two outputs, the classes and boxes of all anchors."""
    sides = [f"1,{TINY.num_anchors},{width}" for width in (TINY.num_classes, 4)]
    given = ", ".join(f"float[{side}] y{n}" for n, side in enumerate(sides))
    nodes = " ".join(f"y{n} = RandomNormal<shape=[{side}]>()" for n, side in enumerate(sides))
    return parsed(f"g (float[1,3,128,128] x) => ({given}) {{ {nodes} }}")


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        pytest.param(listing_weights(), 2, id="weights-among-the-inputs"),
        pytest.param(head_model(RENAMED), None, id="heads-of-other-names"),
        pytest.param(tables(), 1, id="tables-of-all-anchors"),
        # Sides that only a run shows are not guessed at.
        pytest.param(sigmoid(sides="N,3,H,W"), None, id="free-sides"),
        pytest.param(sigmoid(sides="4,128,128,3", to="a,b,c,d"), 4, id="channels-last"),
    ],
)
def test_other_forms_of_a_d0_are_taken(model: Any, batch: int | None, tmp_path: Path) -> None:
    """Heads are known by name or shape, and shapes may be free."""
    assert read(model, tmp_path).batch == batch


def invalid() -> Any:
    """A model that declares another shape than it gives."""
    model = heads()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 26
    return model


def crossed() -> Any:
    """A model whose nodes give two heads under each other's names, as its declarations do not."""
    model = heads()
    names = {"class_p6": "box_p7", "box_p7": "class_p6"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    return model


SIZE = r"but \(N, 3, 128, 128\) was wanted; export it for this size, or give --arch and --image-s"
OTHER = "the outputs of FILE are not the 4 heads of tf_efficientdet_d0 with 3 classes: "
SWAPPED = SHAPES | {"class_p6": SHAPES["box_p6"], "box_p6": SHAPES["class_p6"]}
#: Model -> what the error says.
REFUSED = {
    "invalid": (invalid(), "FILE is an invalid ONNX model: .*nference.*; export it again$"),
    "two-inputs": (pad_model(constants_are="inputs"),
        r"FILE has the inputs \['x', .*\], but an Eff.* has one; export it with its heads alone$"),
    "smaller": (sigmoid(sides="N,3,64,64"), rf"input x of FILE is \(N, 3, 64, 64\), {SIZE}"),
    "grey": (sigmoid(sides="N,1,128,128"), rf"input x of FILE is \(N, 1, 128, 128\), {SIZE}"),
    "no-batch": (sigmoid(sides="3,128,128"), rf"input x of FILE is \(3, 128, 128\), {SIZE}"),
    "head-lost": (head_model({n: s for n, s in SHAPES.items() if n != "box_p7"}),
        rf"{OTHER}\['box_p7'\] are missing; .* the outputs are .*; export the network without"),
    "head-twice": (head_model({**SHAPES, "again": SHAPES["class_p6"]}),
        rf"{OTHER}\['class_p6'\] could each be .* 'again': '\(27, 2, 2\)'.*; export the network"),
    "one-more": (head_model({**SHAPES, "scores": (5, 4, 4)}), f"{OTHER}5 outputs are there; heads"),
    "names-swapped": (head_model(SWAPPED),
        r"output class_p6 of FILE is \(36, 2, 2\), but \(27, 2, 2\) was wanted: .*own name$"),
    "names-swapped-of-nodes": (crossed(),
        r"output class_p6 of FILE is \(36, 1, 1\), but \(27, 2, 2\) was wanted: .*own name$"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_this_architecture_is_refused(model: Any, message: str, tmp_path: Path) -> None:
    """The message says what is there, what was wanted, and what to export instead."""
    kind = GraphError if "invalid" in message else ExportError
    with pytest.raises(kind) as caught:
        read(model, tmp_path)
    assert re.match(message, str(caught.value).replace(str(tmp_path / "d0.onnx"), "FILE"))


@pytest.mark.parametrize("classes", [1, 3, 4, 90])
def test_the_number_of_classes_is_that_of_the_outputs(classes: int, tmp_path: Path) -> None:
    """Heads and tables of all anchors say how many classes there are, four too, and fit then."""
    spec, path = replace(TINY, num_classes=classes), tmp_path / "d0.onnx"
    one, other = (head_model(spec.head_shapes) for _ in range(2))
    for model in (one, with_merged_heads(other, spec)):
        onnx.save(model, str(path))
        assert class_count(path, TINY) == classes
        if (classes, model) != (4, other):
            read_model(path, spec)


@pytest.mark.parametrize("merged", [False, True], ids=["heads", "tables"])
def test_outputs_of_one_shape_need_their_names(merged: bool, tmp_path: Path) -> None:
    """Of 4 classes, class and box heads have one shape: read by name, else refused with them."""
    spec, path = replace(TINY, num_classes=4), tmp_path / "d0.onnx"
    onnx.save(head_model(spec.head_shapes), str(path))
    read_model(path, spec)
    foreign = head_model({f"o_{name}": shape for name, shape in spec.head_shapes.items()})
    tables = with_merged_heads(head_model(spec.head_shapes), spec)
    onnx.save(tables if merged else foreign, str(path))
    message = "have to tell them apart; name the heads class_p6, class_p7, box_p6, box_p7, or"
    with pytest.raises(ExportError, match=message):
        read_model(path, spec)


# What ATC takes.


def shapeless() -> Any:
    """Return a graph whose input has a type but no shape."""
    graph = sigmoid()
    graph.graph.input[0].type.tensor_type.ClearField("shape")
    return graph


def foreign() -> Any:
    """Return a graph with an operator of ONNX Runtime's own."""
    graph = sigmoid()
    graph.graph.node[0].domain, graph.graph.node[0].op_type = "com.microsoft", "QuickGelu"
    return graph


RESIZE = "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}> "


def test_what_atc_takes_is_no_problem() -> None:
    """The first and last opset, with the batch free or fixed, pass without a word."""
    graphs = (
        sigmoid(11),
        sigmoid(17, "1,3,512,512"),
        parsed(RESIZE + "{ y = Resize(x, s, s) }", 12),
    )
    assert [check_support(graph) for graph in graphs] == [[], [], []]


#: Graph -> what is said of it, and whether no known version of ATC goes on.
PROBLEMS = {
    "opset-too-new": (sigmoid(18), True,
        "the model (opset): is 18, but ATC takes 11 to 17; export with --opset 11"),
    "opset-too-old": (sigmoid(10), True, "the model (opset): is 10, but ATC takes 11 to 17"),
    "sides-are-free": (sigmoid(sides="1,3,H,W"), True,
        "x (input): is [1, 3, free, free], free beyond the batch; export with"),
    "no-shape": (shapeless(), True, "x (input): has no shape; export with"),
    "foreign": (foreign(), True, "y (QuickGelu): is of com.microsoft, which ATC does"),
    "shapes-from-data": (parsed("g (float[4] x) => (int64[1,n] y) { y = NonZero(x) }"), False,
        "y (NonZero): makes shapes or branches that depend on data"),
    "unknown-operator": (parsed("g (float[4] x) => (float[4] y) { y = Atanh(x) }"), False,
        "y (Atanh): is not known to have a parser in ATC; try 'effd0 simplify' first"),
    "resize-of-opset-13": (parsed(RESIZE + '{ y = Resize(x, "", s) }', 13), False,
        "y (Resize): older versions of ATC have no parser for it at opset 13 (E19010); export"),
    "infinite-padding": (pad_model(), False,
        "p (Pad): pads with -inf, which not every NPU has in float16; run 'effd0 modify'"),
    "computed-padding": (pad_model(constants_are="inputs"), False,
        "p (Pad): computes its padding while the model runs; run 'effd0 simplify' first"),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "fatal", "said"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_names_place_reason_and_remedy(graph: Any, fatal: bool, said: str) -> None:
    """Each comes with the node, its operator, the reason and the next step."""
    (problem,) = check_support(graph)
    assert problem[0].startswith(said)
    assert problem[1] == fatal


def test_a_problem_of_many_nodes_is_reported_once_after_the_fatal() -> None:
    """A finding at several nodes is one, with the first place and the number of the others."""
    graph = parsed(
        "g (float[4] x) => (float[4] y) { a = Atanh(x) b = Atanh(a) c = Erf(b) y = Atanh(c) }", 18
    )
    found = check_support(graph)
    assert [(said.partition(" (")[0], fatal) for said, fatal in found] == [
        ("the model", True), ("a and 2 more", False)
    ]  # fmt: skip


def test_the_input_is_read_off_the_graph() -> None:
    """Name, sides and dtype are those of the one tensor that is fed; a weight is none."""
    assert model_input(sigmoid()) == ("x", [None, 3, 512, 512], np.dtype("f4"))
    half = sigmoid(sides="4,3,8,8", kind="float16")
    assert model_input(half) == ("x", [4, 3, 8, 8], np.dtype("f2"))
    assert model_input(parsed(RESIZE + "{ y = Resize(x, s, s) }"))[0] == "x"


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        pytest.param(
            pad_model(constants_are="inputs"), "the inputs are x, pads, weight, filler", id="many"
        ),
        pytest.param(shapeless(), "the input x has no shape", id="no-shape"),
        pytest.param(sigmoid(kind="double"), "the input x has .* type 11, but", id="double"),
    ],
)
def test_an_input_that_is_no_image_is_refused(graph: Any, message: str) -> None:
    """A graph that no image can be fed to is not one to compile."""
    with pytest.raises(GraphError, match=message):
        model_input(graph)
