"""ONNX Runtime: the provider asked for and no other, graph optimization, runs side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from effd0.detection.heads import named_heads
from effd0.errors import FeedError, GraphError, HeadError, RunnerError
from effd0.graph.onnx_info import load_graph
from effd0.runners.onnxruntime import OrtRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.types import Tensors
from tests.helpers.onnx_models import identity_model, operators, parsed

CPU = "CPUExecutionProvider"


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


@pytest.mark.parametrize(
    ("opset", "zero", "message"),
    [
        pytest.param(11, TensorProto.INT8, "attribute: axis .* per channel .* opset 13", id="axis"),
        pytest.param(13, TensorProto.UINT8, "different types .* zero point", id="zero-point"),
        pytest.param(13, TensorProto.INT16, "int16.* 16 .* opset 21", id="int16"),
    ],
)
def test_a_quantized_model_that_does_not_open_is_explained(
    opset: int, zero: int, message: str, tmp_path: Path
) -> None:
    """What ONNX Runtime says of a graph with scales is shown with its likely cause."""
    values = [
        helper.make_tensor("q", TensorProto.INT8, [3], [1, 2, 3]),
        helper.make_tensor("s", TensorProto.FLOAT, [3], [1, 1, 1]),
        helper.make_tensor("z", zero, [3], [0, 0, 0]),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    x, y = ([helper.make_tensor_value_info(end, TensorProto.FLOAT, [3])] for end in "xy")
    graph = helper.make_graph(nodes, "quantized", x, y, values)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8),
        tmp_path / "q.onnx",
    )
    with (
        pytest.raises(RunnerError, match=f"cannot be opened by ONNX Runtime .*{message}"),
        OrtRunner(tmp_path / "q.onnx", provider=CPU),
    ):
        pass


def test_an_output_that_is_a_scalar_comes_out_whole(tmp_path: Path) -> None:
    """What has no rows is no head, which is said where heads are looked for; it is not cut."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
    ]
    x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 2]) for end in "xy")
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "extra", [x], [y, total])
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "s.onnx")
    with OrtRunner(tmp_path / "s.onnx", provider=CPU) as runner:
        found = runner.infer({"x": np.ones((3, 2), np.float32)})
    assert found["total"] == 6
    with pytest.raises(HeadError, match=r"output y is .* the model gives .*'total'"):
        named_heads(found, D0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"<html>", "is a web page, but an ONNX model was wanted", id="page"),
        pytest.param(
            b"version https://git-lfs", "is a Git LFS pointer, .* 'git lfs pull'", id="lfs"
        ),
        pytest.param(b"PK\3\4", "is a checkpoint, .* give it by --checkpoint", id="checkpoint"),
        pytest.param(b"\x80\2}", "is a checkpoint, .* --checkpoint", id="old-checkpoint"),
        pytest.param(b"\7\1" + bytes(6) + b"{}", "is a checkpoint, .*", id="safetensors"),
        pytest.param(b"IMOD", "is a model compiled for an NPU, .* --model", id="om"),
        pytest.param(b"\x1f\x8b", "is compressed by gzip, .* gunzip", id="gzip"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """Each reader of ONNX files says what it was given in place of one."""
    path = tmp_path / "d0.onnx"
    path.write_bytes(content)
    with pytest.raises(RunnerError, match=message), OrtRunner(path, provider=CPU):
        pass
    with pytest.raises(GraphError, match=message):
        load_graph(path)


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


def test_a_provider_works_alone_and_as_it_was_asked_to(
    sessions: list[tuple[Any, dict[str, Any]]], tmp_path: Path, spec: ModelSpec
) -> None:
    """No node, failed start or failed run goes to the CPU; its options are told in the report."""
    model = identity_model(tmp_path / "identity.onnx")
    given = RunnerOptions(provider="Chip", provider_option=("device_id=1", "path=a=b"))
    with open_runner("ort", model, spec, given) as runner:
        ((options, keywords),) = sessions
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        providers = [("Chip", {"device_id": "1", "path": "a=b"})]
        assert keywords == {"providers": providers, "enable_fallback": 0}
        assert runner.description.endswith(", Chip, device_id=1, path=a=b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider_option": ("device_id",)}, "is device_id, but each must be KEY=VALUE"),
        ({"provider_option": ("=1",)}, "is =1, but each"),
        ({"provider_option": ("a=1", "a=2")}, "is a=1, a=2, but each .* with every key once"),
        ({"provider_option": ("a=1",)}, f"--provider-option gives a, but {CPU} has none"),
        ({"graph_optimization": "o2"}, "'o2', but disable, basic, extended, all exist"),
    ],
    ids=["no-value", "no-key", "twice", "to-the-cpu", "unknown-level"],
)
def test_options_that_would_be_ignored_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path, spec: ModelSpec
) -> None:
    """ONNX Runtime passes over much in silence; effd0 says what it takes."""
    with pytest.raises(RunnerError, match=message):
        open_runner("ort", tmp_path / "d0.onnx", spec, RunnerOptions(**options))


