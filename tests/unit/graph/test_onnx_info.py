"""`effd0.graph.onnx_info`: what a file says of itself is read, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effd0.errors import Effd0Error, ExportError, GraphError
from effd0.graph.onnx_info import ModelFile, check_support, model_input, read_model
from tests.helpers import TINY
from tests.helpers.onnx_models import halved, head_model, pad_model, parsed

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


def refusal(model: Any, folder: Path, kind: type[Effd0Error] = ExportError) -> str:
    """What the error says of *model*, without the folder."""
    with pytest.raises(kind) as caught:
        read(model, folder)
    return str(caught.value).replace(str(folder / "d0.onnx"), "FILE")


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
    assert read(model, tmp_path).precision == precision


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


def test_an_invalid_model_is_refused(tmp_path: Path) -> None:
    """The checker's reason is shown in one line; shapes are inferred too."""
    model = heads()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 26
    said = refusal(model, tmp_path, GraphError)
    assert re.match(r"FILE is an invalid ONNX model: .*nference.*; export it again$", said)


# Inputs.


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    """Heads come from images alone; a scale belongs to decoding."""
    model = heads()
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    assert refusal(model, tmp_path) == (
        "FILE has the inputs ['x.1', 'scale'], but an EfficientDet-D0 has one; "
        "export it with its heads alone"
    )


def test_weights_among_the_inputs_are_none(tmp_path: Path) -> None:
    """Old exporters list initializers as inputs too."""
    model = heads(batch=2)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.insert(0, value)
    assert read(model, tmp_path).batch == 2


def _fed(*sides: int | str) -> Any:
    """A model whose input is declared to be of *sides*, and its outputs not at all."""
    model = heads()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x.1", TensorProto.FLOAT, sides))
    for node in model.graph.node:
        node.input[:] = ["fed" if name == "x.1" else name for name in node.input]
    # What comes behind is of its own shape, whatever is fed.
    shape = numpy_helper.from_array(np.array([-1, 3, 128, 128], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("Reshape", ["x.1", "shape"], ["fed"]))
    return model


@pytest.mark.parametrize(
    ("sides", "batch"), [(("N", 3, "H", "W"), None), ((4, 128, 128, 3), 4)], ids=["free", "nhwc"]
)
def test_images_either_way_are_taken(
    sides: tuple[int | str, ...], batch: int | None, tmp_path: Path
) -> None:
    """What is declared may be free, and channels may be last."""
    assert read(_fed(*sides), tmp_path).batch == batch


@pytest.mark.parametrize(
    "sides", [("N", 3, 64, 64), ("N", 1, 128, 128), (3, 128, 128)], ids=["small", "grey", "rank-3"]
)
def test_other_inputs_are_refused(sides: tuple[int | str, ...], tmp_path: Path) -> None:
    """The message shows its shape beside the one wanted."""
    assert refusal(_fed(*sides), tmp_path) == (
        f"input x.1 of FILE is ({', '.join(map(str, sides))}), but (N, 3, 128, 128) was wanted; "
        "export it for images of 128 pixels"
    )


# Outputs.


def test_heads_are_known_by_shape(tmp_path: Path) -> None:
    """Under other names and in another order they are still these heads."""
    names = {f"t{n}": shape for n, shape in enumerate(reversed(SHAPES.values()))}
    read(head_model(names), tmp_path)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        pytest.param(
            {n: s for n, s in SHAPES.items() if n != "box_p7"}, "['box_p7'] are missing", id="lost"
        ),
        pytest.param(
            {**SHAPES, "again": SHAPES["class_p6"]},
            "['class_p6'] could each be several outputs",
            id="twice",
        ),
        pytest.param({**SHAPES, "scores": (5, 4, 4)}, "5 outputs are there", id="one-more"),
    ],
)
def test_other_outputs_are_refused(
    shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    """What is wrong, all that is there, and what to export instead."""
    said = refusal(head_model(shapes), tmp_path)
    assert f"are not the ten heads of an EfficientDet-D0: {message}; heads are known by" in said
    for name, sides in shapes.items():
        assert f"'{name}': '({', '.join(map(str, sides))})'" in said
    assert said.endswith("; export the network without decoding and NMS")


def test_names_over_other_shapes_are_refused(tmp_path: Path) -> None:
    """Where all names are known, a shape under a wrong one is a fault and not another name."""
    swapped = SHAPES | {"class_p6": SHAPES["box_p6"], "box_p6": SHAPES["class_p6"]}
    said = refusal(head_model(swapped), tmp_path)
    assert said.startswith(
        "output class_p6 of FILE is (36, 2, 2), but (27, 2, 2) was wanted: names and shapes do not "
        "fit together, all outputs are {'class_p6': '(36, 2, 2)', "
    )
    assert said.endswith("; export it with each head under its own name")


def test_free_shapes_are_left_to_the_run(tmp_path: Path) -> None:
    """Sides that only a run shows are not guessed at."""
    model = head_model({"a": (9, 4, 4), "b": (9, 2, 2)})
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[2].dim_param = dims[3].dim_param = "side"
    read(model, tmp_path)


# What ATC takes.


def sigmoid(opset: int = 11, sides: str = "N,3,512,512", kind: str = "float") -> Any:
    """Return a graph that any ATC takes, but for what is given."""
    return parsed(f"g ({kind}[{sides}] x) => ({kind}[{sides}] y) {{ y = Sigmoid(x) }}", opset)


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
