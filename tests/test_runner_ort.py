"""Tests for `effd0.runners.onnxruntime`: fixed batches, providers, and files that are no models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, parser

from effd0.errors import FeedError, MissingExtra, RunnerError
from effd0.runners.onnxruntime import OrtRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors

from .onnx_models import identity_model, need_own_export, operators, pinned

CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def four(
    onnx_model: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The model under test with its batch fixed to four."""
    need_own_export(pytestconfig)
    return pinned(onnx_model, tmp_path_factory.mktemp("fixed") / "four.onnx", 4)


@pytest.mark.slow
def test_a_fixed_batch_takes_fewer_images(
    four: Path, images: Tensor, spec: ModelSpec, torch_heads: Tensors
) -> None:
    """Three images give the three rows that they give among four, bit for bit, and torch's."""
    with OrtRunner(four, provider=CPU) as runner:
        assert runner.inputs[0].shape == (4, 3, 512, 512)
        padded, whole = (runner.infer({spec.input_name: images[:n]}) for n in (3, 4))
    assert {head.shape[0] for head in padded.values()} == {3}
    assert [n for n in whole if not np.array_equal(whole[n][:3], padded[n])] == []
    worst = compare_tensors({n: head[:3] for n, head in torch_heads.items()}, padded)[0]
    # Measured 2026-11-23: at most 4.1e-5 with the batch fixed.
    assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)


def test_a_fixed_batch_refuses_more_images(four: Path, images: Tensor, spec: ModelSpec) -> None:
    """Five images are not cut to four."""
    with (
        OrtRunner(four, provider=CPU) as runner,
        pytest.raises(FeedError, match=r"\(5, 3, 512, 512\), but the model takes float32 \(4, 3"),
    ):
        runner.infer({spec.input_name: images})


def test_a_provider_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message lists the providers of this ONNX Runtime; the CPU does not step in."""
    model = identity_model(tmp_path / "identity.onnx")
    with (
        pytest.raises(RunnerError, match=r"--provider is NoProvider, but .* has .*CPUExecution"),
        OrtRunner(model, provider="NoProvider"),
    ):
        pass


def test_a_provider_that_was_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that lists a provider and then opens the model on another one is found out."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["Elsewhere", CPU])
    real = onnxruntime.InferenceSession

    def on_the_cpu(path: str, _: object, providers: list[object], **__: object) -> object:
        """Open the model as ONNX Runtime does for a provider that fails to start."""
        assert providers == [("Elsewhere", {})]
        return real(path, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    model = identity_model(tmp_path / "identity.onnx")
    with (
        pytest.raises(RunnerError, match="was opened on CPUExecutionProvider, but Elsewhere was"),
        OrtRunner(model, provider="Elsewhere"),
    ):
        pass


#: It is in every build for Linux, runs remote models alone, and leaves all nodes to the CPU.
IDLE = "AzureExecutionProvider"


def test_nodes_left_to_the_cpu_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A provider that takes no node does not hide behind the CPU; the message leads on."""
    if IDLE not in onnxruntime.get_available_providers():
        pytest.skip(f"needs an ONNX Runtime with {IDLE}, a provider that takes no node")
    model = identity_model(tmp_path / "identity.onnx")
    assert onnxruntime.InferenceSession(str(model), providers=[IDLE]).get_providers()[0] == IDLE
    message = rf"on {IDLE}: .*graph nodes that are assigned to the default CPU EP.*effd0 simplify"
    with pytest.raises(RunnerError, match=message), OrtRunner(model, provider=IDLE):
        pass
    # Said once, by the error: not by ONNX Runtime's own log, nor by what retries on the CPU.
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Options and keywords of every session that is opened; a provider called Chip is the CPU."""
    opened: list[tuple[Any, dict[str, Any]]] = []
    real = onnxruntime.InferenceSession

    class Chip:
        """A session whose provider calls itself Chip."""

        def __init__(self, path: str, options: object, **given: object) -> None:
            opened.append((options, given))
            self.session = real(path, providers=[CPU])

        def __getattr__(self, name: str) -> object:
            return getattr(self.session, name)

        def get_providers(self) -> list[str]:
            """Name the chip."""
            return ["Chip", CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["Chip", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Chip)
    return opened


def test_no_provider_is_helped_out_by_the_cpu(
    sessions: list[tuple[Any, dict[str, Any]]], tmp_path: Path
) -> None:
    """Neither a node, nor a failed start, nor a failed run goes to the CPU instead."""
    with OrtRunner(identity_model(tmp_path / "identity.onnx"), provider="Chip"):
        ((options, given),) = sessions
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert given == {"providers": [("Chip", {})], "enable_fallback": 0}


def test_a_run_that_fails_is_not_repeated_on_the_cpu(tmp_path: Path) -> None:
    """ONNX Runtime would open a second session on the CPU; this one is told not to."""
    with OrtRunner(identity_model(tmp_path / "identity.onnx"), provider=CPU) as runner:
        assert runner._session._enable_fallback is False


def test_provider_options_reach_the_provider_and_the_description(
    sessions: list[tuple[Any, dict[str, Any]]], tmp_path: Path, spec: ModelSpec
) -> None:
    """What was asked of a provider is handed to it as written, and the report tells it."""
    model = identity_model(tmp_path / "identity.onnx")
    given = RunnerOptions(provider="Chip", provider_option=("device_id=1", "path=a=b"))
    with open_runner("ort", model, spec, given) as runner:
        ((_, keywords),) = sessions
        assert keywords["providers"] == [("Chip", {"device_id": "1", "path": "a=b"})]
        assert runner.description.endswith(", Chip, device_id=1, path=a=b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            RunnerOptions(provider="Chip", provider_option=("device_id",)),
            r"--provider-option is device_id, but each must be KEY=VALUE",
            id="no-value",
        ),
        pytest.param(
            RunnerOptions(provider="Chip", provider_option=("=1",)), "is =1, but each", id="no-key"
        ),
        pytest.param(
            RunnerOptions(provider="Chip", provider_option=("a=1", "a=2")),
            r"is a=1, a=2, but each must be KEY=VALUE, with every key once",
            id="twice",
        ),
        pytest.param(
            RunnerOptions(provider_option=("device_id=1",)),
            r"--provider-option gives device_id, but CPUExecutionProvider has none",
            id="to-the-cpu",
        ),
        pytest.param(
            RunnerOptions(graph_optimization="o2"),
            r"--graph-optimization is 'o2', but disable, basic, extended, all exist",
            id="unknown-level",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    options: RunnerOptions, message: str, tmp_path: Path, spec: ModelSpec
) -> None:
    """ONNX Runtime passes over much in silence; effd0 says what it takes."""
    with pytest.raises(RunnerError, match=message):
        open_runner("ort", tmp_path / "d0.onnx", spec, options)


#: Three nodes to be merged, in two steps: the constants at once, Relu into Conv by a fusion.
FUSIBLE = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
    <float[1, 1, 1, 1] half = {0.5}> {
        w = Add(half, half)
        c = Conv(x, w)
        y = Relu(c)
    }
"""


