"""Tests for `effd0.suspicions.heads`: a fault of the heads is named by what explains it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from effd0.errors import HeadError
from effd0.spec import ModelSpec
from effd0.suspicions.heads import suspect_heads
from effd0.types import Floats, Tensors
from tests.helpers import SMALL, synthetic_heads

Plant = Callable[[Floats], Floats]
IMAGES = 3
#: As SMALL, with COCO's 90 class channels and heads of two levels.
COCO = replace(SMALL, image_size=64, levels=(4, 5), num_classes=90)
#: Float32 leaves at most 6e-8 where the fault was planted in float64, measured 2026-11-23.
NOTHING = 1e-6


def stacked(spec: ModelSpec = SMALL, seed: int = 0) -> dict[str, Floats]:
    """Return synthetic heads of three images, by name."""
    images = [synthetic_heads(seed + i, spec) for i in range(IMAGES)]
    heads = [np.stack(level) for level in zip(*(i.classes + i.boxes for i in images), strict=True)]
    return dict(zip(spec.output_names, heads, strict=True))


def planted(heads: Tensors, plant: Plant, *kinds: str) -> dict[str, Floats]:
    """Return *heads*, with *plant* done to a copy of those whose names begin with *kinds*."""
    return {
        name: plant(head.copy()) if name.startswith(kinds) else head for name, head in heads.items()
    }


def noisy(heads: Tensors, size: float) -> dict[str, Floats]:
    """Return *heads* with noise of *size* standard deviations."""
    rng = np.random.default_rng(7)
    return {
        name: head + (size * head.std() * rng.standard_normal(head.shape)).astype(np.float32)
        for name, head in heads.items()
    }


def sigmoid(head: Floats) -> Floats:
    """Return scores, as tanh gives them."""
    return ((np.tanh(head.astype(np.float64) / 2) + 1) / 2).astype(np.float32)


def softmax(head: Floats) -> Floats:
    """Return scores that sum to 1 over the five classes of each anchor."""
    for anchor in range(9):
        scores = np.exp(head[:, 5 * anchor : 5 * anchor + 5].astype(np.float64))
        head[:, 5 * anchor : 5 * anchor + 5] = scores / scores.sum(axis=1)[:, None]
    return head


def channels(order: Callable[[int, int, int], int], per_anchor: int) -> Plant:
    """Return what puts at (anchor, item) the channel that *order* gives for (anchor, item, n)."""

    def plant(head: Floats) -> Floats:
        taken = [order(a, i, per_anchor) for a in range(9) for i in range(per_anchor)]
        return head[:, taken]

    return plant


def coordinates(*order: int) -> Plant:
    """Return what puts coordinate *order[i]* of each anchor at i."""
    return channels(lambda a, i, n: n * a + order[i], 4)


def anchors(*order: int) -> dict[str, Plant]:
    """Return what puts anchor *order[a]* of each cell at a, by kind of head."""
    return {
        kind: channels(lambda a, i, n: n * order[a] + i, per_anchor)
        for kind, per_anchor in (("class", 5), ("box", 4))
    }


def scaled(head: Floats) -> Floats:
    """Return box codes times variances of 0.1 for the centre and 0.2 for the size."""
    for channel in range(36):
        head[:, channel] *= 0.1 if channel % 4 < 2 else 0.2
    return head


def background(head: Floats) -> Floats:
    """Return logits behind those of a background class, the last class lost."""
    return np.where(np.arange(45)[:, None, None] % 5 == 0, np.float32(-3), np.roll(head, 1, axis=1))


def no_background(head: Floats) -> Floats:
    """Return logits of which the first class of each anchor was dropped as background."""
    return np.where(
        np.arange(45)[:, None, None] % 5 == 4, np.float32(-9), np.roll(head, -1, axis=1)
    )


def nhwc(head: Floats) -> Floats:
    """Return the values in the order of rows, columns, channels, with the shape kept."""
    return np.concatenate(
        [image.reshape(len(image), -1).T.reshape(1, -1) for image in head]
    ).reshape(head.shape)


def from_nhwc(head: Floats) -> Floats:
    """Return the values as one gets them who takes them for rows, columns, channels."""
    taken = [image.reshape(-1, len(image)).T.reshape(image.shape) for image in head]
    return np.stack(taken)


def spoilt(value: float) -> Plant:
    """Return what puts *value* at each tenth place."""

    def plant(head: Floats) -> Floats:
        head.reshape(-1)[::10] = value
        return head

    return plant


def bfloat16(head: Floats) -> Floats:
    """Return the values with the mantissa of bfloat16, cut off."""
    return (head.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def float16(head: Floats) -> Floats:
    """Return the values rounded to float16."""
    return head.astype(np.float16).astype(np.float32)


def transposed(head: Floats) -> Floats:
    """Return rows as columns."""
    return np.moveaxis(head, 3, 2)


FAULTS = [
    pytest.param("class", sigmoid, "logits already through a sigmoid", id="sigmoid"),
    pytest.param("class", softmax, "logits already through a softmax", id="softmax"),
    pytest.param("class", lambda h: h + 1.5, "a constant added to the logits", id="bias"),
    pytest.param("class", lambda h: h * 0.5, "logits scaled", id="logits-scaled"),
    pytest.param("class", background, "class channels shifted up by one", id="background"),
    pytest.param("class", no_background, "class channels shifted down by one", id="class-lost"),
    pytest.param("box", coordinates(1, 0, 3, 2), "box x and y swapped", id="x-y"),
    pytest.param("box", coordinates(0, 1, 3, 2), "box h and w swapped", id="h-w"),
    pytest.param("box", coordinates(1, 0, 2, 3), "box centre x and y swapped", id="tx-ty"),
    pytest.param("box", coordinates(2, 3, 0, 1), "box centre and size swapped", id="size-first"),
    pytest.param("box", scaled, "boxes scaled", id="variances"),
    pytest.param("", lambda h: h[[1, 2, 0]], "batch rows shifted by one", id="rows-turned"),
    pytest.param("", lambda h: h[[0, 2, 1]], "batch rows permuted", id="rows-permuted"),
    pytest.param("", lambda h: h[[0, 0, 0]], "batch rows repeated", id="first-row-only"),
    pytest.param(
        "", lambda h: np.concatenate([h[2:] + h[:1], h[:2]]), "batch rows shifted by one",
        id="rows-of-the-batch-before",
    ),
    pytest.param(
        "", lambda h: np.concatenate([h[1:], h[2:] + h[:1]]), "batch rows shifted by one",
        id="rows-of-the-batch-after",
    ),
    pytest.param("", transposed, "rows and columns transposed", id="transposed"),
    pytest.param("", lambda h: np.flip(h, 3), "flipped left to right", id="mirrored"),
    pytest.param("", lambda h: np.flip(h, 2), "flipped top to bottom", id="upside-down"),
    pytest.param("", nhwc, "NHWC data in NCHW shape", id="nhwc"),
    pytest.param("", from_nhwc, "NCHW data taken for NHWC", id="from-nhwc"),
    pytest.param("", spoilt(65504), "saturated at 65504", id="saturated"),
    pytest.param("", spoilt(np.nan), "not finite", id="nan"),
    pytest.param("", spoilt(-np.inf), "not finite", id="infinite"),
    pytest.param("", lambda h: np.maximum(h, 0), "clipped", id="relu"),
    pytest.param("", lambda h: h * 0, "stuck at one value", id="zeros"),
    pytest.param("", float16, "stored in float16", id="float16"),
    pytest.param("", bfloat16, "stored in bfloat16", id="bfloat16"),
]  # fmt: skip
#: In the order of a cell: scales, then aspects (equal, wide, tall).
ORDERS = [
    pytest.param((0, 3, 6, 1, 4, 7, 2, 5, 8), "scales and aspects exchanged", id="exchanged"),
    pytest.param((8, 7, 6, 5, 4, 3, 2, 1, 0), "all reversed", id="reversed"),
    pytest.param((6, 7, 8, 3, 4, 5, 0, 1, 2), "scales reversed", id="scales"),
    pytest.param((2, 1, 0, 5, 4, 3, 8, 7, 6), "aspects reversed", id="aspects"),
    pytest.param((0, 2, 1, 3, 5, 4, 6, 8, 7), "last two aspects", id="wide-and-tall"),
    pytest.param((1, 0, 2, 3, 4, 5, 6, 7, 8), "1, 0, 2, 3, 4, 5, 6, 7, 8", id="two-anchors"),
]


@pytest.mark.parametrize(("kind", "plant", "name"), FAULTS)
def test_a_fault_is_named_by_what_explains_it(kind: str, plant: Plant, name: str) -> None:
    """With the named fault accounted for, nothing is left of the difference."""
    reference = stacked()
    found = suspect_heads(reference, planted(reference, plant, kind), SMALL)
    assert found is not None
    assert found.name == name
    assert found.error_after < NOTHING < found.error_before


@pytest.mark.parametrize(("order", "words"), ORDERS)
def test_an_order_of_anchors_is_found(order: tuple[int, ...], words: str) -> None:
    """The order is said, and the cause where it has one."""
    reference = stacked()
    plants = anchors(*order)
    candidate = planted(reference, plants["class"], "class")
    candidate = planted(candidate, plants["box"], "box")
    found = suspect_heads(reference, candidate, SMALL)
    assert found is not None
    assert found.name == "anchors of a cell reordered"
    assert words in found.explanation


def test_an_anchor_axis_that_comes_last_is_named() -> None:
    """Channels that run over classes first, then anchors, are not taken for reordered anchors."""
    reference = stacked()
    candidate = planted(reference, lambda h: h[:, [5 * (c % 9) + c // 9 for c in range(45)]], "cl")
    found = suspect_heads(reference, candidate, SMALL)
    assert found is not None
    assert found.name == "anchors laid out last"


def test_eighty_classes_in_ninety_channels_are_named() -> None:
    """A model that numbers the categories 0 to 79 leaves the unused ids out, ten at the end."""
    unused = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    used = [id_ - 1 for id_ in range(1, 91) if id_ not in unused]
    reference = stacked(COCO)

    def plant(head: Floats) -> Floats:
        moved = np.full_like(head, -20)
        for anchor in range(9):
            for k, channel in enumerate(used):
                moved[:, 90 * anchor + k] = head[:, 90 * anchor + channel]
        return moved

    found = suspect_heads(reference, planted(reference, plant, "class"), COCO)
    assert found is not None
    assert found.name == "classes mapped from 90 to 80"


@pytest.mark.parametrize(
    ("kinds", "plant", "words"),
    [
        pytest.param(("",), float16, ", in all heads$", id="all"),
        pytest.param(
            ("class",), sigmoid, ", in all class heads; all box heads are clean$", id="class"
        ),
        pytest.param(
            ("class_p5",), sigmoid,
            ", in class_p5; class_p3, class_p4, .*, all box heads are clean$", id="one-level",
        ),
        pytest.param(
            ("class_p4", "box_p4"), lambda h: h[[1, 2, 0]], "order 1, 2, 0, in class_p4, box_p4; ",
            id="one-level-of-another-image",
        ),
        pytest.param(
            ("class_p3",), lambda h: h + 2, "^2 is added to the reference, in class_p3; ",
            id="bias-of-a-level",
        ),
        pytest.param(
            ("box",), scaled, r"are times 0\.1, 0\.1, 0\.2, 0\.2, in all box heads", id="factors"
        ),
        pytest.param(("class",), lambda h: np.minimum(h, -6), "cut off to -6, in", id="bound"),
        pytest.param(("box_p3",), spoilt(np.nan), r"these 10\.0% of the values are", id="share"),
    ],
)  # fmt: skip
def test_the_explanation_says_where_and_how_much(
    kinds: tuple[str, ...], plant: Plant, words: str
) -> None:
    """Heads that the fault explains, and heads that are clean, are told apart."""
    reference = stacked()
    found = suspect_heads(reference, planted(reference, plant, *kinds), SMALL)
    assert found is not None
    assert re.search(words, found.explanation), found.explanation


def test_class_and_box_heads_may_have_a_fault_each() -> None:
    """Both are named, each with the heads that it explains."""
    reference = stacked()
    candidate = planted(reference, sigmoid, "class")
    candidate = planted(candidate, coordinates(1, 0, 3, 2), "box")
    assert (found := suspect_heads(reference, candidate, SMALL)) is not None
    assert found.name == "logits already through a sigmoid and box x and y swapped"
    assert found.explanation.endswith("(tx, ty, tw, th) is read, in all box heads")


def test_what_a_fault_leaves_unexplained_is_said() -> None:
    """A fault of the class heads does not hide that the box heads differ too."""
    reference = stacked()
    candidate = noisy(reference, 0.5)
    candidate |= {name: sigmoid(head) for name, head in reference.items() if "class" in name}
    assert (found := suspect_heads(reference, candidate, SMALL)) is not None
    assert found.explanation.endswith("in all class heads; all box heads differ otherwise")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param(("class",), "a fault in all class heads alone: .*; all box", id="class-net"),
        pytest.param(("class_p5", "box_p5"), "in class_p5, box_p5 alone: .* are left", id="level"),
        pytest.param(("box_p7",), "in box_p7 alone: .* if box_p7 is left out; all cl", id="head"),
    ],
)
def test_a_fault_without_a_name_is_confined(names: tuple[str, ...], words: str) -> None:
    """Where no fault explains the difference, the heads that differ are told from the clean."""
    reference = stacked()
    candidate = {
        name: head if name.startswith(names) else reference[name]
        for name, head in noisy(reference, 0.3).items()
    }
    assert re.search(words, str(suspect_heads(reference, candidate, SMALL)))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0.0, id="the-same"),
        pytest.param(1e-6, id="another-order-of-sums"),
        pytest.param(1e-3, id="float16-arithmetic"),
        pytest.param(0.1, id="int8"),
        pytest.param(1.0, id="unrelated"),
        pytest.param(30.0, id="drowned"),
    ],
)
def test_noise_is_no_fault(size: float) -> None:
    """Neither arithmetic nor chance has a suspicion named."""
    assert suspect_heads(stacked(), noisy(stacked(), size), SMALL) is None


def test_what_arithmetic_may_do_is_no_fault() -> None:
    """A constant of the size of float32's rounding is not made a fault of, though it would fit."""
    candidate = planted(stacked(), lambda h: h + np.float32(1e-5), "class")
    assert suspect_heads(stacked(), candidate, SMALL) is None


