"""
A COCO results file, as detectors write it: read whole, and judged in nothing but its form.

What is wrong with what it says, images or categories that do not exist, boxes without size, stays
as it is: it tells of the fault that made it (see `suspicions.detections`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ResultError
from .types import Indices

KEYS = ("image_id", "category_id", "bbox", "score")
#: An image id that was written as text: its digits, or the name of COCO's file.
_TEXT_ID = re.compile(r"\d+(?=(\.\w+)?$)", re.ASCII)
_WANTED = f"a COCO results file is one list of {{{', '.join(KEYS)}}}"
_AGAIN = "write the file again"


@dataclass(frozen=True)
class CocoResults:
    """
    Detections in the order of the file *path*.

    *boxes* is (n, 4) as written, which should be x, y, width, height; *text_ids* counts image ids
    that are text, and stand here as their numbers.
    """

    path: Path
    image_ids: Indices
    categories: Indices
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    text_ids: int = 0

    def __len__(self) -> int:
        return len(self.scores)


def read_results(path: Path) -> CocoResults:
    """Read the COCO results file *path*; raise `ResultError` unless it has their form."""
    entries = _entries(path)
    ids, categories, boxes, scores, texts = [], [], [], [], 0
    for n, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"a {type(entry).__name__} came, but {_WANTED}")
            number, text = _image_id(entry["image_id"])
            ids.append(number)
            categories.append(_whole(entry["category_id"]))
            boxes.append(_finite(entry["bbox"], 4))
            scores.append(_finite([entry["score"]], 1)[0])
            texts += text
        except KeyError as error:
            raise ResultError(
                f"{path} has no {error} in entry {n}, {_shown(entry)}, but {_WANTED}; {_AGAIN}"
            ) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ResultError(f"{path}, entry {n}, {_shown(entry)}: {error}; {_AGAIN}") from error
    return CocoResults(
        path,
        np.array(ids, np.int64),
        np.array(categories, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
        texts,
    )


def _entries(path: Path) -> list[Any]:
    """The list in *path*, not empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}; give a COCO results file"
        ) from error
    if not data.strip():
        raise ResultError(f"{path} is empty, but {_WANTED}; {_AGAIN}")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        cut = data.lstrip().startswith(b"[") and not data.rstrip().endswith(b"]")
        what = "ends in the middle, as if writing it was cut off" if cut else "is not JSON"
        raise ResultError(f"{path} {what}: {error}; {_AGAIN}") from error
    if not isinstance(content, list):
        keys = f" with {sorted(content)[:5]}" if isinstance(content, dict) else ""
        raise ResultError(f"{path} holds a {type(content).__name__}{keys}, but {_WANTED}; {_AGAIN}")
    if not content:
        raise ResultError(f"{path} holds no detection, but {_WANTED}; {_AGAIN}")
    return content


def _image_id(value: object) -> tuple[int, bool]:
    """The number of an image, and whether it was written as text."""
    if isinstance(value, str) and (digits := _TEXT_ID.search(value)):
        return _whole(int(digits[0])), True
    return _whole(value), False


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{value!r} is no id, but a whole number was wanted")
    return np.int64(int(value)).item()


def _finite(values: Any, count: int) -> list[float]:
    numbers = values if isinstance(values, list) else [values]
    if len(numbers) != count or any(
        isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v)
        for v in numbers
    ):
        wanted = "x, y, width, height" if count > 1 else "a score"
        raise ValueError(f"{values} came, but {wanted}, finite, was wanted")
    return [float(v) for v in numbers]


def _shown(entry: object) -> str:
    text = repr(entry)
    return text if len(text) <= 100 else f"{text[:97]}..."  # noqa: PLR2004 (a line's worth)
