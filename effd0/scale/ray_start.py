"""Ray started on this host for the time of a run, or joined where it runs."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from ..errors import RunnerError, require
from .cluster import Cluster
from .pool import GPU, NPU, Pool
from .quiet import quiet
from .stream import last_line

#: Read by Ray when it is imported or starts a process.
_ENVIRONMENT = {
    # An NPU is chosen by its number, which CANN of any age understands; the variable is newer.
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1",
}
#: Seconds that what we started looks for the rest, once its driver was killed; a minute else.
_OURS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
#: Seconds in which a cluster answers.
_ANSWERS_S = 10.0
#: Enough for results under way; images never lie there.
_STORE_BYTES = 256 * 2**20


_TMP, _PREFIX, _LOCK = Path("/tmp"), "effd0-ray-", "lock"  # noqa: S108


def require_ray() -> ModuleType:
    """Ray, with what workers need of it; raise `MissingExtra` without either."""
    ray = require("ray", extra="ray")
    require("ray.data", extra="ray")
    return ray


@contextlib.contextmanager
def cluster(pool: Pool, kind: str | None) -> Iterator[Cluster]:
    """
    Start Ray for *pool*, each worker with one accelerator of *kind*, or join it at its address.

    What was started is stopped at the end of the block, with all its processes.  Raises
    `MissingExtra` without Ray and `RunnerError` where it cannot be started or joined.
    """
    ours = _OURS if pool.address is None else {}
    for name, value in {**_ENVIRONMENT, **ours}.items():
        os.environ.setdefault(name, value)
    with (
        quiet(verbose=pool.verbose) as heard,
        _session_folder(pool) as folder,
        _visible_gpus(pool, kind),
    ):
        ray = require_ray()
        # A thread that still works while Ray stops would start another by itself.
        auto: Any = importlib.import_module("ray._private.auto_init_hook")
        auto.enable_auto_connect = False
        try:
            _check_reachable(pool.address)
            ray.init(
                log_to_driver=pool.verbose,
                **_where(pool, kind, folder),
            )
        except (OSError, ValueError, RuntimeError) as error:
            what = "started" if pool.address is None else f"joined at {pool.address}"
            raise RunnerError(f"Ray cannot be {what}: {last_line(error)}") from error
        try:
            found = Cluster(pool, kind, heard)
            if found.capacity() < 1:
                raise RunnerError(
                    f"the cluster has no {kind or 'CPU'}, but each worker needs one; "
                    "look at it with 'ray status'"
                )
            yield found
        finally:
            ray.shutdown()


def _where(pool: Pool, kind: str | None, folder: str | None) -> dict[str, Any]:
    if pool.address is not None:
        return {"address": pool.address}
    # Said, since without a word Ray joins the cluster that RAY_ADDRESS names.
    own: dict[str, Any] = {"address": "local", "num_cpus": pool.workers + 1, "num_gpus": 0}
    if kind == NPU:
        own["resources"] = {NPU: pool.workers}
    elif kind == GPU:
        own["num_gpus"] = pool.workers
    return {
        **own,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_temp_dir": folder,
    }


def _check_reachable(address: str | None) -> None:
    """Raise `OSError` where nobody listens at *address*: Ray would end this process for that."""
    host, _, port = ("" if address is None else address).rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        with socket.create_connection((host, int(port)), timeout=_ANSWERS_S):
            pass


@contextlib.contextmanager
def _visible_gpus(pool: Pool, kind: str | None) -> Iterator[None]:
    """Have Ray deal out just the GPUs that were named."""
    if kind != GPU or not pool.devices:
        yield
        return
    chosen = named_gpus(pool.devices, os.environ.get(_VISIBLE_GPUS, ""))
    with mock.patch.dict(os.environ, {_VISIBLE_GPUS: ",".join(chosen)}):
        yield


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


@contextlib.contextmanager
def _session_folder(pool: Pool) -> Iterator[str | None]:
    """A folder for Ray's sockets and logs, removed afterwards; kept to be read where verbose."""
    if pool.address is not None or pool.verbose:
        yield None
        return
    _sweep()
    # Short, and not where TMPDIR says: paths of sockets may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_TMP))
    try:
        with (folder / "making").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "making").rename(folder / _LOCK)
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove the folders of drivers that were killed: their locks are free."""
    for path in _TMP.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
