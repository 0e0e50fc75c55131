"""Tests for `effd0.graph.rewrite`: a broken graph is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from effd0.errors import GraphError
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrite import save_graph
from tests.helpers.onnx_models import pad_model


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
