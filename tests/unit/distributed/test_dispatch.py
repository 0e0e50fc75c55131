"""The dispatch of units to workers: no image is lost or counted twice, and each fault is named."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.distributed.dispatch import ATTEMPTS, MOST_BATCHES, cut
from effd0.distributed.pool import Pool
from effd0.errors import HeadError, RunnerError
from tests.helpers.runners import BATCH, HereCluster, Killed, alone, coloured_coco, on_pool, same

IMAGES = 40
#: The only image whose class is the last.
DEADLY, DEADLY_ID = 4, 27
LEVELS = [200 if 10 + n == DEADLY_ID else 50 * (n % 4) for n in range(IMAGES)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures of four reds, and one of a fifth."""
    return coloured_coco(tmp_path_factory.mktemp("data") / "coco", IMAGES, LEVELS)


@pytest.fixture(scope="module")
def wanted(dataset: Dataset) -> dict[int, Detections]:
    """What one process finds."""
    return alone(dataset)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that tells the workers what to do; the end of a process is an exception."""

    def killed(_code: int) -> None:
        raise Killed

    monkeypatch.setattr("os._exit", killed)
    return tmp_path


def devices(workers: int = 3) -> HereCluster:
    """Return workers with a device each."""
    return HereCluster(Pool(workers), "NPU")


@given(batch=st.integers(1, 9), workers=st.integers(1, 9), images=st.integers(0, 700))
def test_units_are_all_items_once_in_whole_batches(batch: int, workers: int, images: int) -> None:
    """Batches begin where they do in one process; the last units of each worker are small."""
    units = cut(range(images), batch, workers)
    assert [item for unit in units for item in unit.items] == list(range(images))
    for unit in units:
        assert unit.first == unit.items[0]
        assert unit.first % batch == 0
        assert len(unit.items) <= MOST_BATCHES * batch
    assert all(len(unit.items) <= batch for unit in units[-workers:])


def once(act: Callable[[], object]) -> Callable[[str, int], None]:
    """Return an ``advance`` that calls *act* the first time."""
    acts = [act]

    def advance(_worker: str, _count: int) -> None:
        while acts:
            acts.pop()()

    return advance


LOST, LEFT_OUT = "worker lost: here device", "device left out: here device"
#: What happens -> files of the plan, what comes once a unit is done, and the faults told.
FAULTS = {
    "killed": ("die-0 die-1 die-2", "", [rf"{LOST} \d .* was killed or crashed with images "] * 3),
    "device-error": ("error-1", "", [rf"{LOST} \d pid \d: the device forgot .* with images "]),
    "broken-devices": (
        "broken-0 broken-1",
        "",
        [f"{LEFT_OUT} {n} pid {n}: device {n} does not answer" for n in (0, 1)],
    ),
    "device-breaks": ("", "broken-1", [f"{LOST} 1 pid 1: device 1 does not answer with images "]),
    "device-hangs": ("", "silent", [f"{LEFT_OUT} 2 pid 2: gave no answer for 600 s at images "]),
}


@pytest.mark.parametrize(("files", "later", "faults"), FAULTS.values(), ids=FAULTS)
def test_a_fault_loses_nothing(
    files: str,
    later: str,
    faults: list[str],
    dataset: Dataset,
    wanted: dict[int, Detections],
    plan: Path,
) -> None:
    """What a worker had in hand is done by others, a new process takes its place, all is told."""
    ray = devices()
    for name in files.split():
        (plan / name).touch()

    def act() -> None:
        if later == "silent":
            ray.silent.add(2)
        elif later:
            (plan / later).touch()

    found, summary = on_pool(dataset, ray, plan, advance=once(act))
    assert same(found, wanted)
    assert len(summary["faults"]) == len(faults)
    for fault, expected in zip(summary["faults"], faults, strict=True):
        assert re.match(expected, fault), fault


def test_an_error_that_stays_with_its_images_is_tried_three_times(
    dataset: Dataset, plan: Path
) -> None:
    """A unit that fails on each worker is named with its error, when the others are done."""
    found: dict[int, Detections] = {}

    @dataclass(frozen=True)
    class Failing(HereCluster):
        def result(self, call: Any) -> Any:
            reply = super().result(call)
            if call[2] == "run" and self.begun[-1] == dataset.samples[8]:
                return replace(reply, error=HeadError("no heads"), result=None)
            return reply

    with pytest.raises(RunnerError, match=r"1 units of work \(2 images\) .*\n  no heads"):
        on_pool(dataset, Failing(Pool(2)), plan, found=found)
    assert len(found) == IMAGES - BATCH


@pytest.mark.parametrize("when", ["start", "middle", "hang"])
def test_a_pool_without_a_device_that_works_says_so(
    dataset: Dataset, plan: Path, when: str
) -> None:
    """Where all devices are broken or hang the run ends, with one error that names each."""
    ray = devices()

    def break_all() -> None:
        for number in range(3):
            (plan / f"broken-{number}").touch()

    if when == "start":
        break_all()
    act = break_all if when != "hang" else lambda: ray.silent.update(range(3))
    with pytest.raises(RunnerError, match="no device works") as raised:
        on_pool(dataset, ray, plan, advance=once(act))
    said = "gave no answer for 600 s at images " if when == "hang" else "does not answer"
    for number in range(3):
        assert re.search(rf"device {number} .*{said}", str(raised.value))


def test_a_device_that_ends_its_process_is_not_used_again(
    dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """After as many ends in a row it is left out; no image is blamed for it."""

    @dataclass(frozen=True)
    class Deadly(HereCluster):
        def start(self, open_model: Any) -> Any:
            # The second device, and whatever process is opened on it later.
            on_deadly = len(self.processes) > 0
            process = super().start(open_model)
            worker = self.processes[process]
            assert worker is not None
            if on_deadly:
                worker.run = killed
            return process

    def killed(*_: object) -> Any:
        raise Killed

    found, summary = on_pool(dataset, Deadly(Pool(2), "NPU"), plan)
    assert same(found, wanted)
    assert sum("worker lost: " in fault for fault in summary["faults"]) == ATTEMPTS
    assert f"its process ended {ATTEMPTS} times in a row, at last: " in summary["faults"][-1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_deadly_image_is_not_tried_for_ever(dataset: Dataset, plan: Path, workers: int) -> None:
    """An image that ends each process that takes it is named by its batch; all others are done."""
    (plan / f"deadly-{DEADLY}").touch()
    found: dict[int, Detections] = {}
    with pytest.raises(RunnerError, match=f"{ATTEMPTS} workers died over .*{DEADLY_ID}") as raised:
        on_pool(dataset, devices(workers), plan, found=found)
    assert str(raised.value).count("worker lost: ") == ATTEMPTS
    assert "1 units of work (2 images)" in str(raised.value)
    assert "look at each" in str(raised.value)
    assert len(found) == IMAGES - BATCH
