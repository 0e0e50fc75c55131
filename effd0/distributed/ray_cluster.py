"""
Ray, started on this host for the time of a run or joined where it runs: processes and calls.

No other module imports Ray.  What Ray would print is kept off the terminal.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import RunnerError, require
from .pool import GPU, NPU, Pool
from .worker import CALLS, OpenModel, Worker

#: Read by Ray when it is imported or starts a process; what the user has set stays.
_ENVIRONMENT = {
    # An NPU is chosen by its number, which CANN of any age understands; the variable is newer.
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_usage_stats_enabled": "0",
}
#: Seconds that processes started here look for the others once their driver was killed.
_LOCAL = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
_VISIBLE_GPUS, _VISIBLE_NPUS = "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"
#: Seconds in which a cluster answers.
_ANSWERS_S = 10.0
#: Bytes for a model and the detections under way; images never lie there.
_STORE_BYTES = 256 * 2**20
_TMP, _PREFIX, _LOCK = Path("/tmp"), "effd0-ray-", "lock"  # noqa: S108


class Died(Exception):  # not an error of this process
    """A worker's process ended in a call; *node* is true where its whole node went away."""

    def __init__(self, why: str, *, node: bool = False) -> None:
        super().__init__(why)
        self.node = node


@dataclass(frozen=True)
class Cluster:
    """
    A running *ray* with a place for each worker of *pool*; see `started`.

    Each worker has one accelerator of *kind* (``GPU``, ``NPU``), or computes on a CPU.
    """

    pool: Pool
    kind: str | None
    ray: Any = None

    def on_cpu(self) -> Cluster:
        """The same, for workers that compute on CPUs of the same hosts."""
        return replace(self, pool=replace(self.pool, devices=()), kind=None)

    def capacity(self) -> int:
        """How many workers have a place now."""
        return int(self.ray.cluster_resources().get(self.kind or "CPU", 0))

    def share(self, data: bytes) -> Any:
        """*data* as workers are given it, sent once to each host."""
        return self.ray.put(data)

    def start(self, open_model: OpenModel) -> Any:
        """A new process of a `Worker`, once there is a place for it."""
        needs: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_concurrency": CALLS}
        needs |= {"num_gpus": 1} if self.kind == GPU else {}
        needs |= {"resources": {NPU: 1}} if self.kind == NPU else {}
        actor = self.ray.remote(Worker).options(**needs)
        return actor.remote(open_model, partial(this_place, self.pool.devices))

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """Have *worker* run a *method* of `Worker`; the call that `wait` and `result` take."""
        return getattr(worker, method).remote(*args)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Any | None:
        """One of *calls* that has ended, or None after so many seconds."""
        ready, _ = self.ray.wait(list(calls), timeout=timeout_s)
        return ready[0] if ready else None

    def result(self, call: Any) -> Any:
        """What a *call* that has ended gave; raise `Died` where its process has ended."""
        try:
            return copy.deepcopy(self.ray.get(call))  # out of Ray's store, which is small
        except self.ray.exceptions.RayTaskError:
            raise
        except self.ray.exceptions.RayError as error:
            raise _death(str(error)) from error

    def stop(self, worker: Any) -> None:
        """End the process of *worker*."""
        self.ray.kill(worker)


def _death(told: str) -> Died:
    """What Ray *told* of the end of a process, in a line without its advice."""
    detail = told.partition("Worker exit detail: ")[2].partition(". Some common causes")[0].strip()
    if "node has died" in told or "node was terminated" in told:
        return Died("its node went away", node=True)
    if "is unavailable" in told:  # as a node is for which Ray still waits
        detail = "it cannot be reached any more"
    elif "connection error" in detail:  # all that Ray saw of it
        detail = "its process was killed or crashed"
    return Died(detail or " ".join(told.split()))


