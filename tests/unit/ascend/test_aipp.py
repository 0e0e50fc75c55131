"""Tests for `effd0.ascend.aipp`: the file's normalisation is the network's, within float16."""

from __future__ import annotations

import numpy as np
import pytest

from effd0.ascend.aipp import aipp_file, largest_errors, normalizing_aipp
from effd0.data.preprocess import normalize
from effd0.spec import D0, ModelSpec
from tests.helpers import FED_APART

from ...emulator.aipp import normalized, read_aipp

#: All values of a channel in one row, so that every error there is shows.
PIXELS = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (1, 256, 3))
#: In standard deviations.  Measured 2026-11-23: 1.6e-3 for ImageNet's constants, 2.4e-4 for
#: AdvProp's.  Inputs reach 2.64, where half a step of float16 is
#: 9.8e-4, and constants are rounded too; a mean rounded to a whole number would cost 8.2e-3.
FLOAT16 = 2e-3


@pytest.mark.parametrize("spec", FED_APART.values(), ids=FED_APART)
def test_aipp_normalises_as_the_host_does(spec: ModelSpec) -> None:
    """The file, read and applied by another reading of the manual, is `normalize`, as is stated."""
    aipp = normalizing_aipp(spec)
    wanted = normalize(PIXELS, spec)
    got = normalized(PIXELS[None], read_aipp(aipp_file(spec)))
    assert got.shape == (1, *wanted.shape) == (1, 3, 1, 256)
    met = np.abs(got[0] - wanted).max(axis=(1, 2))
    stated = largest_errors(aipp, spec)
    # `normalize` computes in float32, whose steps are 2.4e-7 at 2.64.
    assert (met <= np.array(stated) + 5e-7).all()
    assert max(stated) <= FLOAT16
    # The manual's ranges: whole means, their fraction apart, and float16 for all else.
    means, least, factor = aipp.values()
    assert all(0 <= mean <= 255 for mean in means)
    assert all(0 <= fraction < 1 for fraction in least)
    assert all(value == float(np.float16(value)) for value in (*least, *factor))


def test_the_stated_cost_is_that_of_the_worst_pixel() -> None:
    """Constants that are off by a whole grey level cost one: 1 / (255 x 0.229) in red."""
    aipp = normalizing_aipp(D0)
    off = aipp | {"mean_chn": [aipp["mean_chn"][0] - 1, *aipp["mean_chn"][1:]]}
    red, green, blue = largest_errors(off, D0)
    # The pixel's own rounding is at most FLOAT16, in either direction.
    assert red == pytest.approx(1 / (255 * 0.229), abs=FLOAT16)
    assert (green, blue) == largest_errors(aipp, D0)[1:]


def test_the_file_of_the_recipes_model() -> None:
    """ImageNet's mean, 123.675, 116.28 and 103.53, is split into a uint8 and its fraction."""
    text = aipp_file(D0)
    aipp = read_aipp(text)
    assert text.startswith("aipp_op {\n  aipp_mode: static\n")
    assert (aipp["src_image_size_w"], aipp["src_image_size_h"]) == (512, 512)
    assert [aipp[f"mean_chn_{n}"] for n in range(3)] == [123, 116, 103]
    # The nearest values of float16 to 0.675, 0.28 and 0.53, whose steps are up to 4.9e-4 there.
    least = [aipp[f"min_chn_{n}"] for n in range(3)]
    assert least == pytest.approx([0.675, 0.28, 0.53], abs=2.5e-4)
