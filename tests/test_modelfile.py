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
from effd0.graph.onnx_info import INT8_OPERATORS, ModelFile, read_model

from .helpers import TINY
from .onnx_models import halved, head_model

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


@pytest.mark.parametrize("batch", [None, 1, 16], ids=["free", "batch=1", "batch=16"])
def test_a_whole_model_is_read(batch: int | None, tmp_path: Path) -> None:
    """Its batch, its precision and where it comes from."""
    model = heads(batch=batch)
    helper.set_model_props(model, {"checkpoint_sha256": "abc", "tool": "x"})
    assert read(model, tmp_path) == ModelFile(
        tmp_path / "d0.onnx", "fp32", batch, {"checkpoint_sha256": "abc", "tool": "x"}
    )


def test_a_batch_without_a_name_is_free(tmp_path: Path) -> None:
    """Some exporters leave the first side out."""
    model = heads()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
    assert read(model, tmp_path).batch is None


# Precision.


def _stored_as(kind: int, *only: str) -> Plant:
    """Return what stores weights, or *only* these, as *kind* and casts them as they are read."""

    def plant(model: Any) -> None:
        casts = []
        for tensor in model.graph.initializer:
            if only and tensor.name not in only:
                continue
            name, values = tensor.name, numpy_helper.to_array(tensor)
            made = helper.make_tensor(f"{name}_raw", kind, values.shape, values.ravel())
            tensor.CopyFrom(made)
            casts.append(helper.make_node("Cast", [f"{name}_raw"], [name], to=TensorProto.FLOAT))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    return plant


def _quantised(model: Any) -> None:
    """Store one head's weights in int8, dequantised as they are read."""
    (tensor,) = [t for t in model.graph.initializer if t.name == "box_p7_weight"]
    shape = numpy_helper.to_array(tensor).shape
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.int8), "quantised"))
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    model.graph.initializer.extend([scale, zero])
    names = ["quantised", "scale", "zero"]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", names, ["box_p7_weight"]))


def _in_nodes(model: Any) -> None:
    """Hold every weight in a Constant node, as some converters do."""
    tensors = list(model.graph.initializer)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
    nodes += list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)


def _half_in_nodes(model: Any) -> None:
    model.CopyFrom(halved(model))
    _in_nodes(model)


@pytest.mark.parametrize(
    ("plant", "precision"),
    [
        pytest.param(_stored_as(TensorProto.FLOAT16), "fp16", id="weights-in-fp16"),
        pytest.param(lambda m: m.CopyFrom(halved(m)), "fp16", id="all-in-fp16"),
        pytest.param(_half_in_nodes, "fp16", id="fp16-in-constant-nodes"),
        pytest.param(_in_nodes, "fp32", id="fp32-in-constant-nodes"),
        pytest.param(_stored_as(TensorProto.BFLOAT16), "bf16", id="weights-in-bf16"),
        pytest.param(_quantised, "int8", id="one-layer-in-int8"),
        # Of 3 x 126 values, each box head has 3 x 36 and each class head 3 x 27.
        pytest.param(
            _stored_as(TensorProto.FLOAT16, "box_p6_weight"), "fp32", id="a-smaller-part-in-fp16"
        ),
        pytest.param(
            _stored_as(TensorProto.FLOAT16, "box_p6_weight", "box_p7_weight"),
            "fp16",
            id="the-larger-part-in-fp16",
        ),
    ],
)
def test_precision_is_what_most_weights_are_stored_in(
    plant: Plant, precision: str, tmp_path: Path
) -> None:
    """By values, not by tensors; a graph that quantises anywhere is int8."""
    model = heads()
    plant(model)
    assert read(model, tmp_path).precision == precision


def test_values_count_and_not_tensors(tmp_path: Path) -> None:
    """Many small tensors in one precision do not outweigh a large one in another."""
    model = heads()
    _stored_as(TensorProto.FLOAT16)(model)
    few = [numpy_helper.from_array(np.ones(2, np.float32), f"few_{n}") for n in range(9)]
    model.graph.initializer.extend(few)
    assert read(model, tmp_path).precision == "fp16"


def test_operators_of_whole_numbers_are_onnxs_own() -> None:
    """A name that ONNX does not have would match no node."""
    for operator in INT8_OPERATORS:
        assert onnx.defs.has(operator), operator


