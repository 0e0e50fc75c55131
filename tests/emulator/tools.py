"""What tests take from the emulator: a host's tools on the PATH, little models, and a runner."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effd0.ascend.acl_runner import AclRunner
from effd0.ascend.atc import AtcOptions, atc_command, run_atc
from effd0.spec import D0, ModelSpec

from .acl import installed

#: Emulated ``atc`` and ``npu-smi``.
BIN = Path(__file__).parent / "bin"
#: As precise as the emulator can be: nothing is rounded.
FLOAT32 = "must_keep_origin_dtype"


def use_emulated_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the emulated ``atc`` and ``npu-smi`` on the PATH, and this Python for them."""
    places = [BIN, Path(sys.executable).parent, os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, places)))


@contextmanager
def emulated_path() -> Iterator[None]:
    """`use_emulated_tools` for the time of a block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_emulated_tools(monkeypatch)
        yield


def use_tool(name: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a shell script called *name* into *folder*, the first on the PATH; return the folder."""
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return folder


def compile_emulated(model: Path, out: Path, spec: ModelSpec = D0, **options: Any) -> Path:
    """Compile the ONNX file *model* to *out* with the emulated ATC, in float32 by default."""
    asked = AtcOptions(**{"soc_version": "Ascend310P3", "precision_mode": FLOAT32} | options)
    with emulated_path():
        command = atc_command(model, out, spec, asked)
        run_atc(command)
    return command.om


class EmulatedRunner(AclRunner):
    """An `AclRunner` on an emulated host of its own, which must be left clean."""

    def __init__(self, model: Path, *, overlap: bool = True, **host: Any) -> None:
        super().__init__(model, overlap=overlap)
        self._host = host
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.emulator = stack.enter_context(installed(**self._host))
            super().__enter__()
            # No report shall take these figures for those of a board.
            self.description = f"emulated {self.description}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._stack:
            super().__exit__(kind, error, trace)
            if error is None:
                self.emulator.assert_clean()


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
        [numpy_helper.from_array(np.full((4, 3, 1, 1), weight, np.float32), "w")],
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
