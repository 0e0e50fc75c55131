"""Tests for `effd0.ascend.acl_api`, on a pyACL of a few scripted functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from effd0.ascend.acl_api import CODES, KINDS, Held, acl_call, acl_has, explain
from effd0.errors import AclError, RunnerError

Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that installs a pyACL whose calls give these answers."""

    def put(**answers: Any) -> None:
        acl, acl_rt, acl_mdl = ModuleType("acl"), ModuleType("acl.rt"), ModuleType("acl.mdl")
        homes = {"": acl, "rt": acl_rt, "mdl": acl_mdl}
        vars(acl).update(rt=acl_rt, mdl=acl_mdl)
        for name, answer in answers.items():
            home, _, function = name.rpartition("__")
            vars(homes[home])[function] = lambda *_, answer=answer: answer
        monkeypatch.setitem(sys.modules, "acl", acl)

    return put


@pytest.mark.parametrize(
    ("name", "answer", "value"),
    [
        ("rt.set_device", 0, None),
        ("rt.malloc", (4096, 0), 4096),
        ("mdl.create_desc", 77, 77),
        ("mdl.get_input_data_type", 0, 0),
        ("get_version", (1, 8, 0, 0), (1, 8, 0)),
    ],
    ids=["code", "value-and-code", "bare", "bare-zero", "three-values-and-code"],
)
def test_a_call_gives_its_value(script: Script, name: str, answer: Any, value: Any) -> None:
    """Of the three shapes in which pyACL answers, the caller sees the value alone."""
    script(**{name.replace(".", "__"): answer})
    assert acl_call(name) == value


@pytest.mark.parametrize(
    ("name", "answer", "code", "message"),
    [
        pytest.param("rt.set_device", 507033, 507033, "could not be opened", id="code"),
        pytest.param("rt.malloc", (0, 207001), 207001, "memory ran out", id="value-and-code"),
        pytest.param("mdl.create_desc", 0, 0, "gave 0: it could not be made", id="no-handle"),
        pytest.param("mdl.get_output_size_by_index", 0, 0, "gave 0", id="no-size"),
        pytest.param("mdl.get_output_data_type", -1, 0, "gave -1", id="undefined-type"),
        pytest.param("mdl.get_output_name_by_index", "", 0, "gave ''", id="no-name"),
        pytest.param("rt.free", 107999, 107999, "a mistake of the caller", id="unlisted-code"),
        pytest.param("rt.free", -1, -1, "a mistake of the caller", id="negative-code"),
        pytest.param("rt.free", 900000, 900000, "a failure", id="code-beyond-the-scheme"),
    ],
)
def test_every_failure_is_raised(
    script: Script, name: str, answer: Any, code: int, message: str
) -> None:
    """A code other than 0 and a bare value that means failure are errors, with advice."""
    script(**{name.replace(".", "__"): answer})
    with pytest.raises(AclError, match=message) as caught:
        acl_call(name)
    assert str(caught.value).startswith(f"acl.{name}() ")
    assert (caught.value.call, caught.value.code) == (f"acl.{name}", code)
    assert all(all(pair) for pair in (*CODES.values(), *KINDS.values(), explain(code)))


def test_the_message_has_call_code_meaning_runtime_and_remedy(script: Script) -> None:
    """The message needs no second run: arguments, meaning, CANN's own words, advice."""
    script(rt__malloc=(0, 207001), get_recent_err_msg="EL0004: Failed to\n allocate memory.\n")
    with pytest.raises(
        AclError,
        match=r"^acl\.rt\.malloc\(805306368, 0\) failed with 207001: memory ran out; the runtime "
        r"says: EL0004: Failed to allocate memory\.; use a smaller --batch-size",
    ):
        acl_call("rt.malloc", 805306368, 0)


def test_an_absent_pyacl_or_function_is_named(script: Script) -> None:
    """A shell without set_env.sh and an old CANN each lead to their next step."""
    with pytest.raises(RunnerError, match=r"pyACL cannot be imported .* source CANN's set_env\.sh"):
        acl_call("init")
    script(init=0)
    assert acl_has("init")
    assert not acl_has("rt.create_event")
    with pytest.raises(AclError, match=r"has no acl\.rt\.create_event, but effd0 needs it; use"):
        acl_call("rt.create_event")


def test_resources_are_released_in_reverse_order_whatever_fails() -> None:
    """Each release is tried, once; the first failure is the error and the others are its notes."""
    given: list[str] = []

    def release(name: str, *, fails: bool = False) -> None:
        given.append(name)
        if fails:
            raise AclError(name)

    held, in_flight = Held(), AclError("execute")
    for error in (None, in_flight):
        held.take(partial(release, "device"))
        held.take(partial(release, "context", fails=True))
        held.take(partial(release, "memory", fails=True))
        if error is None:
            with pytest.raises(AclError, match="memory") as caught:
                held.release(None)
            assert caught.value.__notes__ == ["and while giving back: context"]
    held.release(in_flight)
    held.release(None)
    notes = ["and while giving back: memory", "and while giving back: context"]
    assert in_flight.__notes__ == notes
    assert given == ["memory", "context", "device"] * 2
