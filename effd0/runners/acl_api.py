"""
pyACL: every call goes through `acl_call`, the only place that looks at a return code.

pyACL takes positional arguments and Python integers only, exports no constants, and answers with
a code, a value and a code, or a bare value; `acl_call` gives the value or raises `AclError`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..errors import AclError, RunnerError
from .acl_codes import explain

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
#: Run mode: where this process runs is the device itself, so that all its memory is at hand.
ON_DEVICE = 0
#: Memory policy: huge pages first, then normal ones.
HUGE_FIRST = 0

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


def acl_call(name: str, *arguments: int | str) -> Any:
    """
    Call ``acl.<name>`` and return its value; None where there is but a return code.

    Raises `AclError` for any code but 0 and for a bare value that means failure.
    """
    answer = _function(name)(*arguments)
    if name in _BARE:
        if answer == _BARE[name]:
            raise _failure(name, arguments, None, answer)
        return answer
    *values, code = answer if isinstance(answer, tuple) else (answer,)
    if code != 0:
        raise _failure(name, arguments, int(code), answer)
    return values[0] if len(values) == 1 else tuple(values) or None


def acl_has(name: str) -> bool:
    """Whether this version of pyACL has ``acl.<name>``."""
    try:
        _function(name)
    except AclError:
        return False
    return True


def acl_module() -> ModuleType:
    """The module pyACL; raises `RunnerError` where there is none."""
    try:
        return importlib.import_module("acl")
    except ImportError as error:
        raise RunnerError(
            f"pyACL cannot be imported ({error}), but --runner acl needs it; "
            "source CANN's set_env.sh (/usr/local/Ascend/ascend-toolkit/set_env.sh, "
            "or /usr/local/Ascend/cann/set_env.sh since CANN 8.5)"
        ) from error


def _function(name: str) -> Callable[..., Any]:
    found: Any = acl_module()
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise AclError(
            f"this pyACL has no acl.{name}, but effd0 needs it; use CANN 6.0 or later",
            call=f"acl.{name}",
        )
    function: Callable[..., Any] = found
    return function


def _failure(
    name: str, arguments: tuple[int | str, ...], code: int | None, answer: object
) -> AclError:
    call = f"acl.{name}"
    shown = ", ".join(repr(argument) for argument in arguments)
    said = _function("get_recent_err_msg")() if acl_has("get_recent_err_msg") else None
    runtime = f"; the runtime says: {' '.join(said.split())}" if said else ""
    if code is None:
        meaning, advice = "it could not be made or found", "report it with this message"
        return AclError(f"{call}({shown}) gave {answer!r}: {meaning}{runtime}; {advice}", call=call)
    meaning, advice = explain(code)
    return AclError(
        f"{call}({shown}) failed with {code}: {meaning}{runtime}; {advice}", call=call, code=code
    )


class Held:
    """
    What was taken, to be given back in reverse order.

    That one thing cannot be given back keeps no other from being given back.
    """

    def __init__(self) -> None:
        self._releases: list[Callable[[], object]] = []

    def take(self, release: Callable[[], object]) -> None:
        """Have *release* called in its turn."""
        self._releases.append(release)

    def take_back(self, name: str, *arguments: int) -> None:
        """Have ``acl.<name>(*arguments)`` called in its turn."""
        self.take(lambda: acl_call(name, *arguments))

    def release(self, in_flight: BaseException | None) -> None:
        """Give all back.  Failures are noted on *in_flight*; without it the first is raised."""
        failures: list[RunnerError] = []
        while self._releases:
            try:
                self._releases.pop()()
            except RunnerError as error:
                failures.append(error)
        if not failures:
            return
        first, rest = (failures[0], failures[1:]) if in_flight is None else (in_flight, failures)
        for other in rest:
            first.add_note(f"and while giving back: {other}")
        if in_flight is None:
            raise first
