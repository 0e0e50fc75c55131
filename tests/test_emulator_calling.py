"""The emulator of pyACL: how functions are called, what they give, what must be looked at."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .fakes.acl import Emulator, installed
from .fakes.ascend.ledger import Violated
from .fakes.ascend.rules import RULES, rule, tests_by_rule
from .fakes.ascend.tiny import TINY_SHAPES, tiny_om
from .fakes.ascend.user import Refused, User, code, ok

IMAGES = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of batch 2."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om", batch=2)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A host, ready for a call that needs a context."""
    with installed() as host:
        acl = host.module()
        ok(acl.init())
        ok(acl.rt.set_device(0))
        yield host


@rule(1)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(np.int64(64), id="numpy-integer"),
        pytest.param(np.prod((8, 8)), id="numpy-product"),
        pytest.param(np.array(64), id="numpy-array"),
        pytest.param(ctypes.c_void_p(64), id="ctypes-pointer"),
        pytest.param(64.0, id="float"),
        pytest.param(b"64", id="bytes"),
        pytest.param(None, id="none"),
    ],
)
def test_sizes_and_addresses_are_plain_integers(emulator: Emulator, size: Any) -> None:
    """What C wants as a size or address is a Python int and nothing like one."""
    with pytest.raises(TypeError, match=r"acl\.rt\.malloc args parse failed"):
        emulator.module().rt.malloc(size, 0)


@rule(1)
def test_small_numbers_may_be_numpys(emulator: Emulator) -> None:
    """A device id or a policy passes through __index__, and overflows instead of wrapping."""
    acl = emulator.module()
    assert code(acl.rt.set_device(np.int64(1))) == 0
    with pytest.raises(OverflowError):
        acl.rt.set_device(2**31)
    with pytest.raises(TypeError):
        acl.rt.set_device(0.0)


@rule(1)
def test_a_path_is_a_string(emulator: Emulator, om: Path) -> None:
    """A path object is refused before anything is loaded."""
    with pytest.raises(TypeError, match="must be str"):
        emulator.module().mdl.load_from_file(om)


@rule(1)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param((64,), {"policy": 0}, id="named"),
        pytest.param((64,), {}, id="too-few"),
        pytest.param((64, 0, 0), {}, id="too-many"),
    ],
)
def test_arguments_are_positional_and_counted(
    emulator: Emulator, arguments: tuple[int, ...], named: dict[str, int]
) -> None:
    """There are no keyword arguments and no defaults."""
    with pytest.raises(TypeError):
        emulator.module().rt.malloc(*arguments, **named)


@rule(2)
def test_what_comes_back_has_its_shape(emulator: Emulator, om: Path) -> None:
    """Codes come alone, in pairs or in triples, and some functions give bare values."""
    acl = emulator.module()
    assert type(acl.rt.get_device_count()) is tuple
    desc, dataset = acl.mdl.create_desc(), acl.mdl.create_dataset()
    buffer = acl.create_data_buffer(*ok((acl.rt.malloc(64, 0)[0], 64, 0)))
    assert all(type(handle) is int for handle in (desc, dataset, buffer))
    added = acl.mdl.add_dataset_buffer(dataset, buffer)
    assert added == (dataset, 0)
    assert acl.mdl.get_dataset_buffer(dataset, 0) == buffer
    assert acl.mdl.get_dataset_buffer(dataset, 1) == 0
    model = ok(acl.mdl.load_from_file(str(om)))
    assert code(acl.mdl.get_desc(desc, model)) == 0
    assert acl.mdl.get_num_outputs(desc) == len(TINY_SHAPES)
    dims, ret = acl.mdl.get_input_dims(desc, 0)
    assert (dims, ret) == ({"name": "x.1", "dimCount": 4, "dims": [2, 3, 8, 8]}, 0)
    assert acl.mdl.get_output_name_by_index(desc, 1) == "Node_1:0:field"
    work, weight, ret = acl.mdl.query_size(str(om))
    assert min(work, weight) > 0 == ret
    assert len(acl.get_version()) == 4
    free, total, ret = acl.rt.get_mem_info(0)
    assert 0 < free < total
    assert ret == 0


@rule(2, 23)
def test_failures_keep_the_shape(emulator: Emulator, om: Path) -> None:
    """A failed query gives an empty dict or 0 in the place of what was asked for, not None."""
    acl = emulator.module()
    desc, model = acl.mdl.create_desc(), ok(acl.mdl.load_from_file(str(om)))
    ok(acl.mdl.get_desc(desc, model))
    assert acl.mdl.get_output_dims(desc, 9) == ({}, 100000)
    assert acl.mdl.get_output_size_by_index(desc, 9) == 0
    assert acl.mdl.get_output_data_type(desc, 9) == -1
    emulator.fail_next("mdl.create_dataset")
    emulator.fail_next("create_data_buffer")
    assert acl.mdl.create_dataset() == 0
    assert acl.create_data_buffer(0, 0) == 0


