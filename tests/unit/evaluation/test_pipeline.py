"""
Tests for `effd0.evaluation.pipeline`: every image through every stage, in order and in bounded
memory.
"""

import functools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.data.coco import Sample, load_coco
from effd0.data.preprocess import ModelInput, letterbox, preprocess, read_image
from effd0.detection.postprocess import Detections, postprocess
from effd0.errors import HeadError, ImageError, RunnerError
from effd0.evaluation import pipeline
from effd0.evaluation.pipeline import StageTimes, detect, run_dataset
from effd0.runners.base import TensorInfo
from effd0.spec import ModelSpec
from effd0.types import Pixels, Tensor, Tensors
from tests.helpers import SMALL, coco_content, write_coco
from tests.helpers.runners import FakeRunner

REDS = [100, 0, 200, 50, 150, 200, 100]


@pytest.fixture
def samples(tmp_path: Path) -> Sequence[Sample]:
    """Seven images of one red each."""
    root = write_coco(tmp_path, coco_content(images=len(REDS)), colours=REDS)
    return load_coco(root).samples


def test_images_are_read_one_batch_ahead(
    samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is inferred, the next one is read and no more, and no other input is held."""
    tensors: list[weakref.ref[Tensor | Pixels]] = []
    arrays: set[int] = set()
    at_infer: list[tuple[int, int]] = []

    def counted(path: Path, spec: ModelSpec, *, normalized: bool, out: Tensor | None) -> ModelInput:
        result = preprocess(path, spec, normalized=normalized, out=out)
        tensors.append(weakref.ref(result.tensor))
        assert isinstance(result.tensor.base, np.ndarray)
        arrays.add(result.tensor.base.ctypes.data)
        return result

    def slow(*args: Any) -> Detections:
        time.sleep(0.02)  # until the next batch is at the runner: what it holds shows there
        return postprocess(*args)

    def note() -> None:
        ahead = min(7, 2 * (len(at_infer) + 2))
        deadline = time.perf_counter() + 10
        while len(tensors) < ahead and time.perf_counter() < deadline:
            time.sleep(0.001)
        at_infer.append((len(tensors), sum(tensor() is not None for tensor in tensors)))

    monkeypatch.setattr(pipeline, "preprocess", counted)
    monkeypatch.setattr(pipeline, "postprocess", slow)
    runner = FakeRunner()
    runner.on_infer = note
    given = 0
    for _ in run_dataset(samples, runner, SMALL, batch_size=2, host_threads=4):
        given += 1
        assert len(tensors) <= given + 3 * 2  # a batch being given, one inferred, one read
    assert len(tensors) == given == 7
    assert [read for read, _ in at_infer] == [4, 6, 7, 7]
    assert max(held for _, held in at_infer) <= 2 + 2
    assert len(arrays) == 2  # four batches


def test_unreadable_image_ends_the_run(samples: Sequence[Sample]) -> None:
    """The images before it are given, then its error comes out as it is."""
    samples[4].path.write_bytes(b"")
    done: list[tuple[Sample, Detections]] = []
    with pytest.raises(ImageError, match=r"5\.png is not a readable image: the file is empty"):
        done.extend(run_dataset(samples, FakeRunner(), SMALL, batch_size=1))
    assert [sample for sample, _ in done] == list(samples[: len(done)])
    assert len(done) >= 3  # of four, the last one may still be with the postprocessor


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            lambda heads: {name: head[:1] for name, head in heads.items()},
            "the model gave 1 rows for 2 images",
            id="too-few-rows",
        ),
        pytest.param(
            lambda heads: heads | {"class_p3": heads["class_p3"] * np.float32(np.nan)},
            "class_p3 holds .* not finite",
            id="nan",
        ),
    ],
)
def test_wrong_answer_ends_the_run(
    answer: Callable[[Any], Tensors],
    message: str,
    samples: Sequence[Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs that are not the heads of the images fed are an error, in whatever thread."""
    runner = FakeRunner()
    right = runner.infer
    monkeypatch.setattr(runner, "infer", lambda feed: answer(right(feed)))
    with pytest.raises((RunnerError, HeadError), match=message):
        list(run_dataset(samples, runner, SMALL, batch_size=2))


class Streaming(FakeRunner):
    """A runner that gives nothing before it has taken three feeds; *closed* is whether it ended."""

    closed = False

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Yield outputs in order, two feeds late."""
        under_way: deque[Tensors] = deque()
        try:
            for feed in feeds:
                time.sleep(0.005)
                under_way.append(feed)
                if len(under_way) == 3:
                    yield self.infer(under_way.popleft())
            yield from map(self.infer, under_way)
        finally:
            self.closed = True


@pytest.mark.parametrize("runner", [FakeRunner(), Streaming()], ids=["one-by-one", "streaming"])
@pytest.mark.parametrize(
    ("batch_size", "host_threads", "fed"),
    [(1, 3, [1] * 7), (3, 1, [3, 3, 1]), (50, 2, [7])],
    ids=["batch=1", "batch=3", "batch=more-than-all"],
)
def test_every_image_gets_its_own_detections_in_order(
    runner: FakeRunner,
    batch_size: int,
    host_threads: int,
    fed: list[int],
    samples: Sequence[Sample],
) -> None:
    """Whatever the batch, the number of threads, and how many batches a runner holds."""
    runner.fed.clear()
    times = StageTimes()
    sizes: dict[str, Any] = {"batch_size": batch_size, "host_threads": host_threads}
    found = list(run_dataset(samples, runner, SMALL, times=times, **sizes))
    assert [sample for sample, _ in found] == list(samples)
    assert [int(detections.classes[0]) for _, detections in found] == [r // 50 + 1 for r in REDS]
    assert runner.fed == fed
    assert [len(times.preprocess), len(times.inference), len(times.postprocess)] == [7, len(fed), 7]
    if isinstance(runner, Streaming):
        assert runner.closed
        assert sum(times.inference) >= 0.005 * len(fed), "the runner's own time is counted"


def test_a_run_that_is_left_ends_its_stream_and_threads(samples: Sequence[Sample]) -> None:
    """A device is waited for and freed at once, not when the garbage is collected."""
    runner = Streaming()
    run = run_dataset(samples, runner, SMALL, batch_size=1)
    next(run)
    assert not runner.closed
    run.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("effd0")]
    assert runner.closed


def test_a_model_that_normalises_by_itself_is_fed_pixels(
    samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letterboxed uint8 in rows, columns, RGB; the letterbox itself stays on the host."""
    runner, fed = FakeRunner(), list[Pixels]()
    runner.inputs = [TensorInfo("in", (None, 128, 128, 3), np.dtype(np.uint8))]
    answer = runner.infer

    def infer(feed: Tensors) -> Tensors:
        fed.extend(feed["in"])
        return answer({"in": np.zeros((len(feed["in"]), 3, 128, 128), np.float32)})

    monkeypatch.setattr(runner, "infer", infer)
    list(run_dataset(samples, runner, SMALL, batch_size=3))
    detect(samples[0].path, runner, SMALL)
    wanted = [letterbox(read_image(sample.path), SMALL)[0] for sample in (*samples, samples[0])]
    assert {pixels.dtype for pixels in fed} == {np.dtype(np.uint8)}
    assert [np.array_equal(a, b) for a, b in zip(fed, wanted, strict=True)] == [True] * 8


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_inputs_made_elsewhere_are_run_in_place_of_own_ones(
    dtype: str, samples: Sequence[Sample]
) -> None:
    """What a file holds reaches the runner as its type; the geometry is that of the image."""
    behind = dict(zip(samples, [*samples[1:], samples[0]], strict=True))

    def given(sample: Sample) -> Any:
        """The input of the image behind *sample*."""
        normalized = dtype != "uint8"
        return preprocess(behind[sample].path, SMALL, normalized=normalized).tensor.astype(dtype)

    inputs = {sample.path.stem: functools.partial(given, sample) for sample in samples}
    with FakeRunner() as runner:
        found = dict(run_dataset(samples, runner, SMALL, batch_size=2, inputs=inputs))
        own = dict(run_dataset(samples, runner, SMALL, batch_size=2))
    classes = {sample: of.classes[0] for sample, of in own.items()}
    assert {s: of.classes[0] for s, of in found.items()} == {s: classes[behind[s]] for s in samples}
    assert all(np.array_equal(found[s].boxes[0], own[s].boxes[0]) for s in samples)
