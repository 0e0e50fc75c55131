"""Tests for `effd0.evaluate`: what goes into the score, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from effd0 import evaluate as module
from effd0.data.coco import Dataset
from effd0.errors import EvaluationError
from effd0.evaluate import EVALUATORS, evaluate, to_coco_results
from effd0.spec import D0

from .scored import NOTHING, Found, jittered, made, perfect

EVERY_EVALUATOR = pytest.mark.parametrize("evaluator", EVALUATORS)


def test_detections_below_the_floor_are_left_out(embedded_dataset: Dataset) -> None:
    """Scores of 0.001 count, those below do not, neither in the metric nor in the number."""
    found = perfect(embedded_dataset)
    best = evaluate(embedded_dataset, found, D0)
    first = embedded_dataset.image_ids[0]
    rows = np.concatenate([found[first].boxes, found[first].scores[:, None]], axis=1)
    faint = [(0, 0, 50, 50, np.float32(score), 1) for score in (0.001, 0.0009, 0.0)]
    table = [(*row, c) for row, c in zip(rows, found[first].classes, strict=True)]
    more = evaluate(embedded_dataset, found | {first: made([*table, *faint])}, D0)
    fewer = evaluate(embedded_dataset, found | {first: made([*table, *faint[1:]])}, D0)
    assert more.detections == best.detections + 1
    assert fewer == best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda found: found.pop(1000),
            r"cover 47 images, but the dataset has 48: 1 are missing \[1000\], 0 are foreign \[\]",
            id="missing",
        ),
        pytest.param(
            lambda found: found.update({5: NOTHING}),
            r"cover 49 images, but the dataset has 48: 0 are missing \[\], 1 are foreign \[5\]",
            id="foreign",
        ),
    ],
)
def test_incomplete_detections_are_refused(
    change: Callable[[Found], object], message: str, embedded_dataset: Dataset
) -> None:
    """A run that lost images, or is of other images, gets no score."""
    found = dict.fromkeys(embedded_dataset.image_ids, NOTHING)
    change(found)
    with pytest.raises(EvaluationError, match=message):
        evaluate(embedded_dataset, found, D0)


def test_unknown_evaluator_is_refused(embedded_dataset: Dataset) -> None:
    """The message shows the name that was asked for and those that would do."""
    found = dict.fromkeys(embedded_dataset.image_ids, NOTHING)
    message = "--evaluator is 'coco', but effd0 knows numpy, faster-coco-eval, pycocotools"
    with pytest.raises(EvaluationError, match=message):
        evaluate(embedded_dataset, found, D0, evaluator="coco")


def test_number_that_is_none_is_refused(
    embedded_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluator that gives NaN is an error, not an undefined metric."""
    broken = SimpleNamespace(stats=np.full(12, np.nan), eval={"precision": None})
    monkeypatch.setattr(module, "_scored", lambda *_: broken)
    with pytest.raises(EvaluationError, match="evaluator gave nan, but a fraction was wanted"):
        evaluate(embedded_dataset, perfect(embedded_dataset), D0)


def test_results_are_a_row_a_detection(embedded_dataset: Dataset) -> None:
    """Image id, x, y, width, height, score, category: the boxes come back from their rows."""
    found = jittered(embedded_dataset, 2)
    table = to_coco_results(found, D0)
    wanted = [
        (image_id, *box, score, category)
        for image_id, here in found.items()
        for box, score, category in zip(here.boxes, here.scores, here.classes, strict=True)
        if score >= D0.score_floor
    ]
    assert table.shape == (len(wanted), 7)
    back = table.copy()
    back[:, 3:5] += back[:, 1:3]
    assert np.array_equal(back[:, [0, 1, 2, 5, 6]], np.array(wanted)[:, [0, 1, 2, 5, 6]])
    # The width is rounded to float32 once, by half a bit of numbers below 1,024, 3e-5; measured
    # 2026-11-23: 1.5e-5.
    assert np.allclose(back, wanted, rtol=0, atol=3e-5)


def test_no_results_are_an_empty_table() -> None:
    """Nothing found is a table without rows, of the same seven columns."""
    assert to_coco_results({1: NOTHING}, D0).shape == (0, 7)


@EVERY_EVALUATOR
def test_scoring_is_silent_and_changes_nothing(
    evaluator: str, embedded_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed, and dataset and detections are what they were."""
    found = jittered(embedded_dataset, 3)
    before = copy.deepcopy((embedded_dataset.annotations, found))
    first = evaluate(embedded_dataset, found, D0, evaluator=evaluator)
    assert evaluate(embedded_dataset, found, D0, evaluator=evaluator) == first
    assert capsys.readouterr() == ("", "")
    assert embedded_dataset.annotations == before[0]
    for image_id, here in found.items():
        assert np.array_equal(here.boxes, before[1][image_id].boxes)
        assert np.array_equal(here.scores, before[1][image_id].scores)
