"""
ACL in this process: initialised by its first user, finalised by its last.

Only what was initialised here is finalised here: another component (torch_npu, say) may have been
first.  Older versions of CANN cannot be initialised again after that, so who opens one runner
after another holds a session open around them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from weakref import WeakKeyDictionary

from ..errors import AclError, RunnerError
from .acl_api import Held, acl_call, acl_module
from .acl_codes import REPEAT_INITIALIZE


@dataclass
class _Usage:
    """Who uses a pyACL module in this process; *own* is whether it was initialised here."""

    pid: int = 0
    users: int = 0
    own: bool = False
    devices: Counter[int] = field(default_factory=Counter)


#: ACL is one for a process, so this must be too.  Its state belongs to the module that was loaded.
_USAGE: WeakKeyDictionary[ModuleType, _Usage] = WeakKeyDictionary()
_LOCK = threading.RLock()


def _usage() -> _Usage:
    return _USAGE.setdefault(acl_module(), _Usage())


@contextlib.contextmanager
def acl_session() -> Iterator[None]:
    """
    Keep ACL initialised for the time of a ``with`` block; such blocks may be nested.

    Raises `AclError` where it cannot be initialised, `RunnerError` in a forked process.
    """
    _enter()
    held = Held()
    held.take(_leave)
    with _released(held):
        yield


@contextlib.contextmanager
def acl_device(device: int) -> Iterator[None]:
    """Keep *device* open, for all threads, for the time of a ``with`` block."""
    held = Held()
    with acl_session(), _released(held):
        with _LOCK:
            acl_call("rt.set_device", device)
            _usage().devices[device] += 1
        held.take(lambda: _leave_device(device))
        yield


@contextlib.contextmanager
def _released(held: Held) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        held.release(error)
        raise
    held.release(None)


def _enter() -> None:
    with _LOCK:
        usage = _usage()
        if usage.pid not in (0, os.getpid()):
            raise RunnerError(
                "ACL was used by the parent of this process, but it does not survive a fork; "
                "start processes with the method 'spawn'"
            )
        if usage.users == 0:
            usage.own = _initialise()
        usage.pid = os.getpid()
        usage.users += 1


def _initialise() -> bool:
    """Initialise ACL; False where another component has done so."""
    try:
        acl_call("init")
    except AclError as error:
        if error.code != REPEAT_INITIALIZE:
            raise
        return False
    return True


def _leave() -> None:
    with _LOCK:
        usage = _usage()
        usage.users -= 1
        if usage.users == 0 and usage.own:
            acl_call("finalize")


def _leave_device(device: int) -> None:
    with _LOCK:
        usage = _usage()
        usage.devices[device] -= 1
        # A reset takes the device from every user in this process, so it is for its owner.
        if usage.devices[device] == 0 and usage.own:
            acl_call("rt.reset_device", device)
