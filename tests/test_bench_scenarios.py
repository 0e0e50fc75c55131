"""Tests for `effd0.bench.scenarios`: a runner that detects by itself is asked for detections."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from effd0.bench.scenarios import Queries, offline, read_queries, single_stream
from effd0.data.coco import load_coco
from effd0.data.preprocess import ModelInput
from effd0.detection.postprocess import Detections

from .fakes.runner import FakeRunner
from .helpers import SMALL, coco_content, write_coco

REDS = [100, 0, 200]


class Detecting(FakeRunner):
    """A runner that gives a detection of the class of each image's red level."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Take pixels, one batch after the other."""
        for images in batches:
            assert {image.tensor.dtype for image in images} == {np.dtype(np.uint8)}
            yield [
                Detections(
                    np.zeros((1, 4), np.float32),
                    np.ones(1, np.float32),
                    np.array([image.tensor[0, 0, 0] // 50 + 1], np.int64),
                )
                for image in images
            ]


@pytest.fixture
def queries(tmp_path: Path) -> Queries:
    """Three images of one red each, two a batch."""
    root = write_coco(tmp_path, coco_content(images=len(REDS)), colours=REDS)
    return read_queries(load_coco(root).samples, Detecting(), 2, SMALL)


def test_single_stream_gives_the_detections_of_each_query(queries: Queries) -> None:
    """Query after query, and the first one again after the last; no heads are asked for."""
    runner = Detecting()
    answer = single_stream(runner, queries, SMALL)
    assert [[int(d.classes[0]) for d in answer(n)] for n in range(3)] == [[3, 1], [5, 3], [3, 1]]
    assert runner.fed == []


def test_offline_gives_the_detections_of_all_queries(queries: Queries) -> None:
    """As many batches as asked, from the first one on in every call."""
    answer = offline(Detecting(), queries, SMALL, loop=3, host_threads=1)
    for _ in range(2):
        assert [int(d.classes[0]) for d in answer(0)] == [3, 1, 5, 3, 3, 1]


def test_other_runners_are_given_no_pixels(tmp_path: Path) -> None:
    """Pictures are not read twice for those that take heads to the host."""
    root = write_coco(tmp_path, coco_content(images=1), colours=[50])
    assert read_queries(load_coco(root).samples, FakeRunner(), 1, SMALL).pixels == ()
