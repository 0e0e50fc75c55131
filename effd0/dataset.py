"""
A COCO folder: images and truths, in the order of image ids.

Layout::

    ROOT/val2017/000000000139.jpg ...
    ROOT/annotations/instances_val2017.json

Every image of the annotation file counts, those without annotation too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DatasetError, ImageError
from .preprocess import probe_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
SHOWN = 5


@dataclass(frozen=True)
class Sample:
    """One image: its COCO id, its file, its annotated (width, height) in pixels."""

    image_id: int
    path: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class Dataset:
    """
    The images of a run, by rising image id, and COCO's annotations of just these images.

    *total* counts the images of the whole annotation file; *extra_files* are pictures in the
    folder that the file does not name.
    """

    annotation_file: Path
    samples: tuple[Sample, ...]
    annotations: tuple[dict[str, Any], ...]
    categories: dict[int, str]
    total: int
    extra_files: tuple[str, ...]

    @property
    def limited(self) -> bool:
        """Whether images were left out, so that no result may claim the gate."""
        return len(self.samples) < self.total

    @property
    def image_ids(self) -> list[int]:
        """Image ids of the run, rising."""
        return [sample.image_id for sample in self.samples]


def load_coco(root: Path, split: str = "val2017", image_limit: int | None = None) -> Dataset:
    """
    Read the COCO folder *root*; keep the first *image_limit* images by id where given.

    Raises `DatasetError` for a broken annotation file and `ImageError` for missing image files.
    What is inside the image files is checked by `check_images`.
    """
    if image_limit is not None and image_limit < 1:
        raise DatasetError(f"--image-limit is {image_limit}, but must be at least 1")
    annotation_file = root / "annotations" / f"instances_{split}.json"
    content = _read_json(annotation_file)
    _check_annotations(annotation_file, content)
    folder = root / split
    images = sorted(content["images"], key=lambda image: int(image["id"]))
    extra = _extra_files(folder, images)
    chosen = images[:image_limit]
    samples = tuple(
        Sample(image["id"], folder / image["file_name"], (image["width"], image["height"]))
        for image in chosen
    )
    _refuse([f"{s.path.name} is missing" for s in samples if not s.path.exists()], folder)
    ids = {sample.image_id for sample in samples}
    return Dataset(
        annotation_file=annotation_file,
        samples=samples,
        annotations=tuple(a for a in content["annotations"] if a["image_id"] in ids),
        categories={c["id"]: c["name"] for c in content["categories"]},
        total=len(images),
        extra_files=extra,
    )


def check_images(samples: Sequence[Sample], workers: int = 2) -> Iterator[Sample]:
    """
    Decode every image once, yielding each sample as it is done, so that progress can be shown.

    Raises one `ImageError` at the end for all files that are undecodable, truncated, Git LFS
    pointers, or not of the annotated size.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for sample, problem in zip(samples, pool.map(_image_problem, samples), strict=True):
            if problem is not None:
                problems.append(problem)
            yield sample
    if samples:
        _refuse(problems, samples[0].path.parent)


def _image_problem(sample: Sample) -> str | None:
    try:
        size = probe_image(sample.path)
    except ImageError as error:
        return str(error)
    if size != sample.size:
        return (
            f"{sample.path.name} is {size[0]}x{size[1]} pixels, "
            f"but annotated as {sample.size[0]}x{sample.size[1]}"
        )
    return None


def _refuse(problems: Sequence[str], folder: Path) -> None:
    """Raise one `ImageError` that counts *problems* and shows the first few."""
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ImageError(
            f"{len(problems)} of the images in {folder} cannot be used:\n  {shown}{more}\n"
            "copy or download them again, or correct the annotation file"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} does not exist; give --root the folder that holds annotations/ "
            "and the images' folder, and --split its name"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not a readable JSON file: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in wanted
    ):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DatasetError(f"{path} holds {found}, but a COCO file holds the lists {list(wanted)}")
    return content


def _check_annotations(path: Path, content: dict[str, Any]) -> None:
    """Raise `DatasetError` for what would make COCO's metric wrong without a word."""
    try:
        image_ids = [image["id"] for image in content["images"]]
        categories = [category["id"] for category in content["categories"]]
        annotation_ids = [annotation["id"] for annotation in content["annotations"]]
        problems = [
            _duplicates("image", image_ids),
            _duplicates("category", categories),
            _duplicates("annotation", annotation_ids),
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


def _duplicates(kind: str, ids: Iterable[int]) -> str | None:
    twice = [id_ for id_, count in Counter(ids).items() if count > 1]
    return f"{kind} ids used more than once: {twice[:SHOWN]}" if twice else None


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


def _extra_files(folder: Path, images: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Pictures in *folder* that the annotation file does not name."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; the images of the split belong there")
    listed = {image["file_name"] for image in images}
    found = (p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return tuple(sorted(set(found) - listed))