@pytest.mark.parametrize(
    ("level", "nodes"),
    [
        pytest.param("disable", ["Add", "Conv", "Relu"], id="disable"),
        pytest.param("basic", ["Conv", "Relu"], id="basic"),
        pytest.param("extended", ["FusedConv"], id="extended"),
    ],
)
def test_graph_optimization_decides_what_runs(
    level: str, nodes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level leaves the nodes that ONNX Runtime documents for it, and is in the description."""
    model = tmp_path / "fusible.onnx"
    onnx.save(parser.parse_model(FUSIBLE), str(model))
    real = onnxruntime.SessionOptions

    def keeping() -> Any:
        """Options that also write the graph that runs."""
        options = real()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", keeping)
    with OrtRunner(model, provider=CPU, graph_optimization=level) as runner:
        assert runner.description.endswith(f", {CPU}, graph optimization {level}")
        y = runner.infer({"x": np.full((1, 1, 4, 4), -1, np.float32)})["y"]
    assert not y.any()
    assert operators(onnx.load(str(tmp_path / "optimized.onnx"))) == nodes


@pytest.mark.parametrize("content", [b"", b"no model\n"], ids=["empty", "text"])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    """What ONNX Runtime says is kept, under the name of the file."""
    (tmp_path / "d0.onnx").write_bytes(content)
    with (
        pytest.raises(RunnerError, match=rf"d0\.onnx cannot be opened by ONNX Runtime on {CPU}"),
        OrtRunner(tmp_path / "d0.onnx", provider=CPU),
    ):
        pass


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """The next step is the command that exports."""
    with (
        pytest.raises(RunnerError, match=r"d0\.onnx does not exist; make it with 'effd0 export'"),
        OrtRunner(tmp_path / "d0.onnx", provider=CPU),
    ):
        pass


def test_an_input_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    """A model that takes int64 is none that images can be fed to."""
    model = identity_model(tmp_path / "whole.onnx", TensorProto.INT64)
    with (
        OrtRunner(model, provider=CPU) as runner,
        pytest.raises(RunnerError, match=r"x0 of .* is tensor\(int64\), but effd0 takes tensor\(f"),
    ):
        runner.infer({"x0": np.ones((1, 2), np.int64)})


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(TensorProto.FLOAT, np.float32, id="float32"),
        pytest.param(TensorProto.FLOAT16, np.float16, id="float16"),
        pytest.param(TensorProto.UINT8, np.uint8, id="uint8"),
    ],
)
def test_what_a_model_declares_is_what_it_takes(kind: int, dtype: type, tmp_path: Path) -> None:
    """Each element type that effd0 knows goes in and comes out unchanged."""
    x: npt.NDArray[Any] = np.array([[1, 2], [3, 4]], dtype)
    with OrtRunner(identity_model(tmp_path / "same.onnx", kind), provider=CPU) as runner:
        assert [str(info) for info in runner.inputs] == [f"{np.dtype(dtype)} (N, 2)"]
        y = runner.infer({"x0": x})["y_x0"]
    assert y.dtype == dtype
    assert y.tolist() == [[1, 2], [3, 4]]


def test_threads_are_set(tmp_path: Path) -> None:
    """The number asked for is the number of the session."""
    model = identity_model(tmp_path / "same.onnx")
    with OrtRunner(model, provider=CPU, threads=3) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == 3


def test_a_failure_while_running_is_the_runners(tmp_path: Path) -> None:
    """What ONNX Runtime raises during a run becomes a RunnerError with its words."""

    class Broken:
        """A session whose device is gone."""

        def __init__(self, session: object) -> None:
            self.session = session

        def __getattr__(self, name: str) -> object:
            return getattr(self.session, name)

        def run(self, *_: object) -> None:
            """Fail as ONNX Runtime does."""
            raise RuntimeError("device lost")

    with OrtRunner(identity_model(tmp_path / "same.onnx"), provider=CPU) as runner:
        runner._session = Broken(runner._session)
        with pytest.raises(RunnerError, match=r"same\.onnx failed in ONNX Runtime: device lost"):
            runner.infer({"x0": np.ones((1, 2), np.float32)})


def test_without_onnx_runtime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light install says which command adds the backend."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with (
        pytest.raises(MissingExtra, match=r"onnxruntime is not .*pip install 'effd0\[onnx\]'"),
        OrtRunner(tmp_path / "d0.onnx", provider=CPU),
    ):
        pass