# Files.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"this is a text\n", "is not an ONNX file", id="text"),
        pytest.param(b"", "is not an ONNX model: its graph has no node", id="empty"),
        pytest.param(heads().SerializeToString()[:-200], "is not an ONNX file", id="cut-off"),
    ],
)
def test_a_file_that_is_no_model_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """The message says what it is not, and how to get one that is."""
    path = tmp_path / "d0.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=rf"^{re.escape(str(path))} {message}") as caught:
        read_model(path, TINY)
    assert "make it with 'effd0 export'" in str(caught.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    """As `load_graph` does."""
    with pytest.raises(GraphError, match="does not exist; make it with 'effd0 export'"):
        read_model(tmp_path / "d0.onnx", TINY)


def _unknown_operator(model: Any) -> None:
    model.graph.node[0].op_type = "MeanPool"


def _reads_nothing(model: Any) -> None:
    model.graph.node[1].input[0] = "gone"


def _declares_another_shape(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 26


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        pytest.param(_unknown_operator, "MeanPool", id="unknown-operator"),
        pytest.param(_reads_nothing, "gone", id="reads-nothing"),
        pytest.param(_declares_another_shape, "nference", id="declares-another-shape"),
    ],
)
def test_an_invalid_model_is_refused(plant: Plant, message: str, tmp_path: Path) -> None:
    """In one line, with the checker's reason."""
    model = heads()
    plant(model)
    said = refusal(model, tmp_path, GraphError)
    assert re.match(rf"FILE is an invalid ONNX model: .*{message}.*; export it again$", said)


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
    value = helper.make_tensor_value_info("x.1", TensorProto.FLOAT, sides)
    nodes = list(model.graph.node)
    del model.graph.input[:], model.graph.node[:]
    model.graph.input.append(value)
    # What comes behind is of its own shape, whatever is fed.
    shape = numpy_helper.from_array(np.array([-1, 3, 128, 128], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["x.1", "shape"], ["fed"]))
    for node in nodes:
        node.input[:] = ["fed" if name == "x.1" else name for name in node.input]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize(
    ("sides", "batch"),
    [
        pytest.param(("N", 3, "H", "W"), None, id="free-sides"),
        pytest.param((4, 3, 128, "W"), 4, id="one-free-side"),
        pytest.param((4, 128, 128, 3), 4, id="channels-last"),
        pytest.param(("N", "H", "W", 3), None, id="channels-last-free-sides"),
    ],
)
def test_images_either_way_are_taken(
    sides: tuple[int | str, ...], batch: int | None, tmp_path: Path
) -> None:
    """What is declared may be free, and channels may be last."""
    assert read(_fed(*sides), tmp_path).batch == batch


@pytest.mark.parametrize(
    ("sides", "shown"),
    [
        pytest.param(("N", 3, 64, 64), "(N, 3, 64, 64)", id="smaller"),
        pytest.param((2, 3, 128, 256), "(2, 3, 128, 256)", id="wider"),
        pytest.param(("N", 1, 128, 128), "(N, 1, 128, 128)", id="grey"),
        pytest.param(("N", 128, 3, 128), "(N, 128, 3, 128)", id="channels-between"),
        pytest.param((3, 128, 128), "(3, 128, 128)", id="no-batch"),
        pytest.param(("N", 3, "H", 64), "(N, 3, N, 64)", id="one-free-side"),
    ],
)
def test_other_inputs_are_refused(sides: tuple[int | str, ...], shown: str, tmp_path: Path) -> None:
    """The message shows its shape beside the one wanted."""
    assert refusal(_fed(*sides), tmp_path) == (
        f"input x.1 of FILE is {shown}, but (N, 3, 128, 128) was wanted; "
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
        pytest.param({"a": (9, 4, 4)}, f"{list(SHAPES)} are missing", id="another-model"),
        pytest.param(
            {"a": (27, 2, 2), "b": (27, 1, 1), "c": (27, 2, 2), "d": (36, 1, 1)},
            "['box_p6'] are missing",
            id="a-box-head-as-class-head",
        ),
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


def test_an_output_without_sides_is_no_head(tmp_path: Path) -> None:
    """A count of detections beside the heads is told, like any output that is not one."""
    model = heads(batch=1)
    model.graph.node.append(helper.make_node("Shape", ["class_p7"], ["count"]))
    model.graph.output.append(helper.make_tensor_value_info("count", TensorProto.INT64, [4]))
    assert "heads of an EfficientDet-D0: 5 outputs are there; " in refusal(model, tmp_path)


def test_free_shapes_are_left_to_the_run(tmp_path: Path) -> None:
    """Sides that only a run shows are not guessed at."""
    model = head_model({"a": (9, 4, 4), "b": (9, 2, 2)})
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[2].dim_param = dims[3].dim_param = "side"
    read(model, tmp_path)
