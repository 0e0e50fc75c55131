"""The emulator of pyACL: models, descriptions, datasets and execution (rules 22 to 26)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from .fakes.acl import Emulator, installed
from .fakes.ascend.rules import rule
from .fakes.ascend.tiny import TINY_SHAPES, reference_outputs, tiny_om
from .fakes.ascend.user import D2H, Refused, User, code, host_view, ok

RNG = np.random.default_rng(11)
IMAGES = RNG.random((2, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of batch 2."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om", batch=2)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A host."""
    with installed() as host:
        yield host


@pytest.fixture
def user(emulator: Emulator, om: Path) -> Iterator[User]:
    """An open model with two images on the device."""
    with User(emulator.module(), om) as user:
        user.fill(IMAGES)
        user.upload()
        yield user


# Loading


@rule(22)
def test_only_whole_models_load(emulator: Emulator, om: Path, tmp_path: Path) -> None:
    """A missing file gives 145002; a cut, changed or foreign one 100012; the id is poison."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    content = om.read_bytes()
    files = {
        "cut": content[:-9],
        "text": b"no model",
        "changed": content[:99] + b"!" + content[100:],
    }
    for name, part in files.items():
        (tmp_path / name).write_bytes(part)
        assert code(acl.mdl.load_from_file(str(tmp_path / name))) == 100012
    number, ret = acl.mdl.load_from_file(str(tmp_path / "missing"))
    assert ret == 145002
    assert "E13000" in acl.get_recent_err_msg()
    assert acl.mdl.unload(number) == 145003
    assert emulator.rules_broken() == {22}


@rule(22)
def test_models_are_known_by_their_id(user: User, emulator: Emulator) -> None:
    """Any other id, and that of an unloaded model, gives 145003."""
    mdl = user.acl.mdl
    assert mdl.unload(77) == 145003
    second = ok(mdl.load_from_file(str(user.path)))
    ok(mdl.unload(second))
    for call in (mdl.unload(second), mdl.execute(second, user.input_set, user.output_set)):
        assert call == 145003
    assert mdl.get_desc(user.desc, second) == 145003
    assert not emulator.violations


@rule(22)
def test_a_model_at_work_stays(user: User, emulator: Emulator) -> None:
    """To unload a model with pending work gives 107037, and is a violation."""
    user.queue_execution()
    assert user.acl.mdl.unload(user.model) == 107037
    assert emulator.rules_broken() == {22}


@rule(22)
def test_models_load_from_memory_and_into_memory(user: User, emulator: Emulator) -> None:
    """The bytes of a file, and memory of the caller's, serve as well as a path."""
    acl, content = user.acl, user.path.read_bytes()
    first = ok(acl.mdl.load_from_mem(acl.util.bytes_to_ptr(content), len(content)))
    work_size, weight_size = ok(acl.mdl.query_size(str(user.path)))
    work, weight = ok(acl.rt.malloc(work_size, 0)), ok(acl.rt.malloc(weight_size, 0))
    own = (str(user.path), work, work_size, weight, weight_size)
    second = ok(acl.mdl.load_from_file_with_mem(*own))
    assert code(acl.mdl.load_from_file_with_mem(*own[:-1], weight_size - 1)) == 145000
    for model in (first, second):
        ok(acl.mdl.execute(model, user.input_set, user.output_set))
        ok(acl.mdl.unload(model))
    assert (acl.rt.free(work), acl.rt.free(weight)) == (0, 0)
    assert not emulator.violations


@rule(15, 22)
def test_a_model_takes_memory(om: Path) -> None:
    """Where a model does not fit, loading gives 245000; unloading gives its memory back."""
    with installed(memory_bytes=200) as emulator:
        acl = emulator.module()
        ok(acl.init())
        ok(acl.rt.set_device(0))
        assert code(acl.mdl.load_from_file(str(om))) == 245000
    with installed() as emulator, User(emulator.module(), om) as user:
        before = ok(user.acl.rt.get_mem_info(0))
        ok(user.acl.mdl.unload(ok(user.acl.mdl.load_from_file(str(om)))))
        assert ok(user.acl.rt.get_mem_info(0)) == before


# Descriptions


@rule(23)
def test_sizes_are_those_of_shapes(user: User) -> None:
    """Bytes of an input or output are its sides times its kind's bytes."""
    mdl = user.acl.mdl
    assert mdl.get_input_size_by_index(user.desc, 0) == 2 * 3 * 8 * 8 * 4
    for index, shape in enumerate(TINY_SHAPES.values()):
        dims = ok(mdl.get_output_dims(user.desc, index))
        assert dims["dims"] == [2, *shape]
        assert mdl.get_output_size_by_index(user.desc, index) == 4 * np.prod(dims["dims"])
        assert mdl.get_output_data_type(user.desc, index) == 0
    assert mdl.get_input_size_by_index(user.desc, 1) == 0
    assert ok(mdl.get_input_index_by_name(user.desc, "x.1")) == 0
    assert code(mdl.get_input_index_by_name(user.desc, "x")) == 100000


