"""Tests for `effd0.ascend.aipp`: the normalisation in the file is the network's, within float16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from effd0.ascend.aipp import largest_errors, normalizing_aipp
from effd0.data.preprocess import normalize
from effd0.spec import SPECS, ModelSpec

from .fakes.ascend.aipp import normalized
from .fakes.ascend.aippfile import InvalidAipp, read_aipp

ARCHS = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
#: All values of a channel in one row, so that every error there is shows.
PIXELS = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (1, 256, 3))
#: In standard deviations.  Measured 2026-11-23: 1.6e-3 for ImageNet's constants, 2.4e-4 for
#: AdvProp's.  Inputs reach 2.64, where half a step of float16 is
#: 9.8e-4, and constants are rounded too; a mean rounded to a whole number would cost 8.2e-3.
FLOAT16 = 2e-3


def errors_met(spec: ModelSpec) -> list[float]:
    """Largest distance by channel of what the file's reader gets from what the host computes."""
    wanted = normalize(PIXELS, spec)
    got = normalized(PIXELS[None], read_aipp(str(normalizing_aipp(spec))))
    assert got.shape == (1, *wanted.shape) == (1, 3, 1, 256)
    distances: list[float] = np.abs(got[0] - wanted).max(axis=(1, 2)).tolist()
    return distances


@ARCHS
def test_aipp_normalises_as_the_host_does(spec: ModelSpec) -> None:
    """What the file says, read and applied by another reading of the manual, is `normalize`."""
    assert max(errors_met(spec)) <= FLOAT16


@ARCHS
def test_the_stated_cost_bounds_the_real_one(spec: ModelSpec) -> None:
    """No pixel is further off than is stated, and what is stated is float16's doing."""
    stated = largest_errors(normalizing_aipp(spec), spec)
    # `normalize` computes in float32, whose steps are 2.4e-7 at 2.64.
    assert all(met <= cost + 5e-7 for met, cost in zip(errors_met(spec), stated, strict=True))
    assert max(stated) <= FLOAT16


def test_the_stated_cost_is_that_of_the_worst_pixel(spec: ModelSpec) -> None:
    """Constants that are off by a whole grey level cost one: 1 / (255 x 0.229) in red."""
    aipp = normalizing_aipp(spec)
    off = replace(aipp, mean=(aipp.mean[0] - 1, *aipp.mean[1:]))
    red, green, blue = largest_errors(off, spec)
    # The pixel's own rounding is at most FLOAT16, in either direction.
    assert red == pytest.approx(1 / (255 * 0.229), abs=FLOAT16)
    assert (green, blue) == largest_errors(aipp, spec)[1:]


@ARCHS
def test_constants_are_in_the_ranges_of_the_manual(spec: ModelSpec) -> None:
    """Means are whole numbers of 0 to 255, their rest is in [0, 1), and float16 holds the rest."""
    aipp = normalizing_aipp(spec)
    assert all(0 <= mean <= 255 for mean in aipp.mean)
    assert all(0 <= least < 1 for least in aipp.least)
    assert all(value == float(np.float16(value)) for value in (*aipp.least, *aipp.factor))


def test_the_file_of_the_recipes_model(spec: ModelSpec) -> None:
    """ImageNet's mean, 123.675, 116.28 and 103.53, is split into a uint8 and its fraction."""
    text = str(normalizing_aipp(spec))
    aipp = read_aipp(text)
    assert text.startswith("aipp_op {\n  aipp_mode: static\n")
    assert (aipp["src_image_size_w"], aipp["src_image_size_h"]) == (512, 512)
    assert [aipp[f"mean_chn_{n}"] for n in range(3)] == [123, 116, 103]
    # The nearest values of float16 to 0.675, 0.28 and 0.53, whose steps are up to 4.9e-4 there.
    assert [aipp[f"min_chn_{n}"] for n in range(3)] == pytest.approx(
        [0.675, 0.28, 0.53], abs=2.5e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(("static", "dynamic"), "static and", id="dynamic"),
        pytest.param(("RGB888_U8", "YUV420SP_U8"), "RGB888_U8 are", id="format"),
        pytest.param(("crop: false", "crop: true"), "not emulated", id="crop"),
        pytest.param(("crop: false", "crop: maybe"), "crop must be true or false", id="switch"),
        pytest.param(("mean_chn_0: ", "mean_chn_0: 9"), "must be in", id="range"),
        pytest.param(("mean_chn_0: ", "mean_chn_0: 0."), "mean_chn_0 cannot be 0.", id="fraction"),
        pytest.param(("mean_chn_0", "mean_0"), "mean_0 is not a field", id="field"),
        pytest.param(("aipp_op", "op"), "one aipp_op", id="no-op"),
        pytest.param(("crop:", "crop"), "no 'key: value'", id="no-colon"),
    ],
)
def test_the_reading_of_the_manual_is_strict(
    change: tuple[str, str], message: str, spec: ModelSpec
) -> None:
    """The reader that checks our files refuses what ATC would refuse, so that it can fail."""
    text = str(normalizing_aipp(spec))
    assert change[0] in text
    with pytest.raises(InvalidAipp, match=message):
        read_aipp(text.replace(*change, 1))
