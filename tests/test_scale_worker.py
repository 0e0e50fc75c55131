"""One worker, in this process: everything that can come of a unit."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from effd0.data.coco import Dataset, Sample
from effd0.errors import ImageError, RunnerError
from effd0.runners.registry import RunnerOptions
from effd0.scale import detect_work
from effd0.scale.detect_work import DetectWork
from effd0.scale.ledger import ATTEMPTS, Ledger, Taken, WorkerId
from effd0.scale.station import Station
from effd0.scale.subject import Opened, describe
from effd0.scale.tables import from_bytes
from effd0.scale.units import ImageUnit, cut
from effd0.scale.worker import UnitReport, UnitWorker

from .fakes.pool import ToldRunner, ToldSubject
from .helpers import SMALL
from .pool_runs import BATCH, alone, coloured_coco, same

MODEL = b"no model"
NPU = WorkerId("host", "node", 1, 0, 1.0, 0)
CPU = replace(NPU, device=None, opens=None)


class DiedError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The folder that tells the runner what to do."""
    (tmp_path / "plan").mkdir()
    return tmp_path / "plan"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two batches of pictures."""
    return coloured_coco(tmp_path / "coco", 2 * BATCH)


@pytest.fixture
def unit(dataset: Dataset) -> ImageUnit:
    """All of them."""
    whole = cut(dataset, len(dataset.samples), 1)
    assert len(whole) == 1
    return whole[0]


@pytest.fixture
def ledger() -> Ledger:
    """The ledger of a run that has begun."""
    ledger = Ledger(MODEL)
    ledger.begin()
    return ledger


@pytest.fixture(autouse=True)
def mortal() -> Iterator[None]:
    """Have the end of the process be an exception."""
    with mock.patch("os._exit", side_effect=DiedError):
        yield


def expected(device: int | None) -> Opened:
    """Return what the first worker said of itself."""
    return describe(ToldRunner(Path(), 0, device), BATCH)


def opened(
    plan: Path, dataset: Dataset, ledger: Ledger, who: WorkerId, wanted: Opened | None = None
) -> UnitWorker:
    """Return the open worker *who*."""
    digest = hashlib.sha256(MODEL).hexdigest()
    subject = ToldSubject("acl", SMALL, RunnerOptions(), "model.om", digest, plan)
    bare = replace(dataset, samples=(), annotations=())
    work = DetectWork(SMALL, bare, BATCH, 1, None, "", detections=True)
    station = Station(subject, work.batch_size, ledger, who, wanted or expected(who.device))
    return UnitWorker(station, work, ledger)


def right(report: UnitReport, dataset: Dataset) -> bool:
    """Return whether *report* brings what one process finds."""
    if report.failure is not None:
        return False
    found = from_bytes(report.found)
    assert found.detections is not None
    by_id = dict(zip(found.image_ids, found.detections, strict=True))
    return same(by_id, alone(dataset))


@pytest.mark.parametrize("who", [NPU, CPU], ids=["on-a-device", "on-a-cpu"])
def test_a_unit_that_is_done_is_found_as_in_one_process(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger, who: WorkerId
) -> None:
    """Its report brings the detections, and the ledger holds it no more."""
    report = opened(plan, dataset, ledger, who)(unit)
    assert right(report, dataset)
    assert (report.first, report.stop, report.worker) == (unit.first, unit.stop, who)
    assert report.notes == ()
    assert ledger.state().held == ledger.state().lost == ()
    assert list(ledger.state().opened) == [who]


def test_an_error_that_passes_is_a_note(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """The model is opened again and the unit done, with the times of the second try alone."""
    worker = opened(plan, dataset, ledger, NPU)
    once = {name: len(seconds) for name, seconds in worker(unit).stages.items()}
    (plan / "error-1").touch()
    report = worker(unit)
    assert right(report, dataset)
    assert {name: len(seconds) for name, seconds in report.stages.items()} == once
    (note,) = report.notes
    assert note.endswith("the device forgot what it was doing; the model was opened again")


def test_a_device_that_stays_broken_is_given_up(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """The process ends, its place is retired, and its unit is blamed for nothing."""
    worker = opened(plan, dataset, ledger, NPU)
    (plan / f"broken-{NPU.device}").touch()
    with pytest.raises(DiedError):
        worker(unit)
    assert "does not answer; opened again, it gave" in ledger.state().retired[NPU.place]
    assert ledger.take(CPU, unit.first) == 0


def test_a_cpu_is_never_given_up(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """Without a device an error that stays is the unit's failure, and may be tried again."""
    worker = opened(plan, dataset, ledger, CPU)
    for number in (1, 2):
        (plan / f"error-{number}").touch()
    report = worker(unit)
    assert report.failure is not None
    assert report.failure.again
    assert "the device forgot" in str(report.failure.error)
    assert ledger.state().retired == {}


