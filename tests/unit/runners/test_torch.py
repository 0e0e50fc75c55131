"""PyTorch: precisions, devices, what is refused; and detections on the device."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effd0.data import fixture as embedded
from effd0.data.coco import Sample, load_coco
from effd0.data.preprocess import ModelInput, preprocess
from effd0.detection import torch_ops as device_steps
from effd0.errors import FeedError, HeadError, RunnerError
from effd0.evaluation.pipeline import StageTimes, detect, run_dataset
from effd0.metrics.summary import coco_metrics
from effd0.runners import torch as module
from effd0.runners.base import DetectingRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.runners.torch import Lane, TorchDetector, TorchRunner
from effd0.spec import ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import BOXES, SCORES
from effd0.types import Tensor, Tensors
from tests.helpers import SMALL, coco_content, write_coco

DEVICE = RunnerOptions(postprocess="device")
#: Relative L2 norm of the difference from fp32: more than the first for every head, less than
#: the second.  Measured 2026-11-23 on one embedded image: bf16 2.3e-3 to 1.4e-2, fp16 2.2e-4 to
#: 1.1e-3; the formats round by 3.9e-3 and 4.9e-4.
ROUNDING = {"bf16": (5e-4, 5e-2), "fp16": (5e-5, 5e-3)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ROUNDING)
def test_half_precision_rounds_and_no_more(
    precision: str, checkpoint: Path, spec: ModelSpec, images: Tensor, torch_heads: Tensors
) -> None:
    """Every head is rounded, so the option took effect, and none by more than the format does."""
    at_least, at_most = ROUNDING[precision]
    with TorchRunner(checkpoint, spec, precision=precision) as runner:
        heads = runner.infer({spec.input_name: images[:1]})
        assert runner.description.endswith(f"cpu, {precision}")
    assert {head.dtype for head in heads.values()} == {np.dtype(np.float32)}
    diffs = compare_tensors({name: head[:1] for name, head in torch_heads.items()}, heads)
    for diff in diffs:
        assert at_least < diff.relative_l2 < at_most, str(diff)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunnerOptions(precision="int8"), "--precision is 'int8', but fp32, fp16, bf16"),
        (RunnerOptions(device="gpu"), r"--device is 'gpu', but cpu, cuda\[:N\] and npu"),
        (RunnerOptions(device="cuda:9"), "--device is cuda:9, but torch sees no cuda device"),
        (RunnerOptions(device="npu:0"), r"npu:0, but torch_npu .*source CANN's set_"),
        (RunnerOptions(postprocess="gpu"), "--postprocess is 'gpu', but auto, host, device"),
        (RunnerOptions(launch="graph"), "--launch is graph, but detections are made on the host"),
        (replace(DEVICE, launch="fast"), "--launch is 'fast', but eager,"),
        (replace(DEVICE, launch="graph"), "graph, but --device is cpu, and only"),
        (replace(DEVICE, device="npu:0"), "is npu:0, where it was never tried"),
    ],
    ids=[
        "precision", "device", "absent-cuda", "npu-without-torch-npu", "postprocess",
        "launch-without-device", "launch", "graph-on-cpu", "detections-on-npu",
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    options: RunnerOptions, message: str, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded, with what would do; the CPU does not step in for a device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with (
        pytest.raises(RunnerError, match=message),
        open_runner("torch", Path("d0.pth"), spec, options),
    ):
        pass


def test_threads_are_set(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number asked for is the number that torch uses."""
    monkeypatch.setattr(module, "load_model", lambda *_: torch.nn.Identity())
    before = torch.get_num_threads()
    try:
        with TorchRunner(Path("d0.pth"), spec, threads=before + 1):
            assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


# Detections on the device

REDS = [100, 0, 200, 50, 150, 200, 100]


