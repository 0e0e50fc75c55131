"""What goes wrong in a run on Ray: no image is lost or counted twice, and each fault is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.errors import ImageError, RunnerError
from effd0.scale.cluster import Cluster
from effd0.scale.kept import SHARDS
from effd0.scale.ledger import ATTEMPTS
from effd0.scale.pool import NPU, Pool
from effd0.scale.ray_start import cluster

from .pool_runs import BATCH, alone, coloured_coco, on_pool, same

pytestmark = pytest.mark.slow

DEVICES = (0, 1, 2)
#: Longer than processes take to start, which is silence too.
SILENCE_S = 40
IMAGES = 40
#: A batch is so slow that the other workers are there before the first has done everything.
LATENCY_S = 0.1
#: The only image whose class is the last.
DEADLY, DEADLY_ID = 4, 27
LEVELS = [200 if 10 + n == DEADLY_ID else 50 * (n % 4) for n in range(IMAGES)]


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """Ray on this host, which is told that it has three devices."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    with cluster(Pool(len(DEVICES), DEVICES, silence_s=60), NPU) as started:
        yield started


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Pictures of four reds, and one of a fifth."""
    return coloured_coco(tmp_path / "coco", IMAGES, LEVELS)


@pytest.fixture
def wanted(dataset: Dataset) -> dict[int, Detections]:
    """What one process finds."""
    return alone(dataset)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The folder that tells the workers what to do."""
    folder = tmp_path / "plan"
    folder.mkdir()
    return folder


def once(act: Callable[[str], object]) -> Callable[[str, int], None]:
    """Return an ``advance`` that calls *act* with the worker that is the first to have done any."""
    first: list[str] = []

    def advance(worker: str, _count: int) -> None:
        if not first:
            first.append(worker)
            act(worker)

    return advance


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_finds_the_same(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path, workers: int
) -> None:
    """Workers find what one process finds, to the last bit, in one round and without a fault."""
    some = Cluster(replace(ray.pool, workers=workers), ray.kind, ray.heard)
    run = on_pool(dataset, some, plan, latency_s=LATENCY_S, device="npu")
    assert same(run.what.found, wanted)
    assert (run.summary.rounds, run.summary.faults) == (1, ())
    assert len(run.summary.workers) <= workers
    assert sum(share.images for share in run.summary.workers) == IMAGES


