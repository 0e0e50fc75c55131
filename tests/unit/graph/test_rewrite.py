"""Tests for `effd0.graph.rewrite`: a broken graph is not written."""

from __future__ import annotations

from pathlib import Path

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


def test_a_broken_graph_is_not_written(tmp_path: Path) -> None:
    """The recipe's ``modify`` leaves a float16 zero in a float32 Pad; such never becomes a file."""
    graph = pad_model()
    (filler,) = [t for t in graph.graph.initializer if t.name == "filler"]
    filler.CopyFrom(numpy_helper.from_array(np.array(0, np.float16), "filler"))
    message = r"made\.onnx would be an invalid graph: [\s\S]*constant_value has inconsistent type"
    with pytest.raises(GraphError, match=message):
        save_graph(graph, tmp_path / "made.onnx")
    assert list(tmp_path.iterdir()) == []
