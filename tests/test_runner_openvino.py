"""Tests for `effd0.runners.openvino`: precision, names, batches, and files that are no models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from effd0.errors import FeedError, MissingExtra, RunnerError
from effd0.runners.openvino import OpenVinoRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors

from .onnx_models import identity_model, need_own_export, pinned


@pytest.mark.slow
def test_a_fixed_batch_takes_fewer_images(
    onnx_model: Path,
    images: Tensor,
    spec: ModelSpec,
    torch_heads: Tensors,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """Three images give the three rows that they give among four, bit for bit, and torch's."""
    need_own_export(pytestconfig)
    with OpenVinoRunner(pinned(onnx_model, tmp_path / "four.onnx", 4)) as runner:
        assert runner.inputs[0].shape == (4, 3, 512, 512)
        padded, whole = (runner.infer({spec.input_name: images[:n]}) for n in (3, 4))
    assert {head.shape[0] for head in padded.values()} == {3}
    assert [n for n in whole if not np.array_equal(whole[n][:3], padded[n])] == []
    worst = compare_tensors({n: head[:3] for n, head in torch_heads.items()}, padded)[0]
    # Measured 2026-11-23: at most 2.3e-5 with the batch fixed.
    assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)


def test_a_fixed_batch_is_padded_and_never_cut(tmp_path: Path) -> None:
    """One row of two comes back alone; three rows are refused."""
    model = pinned(identity_model(tmp_path / "free.onnx"), tmp_path / "two.onnx", 2)
    with OpenVinoRunner(model) as runner:
        assert [str(info) for info in (*runner.inputs, *runner.outputs)] == ["float32 (2, 2)"] * 2
        y = runner.infer({"x0": np.array([[1, 2]], np.float32)})["y_x0"]
        with pytest.raises(FeedError, match=r"\(3, 2\), but the model takes float32 \(2, 2\)"):
            runner.infer({"x0": np.ones((3, 2), np.float32)})
    assert y.tolist() == [[1, 2]]


@pytest.mark.parametrize("rows", [3, 1, 4], ids="rows={}".format)
def test_a_free_batch_changes_from_run_to_run(rows: int, tmp_path: Path) -> None:
    """Each run has the rows of its own feed, whatever the memory of the one before held."""
    with OpenVinoRunner(identity_model(tmp_path / "free.onnx")) as runner:
        assert str(runner.inputs[0]) == "float32 (N, 2)"
        before = runner.infer({"x0": np.full((2, 2), 7, np.float32)})["y_x0"]
        x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        assert runner.infer({"x0": x})["y_x0"].tolist() == x.tolist()
    assert before.tolist() == [[7, 7], [7, 7]]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(TensorProto.FLOAT, np.float32, id="float32"),
        pytest.param(TensorProto.FLOAT16, np.float16, id="float16"),
        pytest.param(TensorProto.UINT8, np.uint8, id="uint8"),
    ],
)
def test_what_a_model_declares_is_what_it_takes(kind: int, dtype: type, tmp_path: Path) -> None:
    """Each element type that effd0 knows goes in and comes out unchanged, in any memory order."""
    x: npt.NDArray[Any] = np.array([[1, 3], [2, 4]], dtype).T
    with OpenVinoRunner(identity_model(tmp_path / "same.onnx", kind)) as runner:
        assert [str(info) for info in runner.inputs] == [f"{np.dtype(dtype)} (N, 2)"]
        y = runner.infer({"x0": x})["y_x0"]
    assert y.dtype == dtype
    assert y.tolist() == [[1, 2], [3, 4]]


def test_an_input_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    """A model that takes int64 is none that images can be fed to."""
    model = identity_model(tmp_path / "whole.onnx", TensorProto.INT64)
    with (
        pytest.raises(RunnerError, match=r"x0 of .* is i64, but effd0 takes f32, f16, u8"),
        OpenVinoRunner(model),
    ):
        pass


