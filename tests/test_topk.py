"""
Tests for `effd0.detection.postprocess.select_topk` and `gather_codes`: which logits become
candidates.
"""

from __future__ import annotations

from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from effd0.detection.postprocess import gather_codes, select_topk
from effd0.spec import D0
from effd0.types import Floats

from .helpers import SMALL, TINY, synthetic_heads

ANCHORS, LOGITS = TINY.num_anchors, TINY.num_anchors * TINY.num_classes
Drawn = tuple[Floats, Floats]


def _rows(heads: tuple[Floats, ...], width: int) -> Floats:
    """Lay out heads as effdet does: one row an anchor, *width* numbers each."""
    return np.concatenate([head.transpose(1, 2, 0).reshape(-1, width) for head in heads])


@given(
    heads=st.tuples(
        *[
            hnp.arrays(np.float32, shape, elements=st.integers(-3, 3))
            for name, shape in TINY.head_shapes.items()
            if name.startswith("class")
        ]
    ),
    count=st.integers(1, LOGITS + 20),
)
def test_candidates_are_the_beginning_of_a_full_sort(heads: Drawn, count: int) -> None:
    """Among many equal logits too, the k highest come in order, the smaller index first."""
    found = select_topk(heads, replace(TINY, max_candidates=count))
    logits = _rows(heads, TINY.num_classes).ravel()
    wanted = np.argsort(-logits, kind="stable")[:count]
    assert np.array_equal(found.logits, logits[wanted])
    assert np.array_equal(found.anchors, wanted // TINY.num_classes)
    assert np.array_equal(found.classes, wanted % TINY.num_classes)


def test_candidates_of_d0_are_the_beginning_of_a_full_sort() -> None:
    """The short cut over anchors loses none of the 5,000 highest of 4.4 million logits."""
    heads = synthetic_heads(0).classes
    logits = _rows(heads, D0.num_classes).ravel()
    # Sorting the part from the 5,000th up is sorting all, in a tenth of the time.
    part = np.flatnonzero(logits >= np.partition(logits, -D0.max_candidates)[-D0.max_candidates])
    wanted = part[np.argsort(-logits[part], kind="stable")][: D0.max_candidates]
    found = select_topk(heads, D0)
    assert np.array_equal(found.anchors * D0.num_classes + found.classes, wanted)
    assert np.array_equal(found.logits, logits[wanted])


@given(
    heads=st.tuples(
        *[
            hnp.arrays(np.float32, shape, elements=st.floats(-2, 2, width=32))
            for name, shape in TINY.head_shapes.items()
            if name.startswith("box")
        ]
    ),
    anchors=st.lists(st.integers(0, ANCHORS - 1), max_size=20),
)
def test_codes_are_those_of_their_anchors(heads: Drawn, anchors: list[int]) -> None:
    """Each anchor gets the four numbers of its level, place and channel, in the order asked."""
    codes = gather_codes(heads, np.array(anchors, np.int64), TINY)
    assert np.array_equal(codes, _rows(heads, 4)[np.array(anchors, np.int64)])


def test_codes_of_every_anchor_are_found() -> None:
    """No level, place or channel is mistaken for another, over all five levels."""
    heads = synthetic_heads(0, SMALL).boxes
    codes = gather_codes(heads, np.arange(SMALL.num_anchors), SMALL)
    assert np.array_equal(codes, _rows(heads, 4))
