"""What ``--workers`` and ``--devices`` of a session mean to its runners."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import pytest

from effd0.runners.registry import RunnerOptions
from effd0.scale.cluster import Cluster
from effd0.scale.pool import Pool, accelerator
from effd0.scale.ray_start import cluster

WorkersFor = Callable[[str], Cluster | None]
#: Runners that workers run; the others stay in the session's process.
WITH_WORKERS = ("ort", "openvino", "torch", "acl")


def accelerator_of(
    runners: Iterable[str], options_of: Callable[[str], RunnerOptions]
) -> str | None:
    """Return what each worker needs one of, as Ray names it, for *runners*; None on CPUs."""
    kinds = {kind for name in runners if (kind := accelerator(name, options_of(name)))}
    if len(kinds) > 1:
        raise pytest.UsageError(
            f"runners need {' and '.join(sorted(kinds))}, but all workers of a session have one "
            "kind; choose one with --runner"
        )
    return next(iter(kinds), None)


def check_workers(pool: Pool, kind: str | None, config: pytest.Config) -> None:
    """Refuse a *pool* that contradicts other options; its runners need a *kind* of device each."""
    if number := config.getoption("--device-id"):
        raise pytest.UsageError(
            f"--device-id is {number}, but each worker has a device of its own; name them with "
            "--devices"
        )
    alone = sorted(set(config.getoption("--runner") or ()) - set(WITH_WORKERS))
    if alone:
        raise pytest.UsageError(
            f"--runner is {', '.join(alone)}, but workers run {', '.join(WITH_WORKERS)}; "
            "leave --workers and --devices out"
        )
    if pool.devices and kind is None:
        raise pytest.UsageError(
            f"--devices is {config.getoption('--devices')}, but all runners compute on the CPU; "
            "use --workers, or choose a device (--runner=acl, --provider=CUDAExecutionProvider)"
        )


@contextlib.contextmanager
def workers_of(
    pool: Pool | None, runners: Iterable[str], options_of: Callable[[str], RunnerOptions]
) -> Iterator[WorkersFor]:
    """
    Yield what gives the workers for a runner; Ray runs from the first that is asked for on.

    *runners* are all of the session.  Without a *pool* every runner runs in this process.
    """
    if pool is None:
        yield lambda _name: None
        return
    kind = accelerator_of(runners, options_of)
    with contextlib.ExitStack() as stack:
        started = functools.cache(lambda: stack.enter_context(cluster(pool, kind)))

        def workers(name: str) -> Cluster | None:
            if name not in WITH_WORKERS:
                return None
            on_cpu = accelerator(name, options_of(name)) is None
            return started().on_cpu() if on_cpu else started()

        yield workers
