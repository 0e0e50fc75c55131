"""Tests for `effd0.graph`: graphs that no edit can take, and files that are no graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from effd0.errors import GraphError
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrite import save_graph
from effd0.graph.rewrites import apply_edits

from .onnx_models import pad_model


def with_axes() -> Any:
    """Return a graph whose Pad names the two axes it pads, as opset 18 may."""
    graph = pad_model(opset=18, pads=(1, 1, 1, 1))
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    graph.graph.node[0].input.append("axes")
    return graph


def with_attributes() -> Any:
    """Return a graph whose Pad holds its padding in attributes, as before opset 11."""
    graph = pad_model(opset=10)
    del graph.graph.node[0].input[1:]
    graph.graph.node[0].attribute.append(helper.make_attribute("pads", [0, 0, 1, 1, 0, 0, 1, 1]))
    graph.graph.node[0].attribute.append(helper.make_attribute("value", float("-inf")))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def with_free_filler() -> Any:
    """Return a graph whose padding value is an input of the model."""
    graph = pad_model(constants_are="inputs")
    graph.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1] * 2), "pads"))
    return graph


@pytest.mark.parametrize("edit", ["fold-pad", "finite-pad", "zero-pad"])
@pytest.mark.parametrize(
    ("graph", "message"),
    [
        pytest.param(
            pad_model(constants_are="inputs"),
            "the padding of p is computed while the model runs, .* run 'effd0 simplify' first",
            id="dynamic-pads",
        ),
        pytest.param(
            with_free_filler(),
            "the padding of p is computed while the model runs, .* run 'effd0 simplify' first",
            id="dynamic-filler",
        ),
        pytest.param(
            with_axes(),
            "the Pad of p pads chosen axes, .* run 'effd0 simplify' first",
            id="chosen-axes",
        ),
        pytest.param(
            with_attributes(),
            "the Pad of p holds its padding in attributes, .* export at opset 11 or later",
            id="opset-10",
        ),
    ],
)
def test_padding_that_cannot_be_read_is_refused(graph: Any, message: str, edit: str) -> None:
    """An edit that cannot tell whether it applies says what to do, rather than nothing."""
    with pytest.raises(GraphError, match=message):
        apply_edits(graph, [edit])


def test_a_graph_comes_back_from_its_file(tmp_path: Path) -> None:
    """What was checked and saved is loaded as it was."""
    save_graph(pad_model(), tmp_path / "padded.onnx")
    assert load_graph(tmp_path / "padded.onnx") == pad_model()


def recipes_fault() -> Any:
    """Return the graph that the recipe's ``modify`` leaves: a float16 zero in a float32 Pad."""
    graph = pad_model()
    (index,) = [i for i, t in enumerate(graph.graph.initializer) if t.name == "filler"]
    filler = numpy_helper.from_array(np.array(0, np.float16), "filler")
    graph.graph.initializer[index].CopyFrom(filler)
    return graph


def dangling() -> Any:
    """Return a graph with a node that reads what nobody writes."""
    graph = pad_model()
    graph.graph.node[1].input[0] = "nothing"
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        pytest.param(recipes_fault(), "constant_value has inconsistent type", id="recipes-fault"),
        pytest.param(dangling(), "nothing", id="dangling-input"),
    ],
)
def test_a_broken_graph_is_not_written(graph: Any, message: str, tmp_path: Path) -> None:
    """A graph that a runtime would refuse, or silently take otherwise, never becomes a file."""
    with pytest.raises(
        GraphError, match=rf"made\.onnx would be an invalid graph: [\s\S]*{message}"
    ):
        save_graph(graph, tmp_path / "made.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "does not exist; make it with 'effd0 export'", id="missing"),
        pytest.param(b"", "is not an ONNX model: its graph has no node", id="empty"),
        pytest.param(b"this is a text, not a graph\n", "is not an ONNX file", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" * 9, "is not an ONNX file", id="picture"),
        pytest.param(pad_model().SerializeToString()[:-40], "is not an ONNX file", id="cut-off"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The message names the file and says what it is not."""
    path = tmp_path / "d0.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=rf"d0\.onnx {message}"):
        load_graph(path)
