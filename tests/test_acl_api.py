"""Tests for `effd0.ascend.acl_api`, on a pyACL of a few scripted functions."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from effd0.ascend.acl_api import CODES, Held, acl_call, acl_has, explain
from effd0.errors import AclError, RunnerError

Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that puts in place a pyACL whose calls give what is said."""

    def put(**answers: Any) -> None:
        acl, acl_rt, acl_mdl = ModuleType("acl"), ModuleType("acl.rt"), ModuleType("acl.mdl")
        homes = {"rt": acl_rt, "mdl": acl_mdl}
        vars(acl).update(homes)
        for name, answer in answers.items():
            home, _, function = name.rpartition("__")
            place = homes[home] if home else acl
            vars(place)[function] = lambda *_, answer=answer: answer
        monkeypatch.setitem(sys.modules, "acl", acl)

    return put


@pytest.mark.parametrize(
    ("name", "answer", "value"),
    [
        pytest.param("rt.set_device", 0, None, id="code"),
        pytest.param("rt.malloc", (4096, 0), 4096, id="value-and-code"),
        pytest.param("mdl.create_desc", 77, 77, id="bare"),
        pytest.param("mdl.get_input_data_type", 0, 0, id="bare-zero-that-means-float32"),
        pytest.param("get_version", (1, 8, 0, 0), (1, 8, 0), id="three-values-and-code"),
    ],
)
def test_a_call_gives_its_value(script: Script, name: str, answer: Any, value: Any) -> None:
    """Of the three shapes in which pyACL answers, the caller sees the value alone."""
    script(**{name.replace(".", "__"): answer})
    assert acl_call(name) == value


@pytest.mark.parametrize(
    ("name", "answer", "code"),
    [
        pytest.param("rt.set_device", 507033, 507033, id="code"),
        pytest.param("rt.malloc", (0, 207001), 207001, id="value-and-code"),
        pytest.param("mdl.create_desc", 0, 0, id="no-handle"),
        pytest.param("mdl.get_output_size_by_index", 0, 0, id="no-size"),
        pytest.param("mdl.get_output_data_type", -1, 0, id="undefined-type"),
        pytest.param("mdl.get_output_name_by_index", "", 0, id="no-name"),
    ],
)
def test_every_failure_is_raised(script: Script, name: str, answer: Any, code: int) -> None:
    """A code other than 0, and a bare value that means failure, end in an error with both names."""
    script(**{name.replace(".", "__"): answer})
    with pytest.raises(AclError, match=rf"^acl\.{re.escape(name)}\(\) ") as caught:
        acl_call(name)
    assert (caught.value.call, caught.value.code) == (f"acl.{name}", code)


def test_the_message_tells_call_code_meaning_runtime_and_remedy(script: Script) -> None:
    """Who reads the message needs no second run: arguments, meaning, CANN's own words, advice."""
    script(rt__malloc=(0, 207001), get_recent_err_msg="EL0004: Failed to\n allocate memory.\n")
    with pytest.raises(
        AclError,
        match=r"^acl\.rt\.malloc\(805306368, 0\) failed with 207001: memory ran out; the runtime "
        r"says: EL0004: Failed to allocate memory\.; use a smaller --batch-size",
    ):
        acl_call("rt.malloc", 805306368, 0)


def test_without_a_runtime_message_none_is_told(script: Script) -> None:
    """Old versions cannot tell, and new ones may have nothing to tell."""
    script(rt__free=107000)
    with pytest.raises(AclError, match=r"failed with 107000: a parameter .* runtime; this is"):
        acl_call("rt.free", 1)


def test_without_pyacl_the_message_tells_where_it_comes_from() -> None:
    """The usual reason is a shell in which set_env.sh was not sourced."""
    with pytest.raises(RunnerError, match=r"pyACL cannot be imported .* source CANN's set_env\.sh"):
        acl_call("init")


def test_a_function_that_this_version_lacks_is_named(script: Script) -> None:
    """A user of an old CANN learns what is missing, not of an attribute error."""
    script(init=0)
    assert acl_has("init")
    assert not acl_has("rt.create_event")
    with pytest.raises(AclError, match=r"has no acl\.rt\.create_event, but effd0 needs it"):
        acl_call("rt.create_event")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(107002, "this thread has no context", id="context"),
        pytest.param(507033, "the device could not be opened", id="device"),
        pytest.param(100039, "stub library", id="stub"),
        pytest.param(107999, "a mistake of the caller", id="unknown-caller"),
        pytest.param(207999, "resources are missing", id="unknown-resource"),
        pytest.param(507999, "an internal error", id="unknown-internal"),
        pytest.param(-1, "a mistake of the caller", id="negative"),
        pytest.param(900000, "a failure", id="beyond-the-scheme"),
    ],
)
def test_every_code_has_a_meaning(code: int, words: str) -> None:
    """A listed code says its own; of any other, the first digit tells who has to act."""
    meaning, advice = explain(code)
    assert words in meaning
    assert advice


def test_advice_is_never_missing() -> None:
    """Each listed code has words for what happened and for what to do."""
    assert [code for code, (meaning, advice) in CODES.items() if not (meaning and advice)] == []


def test_what_is_held_is_given_back_in_reverse_order() -> None:
    """Like a stack of plates, and each plate once."""
    held, given = Held(), list[str]()
    for name in ("device", "context", "memory"):
        held.take(partial(given.append, name))
    held.release(None)
    held.release(None)
    assert given == ["memory", "context", "device"]


def failing(name: str) -> Callable[[], object]:
    """Return a release that fails with *name*."""

    def fail() -> None:
        raise AclError(name)

    return fail


def test_one_failure_keeps_nothing_from_being_given_back() -> None:
    """All is tried; the first failure is raised, with the others as notes."""
    held, given = Held(), list[str]()
    held.take(partial(given.append, "device"))
    held.take(failing("context"))
    held.take(failing("memory"))
    with pytest.raises(AclError, match="memory") as caught:
        held.release(None)
    assert given == ["device"]
    assert caught.value.__notes__ == ["and while giving back: context"]


def test_a_failure_under_way_stays_the_one_that_is_told() -> None:
    """What went wrong first is what the user has to know; the rest are notes to it."""
    held, first = Held(), AclError("execute")
    held.take(failing("memory"))
    held.release(first)
    assert first.__notes__ == ["and while giving back: memory"]
