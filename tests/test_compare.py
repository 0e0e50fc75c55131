"""Tests for `effd0.compare`: two sets of heads side by side."""

from __future__ import annotations

import numpy as np
import pytest

from effd0.compare import compare_tensors
from effd0.errors import HeadError

REFERENCE = {
    "box": np.array([[3.0, 4.0], [0.0, 0.0]], np.float32),
    "class": np.array([[-1.0, 2.0, -2.0]], np.float32),
}


def changed(name: str, index: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    """Return the reference with one value replaced."""
    candidate = {key: tensor.copy() for key, tensor in REFERENCE.items()}
    candidate[name][index] = value
    return candidate


def test_equal_tensors_differ_by_nothing() -> None:
    """Both measures are exactly zero for the same values."""
    diffs = compare_tensors(REFERENCE, REFERENCE)
    assert [(d.max_abs, d.relative_l2) for d in diffs] == [(0.0, 0.0)] * 2


def test_the_worst_comes_first() -> None:
    """Heads are ordered by their largest difference, whatever their order in the mapping."""
    candidate = changed("class", (0, 1), 2.5) | {"box": REFERENCE["box"] + np.float32(0.25)}
    diffs = compare_tensors(REFERENCE, candidate)
    assert [(d.name, d.max_abs) for d in diffs] == [("class", 0.5), ("box", 0.25)]


def test_a_known_difference_is_measured_exactly() -> None:
    """Largest difference, its place, its two values and the norm are those computed by hand."""
    worst = compare_tensors(REFERENCE, changed("box", (1, 0), -0.5))[0]
    assert (worst.name, worst.max_abs, worst.worst) == ("box", 0.5, (1, 0))
    assert (worst.reference, worst.candidate) == (0.0, -0.5)
    assert worst.relative_l2 == 0.1  # 0.5 over the norm of (3, 4)


def test_the_text_holds_place_and_both_values() -> None:
    """A message built from a difference needs no rerun to be understood."""
    worst = compare_tensors(REFERENCE, changed("class", (0, 2), -2.25))[0]
    assert str(worst) == (
        "class differs by 0.25 at [0, 2] (-2.25, reference -2; relative L2 0.083)"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("swap", [False, True], ids=["in-candidate", "in-reference"])
def test_what_is_not_finite_on_one_side_is_infinitely_far(value: float, swap: bool) -> None:
    """A NaN or infinity against a number never counts as close, on whichever side it is."""
    pair = (REFERENCE, changed("class", (0, 0), value))
    worst = compare_tensors(*reversed(pair) if swap else pair)[0]
    assert (worst.name, worst.max_abs, worst.worst) == ("class", np.inf, (0, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_what_is_not_finite_on_both_sides_is_infinitely_far(value: float) -> None:
    """Two broken models do not agree with each other."""
    broken = changed("class", (0, 0), value)
    assert compare_tensors(broken, broken)[0].max_abs == np.inf


def test_half_precision_is_compared_without_overflow() -> None:
    """Differences are taken in float64, where 65504 and -65504 are 131008 apart."""
    high, low = (np.array([v], np.float16) for v in (65504, -65504))
    assert compare_tensors({"x": high}, {"x": low})[0].max_abs == 131008


def test_other_names_are_refused() -> None:
    """Heads are paired by name alone, so both sides need the same names."""
    with pytest.raises(HeadError, match=r"outputs are \['box'\], but \['box', 'class'\] were"):
        compare_tensors(REFERENCE, {"box": REFERENCE["box"]})


def test_other_shapes_are_refused() -> None:
    """Nothing is broadcast: a batch of one is no batch of two."""
    candidate = REFERENCE | {"box": REFERENCE["box"][:1]}
    with pytest.raises(HeadError, match=r"box is \(1, 2\), but \(2, 2\) was wanted"):
        compare_tensors(REFERENCE, candidate)
