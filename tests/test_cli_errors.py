"""Tests for `effd0.cli`: a wrong path or option is one clear line and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .cli_run import assert_one_error
from .fakes.server import FakeHost, serving


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param(
            r"^DatasetError: nowhere/annotations/instances_val2017\.json does not exist; give --ro",
            ["evaluate", "--root", "nowhere"],
            id="root",
        ),
        pytest.param(
            r"^DatasetError: .*instances_train2017\.json does not exist; .* --split its name",
            ["evaluate", "--split", "train2017"],
            id="split",
        ),
        pytest.param(
            r"RunnerError: no\.onnx does not exist; make it with 'effd0 export'",
            ["evaluate", "--model", "no.onnx", "--image-limit", 1],
            id="model",
        ),
        pytest.param(
            r"CheckpointError: no\.pth does not exist; get one with 'effd0 fetch checkpoint'",
            ["evaluate", "--checkpoint", "no.pth", "--image-limit", 1],
            id="checkpoint",
        ),
        pytest.param(
            r"^RunnerError: --launch is graph, but detections are made on the host; give --postpr",
            ["evaluate", "--runner", "torch", "--launch", "graph"],
            id="launch",
        ),
        pytest.param(
            r"^RunnerError: --launch is graph, but --device is cpu, and only CUDA has graphs",
            ["benchmark", "--runner", "torch", "--launch", "graph", "--postprocess", "device"],
            id="launch-to-time",
        ),
        pytest.param(
            r"^ImageError: .*no\.jpg",
            ["detect", "no.jpg", "--out", "out.jpg"],
            id="image",
        ),
        pytest.param(
            r"^GraphError: no\.onnx does not exist",
            ["simplify", "--model", "no.onnx", "--out", "out.onnx"],
            id="model-to-simplify",
        ),
        pytest.param(
            r"^GraphError: no\.onnx does not exist",
            ["modify", "--model", "no.onnx", "--out", "out.onnx"],
            id="model-to-modify",
        ),
        pytest.param(
            r"^CheckpointError: no\.pth does not exist",
            ["export", "--checkpoint", "no.pth", "--out", "out.onnx"],
            id="checkpoint-to-export",
        ),
        pytest.param(
            r"^SpecError: --arch is 'd1', but effd0 knows tf_efficientdet_d0",
            ["evaluate", "--arch", "d1"],
            id="architecture",
        ),
        pytest.param(
            r"^RunnerError: both --model and --checkpoint are given",
            ["evaluate", "--model", "no.onnx", "--checkpoint", "no.pth"],
            id="model-and-checkpoint",
        ),
        pytest.param(
            r"^RunnerError: --runner torch takes a checkpoint, but --model no\.onnx is given",
            ["evaluate", "--runner", "torch", "--model", "no.onnx"],
            id="torch-with-model",
        ),
        pytest.param(
            r"^RunnerError: --precision is fp16, but --runner ort does not know it",
            ["evaluate", "--precision", "fp16"],
            id="precision-in-ort",
        ),
        pytest.param(
            r"^RunnerError: --graph-optimization is 'o2', but disable, basic, extended, all exist",
            ["evaluate", "--graph-optimization", "o2"],
            id="graph-optimization",
        ),
        pytest.param(
            r"^RunnerError: --provider-option is device_id, but each must be KEY=VALUE",
            ["infer", "--provider-option", "device_id"],
            id="provider-option",
        ),
        pytest.param(
            r"^RunnerError: --provider-option is a=1, b=2, but --runner torch does not know it",
            ["detect", "no.jpg", "--out=a.jpg", "--provider-option=a=1", "--provider-option=b=2"],
            id="provider-option-in-torch",
        ),
        pytest.param(
            r"^RunnerError: --graph-optimization is basic, but --runner openvino does not know it",
            ["infer", "--runner", "openvino", "--graph-optimization", "basic"],
            id="graph-optimization-in-openvino",
        ),
        pytest.param(
            r"^ExportError: --opset is 10, but the torchscript exporter writes 11 to 18",
            ["export", "--opset", 10, "--out", "out.onnx"],
            id="opset",
        ),
    ],
)
def test_what_is_not_there_is_named(
    message: str, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path or name that leads nowhere is shown as it was given, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert_one_error(message, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("onnxruntime", "onnx", ["evaluate", "--model", "d0.onnx", "--image-limit", 1]),
        ("openvino", "openvino", ["infer", "--runner", "openvino", "--model", "d0.onnx"]),
        ("torch", "torch", ["evaluate", "--runner", "torch", "--image-limit", 1]),
        ("effdet", "torch", ["evaluate", "--runner", "torch", "--image-limit", 1]),
        ("onnx", "onnx", ["simplify", "--model", "d0.onnx", "--out", "out.onnx"]),
        ("torch", "torch", ["export", "--out", "out.onnx"]),
    ],
    ids=["onnxruntime", "openvino", "torch", "effdet", "onnx", "torch-to-export"],
)
def test_a_missing_extra_comes_with_its_command(
    module: str,
    extra: str,
    arguments: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a light install the message is the pip command that adds what is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d0.onnx").write_bytes(b"a model")
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"MissingExtra: {module} is not installed, .*pip install 'effd0\[{extra}\]'"
    assert_one_error(message, *arguments)


def test_a_download_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror without the file is bad input, and nothing is left."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FakeHost({})) as host:
        given = ("checkpoint", "--mirror", host.url, "--out", tmp_path / "d0.pth")
        assert_one_error(r"FetchError: http://127.* cannot be had: 404", "fetch", *given)
    assert list(tmp_path.iterdir()) == []


def test_markup_in_a_message_is_shown_as_it_is() -> None:
    """A path such as a[1].onnx is no markup of the terminal's."""
    arguments = ("evaluate", "--model", "[red]a[1].onnx", "--image-limit", 1)
    assert_one_error(r"RunnerError: \[red\]a\[1\]\.onnx does not exist", *arguments)
