"""
A COCO folder: images and truths, in the order of image ids.

Layout::

    ROOT/val2017/000000000139.jpg ...
    ROOT/annotations/instances_val2017.json

Every image of the annotation file counts, those without annotation too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


def load_coco(root: Path, split: str = "val2017", image_limit: int | None = None) -> Dataset:
    """
    Read the COCO folder *root*; keep the first *image_limit* images by id where given.

    Raises `DatasetError` for a broken annotation file and `ImageError` for missing image files.
    What is inside the image files is checked by `check_images`.
    """
    if image_limit is not None and image_limit < 1:
        raise DatasetError(f"--image-limit is {image_limit}, but must be at least 1")
    annotation_file = root / "annotations" / f"instances_{split}.json"
    content = read_annotations(annotation_file)
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


def _extra_files(folder: Path, images: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Pictures in *folder* that the annotation file does not name."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; the images of the split belong there")
    listed = {image["file_name"] for image in images}
    found = (p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return tuple(sorted(set(found) - listed))
