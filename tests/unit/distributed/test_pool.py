"""What is asked for in workers and devices, and what contradicts itself."""

from typing import Any

import pytest

from effd0.distributed.pool import Pool, PoolOptions, accelerator, check_pool, worker_options
from effd0.errors import RunnerError
from effd0.runners.registry import RunnerOptions


@pytest.mark.parametrize(
    ("asked", "pool"),
    [
        ((None, None, None), None),
        ((4, None, None), Pool(4)),
        ((None, "0,2, 3", None), Pool(3, (0, 2, 3))),
        ((2, "5,6", None), Pool(2, (5, 6))),
        ((8, None, "head:6379"), Pool(8, (), "head:6379")),
    ],
    ids=["one-process", "workers", "devices", "both-agree", "cluster"],
)
def test_a_pool_is_what_was_asked_for(
    asked: tuple[int | None, str | None, str | None], pool: Pool | None
) -> None:
    """Each device has one worker, and a cluster is told how many."""
    assert PoolOptions(*asked).pool() == pool


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((None, "0", "head:1"), "a cluster deals out its own devices"),
        ((3, "0,1", None), "--workers is 3, but --devices names 2"),
        ((None, "0,zero", None), "--devices is '0,zero', but numbers"),
        ((None, "1,1", None), "each once"),
        ((None, "", None), "numbers of this host's devices"),
    ],
    ids=["devices-of-a-cluster", "numbers-differ", "no-number", "twice", "empty"],
)
def test_contradictions_are_refused(
    asked: tuple[int | None, str | None, str | None], message: str
) -> None:
    """What cannot be meant is an error that says what to give."""
    with pytest.raises(RunnerError, match=message):
        PoolOptions(*asked).pool()


CANN, CUDA = "CANNExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("runner", "options", "kind", "own"),
    [
        ("ort", {}, None, {"threads": 1}),
        ("ort", {"threads": 3}, None, {"threads": 3}),
        ("torch", {"device": "cuda"}, "GPU", {"device": "cuda"}),
        ("torch", {"device": "npu"}, "NPU", {"device": "npu:5"}),
        ("acl", {}, "NPU", {"device": "npu:5"}),
        ("ort", {"provider": CUDA}, "GPU", {"provider": CUDA}),
        ("ort", {"provider": CANN}, "NPU", {"provider_option": ("device_id=5",)}),
    ],
    ids=["cpu", "threads", "torch-gpu", "torch-npu", "acl", "ort-gpu", "ort-npu"],
)
def test_a_worker_computes_on_a_device_of_its_own(
    runner: str, options: dict[str, Any], kind: str | None, own: dict[str, Any]
) -> None:
    """It names its NPU in its runner's way, sees one GPU alone, and has one thread on a CPU."""
    asked = RunnerOptions(**options)
    assert accelerator(runner, asked) == kind
    made = worker_options(runner, asked, None if kind is None else 5)
    assert vars(made) == vars(asked) | own


@pytest.mark.parametrize(
    ("pool", "runner", "options", "message"),
    [
        (Pool(2), "torch", {"device": "cuda:1"}, "--device is cuda:1, but each worker"),
        (Pool(2), "acl", {"device": "1"}, "--device is 1, but each worker"),
        (Pool(2), "ort", {"provider": CUDA, "provider_option": ("device_id=1",)}, "a device_id, "),
    ],
    ids=["one-gpu-for-all", "one-npu-for-all", "one-device-id"],
)
def test_a_device_for_all_workers_is_refused(
    pool: Pool, runner: str, options: dict[str, Any], message: str
) -> None:
    """No two workers share a device, whatever its runner calls it."""
    with pytest.raises(RunnerError, match=message):
        check_pool(pool, {runner: RunnerOptions(**options)})


def test_workers_of_several_runners_have_one_kind_of_device() -> None:
    """What computes on the CPU may stand beside what has a device, but no other device."""
    asked = {"acl": RunnerOptions(), "torch": RunnerOptions()}
    assert check_pool(Pool(2, (0, 1)), asked) == "NPU"
    with pytest.raises(RunnerError, match="need GPU and NPU, but all workers have one kind"):
        check_pool(Pool(2), asked | {"torch": RunnerOptions(device="cuda")})
