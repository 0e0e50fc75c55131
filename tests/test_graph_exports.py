"""Tests for `effd0.graph` on whole exports: each exporter, batch fixed or free, and the score."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from onnx.reference import ReferenceEvaluator

from effd0.data.coco import Dataset
from effd0.evaluation.pipeline import run_dataset
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings
from effd0.graph.onnx_info import check_support, load_graph
from effd0.graph.rewrites import EDITS
from effd0.metrics.summary import coco_metrics
from effd0.runners.onnxruntime import OrtRunner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors

from .onnx_models import need_own_export

#: Each exports or runs whole networks, 10 to 30 s.
pytestmark = pytest.mark.slow

STRAIGHT = ["fold-weights", "fuse-sums", "mean-pool"]
FOUND = {"fold-pad": 14, "fold-weights": 57, "fuse-sums": 24, "mean-pool": 16}


@pytest.fixture(scope="module", params=[1, None], ids=["batch=1", "batch=free"])
def batch(request: pytest.FixtureRequest) -> int | None:
    """The batch size of the exports."""
    value: int | None = request.param
    return value


@pytest.fixture(scope="module")
def simplified(
    onnx_model: Path,
    pytestconfig: pytest.Config,
    spec: ModelSpec,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The default export, batch free, simplified."""
    need_own_export(pytestconfig)
    return build.simplify_onnx(onnx_model, tmp_path_factory.mktemp("s") / "d0.onnx", spec).path


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_every_exports_patterns_are_found(
    exporter: str, batch: int | None, checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Each edit finds as many places in one exporter's file as in the other's; heads stay."""
    settings = ExportSettings(batch_size=batch, exporter=exporter)
    source = build.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, settings).path
    # The older exporter's padding is computed while the model runs.
    edits = STRAIGHT if exporter == "torchscript" else ["fold-pad", *STRAIGHT]
    built = build.modify_onnx(source, tmp_path / "edited.onnx", spec, [*edits, "fp16"])
    assert {c.edit.name: c.matches for c in built.changes[:-1]} == {n: FOUND[n] for n in edits}
    # Measured 2026-11-23: at most 4.4e-4, by mean-pool.
    exact = [change.worst.max_abs for change in built.changes if change.edit.exact]
    assert max(exact) <= SAME_FLOAT32.limit
    # Measured 2026-11-23: 1.9e-2 and 2.6e-2.
    assert built.changes[-1].worst.max_abs <= 0.1


def test_no_problem_is_left_for_atc(simplified: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """What the recipe's steps make is what ATC takes, with every edit."""
    edits = [name for name in EDITS if name != "zero-pad"]
    built = build.modify_onnx(simplified, tmp_path / "d0.onnx", spec, edits)
    assert check_support(load_graph(built.path)) == []


def test_float16_arithmetic_gives_the_heads(
    simplified: Path, images: Tensor, torch_heads: Tensors, spec: ModelSpec, tmp_path: Path
) -> None:
    """Computed in float16 node by node, which ONNX Runtime does not do on a CPU, heads agree."""
    edits = ["fold-weights", "fuse-sums", "fp16"]
    path = build.modify_onnx(simplified, tmp_path / "d0.onnx", spec, edits).path
    reference = ReferenceEvaluator(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its Sigmoid tries both of two formulas
        heads = reference.run(None, {spec.input_name: images[:1]})
    got = dict(zip(reference.output_names, heads, strict=True))
    diffs = compare_tensors({name: head[:1] for name, head in torch_heads.items()}, got)
    # Measured 2026-11-23: 3.5e-2 for logits that reach -36; relative L2 at most 1.4e-3.
    assert diffs[0].max_abs <= 0.15, str(diffs[0])
    assert max(diff.relative_l2 for diff in diffs) <= 7e-3


@pytest.mark.parametrize(
    ("edits", "points"),
    # Measured 2026-11-23 on the embedded scenes: 0.00 and 0.04 points.
    [pytest.param(STRAIGHT, 0.02, id="exact"), pytest.param(["fp16"], 0.3, id="float16")],
)
def test_the_score_stays(
    edits: list[str],
    points: float,
    simplified: Path,
    embedded_dataset: Dataset,
    spec: ModelSpec,
    tmp_path: Path,
) -> None:
    """Exact edits keep the mAP of the embedded scenes, and float16 nearly does."""
    edited = build.modify_onnx(simplified, tmp_path / "d0.onnx", spec, edits).path
    scores = []
    for path in (simplified, edited):
        with OrtRunner(path, provider="CPUExecutionProvider") as runner:
            found = run_dataset(embedded_dataset.samples, runner, spec, batch_size=1)
            detections = {sample.image_id: made for sample, made in found}
        scores.append(coco_metrics(embedded_dataset, detections, spec).values["AP"])
    before, after = scores
    assert before is not None
    assert after is not None
    assert 100 * abs(before - after) <= points, scores
