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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DatasetError, ImageError
from .preprocess import probe_image

#: The ``categories`` list of COCO's annotation files: 80 categories, ids 1 to 90.
COCO_CATEGORIES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("coco_categories.json").read_text()
)
#: Category id -> name.
NAMES: dict[int, str] = {category["id"]: category["name"] for category in COCO_CATEGORIES}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


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
    folder that the file does not name.  *left_out* counts, by category id, the objects to be found
    in the images that a limit left out.
    """

    annotation_file: Path
    samples: tuple[Sample, ...]
    annotations: tuple[dict[str, Any], ...]
    categories: dict[int, str]
    total: int
    extra_files: tuple[str, ...]
    left_out: Mapping[int, int] = field(default_factory=dict)

    @property
    def limited(self) -> bool:
        """Whether images were left out, so that no result may claim the gate."""
        return len(self.samples) < self.total

    @property
    def image_ids(self) -> list[int]:
        """Image ids of the run, rising."""
        return [sample.image_id for sample in self.samples]


def annotation_path(root: Path, split: str) -> Path:
    """Where the annotations of *split* belong in the COCO folder *root*."""
    return root / "annotations" / f"instances_{split}.json"


def load_coco(root: Path, split: str = "val2017", image_limit: int | None = None) -> Dataset:
    """
    Read the COCO folder *root*; keep the first *image_limit* images by id where given.

    Raises `DatasetError` for a broken annotation file and `ImageError` for missing image files.
    What is inside the image files is checked by `check_images`.
    """
    check_limit(image_limit)
    annotation_file = annotation_path(root, split)
    content = read_annotations(annotation_file)
    folder = root / split
    if not folder.is_dir():
        raise no_image_folder(folder)
    names = {path.name for path in folder.iterdir()}
    return dataset_of(
        content, annotation_file, folder, names, lambda name: (folder / name).exists(), image_limit
    )


def check_limit(image_limit: int | None) -> None:
    """Raise `DatasetError` for a limit that no images are within."""
    if image_limit is not None and image_limit < 1:
        raise DatasetError(f"--image-limit is {image_limit}, but must be at least 1")


def no_image_folder(folder: Path | str) -> DatasetError:
    """The error of a root that has no images where they belong."""
    return DatasetError(f"{folder} is not a folder; the images of the split belong there")


def dataset_of(
    content: Mapping[str, Any],
    annotation_file: Path,
    folder: Path,
    names: Collection[str],
    is_there: Callable[[str], bool],
    image_limit: int | None,
    url: str | None = None,
) -> Dataset:
    """
    The dataset of the checked *content* of *annotation_file* and the images in *folder*.

    *names* are the files right in the folder, *is_there* looks for one, *url* is how errors call
    the folder if not by its path.  Raises `ImageError` where an image within *image_limit* is
    missing.
    """
    images = sorted(content["images"], key=lambda image: int(image["id"]))
    chosen = images[:image_limit]
    missing = [i["file_name"] for i in chosen if not is_there(i["file_name"])]
    _refuse([f"{Path(name).name} is missing" for name in missing], url or str(folder))
    pictures = {name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    ids = {image["id"] for image in chosen}
    return Dataset(
        annotation_file=annotation_file,
        samples=tuple(
            Sample(image["id"], folder / image["file_name"], (image["width"], image["height"]))
            for image in chosen
        ),
        annotations=tuple(a for a in content["annotations"] if a["image_id"] in ids),
        categories={c["id"]: c["name"] for c in content["categories"]},
        total=len(images),
        extra_files=tuple(sorted(pictures - {image["file_name"] for image in images})),
        left_out=Counter(
            a["category_id"]
            for a in content["annotations"]
            if a["image_id"] not in ids and not a.get("iscrowd")
        ),
    )


def check_images(samples: Sequence[Sample], host_threads: int = 2) -> Iterator[Sample]:
    """
    Decode every image once, yielding each sample as it is done, so that progress can be shown.

    Raises one `ImageError` at the end for all files that are undecodable, truncated, Git LFS
    pointers, or not of the annotated size.
    """

    def problem_of(sample: Sample) -> str | None:
        try:
            size = probe_image(sample.path)
        except ImageError as error:
            return str(error)
        return None if size == sample.size else other_size(sample, size)

    problems: list[str] = []
    with ThreadPoolExecutor(host_threads) as pool:
        for sample, problem in zip(samples, pool.map(problem_of, samples), strict=True):
            if problem is not None:
                problems.append(problem)
            yield sample
    if samples:
        _refuse(problems, str(samples[0].path.parent))


def other_size(sample: Sample, size: tuple[int, int]) -> str:
    """What is wrong with *sample*, whose file has another *size* than is annotated."""
    return (
        f"{sample.path.name} is {size[0]}x{size[1]} pixels, "
        f"but annotated as {sample.size[0]}x{sample.size[1]}"
    )


def _refuse(problems: Sequence[str], folder: str) -> None:
    """Raise one `ImageError` that counts *problems* and shows the first few."""
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ImageError(
            f"{len(problems)} of the images in {folder} cannot be used:\n  {shown}{more}\n"
            "copy or download them again, or correct the annotation file"
        )


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
    try:
        # Dropped while the file is read: the polygons of a large set are larger than all else.
        content = json.loads(data, object_hook=_without_unread)
    except ValueError as error:
        raise DatasetError(f"{path} is not a readable JSON file: {error}") from error
    wanted = ("images", "annotations", "categories")
    lists = content if isinstance(content, dict) else {}
    if not all(isinstance(lists.get(key), list) for key in wanted):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DatasetError(f"{path} holds {found}, but a COCO file holds the lists {list(wanted)}")
    _check_annotations(path, lists)
    return lists


def no_annotations(path: Path | str) -> DatasetError:
    """The error of a root that has no annotation file where it belongs."""
    return DatasetError(
        f"{path} does not exist; give --root the folder that holds annotations/ "
        "and the images' folder, and --split its name"
    )


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
