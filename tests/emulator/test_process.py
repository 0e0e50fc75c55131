"""The emulator of pyACL: how functions are called, and the process, devices and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .acl import Emulator
from .om import TINY_SHAPES
from .user import code, ok


@pytest.fixture
def acl(emulator: Emulator) -> Any:
    """A pyACL that is initialised and has set device 0."""
    module = emulator.module()
    ok(module.init())
    ok(module.rt.set_device(0))
    return module


def in_thread(function: Callable[[], Any]) -> Any:
    """What *function* gives in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# Calls


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("rt.malloc", (np.int64(64), 0), TypeError),
        ("rt.malloc", (64.0, 0), TypeError),
        ("rt.malloc", (64,), TypeError),
        ("rt.set_device", (0.0,), TypeError),
        ("rt.set_device", (2**31,), OverflowError),
        ("mdl.load_from_file", (Path("d0.om"),), TypeError),
    ],
    ids=lambda value: str(value).replace(" ", "")[:40] if isinstance(value, tuple) else "",
)
def test_arguments_are_those_that_c_takes(
    acl: Any, name: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    """Sizes and addresses are plain ints, paths strings, and all are positional and counted."""
    place, _, last = name.partition(".")
    with pytest.raises(error):
        getattr(getattr(acl, place), last)(*arguments)
    with pytest.raises(TypeError, match="no keyword"):
        acl.rt.malloc(64, policy=0)
    assert code(acl.rt.set_device(np.int64(1))) == 0


def test_answers_have_their_shapes(emulator: Emulator, acl: Any, om: Path) -> None:
    """Codes come alone, in pairs or in triples; handles, numbers and names come bare."""
    assert ok(acl.rt.get_run_mode()) == 1
    desc, dataset = acl.mdl.create_desc(), acl.mdl.create_dataset()
    assert type(desc) is type(dataset) is int
    assert acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(64, 64)) == (dataset, 0)
    assert code(acl.mdl.get_desc(desc, ok(acl.mdl.load_from_file(str(om))))) == 0
    assert acl.mdl.get_num_outputs(desc) == len(TINY_SHAPES)
    wanted = {"name": "x.1", "dimCount": 4, "dims": [2, 3, 8, 8]}
    assert acl.mdl.get_input_dims(desc, 0) == (wanted, 0)
    assert acl.mdl.get_output_name_by_index(desc, 1) == "Node_1:0:field"
    assert len(acl.get_version()) == 4
    assert acl.app_log(1, "text") is None
    # Failures keep the shape.
    assert acl.mdl.get_output_dims(desc, 9) == ({}, 100000)
    assert acl.mdl.get_output_size_by_index(desc, 9) == 0
    assert acl.mdl.get_output_data_type(desc, 9) == -1
    emulator.fail_next("mdl.create_dataset")
    assert acl.mdl.create_dataset() == 0
    # Names that tutorials invent are no attributes.
    for name in ("MEMCPY_HOST_TO_DEVICE", "ACL_SUCCESS", "Context", "memcpy_sync"):
        assert not any(hasattr(place, name) for place in (acl, acl.rt, acl.util))


def test_what_came_with_a_failure_is_poison(emulator: Emulator, acl: Any) -> None:
    """A pointer or an id that came with a failure is of no use to any call, and is a violation."""
    emulator.fail_next("rt.malloc", 207001)
    address, ret = acl.rt.malloc(64, 0)
    assert (ret, acl.rt.memcpy(address, 64, 64, 64, 1)) == (207001, 107000)
    assert emulator.violations[-1].rule == "poison"
    assert "acl.rt.malloc(64, 0)" in emulator.violations[-1].text
    number, ret = acl.mdl.load_from_file("missing.om")
    assert (ret, acl.mdl.unload(number)) == (145002, 145003)


