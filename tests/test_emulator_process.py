"""The emulator of pyACL: process, devices, contexts and threads (rules 7 to 14)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .fakes.acl import Emulator, installed
from .fakes.ascend.rules import rule
from .fakes.ascend.tiny import tiny_om
from .fakes.ascend.user import User, code, ok

IMAGES = np.zeros((1, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A host that nobody has initialised."""
    with installed() as host:
        yield host


def _in_thread(function: Any) -> Any:
    """What *function* gives in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# Init and finalize


@rule(7)
def test_init_and_finalize_happen_once(emulator: Emulator) -> None:
    """The second init gives 100002, the second finalize 100037."""
    acl = emulator.module()
    assert [acl.init(), acl.init()] == [0, 100002]
    assert [acl.finalize(), acl.finalize()] == [0, 100037]
    assert not emulator.violations


@rule(7)
def test_nothing_comes_before_init(emulator: Emulator) -> None:
    """A call before init works, as on hardware, and is a violation."""
    assert ok(emulator.module().rt.get_device_count()) == 2
    assert emulator.rules_broken() == {7}


@rule(7)
@pytest.mark.parametrize(
    ("cann", "second"),
    [pytest.param("old", 500000, id="old"), pytest.param("current", 0, id="current")],
)
def test_init_after_finalize_depends_on_the_version(cann: str, second: int) -> None:
    """Old versions cannot start again in the same process."""
    acl = Emulator(cann=cann).module()
    assert [acl.init(), acl.finalize(), acl.init()] == [0, 0, second]


@rule(7)
def test_what_another_component_initialised_is_its_own() -> None:
    """With a foreign init, ours gives 100002; to finalize is a violation, to step back is not."""
    emulator = Emulator(inits=1)
    acl = emulator.module()
    assert acl.init() == 100002
    assert acl.finalize_reference() == (1, 0)
    emulator.assert_clean()
    assert acl.finalize() == 0
    assert emulator.rules_broken() == {7}


@rule(8)
def test_finalize_reports_all_that_is_left(emulator: Emulator, om: Path) -> None:
    """Each kind of thing that is not given back is named with the line that took it."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    ok(acl.rt.create_context(0))
    made = [ok(acl.rt.create_stream()), ok(acl.rt.create_event()), acl.mdl.create_desc()]
    made += [ok(acl.rt.malloc(64, 0)), ok(acl.rt.malloc_host(64)), acl.mdl.create_dataset()]
    made += [acl.create_data_buffer(made[3], 64), ok(acl.mdl.load_from_file(str(om)))]
    assert acl.finalize() == 0
    texts = [violation.text for violation in emulator.violations]
    assert emulator.rules_broken() == {8}
    kinds = ["context", "stream", "event", "description", "dataset", "data buffer", "model"]
    kinds += ["device memory", "host memory", "device 0 that is not reset"]
    for kind in kinds:
        assert sum(f"there is {kind}" in text for text in texts) == 1, kind
    assert all("test_finalize_reports" in text for text in texts if "0x" in text)


class _Careless:
    """Finalizes when it is collected."""

    def __init__(self, acl: Any) -> None:
        self.acl = acl

    def __del__(self) -> None:
        assert self.acl.finalize() == 0


@rule(9)
def test_finalize_has_no_place_in_a_destructor(emulator: Emulator) -> None:
    """Finalize called from __del__ is a violation, and so is any call after it."""
    acl = emulator.module()
    ok(acl.init())
    careless = _Careless(acl)
    del careless
    (violation,) = emulator.violations
    assert (violation.rule, "__del__" in violation.stack[0]) == (9, True)
    ok(acl.rt.get_device_count())
    assert emulator.violations[-1].text.endswith("is called after finalize")


def _script(body: str, tmp_path: Path, **options: Any) -> dict[str, Any]:
    """Run *body* in a process whose `import acl` is the emulator; return the emulator's report."""
    report = tmp_path / "report.json"
    places = {
        "PYTHONPATH": str(Path(__file__).parent / "fakes" / "sitepath"),
        "EFFD0_FAKE_ACL": json.dumps(options),
        "EFFD0_FAKE_ACL_REPORT": str(report),
    }
    subprocess.run([sys.executable, "-c", body], env=os.environ | places, check=True)
    content: dict[str, Any] = json.loads(report.read_text())
    return content


@rule(9)
def test_a_process_of_its_own_reports_at_its_end(tmp_path: Path) -> None:
    """A subprocess gets its emulator by PYTHONPATH; finalize in atexit is noted in the report."""
    body = (
        "import acl, atexit; assert acl.init() == 0; atexit.register(lambda: bool(acl.finalize()))"
    )
    report = _script(body, tmp_path, devices=1)
    assert report["calls"] == 2
    assert report["leaks"] == []
    (violation,) = report["violations"]
    assert violation.startswith("rule 9: finalize is left to a destructor or to the interpreter")


# Devices and contexts


@rule(10)
def test_devices_are_counted(emulator: Emulator) -> None:
    """A device id beyond the last gives 107001."""
    acl = emulator.module()
    ok(acl.init())
    assert [code(acl.rt.set_device(n)) for n in (0, 1, 2, -1)] == [0, 0, 107001, 107001]
    assert ok(acl.rt.get_device()) == 1


