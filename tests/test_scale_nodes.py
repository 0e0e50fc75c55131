"""A cluster of several nodes, on this host, with emulated devices: nodes go away in mid-run."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.evaluation.pipeline import run_dataset
from effd0.evaluation.run_dir import UnderTest
from effd0.io import sha256
from effd0.runners.registry import RunnerOptions
from effd0.scale.cluster import Cluster
from effd0.scale.pool import NPU, Pool
from effd0.scale.ray_process import npu_numbers
from effd0.scale.ray_start import cluster
from effd0.scale.run import PoolRun, detect_on_pool

from .fakes.ascend.tiny import small_d0_om
from .fakes.emulated import EmulatedRunner
from .helpers import SMALL
from .pool_runs import BATCH, coloured_coco, same
from .test_scale_stopped import wait_for

IMAGES = 96
NODES = 2
#: Kills in each run; ten in all.
KILLS = (1, 2, 3, 4)
#: A device takes its time, so that runs go on while nodes come and go.
EMULATED = '{"block_ms": 700}'
SITE = Path(__file__).parent / "fakes" / "sitepath"


class Nodes:
    """Nodes with two devices each beside the head, which has none."""

    def __init__(self, ray_cluster: Any) -> None:
        self._cluster = ray_cluster
        self._nodes: list[Any] = []
        self.killed: list[str] = []

    def fill(self) -> None:
        """Add nodes until there are enough."""
        while len(self._nodes) < NODES:
            self._nodes.append(self._cluster.add_node(num_cpus=2, resources={NPU: 2}))

    def end(self) -> None:
        """Stop all of it."""
        self._cluster.shutdown()

    def kill_one(self, chance: random.Random) -> str:
        """Kill one node with everything on it; its id."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self.killed.append(str(node.node_id))
        return self.killed[-1]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Nodes, str]]:
    """A head and its nodes, as strangers to this suite would start them; the head's address."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    from ray.cluster_utils import Cluster as RayCluster

    root = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (SITE, root)))
    with mock.patch.dict(
        os.environ, PYTHONPATH=path, EFFD0_FAKE_ACL=EMULATED, RAY_BACKEND_LOG_LEVEL="error"
    ):
        made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1})
        there = Nodes(made)
        try:
            there.fill()
            yield there, made.address
        finally:
            there.end()


@pytest.fixture(scope="module")
def ray(nodes: tuple[Nodes, str]) -> Iterator[Cluster]:
    """The pool of all devices."""
    with cluster(Pool(2 * NODES, (), nodes[1], silence_s=60), NPU) as joined:
        yield joined


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures for some seconds."""
    return coloured_coco(tmp_path_factory.mktemp("data") / "coco", IMAGES)


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled model with the heads of `SMALL`."""
    return small_d0_om(tmp_path_factory.mktemp("om") / "small.om", SMALL, batch=BATCH)


@pytest.fixture(scope="module")
def wanted(dataset: Dataset, om: Path) -> dict[int, Detections]:
    """What one process finds with the same model on the same devices."""
    with EmulatedRunner(om) as runner:
        stream = run_dataset(dataset.samples, runner, SMALL, batch_size=BATCH)
        return {sample.image_id: found for sample, found in stream}


def detected(
    dataset: Dataset, om: Path, ray: Cluster, advance: Callable[[str, int], None]
) -> PoolRun:
    """Detect in *dataset* with the real runner on the nodes' emulated devices."""

    @contextmanager
    def display(_what: str, _total: int) -> Iterator[Callable[[str, int], None]]:
        yield advance

    return detect_on_pool(
        dataset,
        UnderTest(sha256(om), None, "acl", SMALL, RunnerOptions()),
        om,
        ray,
        batch_size=None,
        host_threads=1,
        place=None,
        collect=True,
        open_progress=display,
    )


@pytest.mark.slow
def test_nodes_find_what_one_process_finds(
    dataset: Dataset, om: Path, ray: Cluster, wanted: dict[int, Detections]
) -> None:
    """On all devices of all nodes, which each process numbers for itself, nothing differs."""
    run = detected(dataset, om, ray, lambda _worker, _count: None)
    assert same(run.what.found, wanted)
    assert run.summary.faults == ()
    assert "emulated" in run.runner


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
def test_nodes_that_go_away_lose_nothing(
    dataset: Dataset,
    om: Path,
    ray: Cluster,
    nodes: tuple[Nodes, str],
    wanted: dict[int, Detections],
    kills: int,
) -> None:
    """Nodes are killed at any moment and others join: the same is found, and losses are named."""
    chance = random.Random(kills)  # noqa: S311
    moments = sorted(chance.sample(range(1, IMAGES // BATCH * 3 // 4), kills))
    done = list[str]()
    with ThreadPoolExecutor(1) as aside:
        running = aside.submit(detected, dataset, om, ray, lambda worker, _: done.append(worker))
        while moments:  # nodes are started by the main thread alone
            wait_for(lambda: len(done) >= moments[0] or running.done())
            del moments[0]
            nodes[0].kill_one(chance)
            nodes[0].fill()
        assert not running.done(), "the run was over before its nodes went away"
        run = running.result()
    assert same(run.what.found, wanted)
    lost = [fault for fault in run.summary.faults if fault.startswith("a node was lost: ")]
    named = {node for node in nodes[0].killed if any(node[:8] in fault for fault in lost)}
    assert len(named) == len(lost), "a node was named that nobody killed"
    # Ray misses a node only after some heartbeats, perhaps in the next run: until then it is its
    # workers that are named, if they had anything in hand.


@pytest.mark.parametrize(
    ("own", "visible", "numbers", "wanted"),
    [
        ("1", "", (), (1, 1)),
        ("1", "", (4, 6), (6, 6)),
        ("5", "5", (), (5, 0)),
        ("5", "4,5", (), (5, 1)),
        ("5", "4, 5", (0, 1), (1, 1)),
    ],
    ids=["by-number", "named", "hidden-by-ray", "hidden-by-user", "named-of-visible"],
)
def test_a_process_knows_its_npu_by_the_number_that_cann_gives_it(
    own: str, visible: str, numbers: tuple[int, ...], wanted: tuple[int, int]
) -> None:
    """CANN counts the devices that are visible; messages name a device as its host does."""
    assert npu_numbers(own, visible, numbers) == wanted
