"""Heads pass within their precision's tolerance, else are explained."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from effd0.diagnosis.parity import (
    RELATIVE_L2,
    check_heads,
    diagnose_precision,
    record,
    table,
)
from effd0.results.check import Broken
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Floats, Tensors
from tests.helpers import SMALL
from tests.helpers.results import heads_of

HEADS = heads_of(0)
NAMES = tuple(HEADS)


def noisy(error: float, *only: str) -> dict[str, Floats]:
    """Heads, or *only* these, with noise of *error* standard deviations."""
    rng = np.random.default_rng(3)
    return {
        name: head + (error * head.std() * rng.standard_normal(head.shape)).astype(np.float32)
        if name in (only or NAMES)
        else head
        for name, head in HEADS.items()
    }


def off_by(part: float) -> dict[str, Floats]:
    """Heads of which one, box_p4, is off by *part* of its norm."""
    rng, head = np.random.default_rng(3), HEADS["box_p4"]
    noise = rng.standard_normal(head.shape)
    noise *= part * float(np.linalg.norm(head)) / float(np.linalg.norm(noise))
    return {**HEADS, "box_p4": (head + noise).astype(np.float32)}


def moved(by: float) -> dict[str, Floats]:
    """Heads in which one value is moved."""
    head = HEADS["class_p5"].copy()
    head[0, 7, 1, 2] += np.float32(by)
    return {**HEADS, "class_p5": head}


def broken_by(got: Tensors, precision: str = "fp32") -> Broken:
    """What is said of heads *got*."""
    with pytest.raises(Broken) as caught:
        check_heads(HEADS, got, SMALL, precision)
    return caught.value


def test_one_value_decides_in_float32() -> None:
    """The largest difference of all counts, and the message shows where it is."""
    check_heads(HEADS, HEADS, SMALL)
    check_heads(HEADS, moved(0.9 * SAME_FLOAT32.limit), SMALL)
    said = broken_by(moved(-1.1 * SAME_FLOAT32.limit)).evidence
    assert re.match(r"class_p5 differs by 0\.0022 at \[0, 7, 1, 2\] \(.*reference .*\), but", said)
    assert said.endswith(f", but at most {SAME_FLOAT32.limit} is allowed in float32")


@pytest.mark.parametrize("precision", RELATIVE_L2)
def test_the_worst_head_decides_in_other_precisions(precision: str) -> None:
    """Single values may be off; the relative L2 of no head may."""
    allowed = RELATIVE_L2[precision]
    check_heads(HEADS, off_by(0.95 * allowed), SMALL, precision)
    said = broken_by(off_by(1.05 * allowed), precision).evidence
    assert said.startswith("box_p4 differs by ")
    assert said.endswith(f"a relative L2 of at most {allowed} is allowed in {precision}")


def test_the_head_beyond_its_tolerance_is_told() -> None:
    """A head of large values may differ by more, and still be the one within."""
    scales = {name: np.float32(100 if name == "class_p3" else 1) for name in HEADS}
    wanted = {name: head * scales[name] for name, head in HEADS.items()}
    got = {name: head * scales[name] for name, head in off_by(0.03).items()}
    got["class_p3"] = wanted["class_p3"] * np.float32(1.01)
    with pytest.raises(Broken, match=r"^box_p4 differs by .* L2 0\.03\), but"):
        check_heads(wanted, got, SMALL, "fp16")


@pytest.mark.parametrize("precision", ["fp32", *RELATIVE_L2])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "infinite"])
def test_what_is_not_finite_never_holds(value: float, precision: str) -> None:
    """However coarse the precision."""
    assert re.search(r"; 1 (NaN|infinite), but", broken_by(moved(value), precision).evidence)


def _sigmoid(head: Floats) -> Floats:
    return (1 / (1 + np.exp(-head))).astype(np.float32)


def test_a_fault_of_heads_is_the_diagnosis() -> None:
    """What explains the difference comes before any precision that it is as large as."""
    got = {n: _sigmoid(h) if n.startswith("class") else h for n, h in HEADS.items()}
    broken = broken_by(got)
    assert "sigmoid" in broken.diagnosis
    assert "error falls from" in broken.diagnosis
    assert "computed in" not in str(broken)


@pytest.mark.parametrize(
    ("error", "round_", "claimed", "diagnosis"),
    [
        pytest.param(6e-3, None, "fp32", "computed in bf16, not in fp32: bf16 (", id="bf16"),
        pytest.param(
            1.2e-3, np.float16, "fp32", "computed in fp16, not in fp32: fp16 (", id="fp16"
        ),
        pytest.param(1.5e-2, None, "fp16", "computed in int8, not in fp16: int8 (", id="int8"),
        pytest.param(6e-3, None, "bf16", None, id="as-claimed"),
        pytest.param(0.1, None, "fp32", None, id="as-large-as-a-fault"),
        pytest.param(2.0, None, "fp32", None, id="like-no-precision"),
        pytest.param(7e-4, None, "fp32", None, id="like-two-precisions"),
        pytest.param(np.nan, None, "fp32", None, id="not-finite"),
    ],
)
def test_another_precision_is_suspected(
    error: float, round_: Callable[..., Floats] | None, claimed: str, diagnosis: str | None
) -> None:
    """Where the error is like one precision's, small enough, and not that which was claimed."""
    got = noisy(error)
    if round_ is not None:
        got = {name: round_(head).astype(np.float32) for name, head in got.items()}
    found = diagnose_precision(HEADS, got, claimed)
    assert (found is None) == (diagnosis is None)
    assert (found or "").startswith(diagnosis or "")