def test_a_killed_worker_loses_nothing(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """What a killed process was doing is done by another, and its end is named."""
    killed: list[int] = []

    def kill(worker: str) -> None:
        killed.append(int(worker.rpartition(" ")[2]))
        os.kill(killed[0], signal.SIGKILL)

    run = on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu", advance=once(kill))
    assert same(run.what.found, wanted)
    lost = [fault for fault in run.summary.faults if f"pid {killed[0]}" in fault]
    assert len(lost) == 1
    assert lost[0].startswith("worker lost: ")


def test_workers_that_die_again_and_again_lose_nothing(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """Several deaths, of old processes and new ones: all is found once, and each is named."""
    deaths = 3
    for number in range(deaths):
        (plan / f"die-{number}").touch()
    run = on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu")
    assert same(run.what.found, wanted)
    assert sum("worker lost: " in fault for fault in run.summary.faults) == deaths


def test_a_device_error_that_passes_costs_one_reopening(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """After an error the model is opened again there, and nobody else has to do the unit."""
    (plan / "error-1").touch()
    run = on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu")
    assert same(run.what.found, wanted)
    assert run.summary.rounds == 1
    (fault,) = run.summary.faults
    assert "the device forgot what it was doing; the model was opened again" in fault


def test_a_device_that_breaks_is_left_out(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """A device that answers no more is retired, named once, and the others do its part."""
    broken: list[str] = []

    def break_it(worker: str) -> None:
        broken.append(worker.split()[2])
        (plan / f"broken-{broken[0]}").touch()

    run = on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu", advance=once(break_it))
    assert same(run.what.found, wanted)
    (fault,) = run.summary.faults
    assert fault.startswith("device left out: ")
    assert f"device {broken[0]} does not answer; opened again, it gave" in fault
    assert run.summary.rounds == 2


def test_a_device_that_is_broken_from_the_start_is_left_out(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """Whichever device the model is tried on first, those that work do everything."""
    for number in DEVICES[:2]:
        (plan / f"broken-{number}").touch()
    run = on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu")
    assert same(run.what.found, wanted)
    assert {share.worker.split()[2] for share in run.summary.workers} == {str(DEVICES[2])}
    assert sum("device left out: " in fault for fault in run.summary.faults) >= 1


@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_pool_without_a_device_that_works_says_so(
    ray: Cluster, dataset: Dataset, plan: Path, when: str
) -> None:
    """Where all devices are broken the run ends, with one error that names each."""

    def break_all(_worker: str) -> None:
        for number in DEVICES:
            (plan / f"broken-{number}").touch()

    if when == "start":
        break_all("")
    with pytest.raises(RunnerError, match="no device works") as raised:
        on_pool(dataset, ray, plan, latency_s=LATENCY_S, device="npu", advance=once(break_all))
    for number in DEVICES:
        assert f"device {number} does not answer" in str(raised.value)


def test_a_device_that_hangs_is_left_out(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path
) -> None:
    """Where nothing comes any more, who holds a unit is given up, and the unit done elsewhere."""
    (plan / "hang-1").touch()
    hasty = Cluster(replace(ray.pool, silence_s=SILENCE_S), ray.kind, ray.heard)
    run = on_pool(dataset, hasty, plan, latency_s=LATENCY_S, device="npu")
    assert same(run.what.found, wanted)
    (left_out,) = [fault for fault in run.summary.faults if "device left out" in fault]
    assert left_out.endswith(f"gave no answer for {SILENCE_S} s")


def test_torn_images_are_named_when_the_rest_is_kept(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path, tmp_path: Path
) -> None:
    """One error names every torn file; once they are mended, only their units are run again."""
    torn = [dataset.samples[place].path for place in (4, 23)]
    whole = [path.read_bytes() for path in torn]
    for path, data in zip(torn, whole, strict=True):
        path.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    with pytest.raises(ImageError) as raised:
        on_pool(dataset, ray, plan, out=out, device="npu")
    assert all(path.name in str(raised.value) for path in torn)
    for path, data in zip(torn, whole, strict=True):
        path.write_bytes(data)
    run = on_pool(dataset, ray, plan, out=out, device="npu")
    assert same(run.what.found, wanted)
    assert run.images == len(torn) * BATCH


def test_a_deadly_image_is_not_tried_for_ever(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path, tmp_path: Path
) -> None:
    """An image that ends each process that takes it is named; all others are kept."""
    (plan / f"deadly-{DEADLY}").touch()
    out = tmp_path / "out"
    with pytest.raises(RunnerError, match=f"{ATTEMPTS} workers died over .*{DEADLY_ID}") as raised:
        on_pool(dataset, ray, plan, out=out, device="npu")
    assert str(raised.value).count("worker lost: ") == ATTEMPTS
    assert "1 units of work" in str(raised.value)
    (plan / f"deadly-{DEADLY}").unlink()
    run = on_pool(dataset, ray, plan, out=out, device="npu")
    assert same(run.what.found, wanted)
    assert run.images == BATCH


def test_a_torn_shard_is_made_again(
    ray: Cluster, dataset: Dataset, wanted: dict[int, Detections], plan: Path, tmp_path: Path
) -> None:
    """Of a whole run with one shard cut short, just that one's images are run again."""
    out, said = tmp_path / "out", list[str]()
    on_pool(dataset, ray, plan, out=out, device="npu", collect=False)
    shard = sorted((out / SHARDS).glob("*.parquet"))[3]
    shard.write_bytes(shard.read_bytes()[:-100])
    run = on_pool(dataset, ray, plan, out=out, device="npu", say=said.append)
    assert same(run.what.found, wanted)
    assert run.images == BATCH
    assert f"{shard.name} is torn or was changed" in said[0]