def test_an_error_that_only_shrinks_is_not_explained() -> None:
    """Saturated values are no explanation where the other values differ as well."""
    candidate = planted(noisy(stacked(), 1.0), spoilt(65504), "")
    assert suspect_heads(stacked(), candidate, SMALL) is None


def test_heads_of_other_images_are_no_fault() -> None:
    """Nothing explains heads that have nothing in common."""
    assert suspect_heads(stacked(), stacked(seed=50), SMALL) is None


@pytest.mark.parametrize(("kind", "plant", "name"), FAULTS[:-2])
def test_lost_digits_hide_no_fault(kind: str, plant: Plant, name: str) -> None:
    """A fault is named in a candidate that computed in float16 too; storing shows only alone."""
    reference = stacked()
    found = suspect_heads(reference, planted(noisy(reference, 1e-3), plant, kind), SMALL)
    assert found is not None
    assert found.name == name


def test_the_message_reads_as_a_sentence() -> None:
    """Name, both errors, and what was assumed."""
    reference = stacked()
    found = suspect_heads(reference, planted(reference, np.zeros_like, "box"), SMALL)
    assert str(found) == (
        "stuck at one value: the error falls from 1 to 0 if every value of the reference is 0, "
        "in all box heads; all class heads are clean"
    )


def test_heads_of_another_spec_are_refused() -> None:
    """What is of other names or shapes is not looked at."""
    with pytest.raises(HeadError, match=r"heads of one image are .* were wanted; name them"):
        suspect_heads({"a": np.zeros((1, 45, 2, 2))}, {"a": np.zeros((1, 45, 2, 2))}, SMALL)


@pytest.mark.parametrize(
    ("kind", "plant", "name"),
    [
        pytest.param("class", sigmoid, "logits already through a sigmoid", id="sigmoid"),
        pytest.param(
            "box", coordinates(1, 0, 3, 2), "box x and y swapped", id="x-y", marks=pytest.mark.slow
        ),
        pytest.param(
            "", lambda h: h[::-1], "batch rows shifted by one", id="rows", marks=pytest.mark.slow
        ),
        pytest.param("", lambda h: np.flip(h, 3), "flipped left to right", id="mirrored"),
    ],
)
def test_trained_heads_tell_the_same(
    kind: str, plant: Plant, name: str, torch_heads: Tensors, spec: ModelSpec
) -> None:
    """On heads of trained weights, alike from place to place, faults are told apart too."""
    reference = {head: values[:2] for head, values in torch_heads.items()}
    found = suspect_heads(reference, planted(reference, plant, kind), spec)
    assert found is not None
    assert found.name == name
