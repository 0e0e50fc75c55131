"""Stage export: the ONNX file is a whole D0 with the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from effd0.diagnosis.parity import compare_batch
from effd0.graph.onnx_info import ModelFile
from effd0.io import sha256
from effd0.runners.checkpoint import read_weights, weights_digest
from effd0.spec import ModelSpec
from effd0.types import Tensor

from .conftest import CheckStage, NoteFigure

pytestmark = pytest.mark.stage("export")


def test_the_file_is_a_d0_in_onnx(model_file: ModelFile) -> None:
    """The file is valid, takes a batch of images, and gives heads that can be told apart."""
    assert model_file.precision in ("fp32", "fp16", "bf16", "int8")


def test_it_is_of_this_checkpoint(
    model_file: ModelFile,
    checkpoint: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """A file that was exported from other weights is noted; the weights themselves decide."""
    origin = model_file.origin
    if not origin.keys() & {"checkpoint_sha256", "weights_sha256"}:
        pytest.skip("needs an origin: the file has no checkpoint_sha256 in its metadata")
    if "weights_sha256" in origin:
        pytest.importorskip("torch", reason="needs torch: pip install 'effd0[torch]'")
        named = pytestconfig.getoption("--weights")
        recorded, own = origin["weights_sha256"], weights_digest(read_weights(checkpoint, named))
    else:  # a file of before: of other bytes the weights may be the same
        recorded, own = origin["checkpoint_sha256"], sha256(checkpoint)
    if recorded != own:
        record_property(
            "evidence",
            f"{model_file.path.name} says it is of {recorded[:12]}, but {checkpoint.name} is "
            f"{own[:12]}; the weights in the file decide",
        )


def test_its_batch_is_what_it_says(model_file: ModelFile, images: Tensor, spec: ModelSpec) -> None:
    """A free batch takes one image and eight, a fixed one its own; heads are those of an image."""
    if (broken := compare_batch(model_file, images, spec)) is not None:
        raise broken


def test_its_weights_are_the_checkpoints(
    check_plain_model: CheckStage, note_figure: NoteFigure
) -> None:
    """No node's weights make it leave what the checkpoint computes."""
    check_plain_model("export", note_figure)