@rule(23, 34)
@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        pytest.param("model", ["mark", "field", "slot"], id="model"),
        pytest.param("reversed", ["slot", "field", "mark"], id="reversed"),
        pytest.param("shuffled", None, id="shuffled"),
    ],
)
def test_outputs_come_in_any_order(om: Path, order: str, wanted: list[str] | None) -> None:
    """Names, shapes and contents move together; shuffled is never the model's own order."""
    reference = dict(zip(TINY_SHAPES, reference_outputs(om, IMAGES), strict=True))
    with installed(output_order=order) as emulator, User(emulator.module(), om) as user:
        names = [
            user.acl.mdl.get_output_name_by_index(user.desc, n).split(":")[-1] for n in range(3)
        ]
        outputs = user.infer(IMAGES)
    assert sorted(names) == sorted(TINY_SHAPES)
    assert names == wanted if wanted else names != list(TINY_SHAPES)
    for name, output in zip(names, outputs, strict=True):
        assert (output == reference[name].ravel()).all()


@rule(23)
def test_names_may_be_bare(om: Path) -> None:
    """Some models name outputs by node and index only."""
    with installed(output_names="bare-index") as emulator, User(emulator.module(), om) as user:
        assert user.acl.mdl.get_output_name_by_index(user.desc, 2) == "Node_2:0"
        assert ok(user.acl.mdl.get_output_dims(user.desc, 2))["name"] == "Node_2:0"


@rule(26)
def test_an_empty_description_tells_nothing(user: User, emulator: Emulator) -> None:
    """Before get_desc, and after its end, a description is a violation and gives 0."""
    desc = user.acl.mdl.create_desc()
    assert user.acl.mdl.get_num_outputs(desc) == 0
    assert user.acl.mdl.destroy_desc(desc) == 0
    assert user.acl.mdl.get_num_outputs(desc) == 0
    assert user.acl.mdl.destroy_desc(desc) == 100000
    assert [violation.rule for violation in emulator.violations] == [26] * 3


# Execution


@rule(24)
def test_execution_wants_datasets(user: User, emulator: Emulator) -> None:
    """Null gives 100000; a data buffer in the place of a dataset too, and is a violation."""
    execute = user.acl.mdl.execute
    assert execute(user.model, 0, user.output_set) == 100000
    assert not emulator.violations
    assert execute(user.model, user.buffers[0], user.output_set) == 100000
    assert emulator.rules_broken() == {24}


@rule(24)
def test_execution_wants_every_buffer(user: User) -> None:
    """A dataset with too few buffers is refused."""
    acl, empty = user.acl, user.acl.mdl.create_dataset()
    assert acl.mdl.execute(user.model, user.input_set, empty) == 145000
    assert acl.mdl.execute(user.model, empty, user.output_set) == 145000
    assert "E13025" in acl.get_recent_err_msg()
    assert acl.mdl.destroy_dataset(empty) == 0


@rule(24, 34)
@pytest.mark.parametrize(
    ("difference", "wanted", "rules"),
    [
        pytest.param(-65, 145000, set(), id="much-too-small"),
        pytest.param(-64, 0, {24}, id="a-little-too-small"),
        pytest.param(-1, 0, {24}, id="one-less"),
        pytest.param(0, 0, set(), id="exact"),
        pytest.param(1, 0, {24}, id="one-more"),
    ],
)
def test_sizes_are_exact(
    user: User, emulator: Emulator, difference: int, wanted: int, rules: set[int]
) -> None:
    """Hardware refuses more than 64 bytes too few, and logs the rest; here, each is noted."""
    address, size = user.inputs[0]
    room = ok(user.acl.rt.malloc(size + 64, 0))
    ok(user.acl.rt.memset(room, size + 64, 0, size + 64))
    assert user.acl.update_data_buffer(user.buffers[0], room, size + difference) == 0
    assert user.acl.mdl.execute(user.model, user.input_set, user.output_set) == wanted
    assert emulator.rules_broken() == rules
    ok(user.acl.update_data_buffer(user.buffers[0], address, size))
    ok(user.acl.rt.free(room))


@rule(24)
@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda u: (u.host[u.inputs[0][0]], u.inputs[0][1]), id="host-memory"),
        pytest.param(lambda u: (u.inputs[0][0] + 64, u.inputs[0][1]), id="beyond-its-end"),
        pytest.param(
            lambda u: (ok(u.acl.rt.malloc(*u.inputs[0][1:], 0)), u.inputs[0][1]), id="new"
        ),
    ],
)
def test_inputs_are_whole_and_on_the_device(
    om: Path, misuse: Callable[[User], tuple[int, int]]
) -> None:
    """Host memory, memory too short and memory that nobody wrote are violations as inputs."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        user.fill(IMAGES)
        user.upload()
        ok(user.acl.update_data_buffer(user.buffers[0], *misuse(user)))
        user.execute()
        assert emulator.rules_broken() == {24}


@rule(24)
def test_freed_memory_is_no_input(om: Path) -> None:
    """A data buffer may note what was freed; executing it gives 107000 and is a violation."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        ok(user.acl.rt.free(user.inputs[0][0]))
        with pytest.raises(Refused) as failed:
            user.execute()
        assert failed.value.code == 107000
        assert emulator.rules_broken() == {24}


