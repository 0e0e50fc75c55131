"""PyTorch on an accelerator computes what it computes on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset
from effd0.detection.torch_ops import DeviceSteps, unpack
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.summary import coco_metrics
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import DEVICES, ROUNDED, TO_RECORD
from effd0.types import Tensor, Tensors
from tests.suite.reference import Geometry

from .helpers import synthetic_heads
from .unit.detection.test_torch_ops import assert_same, tensors

KINDS = [
    pytest.param("cuda", marks=pytest.mark.gpu, id="device=cuda"),
    pytest.param("npu", marks=pytest.mark.torch_npu, id="device=npu"),
]


@pytest.mark.parametrize("precision", DEVICES)
@pytest.mark.parametrize("device", KINDS)
def test_torch_heads_do_not_depend_on_the_device(
    device: str,
    precision: str,
    checkpoint: Path,
    spec: ModelSpec,
    images: Tensor,
    torch_heads: Tensors,
) -> None:
    """An accelerator's heads are the CPU's, within what its precision explains."""
    options = RunnerOptions(device=device, precision=precision)
    with open_runner("torch", checkpoint, spec, options) as runner:
        heads = runner.infer({spec.input_name: images})
    for diff in compare_tensors(torch_heads, heads):
        assert diff.relative_l2 <= DEVICES[precision].limit, str(diff)


@pytest.mark.gpu
def test_detections_of_the_same_heads_do_not_depend_on_the_device() -> None:
    """Decoding, ties and suppression on CUDA are the host's, to the last bits of exp()."""
    heads = [synthetic_heads(seed) for seed in range(3)]
    images = [Geometry.of(size, D0) for size in ((640, 480), (333, 517), (32, 20))]
    classes, boxes = ([one.cuda() for one in levels] for levels in tensors(heads))
    steps = DeviceSteps(D0, "cuda")
    geometry = steps.geometry([one.scale for one in images], [one.size for one in images])
    found = unpack(steps.packed(classes, boxes, geometry).cpu().numpy(), D0)
    for one, head, image in zip(found, heads, images, strict=True):
        assert_same(one, head, image, D0)


@pytest.mark.gpu
@pytest.mark.parametrize("launch", ["eager", "graph", "compile"])
@pytest.mark.parametrize(
    ("precision", "margin"),
    [("fp32", TO_RECORD.limit), ("fp16", ROUNDED.limit)],
    ids=["fp32", "fp16"],
)
def test_map_from_pixels_is_the_recorded_one(
    precision: str, margin: float, launch: str, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """However it is launched; seven images a batch, so that the last batch is filled up."""
    options = RunnerOptions(device="cuda", precision=precision, postprocess="device", launch=launch)
    with open_runner("torch", embedded.checkpoint(), spec, options) as runner:
        run = run_dataset(embedded_dataset.samples, runner, spec, batch_size=7)
        found = {sample.image_id: detections for sample, detections in run}
    ap = coco_metrics(embedded_dataset, found, spec).ap
    assert ap == pytest.approx(embedded.reference_ap(), abs=margin / 100)
