"""
pyACL: its calls, its return codes, and its session in this process.

Every call goes through `acl_call`, the only place that reads a return code.  pyACL takes positional
arguments and Python integers only, exports no constants, and answers with a code, a value and a
code, or a bare value; `acl_call` returns the value or raises `AclError`.

ACL is initialised by its first user and finalised by its last, unless another component (torch_npu,
say) initialised it before.  Older versions of CANN cannot be initialised twice in one process, so
whoever opens one runner after another keeps an `acl_session` open around them.
"""

import contextlib
import importlib
import os
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self
from weakref import WeakKeyDictionary

from ..errors import AclError, RunnerError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
#: Run mode: this process runs on the device itself and reaches all of its memory.
ON_DEVICE = 0
#: Memory policy: huge pages first, then normal ones.
HUGE_FIRST = 0
REPEAT_INITIALIZE = 100002

#: Calls that answer with a bare value -> the answer that means failure.
_BARE: dict[str, object] = {
    "create_data_buffer": 0,
    "get_soc_name": None,
    "mdl.create_dataset": 0,
    "mdl.create_desc": 0,
    "mdl.get_input_data_type": -1,
    "mdl.get_input_name_by_index": "",
    "mdl.get_input_size_by_index": 0,
    "mdl.get_num_inputs": 0,
    "mdl.get_num_outputs": 0,
    "mdl.get_output_data_type": -1,
    "mdl.get_output_name_by_index": "",
    "mdl.get_output_size_by_index": 0,
}

_FILE = tomllib.loads(Path(__file__).with_name("errors.toml").read_text())
#: Code, and first digit of others -> (meaning, what to do).
CODES, KINDS = (
    {int(code): (what, remedy.format(**_FILE["advice"])) for code, (what, remedy) in table.items()}
    for table in (_FILE["acl_codes"], _FILE["acl_kinds"])
)


def explain(code: int) -> tuple[str, str]:
    """Return what *code* means and what to do about it."""
    other = KINDS.get(int(str(abs(code))[0]), ("a failure", _FILE["advice"]["health"]))
    return CODES.get(code, other)


def acl_call(name: str, *arguments: int | str) -> Any:
    """
    Call ``acl.<name>`` and return its value, or None where it answers with a return code only.

    Raises `AclError` for any code but 0 and for a bare value that means failure.
    """
    answer = _function(name)(*arguments)
    *values, code = answer if isinstance(answer, tuple) and name not in _BARE else (answer,)
    what, advice = f"gave {answer!r}: it could not be made or found", "report it with this message"
    if name in _BARE:
        values, failed, code = [answer], answer == _BARE[name], 0
    elif failed := code != 0:
        meaning, advice = explain(int(code))
        what = f"failed with {int(code)}: {meaning}"
    if not failed:
        return values[0] if len(values) == 1 else tuple(values) or None
    shown = ", ".join(repr(argument) for argument in arguments)
    text = _function("get_recent_err_msg")() if acl_has("get_recent_err_msg") else None
    runtime = f"; the runtime says: {' '.join(text.split())}" if text else ""
    message = f"acl.{name}({shown}) {what}{runtime}; {advice}"
    raise AclError(message, call=f"acl.{name}", code=int(code))


def acl_has(name: str) -> bool:
    """Whether this version of pyACL has ``acl.<name>``."""
    try:
        _function(name)
    except AclError:
        return False
    return True


def _function(name: str) -> Callable[..., Any]:
    found: Any = _module()
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise AclError(
            f"this pyACL has no acl.{name}, but effd0 needs it; use CANN 6.0 or later",
            call=f"acl.{name}",
        )
    function: Callable[..., Any] = found
    return function


def _module() -> ModuleType:
    try:
        return importlib.import_module("acl")
    except ImportError as error:
        raise RunnerError(
            f"pyACL cannot be imported ({error}), but --runner acl needs it; "
            "source CANN's set_env.sh (/usr/local/Ascend/ascend-toolkit/set_env.sh, "
            "or /usr/local/Ascend/cann/set_env.sh since CANN 8.5)"
        ) from error


class Held:
    """Resources, released in reverse order of taking, each whatever becomes of the others."""

    def __init__(self) -> None:
        self._releases: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.release(error)

    def take(self, release: Callable[[], object]) -> None:
        """Have *release* called in its turn."""
        self._releases.append(release)

    def take_back(self, name: str, *arguments: int) -> None:
        """Have ``acl.<name>(*arguments)`` called in its turn."""
        self.take(lambda: acl_call(name, *arguments))

    def release(self, in_flight: BaseException | None) -> None:
        """Release all.  Failures become notes of *in_flight*; without it the first is raised."""
        failures: list[BaseException] = [] if in_flight is None else [in_flight]
        while self._releases:
            try:
                self._releases.pop()()
            except RunnerError as error:
                failures.append(error)
        for other in failures[1:]:
            failures[0].add_note(f"and while giving back: {other}")
        if failures and in_flight is None:
            raise failures[0]


@dataclass
class _Usage:
    """Users of a pyACL module in this process; *own* is whether they initialised it."""

    pid: int = 0
    users: int = 0
    own: bool = False
    devices: Counter[int] = field(default_factory=Counter)


#: ACL is one for a process, so this must be too.  Its state belongs to the module that was loaded.
_USAGE: WeakKeyDictionary[ModuleType, _Usage] = WeakKeyDictionary()
_LOCK = threading.RLock()


@contextlib.contextmanager
def acl_session() -> Iterator[None]:
    """
    Keep ACL initialised for the time of a ``with`` block; such blocks may be nested.

    Raises `AclError` where it cannot be initialised, `RunnerError` in a forked process.
    """
    with Held() as held:
        _initialise(held)
        yield


def open_device(device: int, held: Held) -> None:
    """Initialise ACL and open *device* for all threads, until *held* is released."""
    usage = _initialise(held)

    def leave() -> None:
        with _LOCK:
            usage.devices[device] -= 1
            # A reset takes the device from every user in this process, so it is for its owner.
            if usage.devices[device] == 0 and usage.own:
                acl_call("rt.reset_device", device)

    with _LOCK:
        acl_call("rt.set_device", device)
        usage.devices[device] += 1
    held.take(leave)


def _initialise(held: Held) -> _Usage:
    usage = _USAGE.setdefault(_module(), _Usage())

    def leave() -> None:
        with _LOCK:
            usage.users -= 1
            if usage.users == 0 and usage.own:
                acl_call("finalize")

    with _LOCK:
        if usage.pid not in (0, os.getpid()):
            raise RunnerError(
                "ACL was used by the parent of this process, but it does not survive a fork; "
                "start processes with the method 'spawn'"
            )
        if usage.users == 0:
            usage.own = True
            try:
                acl_call("init")
            except AclError as error:
                if error.code != REPEAT_INITIALIZE:
                    raise
                usage.own = False
        usage.pid = os.getpid()
        usage.users += 1
    held.take(leave)
    return usage
