"""Tests for `effd0.export.to_onnx`: what a file says of itself, and settings that do not exist."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx
import onnxsim
import pytest
from onnx import TensorProto

from effd0.errors import ExportError
from effd0.export import to_onnx
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.io import sha256
from effd0.runners.checkpoint import read_weights, weights_digest
from effd0.spec import ModelSpec
from tests.helpers.onnx_models import need_own_export, pad_model

#: Settings -> what the error says.
REFUSED = {
    "opset": (ExportSettings(opset=10), "--opset is 10, but the torchscript exporter writes 11 to"),
    "opset-of-dynamo": (ExportSettings(opset=17, exporter="dynamo"),
        "--opset is 17, but the dynamo exporter writes 18 to 23"),
    "exporter": (ExportSettings(exporter="onnx2"),
        "--exporter is 'onnx2', but torchscript, dynamo exist"),
    "batch": (ExportSettings(batch_size=0), "--batch-size is 0, but must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_had_are_refused(
    settings: ExportSettings, message: str, spec: ModelSpec, tmp_path: Path
) -> None:
    """The message shows the value and the range, before any weight is read."""
    with pytest.raises(ExportError, match=message):
        write_onnx(tmp_path / "no.pth", tmp_path / "d0.onnx", spec, settings)


def test_the_default_export_is_the_recipes(
    onnx_model: Path, checkpoint: Path, spec: ModelSpec, pytestconfig: pytest.Config
) -> None:
    """Opset 11, float32, one input x.1, ten heads in the recipe's order, and where it is from."""
    need_own_export(pytestconfig)
    exported = onnx.load(str(onnx_model))
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", 11)]
    ends = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*exported.graph.input, *exported.graph.output)
    }
    assert list(ends) == ["x.1", *spec.output_names]
    assert ends["x.1"] == ["N", 3, 512, 512]
    assert {sides[0] for sides in ends.values()} == {"N"}
    kinds = {tensor.data_type for tensor in exported.graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}
    assert {p.key: p.value for p in exported.metadata_props} == {
        "arch": spec.arch,
        "checkpoint_sha256": sha256(checkpoint),
        "weights_sha256": weights_digest(read_weights(checkpoint)),
        "exporter": f"torchscript, torch {version('torch')}",
        "effd0": version("effd0"),
    }


def fail(*_: object) -> None:
    """Raise as exporters do."""
    raise RuntimeError("unsupported operator")


def test_a_failing_exporter_is_named(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exporter raises comes out as one error with the settings that lead to it."""
    monkeypatch.setattr(to_onnx, "load_model", lambda *_: None)
    monkeypatch.setattr(to_onnx, "_torch_export", fail)
    message = r"d0\.pth cannot be exported by dynamo at opset 20: unsupported operator"
    with pytest.raises(ExportError, match=message):
        write_onnx(Path("d0.pth"), tmp_path / "d0.onnx", spec, ExportSettings(1, 20, "dynamo"))


def test_a_failing_simplifier_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxsim raises comes out as one error with the file's name."""
    onnx.save(pad_model(), str(tmp_path / "padded.onnx"))
    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(ExportError, match=r"padded\.onnx cannot be simplified: unsupported"):
        write_simplified(tmp_path / "padded.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
