"""What is asked for in workers and devices, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from effd0.distributed.pool import Pool, accelerator, check_pool, pool_of, worker_options
from effd0.errors import RunnerError
from effd0.runners.registry import RunnerOptions


def test_nothing_asked_for_is_one_process() -> None:
    """Without any of the options there is no pool."""
    assert pool_of(None, None, None, verbose=False) is None


@pytest.mark.parametrize(
    ("asked", "pool"),
    [
        ((4, None, None), Pool(4)),
        ((None, "0,2, 3", None), Pool(3, (0, 2, 3))),
        ((2, "5,6", None), Pool(2, (5, 6))),
        ((8, None, "head:6379"), Pool(8, (), "head:6379")),
    ],
    ids=["workers", "devices", "both-agree", "cluster"],
)
def test_a_pool_is_what_was_asked_for(
    asked: tuple[int | None, str | None, str | None], pool: Pool
) -> None:
    """Each device has one worker, and a cluster is told how many."""
    assert pool_of(*asked, verbose=False) == pool


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((None, "0", "head:1"), "a cluster deals out its own devices"),
        ((3, "0,1", None), "--workers is 3, but --devices names 2"),
        ((None, None, "head:1"), "give --workers"),
        ((None, "0,zero", None), "--devices is '0,zero', but numbers"),
        ((None, "1,1", None), "each once"),
        ((None, "", None), "numbers of this host's devices"),
    ],
    ids=["devices-of-a-cluster", "numbers-differ", "how-many", "no-number", "twice", "empty"],
)
def test_contradictions_are_refused(
    asked: tuple[int | None, str | None, str | None], message: str
) -> None:
    """What cannot be meant is an error that says what to give."""
    with pytest.raises(RunnerError, match=message):
        pool_of(*asked, verbose=False)


@pytest.mark.parametrize(
    ("runner", "options", "kind"),
    [
        ("ort", {}, None),
        ("openvino", {}, None),
        ("torch", {}, None),
        ("torch", {"device": "cuda"}, "GPU"),
        ("torch", {"device": "npu"}, "NPU"),
        ("acl", {}, "NPU"),
        ("ort", {"provider": "CUDAExecutionProvider"}, "GPU"),
        ("ort", {"provider": "TensorrtExecutionProvider"}, "GPU"),
        ("ort", {"provider": "CANNExecutionProvider"}, "NPU"),
    ],
    ids=str,
)
def test_a_worker_needs_what_its_runner_computes_on(
    runner: str, options: dict[str, Any], kind: str | None
) -> None:
    """Ray is asked for the accelerator that the runner uses, and for none where there is none."""
    assert accelerator(runner, RunnerOptions(**options)) == kind


def test_a_worker_on_a_cpu_has_one_thread() -> None:
    """Workers share the cores, unless the user says how."""
    assert worker_options("ort", RunnerOptions(), None).threads == 1
    assert worker_options("ort", RunnerOptions(threads=3), None).threads == 3


def test_a_worker_has_its_own_npu() -> None:
    """Each runner that computes on NPUs is told its number in its own way."""
    assert worker_options("acl", RunnerOptions(), 3).device == "npu:3"
    assert worker_options("torch", RunnerOptions(device="npu"), 1).device == "npu:1"
    ort = worker_options("ort", RunnerOptions(provider="CANNExecutionProvider"), 2)
    assert ort.provider_option == ("device_id=2",)


def test_a_worker_sees_its_gpu_as_the_only_one() -> None:
    """Of GPUs the others are hidden, so that nothing is to be numbered."""
    options = RunnerOptions(device="cuda")
    assert worker_options("torch", options, 5) == options


@pytest.mark.parametrize(
    ("pool", "runner", "options", "message"),
    [
        (Pool(2, (0, 1)), "ort", {}, "computes on the CPU; use --workers"),
        (Pool(2), "torch", {"device": "cuda:1"}, "--device is cuda:1, but each worker"),
        (Pool(2), "acl", {"device": "1"}, "--device is 1, but each worker"),
        (
            Pool(2),
            "ort",
            {"provider": "CUDAExecutionProvider", "provider_option": ("device_id=1",)},
            "a device_id, but each worker",
        ),
    ],
    ids=["devices-of-a-cpu", "one-gpu-for-all", "one-npu-for-all", "one-device-id"],
)
def test_a_device_for_all_workers_is_refused(
    pool: Pool, runner: str, options: dict[str, Any], message: str
) -> None:
    """No two workers share a device, and a CPU has none to be named."""
    with pytest.raises(RunnerError, match=message):
        check_pool(pool, {runner: RunnerOptions(**options)})
