"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from effd0.results.check import STAGES

# A slow host is no failure of a law: durations are the affair of benchmarks.
settings.register_profile("effd0", deadline=None, max_examples=30)
# CI looks longer than who waits at a terminal.
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "effd0")

#: Stage -> the modules whose tests are its checks.  What is in none checks a tool, not a stage.
MODULES = {
    "dataset": ("test_annotations", "test_data_fixtures", "test_dataset"),
    "preprocess": (
        "test_preprocess", "test_preprocess_errors", "tensors/test_inputs",
    ),
    "checkpoint": ("test_checkpoint",),
    "export": ("test_to_onnx", "test_verify"),
    "graph": (
        "test_float16", "test_onnx_info", "test_rewrite", "test_rewrites", "test_rewrites_ort",
    ),
    "runner": (
        "test_hardware", "test_base", "test_contract", "test_pipeline", "test_pipeline_feed",
        "test_pipeline_stream",
        "test_acl_runner", "test_recorded",
        "test_onnxruntime", "test_openvino",
        "test_torch", "test_torch_cuda", "tensors/test_results",
    ),
    "decode": (
        "test_anchors", "test_boxes", "test_torch_ops", "test_heads", "test_postprocess",
        "test_postprocess_lazy", "test_topk",
    ),
    "nms": ("test_nms",),
    "evaluate": (
        "test_accumulate", "test_curves", "test_evaluate", "test_evaluate_inputs", "test_match",
        "test_paired", "test_reach",
    ),
    "gate": ("test_accuracy", "test_ascend_chain"),
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the stage that it checks."""
    stage_of = {module: stage for stage in STAGES for module in MODULES[stage]}
    for item in items:
        stem = item.path.stem
        stage = stage_of.get(f"{item.path.parent.name}/{stem}") or stage_of.get(stem)
        if stage is not None:
            item.add_marker(pytest.mark.stage(stage))