def test_a_feed_of_another_type_is_refused(tmp_path: Path) -> None:
    """float64 is not quietly rounded to what the model takes."""
    with (
        OpenVinoRunner(identity_model(tmp_path / "same.onnx")) as runner,
        pytest.raises(FeedError, match=r"x0 is float64 .*, but the model takes float32"),
    ):
        runner.infer({"x0": np.ones((1, 2))})


def test_outputs_keep_the_models_names_and_order(tmp_path: Path) -> None:
    """Outputs that are one tensor inside are still two outside, neither sorted nor renamed."""
    text = """
        <ir_version: 6, opset_import: ["" : 11]>
        g (float[N, 2] x) => (float[N, 2] zebra, float[N, 2] ant, float[N, 2] inner)
        { inner = Relu(x)
          zebra = Identity(inner)
          ant = Neg(inner) }
    """
    onnx.save(parser.parse_model(text), str(tmp_path / "names.onnx"))
    with OpenVinoRunner(tmp_path / "names.onnx") as runner:
        assert [info.name for info in runner.outputs] == ["zebra", "ant", "inner"]
        found = runner.infer({"x": np.array([[-1, 2]], np.float32)})
    assert {name: value.tolist() for name, value in found.items()} == {
        "zebra": [[0, 2]],
        "ant": [[0, -2]],
        "inner": [[0, 2]],
    }