def test_broken_images_fail_for_good_and_all_are_named(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """An error of images is not tried again, and tells of those behind the first too."""
    torn = [dataset.samples[place].path for place in (0, len(dataset.samples) - 1)]
    for path in torn:
        path.write_bytes(path.read_bytes()[:40])
    failure = opened(plan, dataset, ledger, NPU)(unit).failure
    assert failure is not None
    assert isinstance(failure.error, ImageError)
    assert not failure.again
    assert all(path.name in str(failure.error) for path in torn)
    assert ledger.state().held == ()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no space left"), "no space left"),
        (MemoryError("3 GB for an array"), "MemoryError: 3 GB for an array"),
        (KeyError("bbox"), "KeyError: 'bbox'"),
    ],
    ids=["file-system", "memory", "of-ours"],
)
def test_what_nobody_foresaw_fails_the_unit_and_may_pass(
    error: Exception,
    message: str,
    plan: Path,
    dataset: Dataset,
    unit: ImageUnit,
    ledger: Ledger,
) -> None:
    """It is told as it is, is no death of the worker, and is not for good."""
    worker = opened(plan, dataset, ledger, NPU)
    with mock.patch.object(DetectWork, "keep", side_effect=error):
        failure = worker(unit).failure
    assert failure is not None
    assert failure.again
    assert str(failure.error) == f"{NPU}: {message}"
    assert ledger.state().held == ()
    assert right(worker(unit), dataset)


def test_after_a_death_images_are_announced(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """The second to take a unit says batch by batch what comes, so that its death tells more."""
    first, second = (opened(plan, dataset, ledger, who) for who in (NPU, CPU))
    for worker in (first, second):
        (plan / "deadly-1").touch()  # which the picture of the second place is
        with pytest.raises(DiedError):
            worker(unit)
    held = dict(ledger.state().held)
    assert ledger.last_lost(unit.first) == Taken(NPU)
    assert held[unit.first] == Taken(CPU, unit.image_ids[:BATCH])


def test_a_unit_that_kills_is_left_alone(
    plan: Path, dataset: Dataset, unit: ImageUnit, ledger: Ledger
) -> None:
    """After so many deaths the unit is not begun, and the images and the last dead are named."""
    (plan / "deadly-1").touch()
    for _ in range(ATTEMPTS):
        with pytest.raises(DiedError):
            opened(plan, dataset, ledger, NPU)(unit)
    failure = opened(plan, dataset, ledger, CPU)(unit).failure
    assert failure is not None
    assert not failure.again
    named = ", ".join(map(str, unit.image_ids[:BATCH]))
    assert f"{ATTEMPTS} workers died over one of the images of id {named}" in str(failure.error)
    assert f"the last was {NPU}" in str(failure.error)


def test_images_of_a_unit_are_copied_while_another_is_run(
    plan: Path, dataset: Dataset, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit whose images do not come keeps nobody waiting whose images are there."""
    worker, done = opened(plan, dataset, ledger, NPU), threading.Event()
    first, second = cut(dataset, BATCH, 1)

    @contextlib.contextmanager
    def late(samples: Sequence[Sample], _folder: Path) -> Iterator[Sequence[Sample]]:
        assert samples == first.samples or done.wait(20)
        yield samples

    monkeypatch.setattr(detect_work, "localized", late)
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(worker, second)
        pool.submit(worker, first).result(20)
        assert not waits.done()
        done.set()
        report = waits.result(20)
    assert report.failure is None
    assert from_bytes(report.found).image_ids == second.image_ids


@contextlib.contextmanager
def ending(ledger: Ledger) -> Iterator[list[float]]:
    """Have the round end while a worker waits; what it slept."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        ledger.end_if_hopeless(1)

    with mock.patch("time.sleep", sleep):
        yield slept


def test_a_device_that_does_not_open_is_held_until_the_round_ends(
    plan: Path, dataset: Dataset, ledger: Ledger
) -> None:
    """It is retired and kept from others; whoever comes there later waits as well."""
    (plan / f"broken-{NPU.device}").touch()
    with ending(ledger) as slept, pytest.raises(RunnerError, match="device 0 does not answer"):
        opened(plan, dataset, ledger, NPU)
    assert slept
    assert "does not answer" in ledger.state().retired[NPU.place]
    (plan / f"broken-{NPU.device}").unlink()
    ledger.begin()
    with ending(ledger) as slept, pytest.raises(RunnerError, match="device 0 does not answer"):
        opened(plan, dataset, ledger, replace(NPU, pid=2))
    assert slept
    assert ledger.state().opened == {}


def test_a_worker_that_is_not_as_the_others_does_nothing(
    plan: Path, dataset: Dataset, ledger: Ledger
) -> None:
    """Where a package or the backend differs results would mix: it waits, and says why."""
    other = replace(expected(None), description="another backend")
    why = "has backend told, but the first worker has another"
    with ending(ledger), pytest.raises(RunnerError, match=why):
        opened(plan, dataset, ledger, CPU, other)
    assert why in ledger.state().retired[CPU.place]
    assert ledger.state().opened == {}
