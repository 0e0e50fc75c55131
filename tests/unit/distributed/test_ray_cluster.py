"""Workers as processes of Ray: they come, go, are killed, and leave the host as it was."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data.coco import Dataset
from effd0.distributed.pool import NPU, Pool
from effd0.distributed.ray_cluster import Cluster, named_gpus, npu_numbers, started
from effd0.errors import RunnerError
from tests.helpers.runners import alone, coloured_coco, on_pool, same

DEVICES = (4, 5, 7)
IMAGES = 40
#: A batch is so slow that the other workers are there before the first has done everything.
LATENCY_S = 0.1


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """Ray on this host, which is told that it has three devices."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    with started(Pool(len(DEVICES), DEVICES, silence_s=60), NPU) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures for some seconds."""
    return coloured_coco(tmp_path_factory.mktemp("data") / "coco", IMAGES)


def test_a_killed_worker_loses_nothing(ray: Cluster, dataset: Dataset, tmp_path: Path) -> None:
    """What a killed process had in hand is done again, bit for bit, and its end is named."""
    killed: list[str] = []

    def kill(worker: str, _count: int) -> None:
        if not killed:
            killed.append(worker)
            os.kill(int(worker.rpartition(" ")[2]), signal.SIGKILL)

    found, summary = on_pool(dataset, ray, tmp_path, latency_s=LATENCY_S, advance=kill)
    assert same(found, alone(dataset))
    (fault,) = summary["faults"]
    assert fault.startswith(f"worker lost: {killed[0]}: its process was killed or crashed with im")
    assert {share["worker"].split()[2] for share in summary["workers"]} == set(map(str, DEVICES))


@pytest.mark.slow
def test_a_device_that_hangs_is_left_out(ray: Cluster, dataset: Dataset, tmp_path: Path) -> None:
    """Nobody waits for a call that does not end, nor for its process."""
    (tmp_path / "hang-1").touch()
    hasty = replace(ray, pool=replace(ray.pool, silence_s=20))
    found, summary = on_pool(dataset, hasty, tmp_path, latency_s=LATENCY_S)
    assert same(found, alone(dataset))
    (fault,) = summary["faults"]
    assert "gave no answer for 20 s at images " in fault


@pytest.mark.parametrize(
    ("own", "visible", "numbers", "wanted"),
    [
        pytest.param("1", "", (), (1, 1), id="by-number"),
        pytest.param("1", "", (4, 6), (6, 6), id="named"),
        pytest.param("5", "5", (), (5, 0), id="hidden-by-ray"),
        pytest.param("5", "4,5", (), (5, 1), id="hidden-by-user"),
        pytest.param("5", "4, 5", (0, 1), (1, 1), id="named-of-visible"),
    ],
)
def test_a_process_knows_its_npu_by_the_number_that_cann_gives_it(
    own: str, visible: str, numbers: tuple[int, ...], wanted: tuple[int, int]
) -> None:
    """CANN counts the devices that are visible; messages name a device as its host does."""
    assert npu_numbers(own, visible, numbers) == wanted


@pytest.mark.parametrize(
    ("numbers", "visible", "names"),
    [
        pytest.param((0, 2), "", ["0", "2"], id="all"),
        pytest.param((0, 1), "4,5", ["4", "5"], id="some"),
        pytest.param((1,), " GPU-a, GPU-b ", ["GPU-b"], id="by-name"),
    ],
)
def test_gpus_are_counted_among_those_that_may_be_used(
    numbers: tuple[int, ...], visible: str, names: list[str]
) -> None:
    """What --devices names is what the same number means to CUDA in one process."""
    assert named_gpus(numbers, visible) == names


def test_a_gpu_that_may_not_be_used_is_refused() -> None:
    """Where a scheduler has given this run two, there is no third."""
    with pytest.raises(RunnerError, match=r"--devices names 2, but CUDA_VISIBLE_DEVICES is 4,5"):
        named_gpus((0, 2), "4,5")
