"""
A COCO folder: images and truths, in the order of image ids.

Layout::

    ROOT/val2017/000000000139.jpg ...
    ROOT/annotations/instances_val2017.json

Every image of the annotation file counts, those without annotation too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .annotations import SHOWN, read_annotations
from .errors import DatasetError, ImageError
from .preprocess import probe_image

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


@dataclass(frozen=True)
class ImageFolder:
    """
    The folder of a split's images.

    *name* is how errors call it; *names* are the files in it, as far as they are known without
    asking for each; *is_there* tells of one file name of the annotation file.
    """

    path: Path
    name: str
    names: Iterable[str]
    is_there: Callable[[str], bool]


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
    names = (path.name for path in folder.iterdir())
    there = ImageFolder(folder, str(folder), names, lambda name: (folder / name).exists())
    return dataset_of(content, annotation_file, there, image_limit)


def check_limit(image_limit: int | None) -> None:
    """Raise `DatasetError` for a limit that no images are within."""
    if image_limit is not None and image_limit < 1:
        raise DatasetError(f"--image-limit is {image_limit}, but must be at least 1")


def no_image_folder(folder: Path | str) -> DatasetError:
    """The error of a root that has no images where they belong."""
    return DatasetError(f"{folder} is not a folder; the images of the split belong there")


def dataset_of(
    content: Mapping[str, Any], annotation_file: Path, folder: ImageFolder, image_limit: int | None
) -> Dataset:
    """
    The dataset of the checked *content* of *annotation_file* and the images in *folder*.

    Raises `ImageError` where an image within *image_limit* is missing.
    """
    images = sorted(content["images"], key=lambda image: int(image["id"]))
    chosen = images[:image_limit]
    missing = [i["file_name"] for i in chosen if not folder.is_there(i["file_name"])]
    _refuse([f"{Path(name).name} is missing" for name in missing], folder.name)
    ids = {image["id"] for image in chosen}
    return Dataset(
        annotation_file=annotation_file,
        samples=tuple(
            Sample(image["id"], folder.path / image["file_name"], (image["width"], image["height"]))
            for image in chosen
        ),
        annotations=tuple(a for a in content["annotations"] if a["image_id"] in ids),
        categories={c["id"]: c["name"] for c in content["categories"]},
        total=len(images),
        extra_files=_extra_files(folder.names, images),
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
    problems: list[str] = []
    with ThreadPoolExecutor(host_threads) as pool:
        for sample, problem in zip(samples, pool.map(_image_problem, samples), strict=True):
            if problem is not None:
                problems.append(problem)
            yield sample
    if samples:
        _refuse(problems, str(samples[0].path.parent))


def _image_problem(sample: Sample) -> str | None:
    try:
        size = probe_image(sample.path)
    except ImageError as error:
        return str(error)
    return None if size == sample.size else other_size(sample, size)


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


def _extra_files(names: Iterable[str], images: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Pictures among *names* that the annotation file does not name."""
    pictures = {name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    return tuple(sorted(pictures - {image["file_name"] for image in images}))
