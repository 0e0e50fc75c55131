"""A fault planted in heads is named by what explains it, with nothing left of the difference."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from effd0.diagnosis.heads import HEAD_HYPOTHESES, diagnose_heads
from effd0.diagnosis.hypothesis import Diagnosis
from effd0.errors import HeadError
from effd0.spec import ModelSpec
from effd0.types import Floats, Tensors
from tests.helpers import SMALL, synthetic_heads
from tests.helpers.results import as_bfloat16, as_float16, noisy

Plant = Callable[[Floats], Floats]
IMAGES = 3
#: As SMALL, with COCO's 90 class channels and heads of two levels.
COCO = replace(SMALL, image_size=(64, 64), levels=(4, 5), num_classes=90)
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


def diagnosed(reference: Tensors, candidate: Tensors, spec: ModelSpec = SMALL) -> Diagnosis:
    """Return the diagnosis of *candidate*, which has one."""
    found = diagnose_heads(reference, candidate, spec)
    assert found is not None
    return found


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
    taken = [order(a, i, per_anchor) for a in range(9) for i in range(per_anchor)]
    return lambda head: head[:, taken]


def coordinates(*order: int) -> Plant:
    """Return what puts coordinate *order[i]* of each anchor at i."""
    return channels(lambda a, i, n: n * a + order[i], 4)


def scaled(head: Floats) -> Floats:
    """Return box codes times variances of 0.1 for the centre and 0.2 for the size."""
    for channel in range(36):
        head[:, channel] *= 0.1 if channel % 4 < 2 else 0.2
    return head


def classes_moved(by: int, lost: float) -> Plant:
    """Return logits one class later or earlier, with *lost* at the end."""
    end = 0 if by == 1 else 4
    at_end = np.arange(45)[:, None, None] % 5 == end
    return lambda head: np.where(at_end, np.float32(lost), np.roll(head, by, axis=1))


def nhwc(head: Floats) -> Floats:
    """Return the values in the order of rows, columns, channels, with the shape kept."""
    return np.stack([image.reshape(len(image), -1).T.reshape(image.shape) for image in head])


def from_nhwc(head: Floats) -> Floats:
    """Return the values as one gets them who takes them for rows, columns, channels."""
    return np.stack([image.reshape(-1, len(image)).T.reshape(image.shape) for image in head])


def spoilt(value: float) -> Plant:
    """Return what puts *value* at each tenth place."""

    def plant(head: Floats) -> Floats:
        head.reshape(-1)[::10] = value
        return head

    return plant


FAULTS = [
    ("class", sigmoid, "logits already through a sigmoid"),
    ("class", softmax, "logits already through a softmax"),
    ("class", lambda h: h + 1.5, "a constant added to the logits"),
    ("class", lambda h: h * 0.5, "logits scaled"),
    ("class", classes_moved(1, -3), "class channels shifted up by one"),
    ("class", classes_moved(-1, -9), "class channels shifted down by one"),
    ("class", lambda h: h[:, [5 * (c % 9) + c // 9 for c in range(45)]], "anchors laid out last"),
    ("box", coordinates(1, 0, 3, 2), "box x and y swapped"),
    ("box", coordinates(0, 1, 3, 2), "box h and w swapped"),
    ("box", coordinates(1, 0, 2, 3), "box centre x and y swapped"),
    ("box", coordinates(2, 3, 0, 1), "box centre and size swapped"),
    ("box", scaled, "boxes scaled"),
    ("", lambda h: h[[1, 2, 0]], "batch rows shifted by one"),
    ("", lambda h: h[[0, 2, 1]], "batch rows permuted"),
    ("", lambda h: h[[0, 0, 0]], "batch rows repeated"),
    ("", lambda h: np.concatenate([h[2:] + h[:1], h[:2]]), "batch rows shifted by one"),
    ("", lambda h: np.concatenate([h[1:], h[2:] + h[:1]]), "batch rows shifted by one"),
    ("", lambda h: np.moveaxis(h, 3, 2), "rows and columns transposed"),
    ("", lambda h: np.flip(h, 3), "flipped left to right"),
    ("", lambda h: np.flip(h, 2), "flipped top to bottom"),
    ("", nhwc, "NHWC data in NCHW shape"),
    ("", from_nhwc, "NCHW data taken for NHWC"),
    ("", spoilt(65504), "saturated at 65504"),
    ("", spoilt(np.nan), "not finite"),
    ("", spoilt(-np.inf), "not finite"),
    ("", lambda h: np.maximum(h, 0), "clipped"),
    ("", lambda h: h * 0, "stuck at one value"),
    ("", as_float16, "stored in float16"),
    ("", as_bfloat16, "stored in bfloat16"),
]


@pytest.mark.parametrize(
    ("kind", "plant", "name"),
    [pytest.param(*fault, id=fault[2].replace(" ", "-")) for fault in FAULTS],
)
def test_a_fault_is_named_by_what_explains_it(kind: str, plant: Plant, name: str) -> None:
    """With the named fault accounted for nothing is left, in float16 arithmetic too."""
    reference = stacked()
    found = diagnosed(reference, planted(reference, plant, kind))
    assert found.name == name
    assert found.error_after < NOTHING < found.error_before
    if "stored" not in name:  # that shows only alone
        candidate = planted(noisy(reference, 1e-3), plant, kind)
        assert getattr(diagnose_heads(reference, candidate, SMALL), "name", None) == name


def test_every_fault_in_the_catalogue_is_planted() -> None:
    """No name is in the table that the tests do not see come out."""
    planted_elsewhere = {"anchors of a cell reordered", "classes mapped from 90 to 80"}
    named = {name for _, _, name in FAULTS} | planted_elsewhere
    assert {hypothesis.name for hypothesis in HEAD_HYPOTHESES} == named


@pytest.mark.parametrize(
    ("order", "words"),
    [
        # In the order of a cell: scales, then aspects (equal, wide, tall).
        pytest.param((0, 3, 6, 1, 4, 7, 2, 5, 8), "scales and aspects exchanged", id="exchanged"),
        pytest.param((8, 7, 6, 5, 4, 3, 2, 1, 0), "all reversed", id="reversed"),
        pytest.param((1, 0, 2, 3, 4, 5, 6, 7, 8), "1, 0, 2, 3, 4, 5, 6, 7, 8", id="two-anchors"),
    ],
)
def test_an_order_of_anchors_is_found(order: tuple[int, ...], words: str) -> None:
    """The order is said, and the cause where it has one."""
    reference = candidate = stacked()
    for kind, per_anchor in (("class", 5), ("box", 4)):
        plant = channels(lambda a, i, n: n * order[a] + i, per_anchor)
        candidate = planted(candidate, plant, kind)
    found = diagnosed(reference, candidate)
    assert found.name == "anchors of a cell reordered"
    assert words in found.explanation


def test_eighty_classes_in_ninety_channels_are_named() -> None:
    """A model that numbers the categories 0 to 79 leaves the unused ids out, ten at the end."""
    unused = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    used = [id_ - 1 for id_ in range(1, 91) if id_ not in unused]
    taken = [90 * anchor + channel for anchor in range(9) for channel in [*used, *[0] * 10]]
    reference = stacked(COCO)
    candidate = planted(reference, lambda head: head[:, taken], "class")
    assert diagnosed(reference, candidate, COCO).name == "classes mapped from 90 to 80"


@pytest.mark.parametrize(
    ("kinds", "plant", "words"),
    [
        (("",), as_float16, ", in all heads$"),
        (("box",), np.zeros_like, "^every value of the reference is 0, in all box .* clean$"),
        (("class_p5",), sigmoid, ", in class_p5; class_p3, class_p4, .*, all box heads are clean$"),
        (("class_p4", "box_p4"), lambda h: h[[1, 2, 0]], "order 1, 2, 0, in class_p4, box_p4; "),
        (("box",), scaled, r"are times 0\.1, 0\.1, 0\.2, 0\.2, in all box heads"),
        (("class",), lambda h: np.minimum(h, -6), "cut off to -6, in"),
        (("box_p3",), spoilt(np.nan), r"these 10\.0% of the values are"),
    ],
    ids=["all", "stuck", "one-level", "level-of-another-image", "factors", "bound", "share"],
)  # fmt: skip
def test_the_explanation_says_where_and_how_much(
    kinds: tuple[str, ...], plant: Plant, words: str
) -> None:
    """Heads that the fault explains, and heads that are clean, are told apart."""
    reference = stacked()
    found = diagnosed(reference, planted(reference, plant, *kinds))
    assert re.search(words, found.explanation), found.explanation


def test_class_and_box_heads_may_have_a_fault_each() -> None:
    """Both are named, each with the heads that it explains; what neither explains is said."""
    reference = stacked()
    candidate = planted(reference, sigmoid, "class")
    found = diagnosed(reference, planted(candidate, coordinates(1, 0, 3, 2), "box"))
    assert found.name == "logits already through a sigmoid and box x and y swapped"
    assert found.explanation.endswith("(tx, ty, tw, th) is read, in all box heads")
    boxes = {name: head for name, head in noisy(reference, 0.5).items() if "box" in name}
    found = diagnosed(reference, candidate | boxes)
    assert found.explanation.endswith("in all class heads; all box heads differ otherwise")


@pytest.mark.parametrize(
    ("names", "words"),
    [
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
    assert re.search(words, str(diagnose_heads(reference, candidate, SMALL)))


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(noisy(stacked(), 1e-3), id="float16-arithmetic"),
        pytest.param(noisy(stacked(), 30.0), id="drowned"),
        pytest.param(stacked(seed=50), id="other-images"),
        pytest.param(planted(noisy(stacked(), 1.0), spoilt(65504), ""), id="more-than-saturated"),
    ],
)
def test_noise_is_no_fault(candidate: Tensors) -> None:
    """Neither arithmetic nor chance, nor an error that only shrinks, has a diagnosis."""
    assert diagnose_heads(stacked(), candidate, SMALL) is None


def test_heads_of_another_spec_are_refused() -> None:
    """What is of other names or shapes is not compared."""
    with pytest.raises(HeadError, match=r"heads of one image are .* were wanted; name them"):
        diagnose_heads({"a": np.zeros((1, 45, 2, 2))}, {"a": np.zeros((1, 45, 2, 2))}, SMALL)