@rule(3)
@pytest.mark.parametrize(
    "name", ["MEMCPY_HOST_TO_DEVICE", "ACL_SUCCESS", "Context", "memcpy_sync"], ids=str.lower
)
def test_there_are_no_constants_and_no_extras(emulator: Emulator, name: str) -> None:
    """Names that tutorials invent are no attributes."""
    acl = emulator.module()
    for place in (acl, acl.rt, acl.util):
        with pytest.raises(AttributeError):
            getattr(place, name)


@rule(3)
def test_versions_differ_in_their_functions() -> None:
    """Old ones lack bytes_to_ptr, current ones warn of numpy_to_ptr, future ones lack it."""
    has = {}
    for cann in ("old", "current", "future"):
        acl = Emulator(cann=cann).module()
        has[cann] = {n for n in dir(acl.util) if n.endswith("_to_ptr")}
        assert hasattr(acl, "finalize_reference") == (cann != "old")
        assert hasattr(acl, "get_data_buffer_size_v2") == (cann != "old")
    assert has == {
        "old": {"numpy_to_ptr", "numpy_contiguous_to_ptr"},
        "current": {"bytes_to_ptr", "numpy_to_ptr", "numpy_contiguous_to_ptr"},
        "future": {"bytes_to_ptr"},
    }
    current = Emulator().module()
    assert current.init() == 0
    with pytest.warns(DeprecationWarning, match="numpy_to_ptr"):
        current.util.numpy_to_ptr(IMAGES)


@rule(4)
@pytest.mark.parametrize("size", [-1, 2**63, 2**64 + 64], ids=["negative", "too-large", "wrapped"])
def test_numbers_that_c_would_wrap_are_noted(emulator: Emulator, size: int) -> None:
    """A size that C sees as another one is a violation, whatever comes of it."""
    assert code(emulator.module().rt.memset(64, size, 0, 0)) == 0
    assert emulator.rules_broken() == {4}


@rule(4)
def test_ids_that_c_would_wrap_are_noted(emulator: Emulator) -> None:
    """A model id has 32 bits, and what is cut off is a violation."""
    assert emulator.module().mdl.unload(-1) == 145003
    assert emulator.rules_broken() == {4}


@rule(5)
def test_a_return_code_must_be_looked_at(emulator: Emulator) -> None:
    """A code that is dropped, or kept and never compared, is a violation at its call's line."""
    acl = emulator.module()
    kept = acl.rt.set_device(0)
    (violation,) = emulator.violations
    assert violation.rule == 5
    assert "test_emulator_calling.py" in violation.stack[0]
    assert kept == 0
    assert not emulator.violations
    acl.rt.create_stream()
    assert emulator.rules_broken() == {5}


@rule(5)
@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda ret: ret == 0, id="equal"),
        pytest.param(lambda ret: ret != 0, id="unequal"),
        pytest.param(bool, id="truth"),
        pytest.param(lambda ret: ret in (0, 100002), id="among"),
        pytest.param(int, id="plain"),
    ],
)
def test_every_way_of_looking_counts(emulator: Emulator, look: Any) -> None:
    """However a code is compared, it was looked at; printing it is no look."""
    ret = emulator.module().rt.set_device(0)
    str(ret)
    assert len(emulator.violations) == 1
    look(ret)
    assert not emulator.violations


@rule(5)
def test_what_failed_is_not_used(emulator: Emulator, om: Path) -> None:
    """After get_desc failed, asking the description is a violation; another try is none."""
    acl = emulator.module()
    desc, model = acl.mdl.create_desc(), ok(acl.mdl.load_from_file(str(om)))
    emulator.fail_next("mdl.get_desc", 500002)
    assert acl.mdl.get_desc(desc, model) == 500002
    acl.mdl.get_num_inputs(desc)
    assert 5 in emulator.rules_broken()
    before = len(emulator.violations)
    ok(acl.mdl.get_desc(desc, model))
    assert acl.mdl.get_num_inputs(desc) == 1
    assert len(emulator.violations) == before


def _whole_run(emulator: Emulator, om: Path) -> set[int]:
    """A run both ways, and every code that its user met; 0 too where a bare handle was 0."""
    user, met = User(emulator.module(), om), set()
    try:
        with user:
            user.infer(IMAGES)
            user.infer_async(IMAGES)
    except Refused as error:
        met = {error.code}
    return met | set(filter(None, user.passed_over))


