"""One worker, in this process: two units at a time on one device, and what it says of itself."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from effd0.data.coco import Dataset, Sample
from effd0.distributed import engine
from effd0.distributed.engine import detect_unit
from effd0.distributed.worker import Opened, Worker
from effd0.errors import RunnerError
from tests.helpers import SMALL
from tests.helpers.runners import BATCH, ToldRunner, alone, coloured_coco, same, told_model

WORK = partial(detect_unit, SMALL, 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Pictures for two units of two batches."""
    return coloured_coco(tmp_path / "coco", 4 * BATCH)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker that has its model open."""
    model = partial(told_model, tmp_path, 0.0, ToldRunner)
    one = Worker(model, lambda: ("host pid 1", None))
    assert one.open("told.onnx", b"no model", BATCH).error is None
    return one


def test_units_at_a_time_are_those_one_after_the_other(dataset: Dataset, worker: Worker) -> None:
    """Two calls share the runner and mix no batches; the times are of all their images."""
    halves = dataset.samples[: 2 * BATCH], dataset.samples[2 * BATCH :]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda items: worker.run(WORK, items), halves))
    found = [one for reply in replies for one in reply.result]
    assert same(dict(zip(dataset.image_ids, found, strict=True)), alone(dataset))
    counts = {name: len(times) for name, times in vars(replies[0].stages).items()}
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

    def broken(*_given: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine, "localized", broken)
        assert str(worker.run(WORK, dataset.samples).error) == f"host pid 1: {message}"
    assert worker.run(WORK, dataset.samples).error is None


def test_a_worker_that_differs_from_the_first_is_refused(worker: Worker) -> None:
    """Results would mix; the number of its device is no difference."""
    first: Opened = worker.open("told.onnx", b"no model", BATCH).result
    replace(first, description="told, device 3").check_same(first)
    other = replace(first, decides={**first.decides, "numpy": "1.0"})
    with pytest.raises(RunnerError, match=r"it has numpy 1\.0, but the first worker has .*: inst"):
        other.check_same(first)
