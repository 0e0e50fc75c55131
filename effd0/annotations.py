"""
A COCO annotation file, read and checked.

COCO's metric is silent about mistakes in it: an annotation with id 0 can never be matched, an
unknown category is never looked for.  Here they are errors.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import DatasetError

#: What no reader of a dataset asks for, and what makes most of a large file.
UNREAD = {
    "attributes", "caption", "coco_url", "date_captured", "flickr_url", "keypoints", "license",
    "num_keypoints", "segmentation",
}  # fmt: skip
#: How many of many problems a message shows.
SHOWN = 5


def read_annotations(path: Path) -> dict[str, Any]:
    """
    The content of the COCO file *path*: ``images``, ``annotations``, ``categories``.

    Images and annotations come without what is `UNREAD`.

    Raises one `DatasetError` with all that is wrong with it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise no_annotations(path) from error
    except OSError as error:
        raise DatasetError(f"{path} is not a readable JSON file: {error}") from error
    return parse_annotations(data, path)


def parse_annotations(data: bytes, path: Path | str) -> dict[str, Any]:
    """As `read_annotations`, of *data* that were read already; errors name *path*."""
    content = _lists(data, path)
    _check_annotations(path, content)
    return content


def no_annotations(path: Path | str) -> DatasetError:
    """The error of a root that has no annotation file where it belongs."""
    return DatasetError(
        f"{path} does not exist; give --root the folder that holds annotations/ "
        "and the images' folder, and --split its name"
    )


def _lists(data: bytes, path: Path | str) -> dict[str, Any]:
    """The lists of a COCO file, whatever is in them."""
    try:
        # Dropped while the file is read: the polygons of a large set are larger than all else.
        content = json.loads(data, object_hook=_without_unread)
    except ValueError as error:
        raise DatasetError(f"{path} is not a readable JSON file: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in wanted
    ):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DatasetError(f"{path} holds {found}, but a COCO file holds the lists {list(wanted)}")
    return content


def _without_unread(entry: dict[str, Any]) -> dict[str, Any]:
    """*entry*, smaller where it is an image or an annotation."""
    if UNREAD.isdisjoint(entry) or not ("image_id" in entry or "file_name" in entry):
        return entry
    return {key: value for key, value in entry.items() if key not in UNREAD}


def _check_annotations(path: Path | str, content: dict[str, Any]) -> None:
    """Raise `DatasetError` for what would make COCO's metric wrong without a word."""
    try:
        image_ids = [image["id"] for image in content["images"]]
        categories = [category["id"] for category in content["categories"]]
        annotation_ids = [annotation["id"] for annotation in content["annotations"]]
        problems = [
            _duplicates("image id", image_ids),
            _duplicates("category id", categories),
            _duplicates("category name", [c["name"] for c in content["categories"]]),
            _duplicates("annotation id", annotation_ids),
            *_image_entries(content["images"]),
            *_annotation_entries(content["annotations"], set(image_ids), set(categories)),
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} has an entry without a proper {error}") from error
    if not content["images"]:
        problems.append("it lists no image")
    found = [problem for problem in problems if problem is not None]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise DatasetError(
            f"{path} cannot be scored: {'; '.join(found[:SHOWN])}{more}; correct the file"
        )


def _duplicates(kind: str, values: Iterable[object]) -> str | None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    return f"{kind}s used more than once: {twice[:SHOWN]}" if twice else None


def _image_entries(images: Sequence[dict[str, Any]]) -> Iterator[str]:
    for image in images:
        name, size = image["file_name"], (image["width"], image["height"])
        if not all(isinstance(side, int) and side > 0 for side in size):
            yield f"image {image['id']} has width, height {size}, but both must be whole and > 0"
        if not isinstance(image["id"], int) or not isinstance(name, str):
            yield f"image id {image['id']!r} must be a whole number and {name!r} a file name"


def _annotation_entries(
    annotations: Sequence[dict[str, Any]], image_ids: set[int], categories: set[int]
) -> Iterator[str]:
    for annotation in annotations:
        name = f"annotation {annotation['id']}"
        if annotation["id"] == 0:
            yield f"{name}: COCO's metric can never match id 0; number annotations from 1"
        if annotation["image_id"] not in image_ids:
            yield f"{name} belongs to image {annotation['image_id']}, which is not listed"
        if annotation["category_id"] not in categories:
            yield f"{name} has unknown category {annotation['category_id']}"
        x, y, width, height = annotation["bbox"]
        if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
            yield f"{name} has bbox {annotation['bbox']}, but x, y, width, height were wanted"
