"""A results file is read as it is, or refused with the place; rows of two sides are paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.diagnosis.results_json import EXACT, Rows, count_different, read_results, same_rows
from effd0.errors import ResultError

ENTRY: dict[str, Any] = {
    "image_id": 139,
    "category_id": 62,
    "bbox": [1.5, 2, 30.25, 4],
    "score": 0.5,
}


def written(folder: Path, content: object) -> Path:
    """Write *content*, or bytes as they are, as a results file; return its path."""
    path = folder / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_rows_are_read_by_image_and_falling_score(tmp_path: Path) -> None:
    """Each row is what was written, whatever a detector cannot mean; other keys are left out."""
    other = {**ENTRY, "image_id": 285.0, "category_id": 1, "score": 1, "segmentation": []}
    odd = {"image_id": -4, "category_id": 700, "bbox": [9, 9, -3, 0], "score": -7.5}
    found = read_results(written(tmp_path, [ENTRY, other, odd, odd, {**ENTRY, "score": 0.75}]))
    assert (len(found), found.text_ids, [*found.images]) == (5, 0, [-4, 139, 285])
    assert found.images[139].scores.tolist() == [0.75, 0.5]
    assert found.images[139].boxes.tolist() == [[1.5, 2, 30.25, 4]] * 2
    assert found.images[-4].classes.tolist() == [700, 700]
    assert found.images[-4].boxes.tolist() == [[9, 9, -3, 0]] * 2


@pytest.mark.parametrize(
    "text", ["139", "000000000139", "000000000139.jpg", "COCO_val2014_000000000139.jpg"]
)
def test_image_ids_of_text_are_read_and_counted(text: str, tmp_path: Path) -> None:
    """A number written as text, or as COCO's file names have it, is that number."""
    found = read_results(written(tmp_path, [{**ENTRY, "image_id": text}, ENTRY]))
    assert ([*found.images], found.text_ids) == ([139], 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param([], "holds no detection", id="no-detection"),
        pytest.param(b"image,score\n1,0.5\n", "malformed", id="csv"),
        pytest.param(b"[" * 100_000, "got `array`", id="deep"),
        pytest.param(json.dumps([ENTRY] * 3).encode()[:-40], "truncated", id="cut-off"),
        pytest.param({"annotations": []}, "Expected `array`, got `object`", id="dict"),
        pytest.param([ENTRY, [1, 2]], r"`object`, got `array` - at `\$\[1\]`", id="list-in-list"),
        pytest.param(
            [{k: v for k, v in ENTRY.items() if k != "score"}], "field `score`", id="no-score"
        ),
        pytest.param([{**ENTRY, "bbox": [1, 2, 3]}], r"length 4 - at `\$\[0\].bbox`", id="three"),
        pytest.param([{**ENTRY, "bbox": "1 2 3 4"}], r"got `str` - at", id="text-box"),
        pytest.param([{**ENTRY, "score": float("inf")}], "malformed", id="infinite"),
        pytest.param([{**ENTRY, "score": None}], "Expected `float`, got `null`", id="null"),
        pytest.param([{**ENTRY, "score": True}], "Expected `float`, got `bool`", id="true"),
        pytest.param([{**ENTRY, "category_id": 1.5}], "1.5 is no id", id="half-category"),
        pytest.param([{**ENTRY, "category_id": "cat"}], "got `str` - at", id="category-name"),
        pytest.param([{**ENTRY, "image_id": "scene"}], "'scene' is no id", id="no-digits"),
        pytest.param([{**ENTRY, "image_id": 10**30}], "too large", id="huge-id"),
    ],
)
def test_another_form_is_refused(content: object, message: str, tmp_path: Path) -> None:
    """The message says what came and where, what was wanted, and to write the file again."""
    path = written(tmp_path, content)
    with pytest.raises(ResultError, match=message) as caught:
        read_results(path)
    assert str(caught.value).startswith(str(path))
    assert "but a COCO results file is one list of" in str(caught.value)
    assert str(caught.value).endswith("write the file again")


def test_no_file_is_refused(tmp_path: Path) -> None:
    """What is not there is an error that names it."""
    with pytest.raises(ResultError, match=r"cannot be read: .*; give a COCO results file"):
        read_results(tmp_path / "absent.json")


ROWS = Rows(
    np.array([[10, 20, 30, 40], [50, 60, 70, 80], [11, 21, 31, 41]], float),
    np.array([0.9, 0.5, 0.1]),
    np.array([1, 2, 1]),
)


@pytest.mark.parametrize(
    ("score", "alone"), [(5e-4, 0), (1.5e-3, 0), (2e-3, 2)], ids=["below", "within", "above"]
)
def test_rows_below_the_threshold_do_not_count(score: float, alone: int) -> None:
    """What one side alone has below the threshold is neither a difference nor counted."""
    more = replace(ROWS, scores=np.array([0.9, 0.5, score]))
    other = replace(more, boxes=np.add(more.boxes, [[0], [0], [5]]))
    assert count_different(more, other, EXACT, threshold=1e-3) == (alone, 4 + alone)


def test_each_row_is_paired_once() -> None:
    """Of two like rows, only one is the like of the other side's."""
    left, right = same_rows(ROWS[np.array([0, 0, 1])], ROWS, EXACT)
    assert sorted(right.tolist()) == [0, 1]
    assert len(set(left.tolist())) == 2


def test_rows_are_compared_by_their_size() -> None:
    """Boxes from 0 to 1 are not alike because they are small; a logit may be off by more."""
    small = replace(ROWS, boxes=ROWS.boxes / 640)
    moved = replace(small, boxes=small.boxes + 0.01)
    assert count_different(small, moved, EXACT, threshold=1e-3) == (6, 6)
    logits = replace(ROWS, scores=np.array([-9.0, -8, -7]))
    near = replace(logits, scores=logits.scores * 1.0005)
    assert len(same_rows(logits, near, EXACT)[0]) == 3
