"""What runs in Ray's own processes: a worker, and the ledger seen from there."""

from __future__ import annotations

import os
import pickle
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

from ..errors import Effd0Error
from .ledger import WorkerId
from .pool import GPU, NPU
from .station import Station, hold_device
from .subject import Opened, Subject, describe, model_file
from .worker import UnitWorker

_VISIBLE_NPUS = "ASCEND_RT_VISIBLE_DEVICES"


class PoolWorker:
    """A `UnitWorker` as Ray Data calls it: rows in, rows out."""

    def __init__(self, made: bytes, ledger: Any) -> None:
        subject, work, expected, numbers = pickle.loads(made)  # noqa: S301
        worker = _this_worker(numbers)
        book = BookAbroad(ledger)
        station = Station(subject, work.batch_size, book, worker, expected)
        self._worker = UnitWorker(station, work, book)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Do each unit of *rows*; give back a report of each."""
        reports = [self._worker(pickle.loads(blob)) for blob in rows["unit"]]  # noqa: S301
        return {"report": [pickle.dumps(report) for report in reports]}


#: What is said to the ledger without waiting for an answer.
_SAID = {"give_back"}


class BookAbroad:
    """The ledger, from another process: a call waits for its answer, where it has one."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any) -> Any:
            import ray

            answer = getattr(self._ledger, name).remote(*args)
            return None if name in _SAID else ray.get(answer)

        return call


def probe(
    book: Any, subject: Subject, batch_size: int | None, numbers: tuple[int, ...], *, hold: bool
) -> Opened | Effd0Error:
    """
    What the model is, once open; errors as values, since Ray would wrap them.

    With *hold*, a device on which it does not open is kept from others, until that is over.
    """
    worker = _this_worker(numbers)
    try:
        with (
            model_file(subject, book) as path,
            subject.opened(path, worker.opens) as runner,
        ):
            return describe(runner, batch_size)
    except Effd0Error as error:
        if hold:
            book.retire(worker, str(error))
            hold_device(book, worker)
        return error


def _this_worker(numbers: tuple[int, ...]) -> WorkerId:
    """Who this process is; *numbers* are the devices of the host that Ray counts from 0."""
    import ray

    context = ray.get_runtime_context()
    ids = context.get_accelerator_ids()
    device = opens = None
    if ids.get(GPU):
        # Its process sees this one alone; the number is for messages, and to know it again.
        own = str(ids[GPU][0])
        device = int(own) if own.isdecimal() else zlib.crc32(own.encode())
    elif ids.get(NPU):
        device, opens = npu_numbers(str(ids[NPU][0]), os.environ.get(_VISIBLE_NPUS, ""), numbers)
    host, node = socket.gethostname(), context.get_node_id()
    actor = context.get_actor_id() or ""
    return WorkerId(host, node, os.getpid(), device, time.time(), opens, actor)


def npu_numbers(own: str, visible: str, numbers: tuple[int, ...]) -> tuple[int, int]:
    """
    The numbers by which others and this process know the NPU that Ray calls *own*.

    CANN counts those that are *visible* from 0, all without a word of it; *numbers* are those of
    the user, who counts as CANN does.
    """
    places = [part.strip() for part in visible.split(",")]
    place = places.index(own) if own in places else int(own)
    return (numbers[place], numbers[place]) if numbers else (int(own), place)
