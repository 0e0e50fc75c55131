"""Tests for `effd0.detection.heads`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from effd0.detection.heads import split_heads
from effd0.errors import HeadError
from effd0.spec import ModelSpec
from effd0.types import Tensors
from tests.helpers import SMALL

Outputs = dict[str, np.ndarray]


def _outputs(batch: int = 2, spec: ModelSpec = SMALL) -> Outputs:
    """Return heads of *spec*, no two numbers of which are equal."""
    outputs, start = {}, 0
    for name, shape in spec.head_shapes.items():
        count = batch * int(np.prod(shape))
        head = np.arange(start, start + count, dtype=np.float32).reshape(batch, *shape)
        head.setflags(write=False)
        outputs[name], start = head, start + count
    return outputs


def _assert_split(outputs: Tensors, wanted: Outputs, spec: ModelSpec = SMALL) -> None:
    __tracebackhide__ = True
    images = split_heads(outputs, spec)
    assert len(images) == len(wanted["class_p3"])
    for i, image in enumerate(images):
        for name, head in zip(spec.output_names, image.classes + image.boxes, strict=True):
            assert head.dtype == np.float32
            assert np.array_equal(head, wanted[name][i]), name


def test_heads_are_found_by_name() -> None:
    """Each image of the batch gets its own rows, level by level, in whatever order they came."""
    wanted = _outputs(3)
    _assert_split(dict(reversed(wanted.items())), wanted)


def test_heads_of_foreign_names_are_found_by_shape() -> None:
    """Names of another exporter and another order lead to the same heads."""
    wanted = _outputs()
    names = list(wanted)
    np.random.default_rng(0).shuffle(names)
    _assert_split({f"output_{n}": wanted[name] for n, name in enumerate(names)}, wanted)


def test_half_precision_heads_become_single() -> None:
    """Float16 outputs are widened without a change of value."""
    half = {name: (head / 4).astype(np.float16) for name, head in _outputs().items()}
    _assert_split(half, {name: head.astype(np.float32) for name, head in half.items()})


def _merged(outputs: Outputs, spec: ModelSpec = SMALL) -> Outputs:
    """The tables of all anchors that *outputs* are parts of: by level, row, column and anchor."""

    def table(names: tuple[str, ...], width: int) -> np.ndarray:
        heads = [outputs[name] for name in names]
        cells = [head.reshape(2, -1, width, *head.shape[2:]) for head in heads]
        rows = [cell.transpose(0, 3, 4, 1, 2).reshape(2, -1, width) for cell in cells]
        return np.concatenate(rows, axis=1)

    return {"0": table(spec.box_names, 4), "1": table(spec.class_names, spec.num_classes)}


def test_tables_of_all_anchors_are_split_into_heads() -> None:
    """Two outputs, in whichever order and of whichever names, lead to the ten heads."""
    wanted = {name: -head for name, head in _outputs().items()}
    _assert_split(_merged(wanted), wanted)


@pytest.mark.parametrize("classes", [1, 3, 4, 5])
def test_names_lead_to_heads_of_any_number_of_classes(classes: int) -> None:
    """The recipe's names are enough, as are classes and boxes for the tables of all anchors."""
    spec = replace(SMALL, num_classes=classes)
    wanted = {name: -head for name, head in _outputs(spec=spec).items()}
    _assert_split(dict(reversed(wanted.items())), wanted, spec)
    tables = _merged(wanted, spec)
    _assert_split({"boxes": tables["0"], "classes": tables["1"]}, wanted, spec)


def test_a_single_class_is_found_by_shape() -> None:
    """Class heads of 9 channels are told from boxes, which have 36, and a table of width 1 is."""
    spec = replace(SMALL, num_classes=1)
    wanted = {name: -head for name, head in _outputs(spec=spec).items()}
    numbers = {f"output_{n}": head for n, head in enumerate(reversed(wanted.values()))}
    _assert_split(numbers, wanted, spec)
    _assert_split(_merged(wanted, spec), wanted, spec)


@pytest.mark.parametrize("merged", [False, True], ids=["heads", "tables"])
def test_heads_of_one_shape_need_their_names(merged: bool) -> None:
    """Of 4 classes, class and box heads have one shape: the error says how to name them."""
    spec = replace(SMALL, num_classes=4)
    outputs = _outputs(spec=spec)
    outputs = _merged(outputs, spec) if merged else {f"o_{name}": outputs[name] for name in outputs}
    message = (
        r"the outputs are \['(0|o_box_p3)', .* names have to tell them apart; name the heads "
        "class_p3, class_p4, .*, box_p7, or the tables of all anchors classes, boxes$"
    )
    with pytest.raises(HeadError, match=message):
        split_heads(outputs, spec)


Spoil = Callable[[Outputs], Outputs]
#: What is done to the outputs -> what the error says.
REFUSED: dict[str, tuple[Spoil, str]] = {
    "swapped": (lambda o: o | {"class_p3": o["class_p4"], "class_p4": o["class_p3"]},
        "output class_p3 is (2, 45, 8, 8), but (N, 45, 16, 16) was wanted: names and shapes do"),
    "flat": (lambda o: o | {"class_p7": o["class_p7"].reshape(-1)},
        "class_p7 is (90,), but (N, 45, 1, 1) was wanted"),
    "missing": (lambda o: {name: head for name, head in o.items() if name != "box_p5"},
        "box_p5 (N, (36, 4, 4)) is missing among outputs ['box_p3',"),
    "doubled": (lambda o: o | {"again": o["box_p3"]},
        "output again is (2, 36, 16, 16), but each of [(45, 16, 16),"),
    "foreign": (lambda o: o | {"labels": np.zeros((2, 100, 6), np.float32)},
        "output labels is (2, 100, 6), but each of"),
    "rows-differ": (lambda o: o | {"box_p7": o["box_p7"][:1]},
        "heads hold [1, 2] images, but all must hold the"),
    "merged-swapped": (lambda o: dict(zip(("classes", "boxes"), _merged(o).values(), strict=True)),
        "output classes is (2, 3069, 4), but (N, 3069, 5) was wanted: names and shapes do"),
    "merged-decoded": (_merged,
        "boxes are positive, as are corners and sizes, but the codes (ty, tx, th, tw) were"),
    "merged-probabilities": (
        lambda o: _merged({name: -head for name, head in o.items()})
        | {"1": np.full((2, SMALL.num_anchors, SMALL.num_classes), 0.5, np.float32)},
        "all class outputs are from 0 to 1, as probabilities are, but logits were wanted; a"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_are_no_heads_is_refused(spoil: Spoil, message: str) -> None:
    """The message shows the output that does not fit beside the shape that would."""
    with pytest.raises(HeadError, match=re.escape(message)):
        split_heads(spoil(_outputs()), SMALL)
