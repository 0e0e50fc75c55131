"""
Tests for `effd0.evaluation.pipeline`: runners that hold several batches, and models that take
pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Sample, load_coco
from effd0.data.preprocess import letterbox, read_image
from effd0.evaluation.pipeline import StageTimes, detect, run_dataset
from effd0.runners.base import TensorInfo
from effd0.types import Pixels, Tensors
from tests.fakes.runner import FakeRunner
from tests.helpers import SMALL, coco_content, write_coco

REDS = [100, 0, 200, 50, 150, 200, 100]


class Streaming(FakeRunner):
    """A runner that gives nothing before it has taken three feeds; *closed* is whether it ended."""

    closed = False

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield outputs in order, two feeds late."""
        under_way: deque[Tensors] = deque()
        try:
            for feed in feeds:
                time.sleep(0.005)
                under_way.append(self.infer(feed))
                if len(under_way) == 3:
                    yield under_way.popleft()
            yield from under_way
        finally:
            self.closed = True


class Offline(Streaming):
    """A runner with a way of its own for where only images a second count; *fast* is if taken."""

    fast = False

    def infer_offline(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield what the stream yields."""
        self.fast = True
        yield from self.infer_stream(feeds)


class TakesPixels(FakeRunner):
    """A runner whose model normalises by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = [TensorInfo("in", (None, 128, 128, 3), np.dtype(np.uint8))]
        self.pixels: list[Pixels] = []

    def infer(self, feed: Tensors) -> Tensors:
        """Keep what was fed, and answer as for nothing."""
        self.pixels.extend(feed["in"])
        return super().infer({"in": np.zeros((len(feed["in"]), 3, 128, 128), np.float32)})


@pytest.fixture
def samples(tmp_path: Path) -> Sequence[Sample]:
    """Seven images of one red each."""
    root = write_coco(tmp_path, coco_content(images=len(REDS)), colours=REDS)
    return load_coco(root).samples


@pytest.mark.parametrize("batch_size", [1, 2, 7], ids="batch={}".format)
def test_outputs_that_come_late_are_those_of_their_images(
    batch_size: int, samples: Sequence[Sample]
) -> None:
    """However many batches a runner holds, each image gets its own detections, in order."""
    runner, times = Streaming(), StageTimes()
    found = list(run_dataset(samples, runner, SMALL, batch_size=batch_size, times=times))
    assert [sample for sample, _ in found] == list(samples)
    assert [int(detections.classes[0]) for _, detections in found] == [r // 50 + 1 for r in REDS]
    assert runner.closed
    assert len(times.inference) == len(runner.fed)
    assert sum(times.inference) >= 0.005 * len(runner.fed), "the runner's own time is counted"


def test_a_dataset_goes_the_way_of_most_images_a_second(samples: Sequence[Sample]) -> None:
    """A run over many images is what a runner's offline way is for."""
    runner = Offline()
    found = list(run_dataset(samples, runner, SMALL, batch_size=1))
    assert [int(detections.classes[0]) for _, detections in found] == [r // 50 + 1 for r in REDS]
    assert runner.fast
    assert runner.closed


def test_a_stream_is_closed_when_the_run_is_left(samples: Sequence[Sample]) -> None:
    """A device is waited for and freed at once, not when the garbage is collected."""
    runner = Streaming()
    run = run_dataset(samples, runner, SMALL, batch_size=1)
    next(run)
    assert not runner.closed
    run.close()
    assert runner.closed


def test_a_model_that_normalises_by_itself_is_fed_pixels(samples: Sequence[Sample]) -> None:
    """Letterboxed uint8 in rows, columns, RGB; the letterbox itself stays on the host."""
    runner = TakesPixels()
    list(run_dataset(samples, runner, SMALL, batch_size=3))
    detect(samples[0].path, runner, SMALL)
    wanted = [letterbox(read_image(sample.path), SMALL)[0] for sample in (*samples, samples[0])]
    assert {pixels.dtype for pixels in runner.pixels} == {np.dtype(np.uint8)}
    assert [np.array_equal(a, b) for a, b in zip(runner.pixels, wanted, strict=True)] == [True] * 8