def test_messages_belong_to_threads_and_are_read_once(acl: Any) -> None:
    """The text of a failure is seen by the thread that failed, one time."""
    assert acl.get_recent_err_msg() is None
    assert acl.rt.set_device(7) == 107001
    assert in_thread(acl.get_recent_err_msg) is None
    assert "EE1001" in acl.get_recent_err_msg()
    assert acl.get_recent_err_msg() is None


# The process


def test_init_and_finalize_have_their_order(emulator: Emulator) -> None:
    """Twice gives 100002 or 100037; what comes before or after works, and is a violation."""
    acl = emulator.module()
    assert ok(acl.rt.get_run_mode()) == 1
    assert [acl.init(), acl.init()] == [0, 100002]
    assert [acl.finalize(), acl.finalize()] == [0, 100037]
    assert ok(acl.rt.get_run_mode()) == 1
    texts = [violation.text for violation in emulator.violations]
    assert [text.rpartition(" called ")[2] for text in texts] == ["before init", "after finalize"]
    old = Emulator(cann="old").module()
    assert [old.init(), old.finalize(), old.init()] == [0, 0, 500000]
    stub = Emulator(stub_lib=True).module()
    assert stub.init() == 100039
    foreign = Emulator(inits=1)
    assert [foreign.module().init(), foreign.module().finalize()] == [100002, 0]
    assert foreign.rules_broken() == {"init"}


def test_finalize_reports_all_that_is_left(emulator: Emulator, acl: Any, om: Path) -> None:
    """Each kind of thing that is not given back is named with the line that took it."""
    ok(acl.rt.create_context(0))
    made = [ok(acl.rt.create_stream()), ok(acl.rt.create_event()), acl.mdl.create_desc()]
    made += [ok(acl.rt.malloc(64, 0)), ok(acl.rt.malloc_host(64)), acl.mdl.create_dataset()]
    made += [acl.create_data_buffer(made[3], 64), ok(acl.mdl.load_from_file(str(om)))]
    ok(acl.mdl.add_dataset_buffer(made[5], made[6]))
    ok(acl.mdl.destroy_dataset(made[5]))  # which frees nothing
    with pytest.raises(AssertionError, match="not given back: a process that is not finalized"):
        emulator.assert_clean()
    assert acl.finalize() == 0
    texts = [violation.text for violation in emulator.violations]
    assert emulator.rules_broken() == {"leak"}
    kinds = ["context", "stream", "event", "description", "data buffer", "model"]
    for kind in [*kinds, "device memory", "host memory", "device 0 that is not reset"]:
        assert sum(f"there is {kind}" in text for text in texts) == 1, kind
    assert all("test_finalize_reports" in text for text in texts if "0x" in text)


# Contexts


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rt.malloc", (64, 0)),
        ("rt.memcpy", (64, 64, 128, 64, 1)),
        ("rt.memcpy_async", (64, 64, 128, 64, 1, 5)),
        ("rt.create_stream", ()),
        ("mdl.load_from_file", ("d0.om",)),
        ("mdl.execute", (5, 6, 7)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_thread_begins_without_a_context(acl: Any, name: str, arguments: tuple[Any, ...]) -> None:
    """What the main thread has set is of no use to another one: 107002; free needs no context."""
    place, _, last = name.partition(".")
    assert in_thread(lambda: code(getattr(getattr(acl, place), last)(*arguments))) == 107002
    address = ok(acl.rt.malloc(64, 0))
    assert in_thread(lambda: code(acl.rt.free(address))) == 0


def test_a_destroyed_context_is_nobodys(emulator: Emulator, acl: Any) -> None:
    """Who destroys his own has none, and nobody can have it again."""
    context = ok(acl.rt.create_context(0))
    assert acl.rt.destroy_context(context) == 0
    calls = (acl.rt.create_stream(), acl.rt.set_context(context), acl.rt.destroy_context(context))
    assert [code(call) for call in calls] == [107002] * 3
    assert not emulator.violations
