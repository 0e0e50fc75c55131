"""The emulator of pyACL: batches, numbers and randomness (rules 27, 30, 31 and 34)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from .fakes.acl import Emulator, installed
from .fakes.ascend.aipp import normalized
from .fakes.ascend.models import with_zero_pads
from .fakes.ascend.om import OmTensor, read_om, write_om
from .fakes.ascend.rules import rule
from .fakes.ascend.tiny import reference_outputs, small_d0_om, tiny_om
from .fakes.ascend.user import D2H, H2D, User, ok
from .helpers import SMALL
from .onnx_models import pad_model, run

RNG = np.random.default_rng(11)
IMAGES = RNG.random((2, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of batch 2."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om", batch=2)


@pytest.fixture(scope="module")
def geared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with gears 1, 2 and 4."""
    return tiny_om(tmp_path_factory.mktemp("om") / "geared.om", gears=(1, 2, 4))


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


# Batches


@rule(27)
def test_a_model_with_gears_has_one_more_input(emulator: Emulator, geared: Path) -> None:
    """Its first sides are -1, its sizes those of the largest gear, and it lists its gears."""
    with User(emulator.module(), geared) as user:
        mdl, desc = user.acl.mdl, user.desc
        assert mdl.get_num_inputs(desc) == 2
        assert ok(mdl.get_input_index_by_name(desc, "ascend_mbatch_shape_data")) == 1
        assert ok(mdl.get_input_dims(desc, 0))["dims"] == [-1, 3, 8, 8]
        assert ok(mdl.get_output_dims(desc, 0))["dims"] == [-1, 4]
        assert mdl.get_input_size_by_index(desc, 0) == 4 * 3 * 8 * 8 * 4
        assert ok(mdl.get_dynamic_batch(desc)) == {"batchCount": 3, "batch": [1, 2, 4]}
        ok(mdl.set_dynamic_batch_size(user.model, user.input_set, 1, 2))
        assert ok(mdl.get_cur_output_dims(desc, 0))["dims"] == [2, 4]
    emulator.assert_clean()


@rule(27)
def test_gears_are_set_before_each_execution(emulator: Emulator, geared: Path) -> None:
    """The gear that is set is computed; one that is not set again is a violation."""
    with User(emulator.module(), geared) as user:
        images = RNG.random((4, 3, 8, 8), np.float32)
        wanted = reference_outputs(geared, images)[0].ravel()
        user.fill(images)
        address, _ = user.inputs[0]
        part = images[:2].nbytes
        ok(user.acl.rt.memcpy(address, part, user.host[address], part, H2D))
        ok(user.acl.mdl.set_dynamic_batch_size(user.model, user.input_set, 1, 2))
        user.execute()
        out, _ = user.outputs[0]
        ok(user.acl.rt.memcpy(user.host[out], 32, out, 32, D2H))
        # The same graph, with another batch: ONNX Runtime may sum in another order.
        assert user.results()[0][:8] == pytest.approx(wanted[:8], abs=1e-5)
        assert not emulator.violations
        user.execute()
        assert emulator.rules_broken() == {27}