def test_casts_at_the_borders_leave_the_models_names(tmp_path: Path) -> None:
    """A model in float16 with float32 ends, as ``modify --edit fp16`` makes one, has its names."""
    text = """
        <ir_version: 6, opset_import: ["" : 11]>
        g (float[N, 2] x) => (float[N, 2] y)
        { x_half = Cast <to = 10> (x)
          y_half = Neg(x_half)
          y = Cast <to = 1> (y_half) }
    """
    onnx.save(parser.parse_model(text), str(tmp_path / "half.onnx"))
    with OpenVinoRunner(tmp_path / "half.onnx") as runner:
        assert [info.name for info in (*runner.inputs, *runner.outputs)] == ["x", "y"]
        assert runner.infer({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[-1, -1]]


def product(path: Path, x: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> Path:
    """Write a model that multiplies its input, of the shape of *x*, by the matrix *y*."""
    kind = TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["weights"], ["w"], to=kind),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, (x.shape[0], y.shape[1]))],
        [numpy_helper.from_array(y, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_computing_is_in_float32(dtype: type, tmp_path: Path) -> None:
    """Products of weights in either precision are as near the true ones as float32 is."""
    numbers = np.random.default_rng(4)
    x = numbers.standard_normal((64, 256)).astype(np.float32)
    weights: npt.NDArray[Any] = numbers.standard_normal((256, 64)).astype(dtype)
    true = x.astype(np.float64) @ weights.astype(np.float64)
    with OpenVinoRunner(product(tmp_path / "product.onnx", x, weights)) as runner:
        y = runner.infer({"x": x})["y"]
    # Relative L2 of six seeds, measured 2026-11-23: at most 3.0e-7 in float32; at least 2.9e-4 in
    # float16 and 2.3e-3 in bfloat16, which OpenVINO takes here where nothing is asked for.
    assert np.linalg.norm(y - true) / np.linalg.norm(true) < 1e-6


def test_another_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenVINO made of the request is read back, and believed rather than the request."""
    real = openvino.CompiledModel.get_property

    def rounded(compiled: Any, name: str) -> Any:
        """Answer as a build does that has made up its own mind."""
        return openvino.Type.bf16 if "PRECISION" in name else real(compiled, name)

    monkeypatch.setattr(openvino.CompiledModel, "get_property", rounded)
    with (
        pytest.raises(RunnerError, match=r"by OpenVINO for bf16, but f32 was asked for; install"),
        OpenVinoRunner(identity_model(tmp_path / "same.onnx")),
    ):
        pass


Asked = Callable[[str], Any]


@pytest.fixture
def asked(tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return what a model, opened with one thread, says of a property."""
    made: list[Any] = []
    real = openvino.Core.compile_model

    def keep(*given: Any) -> Any:
        """Compile, and remember."""
        made.append(real(*given))
        return made[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", keep)
    model = identity_model(tmp_path / "same.onnx")
    with open_runner("openvino", model, spec, RunnerOptions(threads=1)):
        get: Asked = made[0].get_property
    return get


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("INFERENCE_NUM_THREADS", "1", id="threads"),
        pytest.param("PERFORMANCE_HINT", "LATENCY", id="one-batch-at-a-time"),
        pytest.param("NUM_STREAMS", "1", id="streams"),
        pytest.param("EXECUTION_MODE_HINT", "ExecutionMode.ACCURACY", id="no-shortcuts"),
        pytest.param("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0", id="no-quantization"),
    ],
)
def test_settings_are_those_of_the_compiled_model(name: str, value: str, asked: Asked) -> None:
    """The compiled model itself says that it was made as asked."""
    assert str(asked(name)) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "it has 0 inputs and 0 outputs; make it with 'effd0 export'", id="empty"),
        pytest.param(b"no model\n", "(.|\n)*can't be parsed", id="text"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    content: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What OpenVINO says is kept, under the name of the file, and said nowhere else."""
    (tmp_path / "d0.onnx").write_bytes(content)
    with (
        pytest.raises(RunnerError, match=rf"d0\.onnx cannot be opened by OpenVINO: {message}"),
        OpenVinoRunner(tmp_path / "d0.onnx"),
    ):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """The next step is the command that exports."""
    with (
        pytest.raises(RunnerError, match=r"d0\.onnx does not exist; make it with 'effd0 export'"),
        OpenVinoRunner(tmp_path / "d0.onnx"),
    ):
        pass


def test_a_failure_while_running_is_the_runners(tmp_path: Path) -> None:
    """What OpenVINO raises during a run becomes a RunnerError with its words."""
    text = """
        <ir_version: 6, opset_import: ["" : 11]>
        g (float[N, 2] x) => (float[M, 3] y)
        <int64[2] shape = {-1, 3}> { y = Reshape(x, shape) }
    """
    onnx.save(parser.parse_model(text), str(tmp_path / "threes.onnx"))
    with OpenVinoRunner(tmp_path / "threes.onnx") as runner:
        assert runner.infer({"x": np.ones((3, 2), np.float32)})["y"].shape == (2, 3)
        with pytest.raises(RunnerError, match=r"threes\.onnx failed in OpenVINO: (.|\n)*Reshape"):
            runner.infer({"x": np.ones((2, 2), np.float32)})


def test_without_openvino_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An install without the backend says which command adds it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with (
        pytest.raises(MissingExtra, match=r"openvino is not .*pip install 'effd0\[openvino\]'"),
        OpenVinoRunner(tmp_path / "d0.onnx"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(RunnerOptions(device="cuda"), "--device is cuda", id="device"),
        pytest.param(RunnerOptions(precision="fp16"), "--precision is fp16", id="precision"),
        pytest.param(
            RunnerOptions(graph_optimization="basic"),
            "--graph-optimization is basic",
            id="graph-optimization",
        ),
        pytest.param(
            RunnerOptions(provider_option=("a=1", "b=2")),
            "--provider-option is a=1, b=2",
            id="provider-option",
        ),
    ],
)
def test_options_of_other_backends_are_refused(
    options: RunnerOptions, message: str, tmp_path: Path, spec: ModelSpec
) -> None:
    """Nothing that was asked for is quietly left aside."""
    wanted = f"{message}, but --runner openvino does not know it"
    with pytest.raises(RunnerError, match=wanted):
        open_runner("openvino", tmp_path / "d0.onnx", spec, options)
