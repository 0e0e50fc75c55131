"""Tests for `effd0.export.to_onnx`: what a file says of itself, and settings that do not exist."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxsim
import pytest
from onnx import TensorProto

from effd0.errors import ExportError
from effd0.export import to_onnx
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.io import sha256
from effd0.spec import ModelSpec
from tests.helpers.onnx_models import need_own_export, pad_model


@pytest.mark.parametrize(
    ("settings", "opset"),
    [
        pytest.param(ExportSettings(), 11, id="torchscript-default"),
        pytest.param(ExportSettings(opset=18), 18, id="torchscript-highest"),
        pytest.param(ExportSettings(exporter="dynamo"), 18, id="dynamo-default"),
        pytest.param(ExportSettings(opset=23, exporter="dynamo"), 23, id="dynamo-highest"),
        pytest.param(ExportSettings(batch_size=None), 11, id="free-batch"),
    ],
)
def test_an_opset_is_the_one_asked_for_or_the_exporters_lowest(
    settings: ExportSettings, opset: int
) -> None:
    """Old compilers are served by default, each exporter within what it can write."""
    assert settings.checked_opset() == opset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            ExportSettings(opset=10),
            "--opset is 10, but the torchscript exporter writes 11 to 18",
            id="torchscript-too-old",
        ),
        pytest.param(
            ExportSettings(opset=19), "--opset is 19, but the torchscript", id="torchscript-too-new"
        ),
        pytest.param(
            ExportSettings(opset=17, exporter="dynamo"),
            "--opset is 17, but the dynamo exporter writes 18 to 23",
            id="dynamo-too-old",
        ),
        pytest.param(
            ExportSettings(opset=24, exporter="dynamo"), "--opset is 24, but", id="dynamo-too-new"
        ),
        pytest.param(ExportSettings(opset=0), "--opset is 0, but", id="opset-zero"),
        pytest.param(
            ExportSettings(exporter="onnx2"),
            "--exporter is 'onnx2', but torchscript, dynamo exist",
            id="exporter",
        ),
        pytest.param(
            ExportSettings(batch_size=0), "--batch-size is 0, but must be at least 1", id="batch"
        ),
    ],
)
def test_settings_that_cannot_be_had_are_refused(
    settings: ExportSettings, message: str, spec: ModelSpec, tmp_path: Path
) -> None:
    """The message shows the value and the range, before any weight is read."""
    with pytest.raises(ExportError, match=message):
        write_onnx(tmp_path / "no.pth", tmp_path / "d0.onnx", spec, settings)


@pytest.fixture(scope="module")
def exported(onnx_model: Path, pytestconfig: pytest.Config) -> Any:
    """The content of the default export with a free batch."""
    need_own_export(pytestconfig)
    return onnx.load(str(onnx_model))


def shape(value: Any) -> list[str | int]:
    """Return the dimensions of a graph's input or output, names where they are free."""
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_default_export_is_the_recipes(exported: Any, spec: ModelSpec) -> None:
    """Opset 11, float32, one input x.1, and the ten heads by name in the recipe's order."""
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", 11)]
    assert [value.name for value in exported.graph.input] == ["x.1"]
    assert shape(exported.graph.input[0]) == ["N", 3, 512, 512]
    assert [value.name for value in exported.graph.output] == list(spec.output_names)
    assert {shape(value)[0] for value in exported.graph.output} == {"N"}
    kinds = {tensor.data_type for tensor in exported.graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}


def test_an_export_names_its_origin(exported: Any, checkpoint: Path, spec: ModelSpec) -> None:
    """A file found later can be traced to its weights and its tools."""
    assert {p.key: p.value for p in exported.metadata_props} == {
        "arch": spec.arch,
        "checkpoint_sha256": sha256(checkpoint),
        "exporter": f"torchscript, torch {version('torch')}",
        "effd0": version("effd0"),
    }


def test_a_failing_exporter_is_named(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exporter raises comes out as one error with the settings that lead to it."""

    def fail(*_: object) -> None:
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr(to_onnx, "load_model", lambda *_: None)
    monkeypatch.setattr(to_onnx, "_torch_export", fail)
    message = r"d0\.pth cannot be exported by dynamo at opset 20: unsupported operator"
    with pytest.raises(ExportError, match=message):
        write_onnx(Path("d0.pth"), tmp_path / "d0.onnx", spec, ExportSettings(1, 20, "dynamo"))


def test_a_failing_simplifier_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxsim raises comes out as one error with the file's name."""

    def fail(_: object) -> None:
        raise RuntimeError("cannot infer shapes")

    onnx.save(pad_model(), str(tmp_path / "padded.onnx"))
    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(ExportError, match=r"padded\.onnx cannot be simplified: cannot infer"):
        write_simplified(tmp_path / "padded.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
