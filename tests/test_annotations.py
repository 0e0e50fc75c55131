"""Tests for `effd0.data.coco`: every mistake that COCO's metric would be silent about."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effd0.data.coco import UNREAD, read_annotations
from effd0.errors import DatasetError

from .helpers import coco_content, write_annotations

Spoil = Callable[[dict[str, Any]], object]


def _set(kind: str, key: str, value: object) -> Spoil:
    """Return what gives the second entry of *kind* another *key*."""
    return lambda content: content[kind][1].update({key: value})


def _drop(kind: str, key: str) -> Spoil:
    return lambda content: content[kind][1].pop(key)


def _box(*bbox: object) -> Spoil:
    return _set("annotations", "bbox", list(bbox))


def test_valid_file_is_read_as_it_is(tmp_path: Path) -> None:
    """What is in order passes unchanged, an annotation without area or crowd flag too."""
    content = coco_content()
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    assert read_annotations(write_annotations(tmp_path, content)) == content


def test_what_nobody_reads_is_not_kept(tmp_path: Path) -> None:
    """Outlines and addresses of images would fill the memory; names of categories are no such."""
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    content["annotations"][1]["segmentation"] = {"counts": [7, 8], "size": [3, 5]}
    content["images"][0] |= {"coco_url": "http://images", "license": 3}
    content["categories"][0]["caption"] = "kept"
    read = read_annotations(write_annotations(tmp_path, content))
    for kind in ("images", "annotations"):
        assert not any(UNREAD & entry.keys() for entry in read[kind])
    assert read["categories"] == content["categories"]
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert [entry["bbox"] for entry in read["annotations"]] == boxes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            _set("images", "id", 10), "image ids used more than once: [10]", id="image-twice"
        ),
        pytest.param(
            _set("annotations", "id", 1),
            "annotation ids used more than once: [1]",
            id="annotation-twice",
        ),
        pytest.param(
            _set("categories", "id", 1), "category ids used more than once: [1]", id="class-twice"
        ),
        pytest.param(
            _set("categories", "name", "person"),
            "category names used more than once: ['person']",
            id="class-name-twice",
        ),
        pytest.param(
            _set("annotations", "id", 0),
            "annotation 0: COCO's metric can never match id 0; number annotations from 1",
            id="annotation-id-0",
        ),
        pytest.param(
            _set("annotations", "category_id", 7),
            "annotation 2 has unknown category 7",
            id="unknown-category",
        ),
        pytest.param(
            _set("annotations", "image_id", 77),
            "annotation 2 belongs to image 77, which is not listed",
            id="unknown-image",
        ),
        pytest.param(
            _box(2, 3, -1, 8), "annotation 2 has bbox [2, 3, -1, 8], but x, y,", id="bbox-negative"
        ),
        pytest.param(_box(2, 3, float("nan"), 8), "has bbox [2, 3, nan, 8]", id="bbox-nan"),
        pytest.param(_box(float("inf"), 3, 1, 8), "has bbox [inf, 3, 1, 8]", id="bbox-infinite"),
        pytest.param(
            _set("images", "width", 0),
            "image 20 has width, height (0, 30), but both must be whole and > 0",
            id="width-0",
        ),
        pytest.param(
            _set("images", "height", 30.5), "has width, height (40, 30.5)", id="height-fraction"
        ),
        pytest.param(
            _set("images", "id", "20"), "image id '20' must be a whole number", id="image-id-text"
        ),
        pytest.param(
            _set("images", "file_name", 5), "must be a whole number and 5 a file name", id="name"
        ),
        pytest.param(
            lambda content: content.update(images=[], annotations=[]),
            "it lists no image",
            id="no-image",
        ),
    ],
)
def test_mistake_is_refused(spoil: Spoil, message: str, tmp_path: Path) -> None:
    """The message names the file, the entry, and what the entry should be."""
    content = coco_content()
    spoil(content)
    path = write_annotations(tmp_path, content)
    with pytest.raises(DatasetError, match=re.escape(f"{path} cannot be scored: ")) as caught:
        read_annotations(path)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; correct the file")


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "width"),
        ("images", "height"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_missing_key_is_named(kind: str, key: str, tmp_path: Path) -> None:
    """An entry that lacks what is needed is an error that says the key."""
    content = coco_content()
    _drop(kind, key)(content)
    with pytest.raises(DatasetError, match=f"has an entry without a proper '{key}'$"):
        read_annotations(write_annotations(tmp_path, content))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(_box(2, 3, 10), "not enough values", id="bbox-of-three"),
        pytest.param(_box(2, 3, "10", 8), "must be real number, not str", id="bbox-of-text"),
        pytest.param(
            lambda content: content["images"].append("1.png"), "string", id="image-as-text"
        ),
        pytest.param(_set("annotations", "id", [2]), "unhashable type: 'list'", id="id-as-list"),
    ],
)
def test_entry_of_another_kind_is_refused(spoil: Spoil, reason: str, tmp_path: Path) -> None:
    """What cannot even be looked at is an error of the file, not a crash."""
    content = coco_content()
    spoil(content)
    with pytest.raises(DatasetError, match=f"has an entry without a proper .*{reason}"):
        read_annotations(write_annotations(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{'images': []}", "is not a readable JSON file: Expecting", id="not-json"),
        pytest.param(b"", "is not a readable JSON file: Expecting value", id="empty"),
        pytest.param(b"\xff\xfe{", "is not a readable JSON file", id="not-text"),
        pytest.param([1, 2], r"holds list, but a COCO file holds the lists \['images'", id="list"),
        pytest.param({"images": []}, r"holds \['images'\], but a COCO file", id="lists-missing"),
        pytest.param(
            {"images": {}, "annotations": [], "categories": []},
            r"holds \['annotations', 'categories', 'images'\], but a COCO file",
            id="not-a-list",
        ),
    ],
)
def test_file_that_is_not_coco_is_refused(content: object, message: str, tmp_path: Path) -> None:
    """The message shows what the file holds beside what it should."""
    with pytest.raises(DatasetError, match=message):
        read_annotations(write_annotations(tmp_path, content))


def test_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """What cannot be read at all is reported with the system's reason."""
    with pytest.raises(DatasetError, match=r"is not a readable JSON file: .*directory"):
        read_annotations(tmp_path)


def test_many_mistakes_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    """A file that is wrong throughout gives five examples and the number of the rest."""
    content = coco_content(images=8)
    for annotation in content["annotations"]:
        annotation["category_id"] = 7
    with pytest.raises(DatasetError, match=r"annotation 5 has .* 7 and 3 more; correct the file$"):
        read_annotations(write_annotations(tmp_path, content))