@contextlib.contextmanager
def started(pool: Pool, kind: str | None) -> Iterator[Cluster]:
    """
    Start Ray for *pool*, each worker with one accelerator of *kind*, or join it at its address.

    What was started is stopped at the end of the block, with all its processes.  Raises
    `MissingExtra` without Ray and `RunnerError` where it cannot be started or joined.
    """
    local = pool.address is None
    for name, value in {**_ENVIRONMENT, **(_LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as stack:
        if not pool.verbose:
            stack.enter_context(_ray_silenced())
        where: dict[str, Any] = {"address": pool.address}
        if local:
            # Said, since without a word Ray joins the cluster that RAY_ADDRESS names.
            where = {
                "address": "local",
                "num_cpus": pool.workers,
                "num_gpus": pool.workers if kind == GPU else 0,
                "resources": {NPU: pool.workers} if kind == NPU else None,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": None if pool.verbose else stack.enter_context(_session_folder()),
            }
        if kind == GPU and pool.devices:  # Ray deals out those that it sees
            from unittest import mock  # which imports asyncio

            visible = named_gpus(pool.devices, os.environ.get(_VISIBLE_GPUS, ""))
            stack.enter_context(mock.patch.dict(os.environ, {_VISIBLE_GPUS: ",".join(visible)}))
        ray: Any = require("ray", extra="ray")
        try:
            host, _, port = (pool.address or "").rpartition(":")
            if host and port.isdecimal() and "/" not in host:
                # Where nobody listens, Ray would end this process.
                socket.create_connection((host, int(port)), timeout=_ANSWERS_S).close()
            ray.init(log_to_driver=pool.verbose, **where)
        except (OSError, ValueError, RuntimeError) as error:
            what = "started" if local else f"joined at {pool.address}"
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise RunnerError(f"Ray cannot be {what}: {last[0]}") from error
        stack.callback(ray.shutdown)
        cluster = Cluster(pool, kind, ray)
        if cluster.capacity() < 1:
            raise RunnerError(
                f"the cluster has no {kind or 'CPU'}, but each worker needs one; "
                "look at it with 'ray status'"
            )
        yield cluster


def named_gpus(numbers: Sequence[int], visible: str) -> list[str]:
    """
    The GPUs of these *numbers* by the names that CUDA has for them all.

    Where some are *visible*, as another has set it, they are counted from 0, as CUDA does.
    """
    names = [part.strip() for part in visible.split(",") if part.strip()]
    if not names:
        return list(map(str, numbers))
    if beyond := [number for number in numbers if number >= len(names)]:
        raise RunnerError(
            f"--devices names {beyond[0]}, but {_VISIBLE_GPUS} is {visible}, which are numbered "
            f"0 to {len(names) - 1} here; name some of these"
        )
    return [names[number] for number in numbers]


def this_place(numbers: tuple[int, ...]) -> tuple[str, int | None]:
    """
    The name of this worker process, as ``host device 3 pid 12``, and the number of its NPU.

    *numbers* are the devices of the host as the user counts.
    """
    import ray

    ids = ray.get_runtime_context().get_accelerator_ids()
    name, opens = socket.gethostname(), None
    if ids.get(GPU):
        name += f" device {ids[GPU][0]}"  # its process sees this one alone
    elif ids.get(NPU):
        own, visible = str(ids[NPU][0]), os.environ.get(_VISIBLE_NPUS, "")
        device, opens = npu_numbers(own, visible, numbers)
        name += f" device {device}"
    return f"{name} pid {os.getpid()}", opens


def npu_numbers(own: str, visible: str, numbers: tuple[int, ...]) -> tuple[int, int]:
    """
    The numbers by which messages and this process know the NPU that Ray calls *own*.

    CANN counts those that are *visible* from 0, all without a word of it; *numbers* are those of
    the user, who counts as CANN does.
    """
    places = [part.strip() for part in visible.split(",")]
    place = places.index(own) if own in places else int(own)
    return (numbers[place], numbers[place]) if numbers else (int(own), place)


@contextlib.contextmanager
def _session_folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs, removed afterwards, as those of killed drivers are."""
    for path in _TMP.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    # Short, and not where TMPDIR says: paths of sockets may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_TMP))
    try:
        with (folder / "making").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "making").rename(folder / _LOCK)
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _NotOfRay:
    """A text stream that loses what threads of Ray write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _ray_silenced() -> Iterator[None]:
    """
    Keep Ray off the terminal: its loggers, its threads, and what its C++ library writes.

    A progress display, which puts a stream of its own in the place of the error output, begins
    and ends within such a block.
    """
    sys.stderr.flush()
    disabled = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        kept = os.dup(2)
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 2)
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if sys.stderr.fileno() == 2:  # noqa: PLR2004  # as the system numbers it
                # Python's own messages go where they went: to the terminal, if it is one.
                own = stack.enter_context(os.fdopen(os.dup(kept), "w", buffering=1))
                stack.enter_context(contextlib.redirect_stderr(own))
        stack.enter_context(contextlib.redirect_stdout(_NotOfRay(sys.stdout)))
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        # Ray makes loggers and handlers as it goes, and this package has none.
        stack.callback(logging.disable, disabled)
        logging.disable(logging.CRITICAL)
        yield
