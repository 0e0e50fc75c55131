"""A host with Ascend's tools, emulated or scripted, and the little ONNX files to compile on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BIN = Path(__file__).parent / "fakes" / "bin"


def use_emulated_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the emulated ``atc`` and ``npu-smi`` on the PATH, and this Python for them."""
    places = [BIN, Path(sys.executable).parent, os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, places)))


def use_tool(name: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a shell script called *name* into *folder*, the first on the PATH; return the folder."""
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return folder


def tiny_onnx(
    path: Path,
    *,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    opset: int = 11,
    operators: Sequence[str] = (),
    weight: float = 1.0,
) -> Path:
    """
    Write a network of one 1x1 convolution from three channels ``x.1`` to four, ``y``.

    *operators* of one input follow it; *weight* is the value of all its weights.  Returns *path*.
    """
    weights = np.full((4, 3, 1, 1), weight, np.float32)
    names = ["x.1", *(f"h{n}" for n in range(len(operators))), "y"]
    nodes = [helper.make_node("Conv", ["x.1", "w"], [names[1]], name="Conv_0")]
    for n, operator in enumerate(operators, 1):
        nodes.append(helper.make_node(operator, [names[n]], [names[n + 1]], name=f"Op_{n}"))
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x.1", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [shape[0], 4, *shape[2:]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
