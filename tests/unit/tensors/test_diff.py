"""Tests for `effd0.tensors.diff`: two sets of heads side by side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.errors import HeadError
from effd0.tensors.diff import TensorDiff, compare_tensors
from effd0.types import Tensors

REFERENCE = {
    "box": np.array([[3.0, 4.0], [0.0, 0.0]], np.float32),
    "class": np.array([[-1.0, 2.0, -2.0]], np.float32),
}


def changed(name: str, index: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    """Return the reference with one value replaced."""
    candidate = {key: tensor.copy() for key, tensor in REFERENCE.items()}
    candidate[name][index] = value
    return candidate


def test_a_known_difference_is_measured_exactly() -> None:
    """Largest difference, its place, its two values and the norm; the worst head comes first."""
    candidate = changed("box", (1, 0), -0.5) | {"class": REFERENCE["class"] + np.float32(0.25)}
    worst, other = compare_tensors(REFERENCE, candidate)
    assert (other.name, other.max_abs) == ("class", 0.25)
    assert (worst.name, worst.max_abs, worst.worst) == ("box", 0.5, (1, 0))
    assert (worst.reference, worst.candidate) == (0.0, -0.5)
    assert worst.relative_l2 == 0.1  # 0.5 over the norm of (3, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    """A NaN or infinity never counts as close, on whichever side it is, nor on both."""
    broken = changed("class", (0, 0), value)
    for pair in ((REFERENCE, broken), (broken, REFERENCE), (broken, broken)):
        worst = compare_tensors(*pair)[0]
        assert (worst.name, worst.max_abs, worst.worst) == ("class", np.inf, (0, 0))


def test_half_precision_is_compared_without_overflow() -> None:
    """Differences are taken in float64, where 65504 and -65504 are 131008 apart."""
    high, low = (np.array([v], np.float16) for v in (65504, -65504))
    assert compare_tensors({"x": high}, {"x": low})[0].max_abs == 131008


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        pytest.param(
            {"box": REFERENCE["box"]},
            r"outputs are \['box'\], but \['box', 'class'\] were",
            id="names",
        ),
        pytest.param(
            REFERENCE | {"box": REFERENCE["box"][:1]},
            r"box is \(1, 2\), but \(2, 2\) was wanted",
            id="shape",
        ),
    ],
)
def test_other_names_or_shapes_are_refused(candidate: Tensors, message: str) -> None:
    """Heads are paired by name alone, and nothing is broadcast."""
    with pytest.raises(HeadError, match=message):
        compare_tensors(REFERENCE, candidate)


@pytest.mark.parametrize("size", [1, 1001, 100_001], ids="size={}".format)
@pytest.mark.parametrize("kind", ["normal", "few-values"])
def test_the_quantile_is_that_of_all_values(size: int, kind: str) -> None:
    """The short way to 99.9 % gives the smallest value that so many do not exceed."""
    rng = np.random.default_rng(size)
    values = {
        "normal": rng.normal(size=size),
        "few-values": rng.integers(0, 3, size),
    }[kind].astype(np.float32)
    (diff,) = compare_tensors({"x": np.zeros(size, np.float32)}, {"x": values})
    assert diff.q999 == np.quantile(np.abs(values), 0.999, method="inverted_cdf")
    assert diff.max_abs == np.abs(values).max()


def test_values_at_the_end_of_a_range_are_counted() -> None:
    """NaN, infinities and values cut off at the end of float16, bfloat16, float32 have counts."""
    candidate = np.zeros(100_000, np.float32)
    candidate[[5, 70_000]] = np.nan
    candidate[99_999] = -np.inf
    candidate[[1, 40_000, 80_000, 90_000]] = 65504, -65504, 3.3895314e38, np.finfo(np.float32).max
    (diff,) = compare_tensors({"x": np.zeros_like(candidate)}, {"x": candidate})
    assert diff.found == "2 NaN, 1 infinite, 4 saturated"
    assert str(diff).endswith("; 2 NaN, 1 infinite, 4 saturated")


@pytest.mark.parametrize("factor", [1e25, 1e-25], ids=["huge", "minute"])
def test_norms_reach_as_far_as_the_values(factor: float) -> None:
    """Squares beyond float32, on either end, do not spoil norm, cosine or difference."""
    reference = {"x": np.array([3, 4], np.float32) * np.float32(factor)}
    candidate = {"x": np.array([3, 3], np.float32) * np.float32(factor)}
    (diff,) = compare_tensors(reference, candidate)
    # Inputs are rounded to float32, 6e-8.
    assert diff.relative_l2 == pytest.approx(0.2, rel=1e-6)
    assert diff.cosine == pytest.approx(21 / (5 * np.sqrt(18)), rel=1e-6)


@given(st.floats(1e-30, 1e30))
def test_the_tolerance_required_is_the_difference_rounded_up(difference: float) -> None:
    """Whatever the difference, the tolerance has two digits and is no less."""
    required = TensorDiff("x", difference, 0, (), 0, 0).required
    # One unit of two digits is at most a tenth; the last bits of it are rounded.
    assert difference <= required <= difference * 1.11
    assert required == float(f"{required:.1e}")
