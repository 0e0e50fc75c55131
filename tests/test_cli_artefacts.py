"""Tests for `effd0.cli`: a broken picture, checkpoint or model is one line and exit code 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from effd0.runners.checkpoint import build_model, read_weights
from effd0.spec import ModelSpec

from .cli_run import assert_one_error
from .helpers import coco_content, write_coco
from .onnx_models import need_own_export, perturbed, with_swapped_outputs


def test_a_truncated_picture_stops_the_run(tmp_path: Path) -> None:
    """The file is named before anything is detected."""
    content = coco_content(2, size=(64, 64))
    content["images"][1]["file_name"] = "cut.jpg"
    root = write_coco(tmp_path, content)
    cut = root / "val2017" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = r"ImageError: 1 of the images in .*:\n.*cut\.jpg.*truncated"
    assert_one_error(message, "evaluate", "--root", root)


def test_a_fresh_checkpoint_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    """A network that was never trained is not scored."""
    torch.save(build_model(spec).state_dict(), tmp_path / "fresh.pth")
    given = ("--runner", "torch", "--checkpoint", tmp_path / "fresh.pth", "--arch", spec.arch)
    message = r"CheckpointError: .*fresh\.pth is untrained"
    assert_one_error(message, "evaluate", *given, "--image-limit", 1)


def test_a_checkpoint_with_nan_is_refused(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """One NaN among four million weights is found before a file is exported."""
    weights = read_weights(checkpoint)
    name, first = next(iter(weights.items()))
    first[(0,) * first.ndim] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    given = ("--checkpoint", tmp_path / "nan.pth", "--arch", spec.arch)
    message = rf"^CheckpointError: .*nan\.pth holds NaN or infinity in {re.escape(name)}"
    assert_one_error(message, "export", *given, "--out", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture(scope="module")
def exported(onnx_model: Path, pytestconfig: pytest.Config) -> Path:
    """The export of the checkpoint under test."""
    need_own_export(pytestconfig)
    return onnx_model


def test_swapped_outputs_are_refused(exported: Path, tmp_path: Path) -> None:
    """A file whose class head is called a box head is not scored as if it were right."""
    swapped = with_swapped_outputs(exported, tmp_path / "swapped.onnx", "class_p3", "box_p3")
    message = r"HeadError: class_p3 is \(1, 36, 64, 64\), .* outputs may be swapped"
    assert_one_error(message, "evaluate", "--model", swapped, "--image-limit", 1)


def test_heads_that_are_not_finite_are_refused(exported: Path, tmp_path: Path) -> None:
    """A NaN that comes out of a model is no low score."""
    broken = perturbed(exported, tmp_path / "nan.onnx", "class_p4", float("nan"))
    message = r"HeadError: class_p\d.*"
    assert_one_error(message, "evaluate", "--model", broken, "--image-limit", 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/record.json", r"file/record\.json cannot be written: "),
        ("folder", "folder is a folder, but a file is to be written"),
    ],
    ids=["below-a-file", "a-folder"],
)
def test_a_record_that_cannot_be_written_is_named(
    name: str, message: str, exported: Path, tmp_path: Path
) -> None:
    """A result that is lost is an error, also after a run that went well."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    given = ("--model", exported, "--image-limit", 1, "--json", tmp_path / name)
    assert_one_error(rf"OutputError: .*{message}", "evaluate", *given)
