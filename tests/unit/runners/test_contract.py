"""What every runner of ONNX files holds to, by tiny models: types, batches, and files of others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from effd0.errors import FeedError, MissingExtra, RunnerError
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors
from tests.helpers.onnx_models import identity_model, need_own_export, parsed, pinned

#: Runner -> its package and what messages call it.
BACKENDS = {"ort": ("onnxruntime", "ONNX Runtime"), "openvino": ("openvino", "OpenVINO")}
Open = Callable[[Path], Any]


@pytest.fixture(params=BACKENDS, ids="runner={}".format)
def backend(request: pytest.FixtureRequest) -> str:
    """The runner's name."""
    return str(request.param)


@pytest.fixture
def opened(backend: str) -> Open:
    """A runner of a file, to be entered."""
    return lambda path: open_runner(backend, path, D0)


@pytest.mark.slow
def test_a_fixed_batch_takes_fewer_images(
    onnx_model: Path,
    images: Tensor,
    spec: ModelSpec,
    torch_heads: Tensors,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    opened: Open,
) -> None:
    """Three images give the three rows that they give among four, bit for bit, and torch's."""
    need_own_export(pytestconfig)
    with opened(pinned(onnx_model, tmp_path / "four.onnx", 4)) as runner:
        assert runner.inputs[0].shape == (4, 3, 512, 512)
        padded, whole = (runner.infer({spec.input_name: images[:n]}) for n in (3, 4))
    assert {head.shape[0] for head in padded.values()} == {3}
    assert [n for n in whole if not np.array_equal(whole[n][:3], padded[n])] == []
    worst = compare_tensors({n: head[:3] for n, head in torch_heads.items()}, padded)[0]
    # Measured 2026-11-23: at most 4.1e-5 with the batch fixed.
    assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)


def test_a_fixed_batch_is_padded_and_never_cut(opened: Open, tmp_path: Path) -> None:
    """One row of two comes back alone; three rows are refused, and so is float64."""
    model = pinned(identity_model(tmp_path / "free.onnx"), tmp_path / "two.onnx", 2)
    with opened(model) as runner:
        assert [str(info) for info in (*runner.inputs, *runner.outputs)] == ["float32 (2, 2)"] * 2
        y = runner.infer({"x0": np.array([[1, 2]], np.float32)})["y_x0"]
        with pytest.raises(FeedError, match=r"\(3, 2\), but the model takes float32 \(2, 2\)"):
            runner.infer({"x0": np.ones((3, 2), np.float32)})
        with pytest.raises(FeedError, match=r"x0 is float64 .*, but the model takes float32"):
            runner.infer({"x0": np.ones((1, 2))})
    assert y.tolist() == [[1, 2]]


@pytest.mark.parametrize("rows", [3, 1, 4], ids="rows={}".format)
def test_a_free_batch_changes_from_run_to_run(rows: int, opened: Open, tmp_path: Path) -> None:
    """Each run has the rows of its own feed; what was given before stays as it was."""
    with opened(identity_model(tmp_path / "free.onnx")) as runner:
        before = runner.infer({"x0": np.full((2, 2), 7, np.float32)})["y_x0"]
        x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        assert runner.infer({"x0": x})["y_x0"].tolist() == x.tolist()
    assert before.tolist() == [[7, 7], [7, 7]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_model_takes_what_it_declares(dtype: str, opened: Open, tmp_path: Path) -> None:
    """Each element type that effd0 knows goes in and comes out unchanged, in any memory order."""
    x: npt.NDArray[Any] = np.array([[1, 3], [2, 4]], dtype).T
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    with opened(identity_model(tmp_path / "same.onnx", kind)) as runner:
        assert [str(info) for info in runner.inputs] == [f"{dtype} (N, 2)"]
        y = runner.infer({"x0": x})["y_x0"]
    assert y.dtype == dtype
    assert y.tolist() == [[1, 2], [3, 4]]


def test_an_input_of_whole_numbers_is_refused(opened: Open, tmp_path: Path) -> None:
    """A model that takes int64 is none that images can be fed to."""
    model = identity_model(tmp_path / "whole.onnx", TensorProto.INT64)
    with (
        pytest.raises(RunnerError, match=r"x0 of .* is (tensor\(int64\)|i64), but effd0 takes"),
        opened(model) as runner,
    ):
        runner.infer({"x0": np.ones((1, 2), np.int64)})


@pytest.mark.parametrize("content", [b"", b"no model\n"], ids=["empty", "text"])
def test_a_file_that_is_no_model_is_refused(
    content: bytes, backend: str, opened: Open, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the backend says is kept, under the name of the file, and said nowhere else."""
    (tmp_path / "d0.onnx").write_bytes(content)
    message = rf"d0\.onnx cannot be opened by {BACKENDS[backend][1]}"
    with pytest.raises(RunnerError, match=message), opened(tmp_path / "d0.onnx"):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_says_how_to_make_one(opened: Open, tmp_path: Path) -> None:
    """The next step is the command that exports."""
    message = r"d0\.onnx does not exist; make it with 'effd0 export'"
    with pytest.raises(RunnerError, match=message), opened(tmp_path / "d0.onnx"):
        pass


def test_a_failure_while_running_is_the_runners(backend: str, opened: Open, tmp_path: Path) -> None:
    """What the backend raises during a run becomes a RunnerError with its words."""
    text = """
        g (float[N, 2] x) => (float[M, 3] y)
        <int64[2] shape = {-1, 3}> { y = Reshape(x, shape) }
    """
    onnx.save(parsed(text), str(tmp_path / "threes.onnx"))
    message = rf"threes\.onnx failed in {BACKENDS[backend][1]}: (.|\n)*[Rr]eshape"
    with opened(tmp_path / "threes.onnx") as runner:
        assert runner.infer({"x": np.ones((3, 2), np.float32)})["y"].shape == (2, 3)
        with pytest.raises(RunnerError, match=message):
            runner.infer({"x": np.ones((2, 2), np.float32)})


def test_without_its_package_the_extra_is_named(
    backend: str, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light install says which command adds the backend."""
    package = BACKENDS[backend][0]
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not .*pip install 'effd0\[\w+\]'"
    with pytest.raises(MissingExtra, match=message), opened(tmp_path / "d0.onnx"):
        pass


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        pytest.param("tpu", RunnerOptions(), "is 'tpu', but effd0 knows ort, openvino", id="name"),
        ("openvino", RunnerOptions(device="cuda"), "--device is cuda, but --runner openvino"),
        (
            "openvino",
            RunnerOptions(provider_option=("a=1", "b=2")),
            "--provider-option is a=1, b=2, but --runner openvino",
        ),
        *[
            (runner, RunnerOptions(launch="graph"), f"but --runner {runner} does not know it")
            for runner in ("ort", "acl", "recorded")
        ],
    ],
)
def test_options_of_other_backends_are_refused(
    runner: str, options: RunnerOptions, message: str
) -> None:
    """Nothing that was asked for is quietly left aside; an unknown name lists those that exist."""
    with pytest.raises(RunnerError, match=message):
        open_runner(runner, Path("d0.onnx"), D0, options)