@rule(24)
def test_memory_serves_one_purpose(user: User, emulator: Emulator) -> None:
    """The same memory for two outputs is a violation."""
    mark, (_, size) = user.outputs[0], user.outputs[2]
    ok(user.acl.update_data_buffer(user.buffers[3], mark[0], size))
    user.execute()
    (violation,) = emulator.violations
    assert (violation.rule, "used twice" in violation.text) == (24, True)


@rule(25)
def test_the_runtime_fills_empty_output_buffers(user: User, emulator: Emulator) -> None:
    """It allocates; the caller reads, frees and resets, and then nothing is owed."""
    acl, buffer = user.acl, user.buffers[1]
    wanted = user.infer(IMAGES)[0]
    ok(acl.update_data_buffer(buffer, 0, 0))
    user.execute()
    address, size = acl.get_data_buffer_addr(buffer), acl.get_data_buffer_size_v2(buffer)
    pinned = user.host[user.outputs[0][0]]
    ok(acl.rt.memcpy(pinned, size, address, size, D2H))
    assert (host_view(pinned, size).view(np.float32) == wanted).all()
    ok(acl.rt.free(address))
    ok(acl.update_data_buffer(buffer, 0, 0))
    assert not emulator.violations
    user.execute()
    user.execute()
    assert emulator.rules_broken() == {25}
    ok(acl.rt.free(acl.get_data_buffer_addr(buffer)))
    assert acl.mdl.execute_async(user.model, user.input_set, user.output_set, 0) == 107000


@rule(25)
def test_what_the_runtime_allocated_is_reset_before_the_buffer_ends(
    user: User, emulator: Emulator
) -> None:
    """A buffer that is destroyed while it notes the runtime's memory is a violation."""
    ok(user.acl.update_data_buffer(user.buffers[1], 0, 0))
    user.execute()
    ok(user.acl.rt.free(user.acl.get_data_buffer_addr(user.buffers[1])))
    ok(user.acl.destroy_data_buffer(user.buffers[1]))
    assert emulator.rules_broken() == {25}


@rule(24)
def test_a_buffer_has_an_address_and_a_size(user: User, emulator: Emulator) -> None:
    """One without the other is a violation."""
    buffer = user.acl.create_data_buffer(user.inputs[0][0], 0)
    assert user.acl.destroy_data_buffer(buffer) == 0
    assert emulator.rules_broken() == {24}


@rule(25)
def test_empty_output_buffers_are_for_execution_at_once(user: User) -> None:
    """Late execution refuses them."""
    ok(user.acl.update_data_buffer(user.buffers[1], 0, 0))
    late = user.acl.mdl.execute_async(user.model, user.input_set, user.output_set, user.stream)
    assert late == 100000


@rule(26)
def test_handles_are_used_while_they_live(user: User, emulator: Emulator) -> None:
    """Double destroy, use after destroy and a handle of another kind are violations."""
    acl = user.acl
    buffer, dataset = acl.create_data_buffer(0, 0), acl.mdl.create_dataset()
    other = acl.mdl.create_dataset()
    assert (acl.destroy_data_buffer(buffer), acl.destroy_data_buffer(buffer)) == (0, 100000)
    assert code(acl.mdl.add_dataset_buffer(dataset, buffer)) == 100000
    assert acl.destroy_data_buffer(dataset) == 100000
    assert (acl.mdl.destroy_dataset(dataset), acl.mdl.destroy_dataset(other)) == (0, 0)
    assert acl.mdl.get_dataset_num_buffers(other) == 0
    assert acl.mdl.destroy_dataset(12345) == 100000
    assert {violation.rule for violation in emulator.violations} == {26}
    assert len(emulator.violations) == 5


@rule(26)
def test_a_buffer_is_in_one_dataset_and_outlives_it(user: User, emulator: Emulator) -> None:
    """To add it twice, or to execute a dataset whose buffer is gone, is a violation."""
    acl = user.acl
    other = acl.mdl.create_dataset()
    ok(acl.mdl.add_dataset_buffer(other, user.buffers[1]))
    assert emulator.rules_broken() == {26}
    ok(acl.mdl.destroy_dataset(other))
    ok(acl.destroy_data_buffer(user.buffers[0]))
    assert acl.mdl.execute(user.model, user.input_set, user.output_set) == 100000
    assert "was destroyed, but its dataset" in emulator.violations[-1].text


@rule(8, 26)
def test_destroying_a_dataset_frees_nothing(emulator: Emulator) -> None:
    """Its buffers, and the memory that they note, are still owed."""
    acl = emulator.module()
    ok(acl.init())
    ok(acl.rt.set_device(0))
    dataset, address = acl.mdl.create_dataset(), ok(acl.rt.malloc(64, 0))
    ok(acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(address, 64)))
    ok(acl.mdl.destroy_dataset(dataset))
    assert [leak.split(" 0x")[0] for leak in emulator.leaks()[:2]] == [
        "data buffer",
        "device memory",
    ]
