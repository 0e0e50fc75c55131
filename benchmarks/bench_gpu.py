"""
Pixels to detections on a GPU: batch x precision, beside effdet's own bench in eager mode.

Throughput is that of batches whose pixels lie on the device, latency is from the host's pixels to
the host's boxes.  Both end with a hundred boxes per image on the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measuring import Measure
from effd0.benchmark.measure import Subject, open_subject
from effd0.data.coco import Dataset
from effd0.data.preprocess import ModelInput, preprocess
from effd0.detection.postprocess import Detections
from effd0.detection.torch_ops import DeviceSteps
from effd0.evaluation.model import ModelChoice
from effd0.runners.registry import RunnerOptions
from effd0.runners.torch import TorchDetector
from effd0.spec import ModelSpec

pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")

import torch  # after the skip

from benchmarks.effdet_path import EffdetPath, assert_same_found

pytestmark = pytest.mark.gpu

ON_DEVICE = "pixels on the device to detections"
FROM_HOST = "pixels on the host to detections"
#: Beyond the recipe's batches, for as long as throughput grows.
BATCHES, QUICK = (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 64)
PRECISIONS, LAUNCHES = ("fp16", "bf16"), ("graph", "compile")
#: Batches per call: the more, the smaller the part of those at its ends.
ROUNDS = 8


@dataclass(frozen=True)
class Case:
    """A detector on a device, and a batch of real images for it."""

    subject: Subject
    runner: TorchDetector
    images: Sequence[ModelInput]
    spec: ModelSpec


def open_case(
    checkpoint: Path, dataset: Dataset, spec: ModelSpec, batch: int, options: RunnerOptions
) -> Iterator[Case]:
    """Open a detector and read *batch* images; where there are fewer, the first come again."""
    read = [preprocess(s.path, spec, normalized=False) for s in dataset.samples[:batch]]
    images = list(itertools.islice(itertools.cycle(read), batch))
    with open_subject(ModelChoice(None, checkpoint, "torch", spec, options)) as subject:
        assert isinstance(subject.runner, TorchDetector)
        yield Case(subject, subject.runner, images, spec)


@pytest.fixture(scope="module", params=LAUNCHES, ids="launch={}".format)
def launch(request: pytest.FixtureRequest) -> str:
    """How the work of a batch is launched."""
    return str(request.param)


@pytest.fixture(scope="module", params=PRECISIONS, ids="precision={}".format)
def options(request: pytest.FixtureRequest, launch: str) -> RunnerOptions:
    """A detector on the GPU."""
    return RunnerOptions(
        device="cuda", precision=request.param, postprocess="device", launch=launch
    )


@pytest.fixture(scope="module", params=BATCHES, ids="images={}".format)
def case(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    dataset: Dataset,
    spec: ModelSpec,
    options: RunnerOptions,
    quick: bool,
) -> Iterator[Case]:
    """A detector and its batch, for all rows of it: capturing and compiling are not timed."""
    if quick and request.param not in QUICK:
        pytest.skip(f"batches but {QUICK} are left out by --quick: leave it out")
    yield from open_case(checkpoint, dataset, spec, request.param, options)


def bench_detections_on_device(measure: Measure, case: Case) -> None:
    """Images per second, batch after batch of pixels that lie on the device."""
    batch = len(case.images)
    found = measure(
        lambda: list(case.runner.detect_stream([case.images] * ROUNDS, uploads=2)),
        ON_DEVICE,
        images=ROUNDS * batch,
        on=case.subject,
        batch=batch,
    )
    assert [len(one) for one in found] == [batch] * ROUNDS
    assert any(len(detections) for detections in found[-1])


def bench_detections_from_host(measure: Measure, case: Case) -> None:
    """Upload, network, postprocessing and download of one batch alone."""
    batch = len(case.images)
    found = measure(detecting(case), FROM_HOST, images=batch, on=case.subject, batch=batch)
    assert len(found) == batch


def bench_detections_effdet(measure: Measure, case: Case, checkpoint: Path) -> None:
    """
    One batch in turn with effdet's `DetBenchPredict`, eager, same precision, same card.

    Ours includes the upload; effdet's input lies normalised on the device.
    """
    device, dtype, images = case.runner.device, case.runner.dtype, case.images
    precision = case.subject.about["precision"]
    path = EffdetPath(checkpoint, case.spec, device, dtype)
    pixels = torch.from_numpy(np.stack([image.tensor for image in images])).to(device)
    batch = DeviceSteps(case.spec, pixels.device).normalize(pixels).to(dtype).contiguous()
    info = {
        "img_scale": torch.tensor([image.image_scale for image in images], device=device),
        "img_size": torch.tensor([image.image_size for image in images], device=device),
    }
    found, rows = measure.in_turn(
        detecting(case),
        lambda: path.detect_batch(batch, info),
        f"{FROM_HOST}, batch {len(images)}, {precision}",
        name=f"effdet DetBenchPredict, eager {precision}, normalised on the device",
        images=len(images),
        on=case.subject,
    )
    for ours, theirs in zip(found, rows, strict=True):
        # Two ways through 16 bits; not measured on a GPU.
        assert_same_found(ours, theirs, min_iou=0.9, unsure=0.3, scores=0.05)


def detecting(case: Case) -> Callable[[], list[Detections]]:
    """A call from the host's pixels to the host's boxes."""
    return lambda: next(case.runner.detect_stream([case.images]))
