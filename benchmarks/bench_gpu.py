"""
Pixels to detections on a GPU: batch x precision, beside effdet's own bench in eager mode.

Throughput is that of batches whose pixels lie on the device, latency is from the host's pixels to
the host's boxes.  Both end with a hundred boxes an image on the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measuring import Measure, Versus
from effd0.bench.gpu import FROM_HOST, ON_DEVICE, limit_line
from effd0.bench.subject import Subject, opened
from effd0.data.coco import Dataset
from effd0.data.preprocess import ModelInput, preprocess
from effd0.detection.postprocess import Detections
from effd0.detection.torch_ops import normalize_on_device
from effd0.evaluation.model import ModelChoice
from effd0.metrics.detection_diff import match_detections
from effd0.runners.registry import RunnerOptions
from effd0.runners.torch_cuda import TorchDetector
from effd0.spec import ModelSpec

pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")

import torch  # after the skip
from torch.utils.benchmark import Timer

from benchmarks.effdet_path import EffdetPath

#: Beyond the recipe's batches, for as long as it grows.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK = (1, 64)
PRECISIONS = ("fp16", "bf16")
LAUNCHES = ("graph", "compile")
#: Batches a call: what is under way at its ends is a part of it that gets smaller with more.
_ROUNDS = 8
#: What both must find of each image: IoU, the score from which on, and by how much scores may part.
#: Two ways through 16 bits; not measured on a GPU.
_MIN_IOU, _SURE, _SCORES = 0.9, 0.3, 0.05


@dataclass(frozen=True)
class Case:
    """A detector on a device, and a batch of real images for it."""

    subject: Subject
    runner: TorchDetector
    images: Sequence[ModelInput]
    spec: ModelSpec

    def detect(self) -> list[Detections]:
        """From the host's pixels to the host's boxes."""
        return next(self.runner.detect_stream([self.images]))

    def detect_again(self) -> list[list[Detections]]:
        """Batch after batch of pixels that lie on the device."""
        return list(self.runner.detect_again(self.images, _ROUNDS))


def opened_case(
    checkpoint: Path, dataset: Dataset, spec: ModelSpec, batch: int, options: RunnerOptions
) -> Iterator[Case]:
    """Open a detector and read *batch* images; where there are fewer, the first come again."""
    read = [preprocess(s.path, spec, normalized=False) for s in dataset.samples[:batch]]
    images = list(itertools.islice(itertools.cycle(read), batch))
    with opened(ModelChoice(None, checkpoint, "torch", spec, options)) as subject:
        assert isinstance(subject.runner, TorchDetector)
        yield Case(subject, subject.runner, images, spec)


def effdets(case: Case, checkpoint: Path) -> Callable[[], np.ndarray]:
    """What effdet's bench does with the same images, normalised already and on the device."""
    device, dtype = case.runner.device, case.runner.dtype
    path = EffdetPath(checkpoint, case.spec, device, dtype)
    pixels = torch.from_numpy(np.stack([image.tensor for image in case.images])).to(device)
    batch = normalize_on_device(pixels, case.spec).to(dtype).contiguous()
    info = {
        "img_scale": torch.tensor([image.image_scale for image in case.images], device=device),
        "img_size": torch.tensor([image.image_size for image in case.images], device=device),
    }
    return lambda: path.detect_batch(batch, info)


def bytes_per_second(device: str, size: int = 2**30) -> float:
    """What copying *size* bytes on *device* moves in a second, read and written: the best of 5."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = Timer("target.copy_(source)", globals={"target": target, "source": source})
    return 2 * size / min(float(copying.timeit(3).mean) for _ in range(5))


def assert_alike(found: Sequence[Detections], rows: np.ndarray) -> None:
    """What is surely there is found by both, with nearly the same score."""
    for ours, theirs in zip(found, rows, strict=True):
        wanted = Detections(theirs[:, :4], theirs[:, 4], theirs[:, 5].astype(np.int64))
        pairs = match_detections(wanted, ours, _MIN_IOU)
        assert max(pairs.missing.max(initial=0), pairs.extra.max(initial=0)) <= _SURE
        assert np.abs(pairs.score_differences).max(initial=0) <= _SCORES


@pytest.fixture(scope="module", params=LAUNCHES, ids="launch={}".format)
def launch(request: pytest.FixtureRequest) -> str:
    """How the work of a batch is launched."""
    return str(request.param)


@pytest.fixture(scope="module", params=PRECISIONS, ids="precision={}".format)
def options(request: pytest.FixtureRequest, launch: str) -> RunnerOptions:
    """A detector on the GPU."""
    return RunnerOptions("cuda", precision=request.param, postprocess="device", launch=launch)


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
    yield from opened_case(checkpoint, dataset, spec, request.param, options)


@pytest.mark.gpu
def bench_detections_on_device(measure: Measure, case: Case) -> None:
    """Images a second, with the distance to what the card's memory allows."""
    throughput(measure, case)


def throughput(measure: Measure, case: Case) -> None:
    """Time batch after batch; the row tells how far it is from the limit."""
    batch = len(case.images)
    found = measure(
        case.detect_again, ON_DEVICE, images=_ROUNDS * batch, on=case.subject, batch=batch
    )
    measure.note(lambda row: limit_line(row, bytes_per_second(case.runner.device)))
    assert [len(one) for one in found] == [batch] * _ROUNDS
    assert any(len(detections) for detections in found[-1])


@pytest.mark.gpu
def bench_detections_from_host(measure: Measure, case: Case) -> None:
    """Upload, network, postprocessing and download of one batch, none beside it."""
    found = measure(
        case.detect, FROM_HOST, images=len(case.images), on=case.subject, batch=len(case.images)
    )
    assert len(found) == len(case.images)


@pytest.mark.gpu
def bench_detections_effdet(versus: Versus, case: Case, checkpoint: Path) -> None:
    """In turn with effdet's `DetBenchPredict`, eager, in the same precision on the same card."""
    beside_effdet(versus, case, checkpoint)


def beside_effdet(versus: Versus, case: Case, checkpoint: Path) -> list[Detections]:
    """Time one batch of ours, upload included, in turn with effdet's of what lies there."""
    found, rows = versus.in_turn(
        case.detect,
        effdets(case, checkpoint),
        f"{FROM_HOST}, batch {len(case.images)}, {case.subject.precision}",
        name=f"effdet DetBenchPredict, eager {case.subject.precision}, normalised on the device",
        images=len(case.images),
        on=case.subject,
    )
    assert_alike(found, rows)
    return found