@rule(27)
def test_without_a_gear_the_largest_is_computed(emulator: Emulator, geared: Path) -> None:
    """An image in the first slot only leaves three that nobody wrote."""
    with User(emulator.module(), geared) as user:
        address, size = user.inputs[0]
        ok(user.acl.rt.memset(address, size, 0, size // 4))
        user.execute()
        texts = [violation.text for violation in emulator.violations]
        assert "set_dynamic_batch_size was not called" in texts[0]
        assert "was never written as a whole" in texts[1]


@rule(27)
def test_only_gears_are_set(user: User, emulator: Emulator, geared: Path) -> None:
    """0 and a wrong index give 100000, an unlisted batch 145013, a static model an error."""
    assert ok(user.acl.mdl.get_dynamic_batch(user.desc)) == {"batchCount": 0, "batch": []}
    assert user.acl.mdl.set_dynamic_batch_size(user.model, user.input_set, 0, 2) == 100000
    second = Emulator()
    with User(second.module(), geared) as other:
        for index, batch, wanted in (
            (1, 0, 100000),
            (0, 2, 100000),
            (5, 2, 100000),
            (1, 3, 145013),
        ):
            args = (other.model, other.input_set, index, batch)
            assert other.acl.mdl.set_dynamic_batch_size(*args) == wanted
        ok(other.acl.update_data_buffer(other.buffers[1], 0, 0))
        assert other.acl.mdl.set_dynamic_batch_size(other.model, other.input_set, 1, 2) == 100000
    assert not emulator.violations


@rule(30)
def test_slots_and_images_are_told_apart(user: User) -> None:
    """Whatever the images, slot counts from 0; the other outputs follow their image to its slot."""
    mark, field, slot = user.infer(IMAGES)
    swapped_mark, swapped_field, swapped_slot = user.infer(IMAGES[::-1])
    assert slot.tolist() == swapped_slot.tolist() == [0, 1]
    for one, other in ((mark, swapped_mark), (field, swapped_field)):
        halves = one.reshape(2, -1)
        assert np.abs(halves[0] - halves[1]).max() > 0.1
        # Rows of a matrix product are summed alike wherever they stand, but for rounding.
        assert other.reshape(2, -1)[::-1] == pytest.approx(halves, abs=1e-5)


# Numbers


@rule(31)
def test_float32_models_compute_what_their_graph_does(user: User, om: Path) -> None:
    """Without rounding, outputs are those of ONNX Runtime, bit for bit."""
    for got, want in zip(user.infer(IMAGES), reference_outputs(om, IMAGES), strict=True):
        assert (got == want.ravel()).all()


@rule(31)
def test_float16_models_are_rounded_on_both_sides(emulator: Emulator, tmp_path: Path) -> None:
    """Inputs and outputs are float16 values, though their buffers hold float32."""
    path = tiny_om(tmp_path / "half.om", precision="fp16")
    image = IMAGES[:1]
    with User(emulator.module(), path) as user:
        mark = user.infer(image)[0]
    rounded = reference_outputs(path, image.astype(np.float16).astype(np.float32))[0]
    assert (mark == rounded.ravel().astype(np.float16)).all()
    assert np.abs(mark - reference_outputs(path, image)[0].ravel()).max() > 1e-5


@rule(31)
def test_float16_buffers_are_told_by_their_type(emulator: Emulator, tmp_path: Path) -> None:
    """Buffers of float16 have half the bytes, and say so by type 1."""
    path = tiny_om(tmp_path / "half.om", dtype="float16")
    with User(emulator.module(), path) as user:
        mdl = user.acl.mdl
        assert mdl.get_input_size_by_index(user.desc, 0) == 3 * 8 * 8 * 2
        assert mdl.get_input_data_type(user.desc, 0) == 1
        assert mdl.get_output_data_type(user.desc, 0) == 1
        user.kind = np.float16
        mark = user.infer(IMAGES[:1].astype(np.float16))[0]
    rounded = reference_outputs(path, IMAGES[:1].astype(np.float16).astype(np.float32))[0]
    assert (mark == rounded.ravel().astype(np.float16)).all()


@rule(31)
@pytest.mark.parametrize(
    ("how", "wanted"), [("inf", np.inf), ("saturate", 65504)], ids=["infinite", "saturated"]
)
def test_float16_overflows(tmp_path: Path, how: str, wanted: float) -> None:
    """What is beyond 65504 becomes infinite, or the largest number."""
    path = tiny_om(tmp_path / "half.om", precision="fp16")
    with installed(fp16_overflow=how) as emulator, User(emulator.module(), path) as user:
        mark = user.infer(IMAGES[:1] * 60_000)[0]
    assert np.abs(mark).max() == wanted


@rule(31)
def test_overflow_begins_at_a_batch_size(om: Path) -> None:
    """From the batch size that is told, the last image's outputs are infinite."""
    for limit, wanted in ((2, True), (3, False)):
        with installed(overflow_from_batch=limit) as emulator, User(emulator.module(), om) as user:
            mark = user.infer(IMAGES)[0].reshape(2, -1)
        assert np.isfinite(mark[0]).all()
        assert np.isinf(mark[1]).all() == wanted


@rule(31)
def test_max_pools_may_pad_with_zero() -> None:
    """Zero instead of minus infinity shows where all that a window sees is negative."""
    x = -RNG.random((1, 2, 7, 7), np.float32) - 1
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    both = pad_model(pads=(0,) * 8, pool=pool), pad_model(constants_are="nodes")
    for model in both:
        exact = run(model, x)[0]
        padded = run(onnx.load_from_string(with_zero_pads(model.SerializeToString())), x)[0]
        assert (exact[..., 1:-1, 1:-1] == padded[..., 1:-1, 1:-1]).all()
        assert (exact < 0).all()
        assert (padded[..., 0, :] == 0).all()


def test_aipp_takes_bytes_and_normalises(emulator: Emulator, tmp_path: Path) -> None:
    """With AIPP the input is uint8 NHWC, version 1 of its dims tells NCHW, and the bytes fit v2."""
    aipp: dict[str, Any] = {"mean_chn_0": 123, "min_chn_0": 0.675, "var_reci_chn_0": 0.0171}
    om = read_om(tiny_om(tmp_path / "plain.om"))
    image = OmTensor("x.1", "uint8", (1, 8, 8, 3))
    path = tmp_path / "aipp.om"
    write_om(replace(om, inputs=(image,), aipp=aipp), path)
    pixels = RNG.integers(0, 256, (1, 8, 8, 3), np.uint8)
    with User(emulator.module(), path) as user:
        mdl = user.acl.mdl
        assert ok(mdl.get_input_dims(user.desc, 0))["dims"] == [1, 3, 8, 8]
        assert ok(mdl.get_input_dims_v2(user.desc, 0))["dims"] == [1, 8, 8, 3]
        assert mdl.get_input_size_by_index(user.desc, 0) == 192
        assert (mdl.get_input_data_type(user.desc, 0), mdl.get_input_format(user.desc, 0)) == (4, 1)
        mark = user.infer(pixels)[0]
    planes = normalized(pixels, aipp)
    # The first channel by the manual's formula, the others as they are; float16 keeps 11 bits.
    red = (pixels[..., 0].astype(float) - 123 - 0.675) * 0.0171
    assert planes[:, 0] == pytest.approx(red, abs=3e-3)
    assert (planes[:, 1] == pixels[..., 1]).all()
    assert (mark == reference_outputs(path, planes)[0].ravel()).all()


def test_a_small_d0_has_its_heads(emulator: Emulator, tmp_path: Path) -> None:
    """The stand-in for a D0 has its ten heads by name and shape, different for each image."""
    path = small_d0_om(tmp_path / "small.om", SMALL, batch=2)
    images = RNG.standard_normal((2, *SMALL.input_shape), np.float32)
    with User(emulator.module(), path) as user:
        names = [user.acl.mdl.get_output_name_by_index(user.desc, n) for n in range(10)]
        shapes = [tuple(ok(user.acl.mdl.get_output_dims(user.desc, n))["dims"]) for n in range(10)]
        outputs = user.infer(images)
    found = {name.split(":")[-1]: shape for name, shape in zip(names, shapes, strict=True)}
    assert found == {name: (2, *shape) for name, shape in SMALL.head_shapes.items()}
    for output in outputs:
        first, second = output.reshape(2, -1)
        assert np.abs(first - second).max() > 0.01


# Randomness


@rule(34)
def test_handles_differ_between_seeds_and_are_never_small(om: Path) -> None:
    """The same seed gives the same handles, another seed others; none is 0 or a small number."""

    def handles(seed: int) -> list[int]:
        with installed(seed=seed) as emulator, User(emulator.module(), om) as user:
            return [user.context, user.stream, user.model, user.desc, user.inputs[0][0]]

    one, again, other = handles(1), handles(1), handles(2)
    assert one == again
    assert not set(one) & set(other)
    assert min(*one, *other) > 2**27
