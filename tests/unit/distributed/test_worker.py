"""One worker, in this process: two units at a time on one device, and what it says of itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Dataset, Sample
from effd0.detection.postprocess import Detections
from effd0.distributed import engine
from effd0.distributed.engine import DetectWork, packed, unpacked
from effd0.distributed.worker import Opened, Place, Worker
from effd0.errors import RunnerError
from effd0.runners.registry import RunnerOptions
from tests.helpers import SMALL
from tests.helpers.runners import BATCH, ToldModel, alone, coloured_coco, same

WORK = DetectWork(SMALL, BATCH, 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Pictures for two units of two batches."""
    return coloured_coco(tmp_path / "coco", 4 * BATCH)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker that has its model open."""
    model = ToldModel("ort", SMALL, RunnerOptions(), "told.onnx", tmp_path)
    one = Worker(model, b"no model", lambda: Place("host", 1))
    assert one.open(BATCH).error is None
    return one


def test_units_at_a_time_are_those_one_after_the_other(dataset: Dataset, worker: Worker) -> None:
    """Two calls share the runner and mix no batches; the times are of all their images."""
    halves = dataset.samples[: 2 * BATCH], dataset.samples[2 * BATCH :]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda items: worker.run(WORK, items), halves))
    found = [one for reply in replies for one in unpacked(reply.result)]
    assert same(dict(zip(dataset.image_ids, found, strict=True)), alone(dataset))
    counts = {name: len(times) for name, times in replies[0].stages.items()}
    assert counts == {"preprocess": 4, "inference": 2, "postprocess": 4}


def test_a_unit_whose_images_do_not_come_keeps_nobody_waiting(
    dataset: Dataset, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is taken once the first batch is there; the other unit has it until then."""
    first, second, done = dataset.samples[:2], dataset.samples[2:4], threading.Event()

    @contextlib.contextmanager
    def late(samples: Sequence[Sample], _folder: Path) -> Iterator[Sequence[Sample]]:
        assert samples == first or done.wait(20)
        yield samples

    monkeypatch.setattr(engine, "localized", late)
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(worker.run, WORK, second)
        assert pool.submit(worker.run, WORK, first).result(20).error is None
        assert not waits.done()
        done.set()
        assert waits.result(20).error is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(OSError("no space left"), "no space left", id="file-system"),
        pytest.param(MemoryError("3 GB"), "MemoryError: 3 GB", id="memory"),
        pytest.param(KeyError("bbox"), "KeyError: 'bbox'", id="of-ours"),
    ],
)
def test_what_nobody_foresaw_is_an_error_with_the_workers_name(
    error: Exception,
    message: str,
    dataset: Dataset,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends no process, and the worker goes on."""

    def broken(_found: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine, "packed", broken)
        assert str(worker.run(WORK, dataset.samples).error) == f"host pid 1: {message}"
    assert worker.run(WORK, dataset.samples).error is None


def test_detections_come_back_to_the_last_bit() -> None:
    """An image without any is one of them."""
    rng = np.random.default_rng(0)
    found = [
        Detections(
            rng.normal(size=(count, 4)).astype(np.float32),
            rng.random(count).astype(np.float32),
            rng.integers(1, 91, count),
        )
        for count in (3, 0, 1)
    ]
    back = unpacked(packed(found))
    assert same(dict(enumerate(back)), dict(enumerate(found)))


def test_a_worker_that_differs_from_the_first_is_refused(worker: Worker) -> None:
    """Results would mix; the number of its device is no difference."""
    first: Opened = worker.open(BATCH).result
    replace(first, description="told, device 3").check_same(first)
    other = replace(first, packages={**first.packages, "numpy": "1.0"})
    with pytest.raises(RunnerError, match=r"it has numpy 1\.0, but the first worker has .*: inst"):
        other.check_same(first)