def test_a_difference_without_a_cause_has_no_diagnosis() -> None:
    """Heads that all are off by chance are told by their figures alone."""
    assert broken_by(noisy(0.1)).diagnosis == ""


def test_a_record_is_plain_and_whole() -> None:
    """Runner, batch, precision and each head's figures, as the run file's schema has them."""
    written = record("ort", HEADS, noisy(6e-3), "bf16")
    assert (written.runner, written.batch, written.precision) == ("ort", 1, "bf16")
    names = {f"{head.head}_{head.level.lower()}" for head in written.heads}
    assert names == set(NAMES)
    wanted = {diff.name: diff for diff in compare_tensors(HEADS, noisy(6e-3))}
    for head in written.heads:
        diff = wanted[f"{head.head}_{head.level.lower()}"]
        assert (head.max_abs, head.relative_l2) == (diff.max_abs, diff.relative_l2)
        assert (head.cosine, head.q999) == (diff.cosine, diff.q999)
        assert head.required == diff.required
        assert (head.allowed, head.measure) == (RELATIVE_L2["bf16"], "relative_l2")


def test_what_is_not_finite_is_null_in_a_record() -> None:
    """JSON knows no infinity."""
    written = record("ort", HEADS, moved(np.inf))
    infinite = written.heads[0]
    assert (infinite.head, infinite.level, infinite.max_abs) == ("class", "P5", None)
    assert written.worst == (math.inf, SAME_FLOAT32.limit, "max abs")


def test_the_worst_figure_is_the_one_that_decides() -> None:
    """In float32 the largest difference, in other precisions the largest relative L2."""
    diffs = compare_tensors(HEADS, off_by(0.1))
    for precision, measure, limit in (
        ("fp32", "max_abs", SAME_FLOAT32.limit), ("fp16", "relative_l2", RELATIVE_L2["fp16"]),
    ):  # fmt: skip
        worst = max(getattr(diff, measure) for diff in diffs)
        found = record("ort", HEADS, off_by(0.1), precision).worst
        assert found == (worst, limit, measure.replace("_", " "))


def test_the_worst_head_is_first_in_the_table() -> None:
    """By its largest difference, whatever the order of the heads."""
    ones = np.ones(9, np.float32)
    first, second = table({"a": ones, "b": ones}, {"a": ones, "b": ones * np.float32(1.234)})
    assert first.startswith(
        "b         max abs 0.23, 99.9 % within 0.23, relative L2 0.23, cosine 1"
    )
    assert first.endswith("would need a tolerance of 0.24")
    assert second.startswith("a         max abs 0, ")
