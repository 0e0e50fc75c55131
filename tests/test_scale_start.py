"""Ray started for a block: it comes, goes, and leaves the process and the host as they were."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from effd0.errors import RunnerError
from effd0.scale.pool import NPU, Pool
from effd0.scale.ray_start import _where, cluster, named_gpus

from .test_scale_stopped import GONE_S, wait_for


def children() -> set[str]:
    """Return the processes that this one has started, and that are not gone."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def outside() -> tuple[object, ...]:
    """Return what Ray is kept from: the error output, in Python and below, and logging."""
    output = os.fstat(2)
    return sys.stderr, output.st_dev, output.st_ino, logging.getLogger("ray").level


@pytest.mark.slow
def test_ray_can_be_started_again_and_leaves_nothing() -> None:
    """Twice in a process, and left by an error: no process, no folder, the error output is back."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    before, there = outside(), children()
    for workers in (1, 2):
        with suppress(ZeroDivisionError), cluster(Pool(workers), None) as ray:
            assert ray.capacity() >= workers
            assert outside() != before
            raise ZeroDivisionError
        assert outside() == before
        wait_for(lambda: children() <= there, GONE_S)
        assert children() <= there
        assert not list(Path("/tmp").glob(f"effd0-ray-*/session_*_{os.getpid()}"))  # noqa: S108


def test_a_pool_of_this_host_is_no_strangers_cluster() -> None:
    """Whatever cluster the environment names, Ray is started here unless an address is given."""
    assert _where(Pool(2), None, "folder")["address"] == "local"
    assert _where(Pool(2, (), "head:6379"), None, None) == {"address": "head:6379"}


@pytest.mark.parametrize(
    ("numbers", "visible", "names"),
    [
        ((0, 2), "", ["0", "2"]),
        ((0, 1), "4,5", ["4", "5"]),
        ((1,), " GPU-a, GPU-b ", ["GPU-b"]),
    ],
    ids=["all", "some", "by-name"],
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


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_an_error() -> None:
    """An address where nobody answers is named, and the error output is back."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    before = outside()
    with (
        pytest.raises(RunnerError, match=r"joined at 127\.0\.0\.1:1"),
        cluster(Pool(1, (), "127.0.0.1:1"), NPU),
    ):
        pass
    assert outside() == before
