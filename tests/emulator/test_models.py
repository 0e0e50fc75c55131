"""The emulator of pyACL: models, gears and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .acl import Emulator, installed
from .om import reference_outputs, tiny_om
from .user import D2H, H2D, User, code, ok

RNG = np.random.default_rng(11)
IMAGES = RNG.random((2, 3, 8, 8), np.float32)


def test_only_whole_models_load_and_while_there_is_memory(om: Path, tmp_path: Path) -> None:
    """A cut, changed or foreign file gives 100012, no memory 245000, an unloaded id 145003."""
    content = om.read_bytes()
    with installed(memory_bytes=7000) as emulator:
        acl = emulator.module()
        ok(acl.init())
        ok(acl.rt.set_device(0))
        for part in (content[:-9], b"no model", content[:99] + b"!" + content[100:]):
            (tmp_path / "part").write_bytes(part)
            assert code(acl.mdl.load_from_file(str(tmp_path / "part"))) == 100012
        before = emulator.memory.used
        model = ok(acl.mdl.load_from_file(str(om)))
        assert code(acl.mdl.load_from_file(str(om))) == 245000
        ok(acl.mdl.unload(model))
        assert emulator.memory.used == before
        assert acl.mdl.unload(model) == acl.mdl.get_desc(acl.mdl.create_desc(), model) == 145003
        assert not emulator.violations


# Gears


def test_a_model_with_gears_has_one_more_input(emulator: Emulator, geared: Path) -> None:
    """Its first sides are -1, its sizes those of the largest gear; only listed gears are set."""
    with User(emulator.module(), geared) as user:
        mdl, desc = user.acl.mdl, user.desc
        assert mdl.get_num_inputs(desc) == 2
        assert mdl.get_input_name_by_index(desc, 1) == "ascend_mbatch_shape_data"
        assert ok(mdl.get_input_dims(desc, 0))["dims"] == [-1, 3, 8, 8]
        assert ok(mdl.get_output_dims(desc, 0))["dims"] == [-1, 4]
        assert mdl.get_input_size_by_index(desc, 0) == 4 * 3 * 8 * 8 * 4
        assert ok(mdl.get_dynamic_batch(desc)) == {"batchCount": 3, "batch": [1, 2, 4]}
        for index, batch, wanted in (
            (1, 0, 100000), (0, 2, 100000), (5, 2, 100000), (1, 3, 145013), (1, 2, 0),
        ):  # fmt: skip
            args = (user.model, user.input_set, index, batch)
            assert mdl.set_dynamic_batch_size(*args) == wanted
    emulator.assert_clean()


def test_gears_are_set_before_each_execution(emulator: Emulator, geared: Path) -> None:
    """The gear that is set is computed; one that is not set again is a violation."""
    with User(emulator.module(), geared) as user:
        images = RNG.random((4, 3, 8, 8), np.float32)
        wanted = reference_outputs(geared, images)[0].ravel()
        user.fill(images)
        (address, _), (out, _) = user.inputs[0], user.outputs[0]
        part = images[:2].nbytes
        ok(user.acl.rt.memcpy(address, part, user.host[address], part, H2D))
        ok(user.acl.mdl.set_dynamic_batch_size(user.model, user.input_set, 1, 2))
        user.execute()
        ok(user.acl.rt.memcpy(user.host[out], 32, out, 32, D2H))
        # The same graph, with another batch: ONNX Runtime may sum in another order.
        assert user.results()[0][:8] == pytest.approx(wanted[:8], abs=1e-5)
        assert not emulator.violations
        user.execute()
        assert emulator.rules_broken() == {"gear"}


# Numbers


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"precision": "fp16"}, np.float32), ({"dtype": "float16"}, np.float16)],
    ids=["float16-network", "float16-tensors"],
)
def test_float16_models_are_rounded_on_both_sides(
    options: dict[str, Any], kind: Any, emulator: Emulator, tmp_path: Path
) -> None:
    """Inputs and outputs are float16 values in buffers of their type; too large ones infinite."""
    path = tiny_om(tmp_path / "half.om", **options)
    image = IMAGES[:1].astype(kind)
    with User(emulator.module(), path, kind) as user:
        assert user.acl.mdl.get_input_size_by_index(user.desc, 0) == image.nbytes
        assert user.acl.mdl.get_output_data_type(user.desc, 0) == int(kind == np.float16)
        mark = user.infer(image)[0]
        huge = user.infer(image * kind(60_000))[0]
    rounded = reference_outputs(path, image.astype(np.float16).astype(np.float32))[0]
    assert (mark == rounded.ravel().astype(np.float16)).all()
    assert np.abs(mark - reference_outputs(path, IMAGES[:1])[0].ravel()).max() > 1e-5
    assert np.isinf(huge).any()