@rule(5, 8)
def test_a_right_user_is_clean(om: Path) -> None:
    """Who does everything right breaks no rule, and gives everything back."""
    for options in ({}, {"cann": "old"}, {"cann": "future"}, {"output_order": "shuffled"}):
        with installed(**options) as emulator:
            assert not _whole_run(emulator, om)
        emulator.assert_clean()


@rule(5)
@pytest.mark.parametrize("lost", [False, True], ids=["one-call", "device-lost"])
def test_a_right_user_is_clean_whichever_call_fails(om: Path, lost: bool) -> None:
    """For every call of a run: if it fails, its code comes out, and nothing leaks or is misused."""
    with installed() as whole:
        _whole_run(whole, om)
    assert whole.fallible_calls > 50
    for number in range(1, whole.fallible_calls + 1):
        with installed() as emulator:
            (emulator.fail_from if lost else emulator.fail_call)(number)
            met = _whole_run(emulator, om)
        emulator.assert_clean()
        assert met, f"nobody noticed that call {number} failed"
        assert next((call.ret for call in emulator.calls if call.ret), 0) in met


@rule(6)
def test_what_comes_with_a_failure_is_poison(emulator: Emulator) -> None:
    """A pointer that came with a code is recognised wherever it is used."""
    acl = emulator.module()
    emulator.fail_next("rt.malloc", 207001)
    address, ret = acl.rt.malloc(64, 0)
    assert ret == 207001
    assert acl.rt.memset(address, 64, 0, 64) == 107000
    (violation,) = emulator.violations
    assert violation.rule == 6
    assert "acl.rt.malloc(64, 0)" in violation.text


@rule(32)
def test_messages_belong_to_threads_and_are_read_once() -> None:
    """The text of a failure is seen by the thread that failed, one time."""
    emulator = Emulator()
    acl = emulator.module()
    assert acl.init() == 0
    assert acl.get_recent_err_msg() is None
    assert acl.rt.set_device(7) == 107001
    other: list[str | None] = []
    thread = threading.Thread(target=lambda: other.append(acl.get_recent_err_msg()))
    thread.start()
    thread.join()
    assert other == [None]
    assert "EE1001" in acl.get_recent_err_msg()
    assert acl.get_recent_err_msg() is None
    assert len(emulator.messages) == 1


@pytest.mark.parametrize(
    ("call", "code_wanted", "label"),
    [
        pytest.param("rt.malloc", 207018, "EL0004", id="out-of-memory"),
        pytest.param("rt.set_device", 507033, "open device failed", id="open-device"),
        pytest.param("mdl.load_from_file", 145002, "E13000", id="no-model"),
    ],
)
@rule(32)
def test_messages_carry_the_labels_that_people_search_for(
    call: str, code_wanted: int, label: str, om: Path
) -> None:
    """The text of a code holds the label that the runtime prints."""
    with installed() as emulator:
        emulator.fail_next(call, code_wanted)
        assert _whole_run(emulator, om) == {code_wanted}
        assert label in emulator.messages[0]


def test_strict_hosts_raise_at_once() -> None:
    """With strict, the first broken rule is an exception at its line."""
    acl = Emulator(strict=True).module()
    with pytest.raises(Violated, match="rule 7"):
        acl.rt.get_device_count()


def test_the_report_names_everything(om: Path) -> None:
    """The failure of an unclean test lists rules, calls and the lines that took what leaks."""
    with installed() as emulator:
        acl = emulator.module()
        ok(acl.init())
        ok(acl.rt.set_device(1))
        ok(acl.rt.malloc(64, 9))
        acl.mdl.load_from_file(str(om))
    with pytest.raises(AssertionError) as report:
        emulator.assert_clean()
    for words in (
        "rule 15: the policy is 9",
        "rule 5: its return code 0 was not looked at",
        "by acl.mdl.load_from_file(",
        "not given back: device memory 0x",
        "not given back: device 1 that is not reset",
        "not given back: a process that is not finalized",
        "test_the_report_names_everything",
    ):
        assert words in str(report.value)


def test_the_real_module_comes_back() -> None:
    """After the block, `import acl` finds what it found before."""
    import sys

    before = sys.modules.get("acl")
    with installed() as emulator:
        assert sys.modules["acl"] is emulator.module()
    assert sys.modules.get("acl") is before
    gc.collect()


@pytest.mark.parametrize("number", RULES, ids=[f"rule-{n}" for n in RULES])
def test_every_rule_has_a_test(number: int) -> None:
    """Each rule of the reference has a test of the emulator that is about it."""
    assert tests_by_rule(Path(__file__).parent)[number] >= 1, RULES[number]