class Net(torch.nn.Module):
    """A network that tells images apart: one sure logit, whose class is the image's red level."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[int] = []
        self.sure = 5.0

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Give heads in which only the class of each image's red level is above the rest."""
        self.fed.append(len(images))
        heads = {
            name: torch.full((len(images), *shape), -9.0 if name in SMALL.class_names else 0.0)
            for name, shape in SMALL.head_shapes.items()
        }
        reds = (images[:, 0, 0, 0] * SMALL.std[0] + SMALL.mean[0]) * 255 / 50
        for row, red in enumerate(reds.round().int().tolist()):
            heads["class_p7"][row, min(red, 4), 0, 0] = self.sure
        classes = [heads[name] for name in SMALL.class_names]
        return classes, [heads[name] for name in SMALL.box_names]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """The network that every checkpoint holds."""
    one = Net()
    monkeypatch.setattr(module, "load_model", lambda *_: one)
    return one


@pytest.fixture
def samples(tmp_path: Path) -> Sequence[Sample]:
    """Seven images of one red each."""
    root = write_coco(tmp_path, coco_content(images=len(REDS)), colours=REDS)
    return load_coco(root).samples


def pixels(samples: Sequence[Sample]) -> list[ModelInput]:
    """Return *samples* as pixels."""
    return [preprocess(sample.path, SMALL, normalized=False) for sample in samples]


