"""Tests for `effd0.results_json`: a results file is read as it is, or refused with the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.errors import ResultError
from effd0.results_json import read_results

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


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    """Each row holds what was written, other keys left out."""
    other = {**ENTRY, "image_id": 285.0, "category_id": 1, "score": 1, "segmentation": []}
    found = read_results(written(tmp_path, [ENTRY, other]))
    assert found.image_ids.tolist() == [139, 285]
    assert found.categories.tolist() == [62, 1]
    assert found.scores.tolist() == [0.5, 1]
    np.testing.assert_array_equal(found.boxes, [[1.5, 2, 30.25, 4]] * 2)
    assert len(found) == 2
    assert found.text_ids == 0


def test_what_a_detector_cannot_mean_is_kept(tmp_path: Path) -> None:
    """Unknown ids, doubled rows and negative sizes tell of a fault: none is lost or corrected."""
    odd = {"image_id": -4, "category_id": 700, "bbox": [9, 9, -3, 0], "score": -7.5}
    found = read_results(written(tmp_path, [odd, odd]))
    assert found.image_ids.tolist() == [-4, -4]
    assert found.categories.tolist() == [700, 700]
    assert found.boxes.tolist() == [[9, 9, -3, 0]] * 2
    assert found.scores.tolist() == [-7.5, -7.5]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("139", id="number"),
        pytest.param("000000000139", id="zeros"),
        pytest.param("000000000139.jpg", id="file"),
        pytest.param("COCO_val2014_000000000139.jpg", id="file-of-2014"),
    ],
)
def test_image_ids_of_text_are_read_and_counted(text: str, tmp_path: Path) -> None:
    """A number written as text, or as COCO's file names have it, is that number."""
    found = read_results(written(tmp_path, [{**ENTRY, "image_id": text}, ENTRY]))
    assert found.image_ids.tolist() == [139, 139]
    assert found.text_ids == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty, but a COCO results file is one list", id="empty"),
        pytest.param(b" \n", "is empty", id="blank"),
        pytest.param([], "holds no detection", id="no-detection"),
        pytest.param(b"image,score\n1,0.5\n", "is not JSON", id="csv"),
        pytest.param(b"\xff\xfe\x00", "is not JSON", id="binary"),
        pytest.param(b"[" * 100_000, "results.json ends in the middle|is not JSON", id="deep"),
        pytest.param(json.dumps([ENTRY] * 3).encode()[:-40], "ends in the middle", id="cut-off"),
        pytest.param({"annotations": []}, r"holds a dict with \['annotations'\]", id="dict"),
        pytest.param(3, "holds a int", id="number"),
        pytest.param([ENTRY, [1, 2]], r"entry 1, \[1, 2\]: a list came", id="list-in-list"),
        pytest.param(
            [{k: v for k, v in ENTRY.items() if k != "score"}],
            "has no 'score' in entry 0",
            id="no-score",
        ),
        pytest.param([{**ENTRY, "bbox": [1, 2, 3]}], "but x, y, width, height", id="three"),
        pytest.param([{**ENTRY, "bbox": "1 2 3 4"}], "but x, y, width, height", id="text-box"),
        pytest.param([ENTRY, {**ENTRY, "bbox": [1, 2, 3, float("nan")]}], "entry 1", id="nan"),
        pytest.param([{**ENTRY, "score": float("inf")}], "a score, finite", id="infinite"),
        pytest.param([{**ENTRY, "score": None}], "a score, finite", id="null"),
        pytest.param([{**ENTRY, "score": True}], "a score, finite", id="true"),
        pytest.param([{**ENTRY, "category_id": 1.5}], "1.5 is no id", id="half-category"),
        pytest.param([{**ENTRY, "category_id": "cat"}], "'cat' is no id", id="category-name"),
        pytest.param([{**ENTRY, "image_id": "scene"}], "'scene' is no id", id="no-digits"),
        pytest.param([{**ENTRY, "image_id": float("nan")}], "entry 0", id="nan-id"),
        pytest.param([{**ENTRY, "image_id": float("inf")}], "entry 0", id="infinite-id"),
        pytest.param([{**ENTRY, "image_id": 10**30}], "entry 0", id="huge-id"),
        pytest.param([{**ENTRY, "image_id": "9" * 30}], "entry 0", id="huge-text-id"),
    ],
)
def test_another_form_is_refused(content: object, message: str, tmp_path: Path) -> None:
    """The message says what came and where, what was wanted, and to write the file again."""
    path = written(tmp_path, content)
    with pytest.raises(ResultError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "write the file again" in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "."], ids=["absent", "folder"])
def test_no_file_is_refused(name: str, tmp_path: Path) -> None:
    """What is not there, or no file, is an error that names it."""
    with pytest.raises(ResultError, match=r"cannot be read: .*; give a COCO results file"):
        read_results(tmp_path / name)