@rule(10)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("rt.malloc", (64, 0), id="malloc"),
        pytest.param("rt.malloc_host", (64,), id="malloc-host"),
        pytest.param("rt.memcpy", (64, 64, 128, 64, 1), id="memcpy"),
        pytest.param("rt.memcpy_async", (64, 64, 128, 64, 1, 0), id="memcpy-async"),
        pytest.param("rt.create_stream", (), id="create-stream"),
        pytest.param("rt.synchronize_stream", (0,), id="synchronize"),
        pytest.param("rt.get_context", (), id="get-context"),
        pytest.param("mdl.load_from_file", ("d0.om",), id="load"),
        pytest.param("mdl.execute", (5, 6, 7), id="execute"),
    ],
)
def test_a_thread_begins_without_a_context(
    emulator: Emulator, name: str, arguments: tuple[Any, ...]
) -> None:
    """What the main thread has set is of no use to another one: 107002."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    place, _, last = name.partition(".")
    assert _in_thread(lambda: code(getattr(getattr(acl, place), last)(*arguments))) == 107002


@rule(10)
def test_memory_is_freed_without_a_context(emulator: Emulator) -> None:
    """Free needs no context."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    address = ok(acl.rt.malloc(64, 0))
    assert _in_thread(lambda: code(acl.rt.free(address))) == 0


@rule(11)
def test_contexts_come_and_go(emulator: Emulator) -> None:
    """Null gives 100000, a destroyed one 107002; who destroys his own stands on none."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    context = ok(acl.rt.create_context(0))
    assert ok(acl.rt.get_context()) == context
    assert acl.rt.set_context(0) == 100000
    assert acl.rt.destroy_context(context) == 0
    assert code(acl.rt.get_context()) == 107002
    assert [code(acl.rt.set_context(context)), code(acl.rt.destroy_context(context))] == [
        107002
    ] * 2
    ok(acl.rt.set_device(0))
    assert not emulator.violations


@rule(11)
def test_a_context_is_one_that_was_made(emulator: Emulator) -> None:
    """A number that was never a context gives 107002, and is a violation."""
    acl = emulator.module()
    ok(acl.init())
    assert acl.rt.set_context(4096) == 107002
    assert emulator.rules_broken() == {11}


@rule(11)
def test_default_contexts_are_the_runtimes(emulator: Emulator) -> None:
    """A default context is not destroyed; to get or set it is a violation."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    default = ok(acl.rt.get_context())
    ok(acl.rt.set_context(default))
    assert [violation.rule for violation in emulator.violations] == [11, 11]
    assert acl.rt.destroy_context(default) == 107002


@rule(12)
def test_streams_and_models_stay_in_their_context(emulator: Emulator, om: Path) -> None:
    """Elsewhere, a stream gives 107003 and a model 107004; waiting switches, and is a violation."""
    acl = emulator.module()
    with User(acl, om) as user:
        user.fill(IMAGES)
        user.upload()
        other = ok(acl.rt.create_context(0))
        assert acl.rt.destroy_stream(user.stream) == 107003
        assert acl.mdl.execute(user.model, user.input_set, user.output_set) == 107004
        assert acl.mdl.unload(user.model) == 107004
        assert not emulator.violations
        assert acl.rt.synchronize_stream(user.stream) == 0
        assert emulator.rules_broken() == {12}
        ok(acl.rt.destroy_context(other))
        ok(acl.rt.set_context(user.context))
    assert emulator.rules_broken() == {12}


@rule(13)
def test_the_device_is_reset_last(emulator: Emulator) -> None:
    """What is alive when a device is reset, or a stream when its context ends, is a violation."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    context = ok(acl.rt.create_context(0))
    stream = ok(acl.rt.create_stream())
    address = ok(acl.rt.malloc(64, 0))
    ok(acl.rt.destroy_context(context))
    (early,) = emulator.violations
    assert early.rule == 13
    assert f"is destroyed before stream {stream:#x}" in early.text
    ok(acl.rt.reset_device(0))
    texts = [violation.text for violation in emulator.violations[1:]]
    assert any(f"there is device memory {address:#x}" in text for text in texts)
    assert emulator.rules_broken() == {13}


@rule(13)
@pytest.mark.parametrize("cann", ["old", "current"])
def test_a_device_closes_when_its_last_thread_resets_it(cann: str) -> None:
    """Current versions count the threads that hold a device; old ones close it at once."""
    acl = (emulator := Emulator(cann=cann)).module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    assert _in_thread(lambda: code(acl.rt.set_device(0)) + code(acl.rt.reset_device(0))) == 0
    assert code(acl.rt.get_device()) == (107002 if cann == "old" else 0)
    ok(acl.rt.reset_device(0))
    assert emulator.rules_broken() == ({13} if cann == "old" else set())


@rule(14)
def test_a_fork_is_stopped(tmp_path: Path) -> None:
    """A child of os.fork that calls the runtime is stopped with the rule that it broke."""
    said = tmp_path / "said"
    body = f"""
import acl, os, pathlib
assert acl.init() == 0
if os.fork() == 0:
    try:
        acl.rt.get_device_count()
    except AssertionError as error:
        pathlib.Path({str(said)!r}).write_text(str(error))
    os._exit(0)
os.wait()
assert acl.finalize() == 0
"""
    report = _script(body, tmp_path)
    assert (report["violations"], report["leaks"]) == ([], [])
    assert re.match(r"rule 14: process \d+ is a fork of \d+", said.read_text())


def test_stub_libraries_say_so() -> None:
    """Against libraries that only compile, every call gives 100039."""
    acl = Emulator(stub_lib=True).module()
    assert acl.init() == 100039
    assert "stub" in acl.get_recent_err_msg()
