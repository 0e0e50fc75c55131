"""The fault sweep: each pyACL call of a whole run fails once, and all is told and given back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effd0.ascend.acl_runner import AclRunner
from effd0.errors import AclError
from effd0.runners.base import infer_each

from .fakes.acl import installed
from .fakes.ascend.tiny import tiny_om
from .test_runner_acl import feed

Run = Callable[[Path], None]


def step_by_step(model: Path) -> None:
    """Open, run two batches, close."""
    with AclRunner(model, overlap=False) as runner:
        for rows in (2, 1):
            runner.infer(feed(rows))


def overlapped(model: Path) -> None:
    """Open, stream five batches, close."""
    with AclRunner(model) as runner:
        assert len(list(infer_each(runner, [feed(2)] * 5))) == 5


def stopped_early(model: Path) -> None:
    """Open, stop a stream after its first result, close."""
    with AclRunner(model) as runner:
        stream = infer_each(runner, [feed(2)] * 5)
        next(stream)
        stream.close()


def assert_told(error: AclError, name: str, code: int) -> None:
    """The error is that of the first failure; a bare handle comes without a code."""
    bare = name.endswith(("create_desc", "create_dataset", "create_data_buffer"))
    assert (error.call, error.code) == (f"acl.{name}", 0 if bare else code)


slow = pytest.mark.slow
HOSTS = [
    pytest.param({}, id="host"),
    pytest.param({"run_mode": "device"}, id="on-the-device", marks=slow),
    pytest.param({"cann": "old"}, id="old-cann", marks=slow),
]
MODELS = [
    pytest.param({"batch": 2}, id="fixed"),
    pytest.param({"gears": (1, 2)}, id="gears", marks=slow),
]


@pytest.mark.parametrize(
    "run", [step_by_step, *(pytest.param(run, marks=slow) for run in (overlapped, stopped_early))]
)
@pytest.mark.parametrize("shape", MODELS)
@pytest.mark.parametrize("host", HOSTS)
def test_whichever_call_fails_is_told_and_all_is_given_back(
    run: Run, shape: dict[str, Any], host: dict[str, Any], tmp_path: Path
) -> None:
    """For every k: the k-th call's own code comes out, nothing leaks, no failed thing is used."""
    model = tiny_om(tmp_path / "tiny.om", **shape)
    with installed(**host) as emulator:
        run(model)
        emulator.assert_clean()
        fallible = emulator.fallible_calls
    assert fallible > 40, "a run that makes fewer calls sweeps nothing"
    for k in range(1, fallible + 1):
        with installed(**host) as emulator:
            emulator.fail_call(k)
            with pytest.raises(AclError, match=r"^acl\.") as caught:
                run(model)
            assert_told(caught.value, *emulator.failures[0])
            emulator.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize("run", [step_by_step, overlapped])
def test_a_lost_device_is_told_by_its_first_failure(run: Run, tmp_path: Path) -> None:
    """From the k-th call on all fail: the first is what the user reads, and nothing hangs."""
    model = tiny_om(tmp_path / "tiny.om", batch=2)
    with installed() as emulator:
        run(model)
        fallible = emulator.fallible_calls
    for k in range(1, fallible + 1):
        with installed() as emulator:
            emulator.fail_from(k)
            with pytest.raises(AclError, match=r"^acl\.") as caught:
                run(model)
            assert_told(caught.value, *emulator.failures[0])
            assert not emulator.violations, emulator.violations