@pytest.mark.parametrize(
    ("batch_size", "fed"), [(1, [1] * 7), (3, [3, 3, 1]), (50, [7])], ids="batch={}".format
)
def test_a_run_gives_every_image_its_own_detections(
    batch_size: int, fed: list[int], net: Net, samples: Sequence[Sample]
) -> None:
    """In order, whatever the batch, though the last one is smaller, by the runner alone."""
    times = StageTimes()
    with open_runner("torch", Path("d0.pth"), SMALL, DEVICE) as runner:
        found = list(run_dataset(samples, runner, SMALL, batch_size=batch_size, times=times))
        alone = detect(samples[2].path, runner, SMALL)
    assert [sample for sample, _ in found] == list(samples)
    assert [int(detections.classes[0]) for _, detections in found] == [r // 50 + 1 for r in REDS]
    assert net.fed == [*fed, 1]
    assert [len(times.preprocess), len(times.inference), len(times.postprocess)] == [7, len(fed), 0]
    assert np.array_equal(alone.boxes, found[2][1].boxes)


@pytest.mark.usefixtures("net")
def test_a_batch_is_taken_before_the_one_before_is_given(samples: Sequence[Sample]) -> None:
    """So that it goes up while the other one is computed; never two ahead."""
    taken: list[int] = []

    def batches() -> Iterator[list[ModelInput]]:
        for index in range(4):
            taken.append(index)
            yield pixels(samples[index : index + 1])

    with TorchDetector(Path("d0.pth"), SMALL) as runner:
        stream = runner.detect_stream(batches())
        assert next(stream)[0].classes[0] == REDS[0] // 50 + 1
        assert taken == [0, 1]
        assert [one[0].classes[0] for one in stream] == [r // 50 + 1 for r in REDS[1:4]]


def test_pixels_that_lie_on_the_device_go_up_once(
    net: Net, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each of the two batches under way; the detections come as often as asked."""
    uploads: list[int] = []
    right = Lane.upload

    def noted(lane: Lane, images: Sequence[ModelInput]) -> None:
        uploads.append(len(images))
        right(lane, images)

    monkeypatch.setattr(Lane, "upload", noted)
    with TorchDetector(Path("d0.pth"), SMALL) as runner:
        found = list(runner.detect_stream([pixels(samples[:3])] * 5, uploads=2))
    assert [[int(d.classes[0]) for d in one] for one in found] == [[3, 1, 5]] * 5
    assert (uploads, net.fed) == ([3, 3], [3] * 5)


def test_a_program_serves_smaller_batches(
    net: Net, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One compilation for each larger batch; what fills a smaller one up never comes out."""
    compiled: list[Any] = []

    def compile_(whole: Any, *, dynamic: bool) -> Any:
        assert not dynamic
        compiled.append(whole)
        return whole

    monkeypatch.setattr(torch, "compile", compile_)
    images = pixels(samples)
    batches = [images[:2], images[2:3], images[3:6], images[6:]]
    with TorchDetector(Path("d0.pth"), SMALL, launch="compile") as runner:
        found = list(runner.detect_stream(batches))
    assert [len(one) for one in found] == [2, 1, 3, 1]
    assert [int(d.classes[0]) for one in found for d in one] == [r // 50 + 1 for r in REDS]
    assert net.fed == [2, 2, 3, 3]
    assert len(compiled) == 2


def test_what_the_device_leaves_open_is_done_on_the_host(
    net: Net, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same detections, image by image."""
    with TorchDetector(Path("d0.pth"), SMALL) as runner:
        (wanted,) = runner.detect_stream([pixels(samples[:3])])
        monkeypatch.setattr(device_steps, "CANDIDATES", 20)
        (found,) = runner.detect_stream([pixels(samples[:3])])
    assert net.fed == [3, 3, 3], "the heads are computed again for the host"
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.classes, other.classes)
        # exp() and the sigmoid in numpy and in torch; measured 2026-11-25: 0 and 0.
        assert np.abs(one.boxes - other.boxes).max() <= BOXES.limit * 40
        assert np.abs(one.scores - other.scores).max() <= SCORES.limit


def test_a_head_that_is_not_finite_is_named(net: Net, samples: Sequence[Sample]) -> None:
    """As on the host: the head's name, the count and the value."""
    net.sure = float("nan")
    with (
        TorchDetector(Path("d0.pth"), SMALL) as runner,
        pytest.raises(HeadError, match=r"class_p7 holds 1 values that are not finite \(.* nan\)"),
    ):
        next(runner.detect_stream([pixels(samples[:2])]))


@pytest.mark.parametrize(("launch", "hint"), [("eager", ""), ("compile", " (--launch is compile")])
def test_a_failure_is_the_runners(
    launch: str, hint: str, net: Net, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch raises has the device and the batch, and the way out where there is one."""

    def lost(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda whole, **_: whole)
    monkeypatch.setattr(net, "forward", lost)
    with (
        TorchDetector(Path("d0.pth"), SMALL, launch=launch) as runner,
        pytest.raises(RunnerError, match=r"failed .* on cpu with a batch of 2: out of mem") as told,
    ):
        next(runner.detect_stream([pixels(samples[:2])]))
    assert str(told.value).partition("out of memory")[2].startswith(hint)


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros((3, 128, 128), np.uint8), r"uint8 \(3, 128, 128\), but .* \(128, 128, 3\)"),
        (np.zeros((128, 128, 3), np.float32), r"float32 \(128, 128, 3\), but .* uint8"),
    ],
    ids=["planes", "normalised"],
)
def test_only_pixels_are_taken(tensor: Any, message: str) -> None:
    """What is normalised already would be so twice."""
    with TorchDetector(Path("d0.pth"), SMALL) as runner, pytest.raises(FeedError, match=message):
        next(runner.detect_stream([[ModelInput(tensor, 1.0, (128, 128))]]))


@pytest.mark.parametrize(
    ("options", "on_device"),
    [
        (RunnerOptions(), False),
        (DEVICE, True),
        (RunnerOptions(device="cuda:1"), True),
        (RunnerOptions(device="cuda", postprocess="host"), False),
        (RunnerOptions(device="npu"), False),
    ],
    ids=["cpu", "cpu-forced", "cuda", "cuda-to-host", "npu"],
)
def test_where_detections_are_made(options: RunnerOptions, on_device: bool) -> None:
    """On the device where it is CUDA or where it was asked for, else on the host."""
    runner = open_runner("torch", Path("d0.pth"), SMALL, options)
    assert isinstance(runner, DetectingRunner) is on_device


@pytest.mark.slow
def test_scenes_are_scored_as_on_the_host(spec: ModelSpec) -> None:
    """With trained weights, the mAP does not depend on where detections are made."""
    dataset = load_coco(embedded.coco_root())
    aps = []
    for options in (RunnerOptions(), DEVICE):
        with open_runner("torch", embedded.checkpoint(), spec, options) as runner:
            run = run_dataset(dataset.samples, runner, spec, batch_size=1)
            found = {sample.image_id: detections for sample, detections in run}
        aps.append(coco_metrics(dataset, found, spec).ap or 0.0)
    # Corners move by a last bit of exp(), which no IoU threshold sees; measured 2026-11-25: 0.
    assert aps[0] == pytest.approx(aps[1], abs=1e-9)
    assert aps[0] > 0
