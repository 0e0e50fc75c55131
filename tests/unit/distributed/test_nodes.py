"""A cluster of several nodes, on this host: nodes go away in mid-run, and others come."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from effd0.distributed.pool import NPU, Pool
from effd0.distributed.ray_cluster import Cluster, started
from tests.helpers import ROOT
from tests.helpers.runners import alone, coloured_coco, on_pool, same

pytestmark = pytest.mark.slow

IMAGES = 120
LATENCY_S = 0.3
NODES = 2


class Nodes:
    """Nodes with two devices each beside the head, which has none."""

    def __init__(self, ray_cluster: Any) -> None:
        self._cluster, self._nodes = ray_cluster, list[Any]()

    def fill(self) -> None:
        """Add nodes until there are enough."""
        while len(self._nodes) < NODES:
            self._nodes.append(self._cluster.add_node(num_cpus=2, resources={NPU: 2}))

    def kill_one(self) -> None:
        """Kill one node with everything on it."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Nodes, str]]:
    """A head and its nodes, as strangers to this suite would start them; the head's address."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    from ray.cluster_utils import Cluster as RayCluster

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with mock.patch.dict(os.environ, PYTHONPATH=path, RAY_BACKEND_LOG_LEVEL="error"):
        made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1})
        there = Nodes(made)
        try:
            there.fill()
            yield there, made.address
        finally:
            made.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def ray(nodes: tuple[Nodes, str]) -> Iterator[Cluster]:
    """The pool of all devices."""
    with started(Pool(2 * NODES, (), nodes[1], silence_s=60), NPU) as joined:
        yield joined


@pytest.mark.parametrize("come_again", [True, False], ids=["replaced", "gone"])
def test_a_killed_node_loses_nothing(
    ray: Cluster, nodes: tuple[Nodes, str], tmp_path: Path, come_again: bool
) -> None:
    """What its devices had in hand is done by others, its end is named, no image is blamed."""
    dataset, done = coloured_coco(tmp_path / "coco", IMAGES), 0

    def advance(_worker: str, count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before < IMAGES // 4 <= done:
            nodes[0].kill_one()
            if come_again:
                nodes[0].fill()

    found, summary = on_pool(dataset, ray, tmp_path, latency_s=LATENCY_S, advance=advance)
    assert same(found, alone(dataset))
    lost = [fault for fault in summary["faults"] if fault.startswith("worker lost: ")]
    # Ray tells a node that has gone from one that is out of reach some heartbeats later.
    gone = re.compile("its node went away|it cannot be reached any more")
    assert 1 <= len(lost) <= 2
    assert all(gone.search(fault) for fault in lost), lost