#: Three nodes to be merged, in two steps: the constants at once, Relu into Conv by a fusion.
FUSIBLE = """
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
        ("disable", ["Add", "Conv", "Relu"]),
        ("basic", ["Conv", "Relu"]),
        ("extended", ["FusedConv"]),
    ],
    ids=["disable", "basic", "extended"],
)
def test_graph_optimization_decides_what_runs(
    level: str, nodes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level leaves the nodes that ONNX Runtime documents for it, and is in the description."""
    model = tmp_path / "fusible.onnx"
    onnx.save(parsed(FUSIBLE, 13), str(model))
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


def test_threads_are_set(tmp_path: Path) -> None:
    """The number asked for is the number of the session."""
    model = identity_model(tmp_path / "same.onnx")
    with OrtRunner(model, provider=CPU, threads=3) as runner:
        assert runner.opened()[0].get_session_options().intra_op_num_threads == 3


def doubling(folder: Path, batch: str = "1") -> Path:
    """Write a model that doubles a (batch, 4) input; return its path."""
    path = folder / "double.onnx"
    graph = parsed(f"g (float[{batch},4] x) => (float[{batch},4] y) {{ y = Add(x, x) }}")
    onnx.save(graph, str(path))
    return path


def feeds(count: int, taken: list[int], rows: int = 1) -> Iterator[Tensors]:
    """Yield feeds filled with their numbers, and note each in *taken*."""
    for number in range(count):
        taken.append(number)
        yield {"x": np.full((rows, 4), number, np.float32)}


@pytest.fixture
def at_a_time(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs were under way when each one began; they take long, the first the longest."""
    noted: list[int] = []
    running, lock, right = [0], threading.Lock(), OrtRunner._infer

    def slow(self: OrtRunner, session: Any, feed: Tensors) -> Tensors:
        with lock:
            running[0] += 1
            noted.append(running[0])
        time.sleep(0.05 if feed["x"][0, 0] == 0 else 0.01)
        outputs = right(self, session, feed)
        with lock:
            running[0] -= 1
        return outputs

    monkeypatch.setattr(OrtRunner, "_infer", slow)
    return noted


@pytest.mark.parametrize(
    ("threads", "batch", "rows", "most"),
    [
        pytest.param(1, "1", 1, 1, id="one-thread"),
        pytest.param(2, "1", 1, 2, id="two-threads"),
        pytest.param(9, "1", 1, 4, id="many-threads"),
        pytest.param(2, "2", 2, 1, id="batch=2"),
        pytest.param(2, "2", 1, 1, id="batch=2-fed-one"),
        pytest.param(2, "N", 1, 2, id="batch-free-fed-one"),
        pytest.param(2, "N", 2, 1, id="batch-free-fed-two"),
    ],
)
def test_outputs_come_in_order_from_as_many_runs_as_there_are_threads(
    threads: int, batch: str, rows: int, most: int, at_a_time: list[int], tmp_path: Path
) -> None:
    """Each feed gets its own outputs though the first takes longest; memory bounds the runs."""
    taken: list[int] = []
    with OrtRunner(doubling(tmp_path, batch), provider=CPU, threads=threads) as runner:
        for number, outputs in enumerate(runner.infer_stream(feeds(8, taken, rows))):
            assert outputs["y"].tolist() == [[2 * number] * 4] * rows
            assert len(taken) <= number + 1 + most
    assert taken == list(range(8))
    # A busy host starts threads late.
    assert min(most, 2) <= max(at_a_time) <= most


def test_threads_that_are_not_given_are_the_processors(
    at_a_time: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process may use decides, not what the machine has."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    with OrtRunner(doubling(tmp_path), provider=CPU, threads=None) as runner:
        assert len(list(runner.infer_stream(feeds(8, [])))) == 8
    assert 2 <= max(at_a_time) <= 3


@pytest.mark.parametrize("threads", [1, 2], ids="threads={}".format)
def test_a_wrong_feed_is_refused_in_its_turn(threads: int, tmp_path: Path) -> None:
    """The feeds before it are answered, then its error comes out as it is."""

    def broken() -> Iterator[Tensors]:
        yield from feeds(2, [])
        yield {"x": np.zeros((1, 5), np.float32)}

    done: list[Tensors] = []
    with (
        OrtRunner(doubling(tmp_path), provider=CPU, threads=threads) as runner,
        pytest.raises(FeedError, match=r"x is float32 \(1, 5\), but the model takes"),
    ):
        done.extend(runner.infer_stream(broken()))
    assert len(done) == 2


def test_a_run_that_is_left_ends_its_threads(tmp_path: Path) -> None:
    """Who stops after the first outputs leaves no work going on behind."""
    with OrtRunner(doubling(tmp_path), provider=CPU, threads=2) as runner:
        stream = runner.infer_stream(feeds(8, []))
        next(stream)
        stream.close()
        assert not [t.name for t in threading.enumerate() if t.name.startswith("effd0-ort")]
