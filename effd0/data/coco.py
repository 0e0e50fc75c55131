"""
A COCO folder: images and truths, in the order of image ids.

Layout::

    ROOT/val2017/000000000139.jpg ...
    ROOT/annotations/instances_val2017.json

Every image of the annotation file counts, those without annotation too.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from ..errors import DatasetError, ImageError, listed
from ..io import decoded, whole
from ..spec import D0, ModelSpec
from .preprocess import exif_orientation, probe_image

#: The ``categories`` list of COCO's annotation files: 80 categories, ids 1 to 90.
COCO_CATEGORIES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("coco_categories.json").read_text()
)
#: Category id -> name.
NAMES: dict[int, str] = {category["id"]: category["name"] for category in COCO_CATEGORIES}
#: Names of pictures that lie right in their folder.
PICTURE = re.compile(r"[^/]+\.(jpe?g|png|bmp|webp)", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """One image: its COCO id, its file, its annotated (width, height) in pixels."""

    image_id: int
    path: Path
    size: tuple[int, int]


#: val2017: images, annotations, and those among them of crowds; 48 images have no object.  Source:
#: instances_val2017.json as counted in public logs of detectron2 (36,335 boxes without crowds) and
#: COCO's own loader.
VAL2017 = 5000, 36_781, 446


@dataclass(frozen=True)
class Dataset:
    """
    The images of a run, by rising image id, and COCO's annotations of just these images.

    *total* counts the images of the whole annotation file; *extra_files* are pictures in the
    folder that the file does not name.  *left_out* counts, by category id, the objects to be found
    in the images that a limit left out.  *notes* say what was taken otherwise than written.
    """

    annotation_file: Path
    samples: tuple[Sample, ...]
    annotations: tuple[dict[str, Any], ...]
    categories: dict[int, str]
    total: int
    extra_files: tuple[str, ...]
    left_out: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether images were left out, so that no result may claim the gate."""
        return len(self.samples) < self.total

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many images there are in all, annotations, and those among them of crowds."""
        crowds = sum(bool(a.get("iscrowd", 0)) for a in self.annotations)
        return self.total, len(self.annotations), crowds

    @property
    def has_cocos_names(self) -> bool:
        """Whether each file is called by its image id, as COCO's are."""
        return all(s.path.name == f"{s.image_id:012}.jpg" for s in self.samples)

    @property
    def is_val2017(self) -> bool:
        """Whether this is all of val2017, as far as names and counts tell."""
        return self.counts == VAL2017 and self.has_cocos_names and not self.limited

    @property
    def image_ids(self) -> list[int]:
        """Image ids of the run, rising."""
        return [sample.image_id for sample in self.samples]


class LocalFiles:
    """Where `load_coco` reads: this host's disk."""

    def shown(self, path: Path) -> str:
        """How errors call *path*."""
        return str(path)

    def local(self, path: Path) -> Path | None:
        """Where the file *path* lies on this host; None where there is none."""
        return path if path.exists() else None

    def names(self, folder: Path, wanted: Sequence[str]) -> set[str]:
        """The names of files in *folder*, and those *wanted* that are below it."""
        here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return here | {n for n in wanted if "/" in n and os.path.isfile(folder / n)}  # noqa: PTH113  # any text


def annotation_path(root: Path, split: str) -> Path:
    """Where the annotations of *split* belong in the COCO folder *root*."""
    return root / "annotations" / f"instances_{split}.json"


def load_coco(
    root: Path,
    split: str = "val2017",
    image_limit: int | None = None,
    files: LocalFiles = LocalFiles(),  # noqa: B008  # it holds nothing
) -> Dataset:
    """
    Read the COCO folder *root*; keep the first *image_limit* images by id where given.

    Raises `DatasetError` for a broken annotation file and `ImageError` for missing image files.
    What is inside the image files is checked by `check_images`.
    """
    if image_limit is not None and image_limit < 1:
        raise DatasetError(f"--image-limit is {image_limit}, but must be at least 1")
    path, folder = annotation_path(root, split), root / split
    called, annotation_file = files.shown(path), files.local(path)
    if annotation_file is None:
        raise DatasetError(
            f"{called} does not exist; give --root the folder that holds annotations/ "
            "and the images' folder, and --split its name"
        )
    content, notes = _content(annotation_file, called)
    images = sorted(content["images"], key=lambda image: image["id"])
    chosen = images[:image_limit]
    # Other tools write a path of their own host, or a URL, before the name.
    bare = {i["file_name"]: PureWindowsPath(i["file_name"]).name for i in images}
    given = [image["file_name"] for image in chosen]
    names = files.names(folder, [*dict.fromkeys([*given, *(bare[name] for name in given)])])
    if not names:
        raise DatasetError(
            f"{files.shown(folder)} is not a folder with images; those of the split belong there"
        )
    found = {name: name if name in names else bare[name] for name in given}
    images_of = Counter(found.values())
    lost = {n: p not in names or (p != n and images_of[p] > 1) for n, p in found.items()}
    _refuse([f"{name} is missing" for name in lost if lost[name]], files.shown(folder))
    extra = sorted(n for n in names - {*bare, *bare.values()} if PICTURE.fullmatch(n))
    if extra:
        text = f"{called} lists {len(images)} of the {len(images) + len(extra)} pictures in "
        notes.append(f"{text}{files.shown(folder)}: a subset; the others are left out")
    chosen = [image | {"file_name": found[image["file_name"]]} for image in chosen]
    dataset = _dataset(annotation_file, content, chosen, folder)
    return replace(dataset, extra_files=tuple(extra), notes=tuple(notes))


def load_annotations(path: Path) -> Dataset:
    """The data set of the annotation file *path*; its image files need not be there."""
    content, notes = _content(path, str(path))
    images = sorted(content["images"], key=lambda image: image["id"])
    return replace(_dataset(path, content, images, path.parent), notes=tuple(notes))


def _content(path: Path, called: str) -> tuple[dict[str, Any], list[str]]:
    """What is in the annotation file *path*, which errors name as *called*, and notes on it."""
    try:
        return parse_annotations(path.read_bytes(), called)
    except OSError as error:
        raise DatasetError(f"{called} cannot be read: {error}; make it readable") from error


def _dataset(
    file: Path, content: dict[str, Any], images: Sequence[dict[str, Any]], folder: Path
) -> Dataset:
    """The chosen *images* of the *content* of an annotation *file*; they lie in *folder*."""
    every, ids = content["annotations"], {image["id"] for image in images}
    others = (a for a in every if a["image_id"] not in ids and not a.get("iscrowd"))
    return Dataset(
        file,
        tuple(Sample(i["id"], folder / i["file_name"], (i["width"], i["height"])) for i in images),
        tuple(annotation for annotation in every if annotation["image_id"] in ids),
        {category["id"]: category["name"] for category in content["categories"]},
        total=len(content["images"]),
        extra_files=(),
        left_out=Counter(annotation["category_id"] for annotation in others),
    )


def labelled(spec: ModelSpec, dataset: Dataset) -> ModelSpec:
    """
    *spec* with the category of each of its classes, as trained on *dataset*.

    Where all ids are from 1 to the number of classes, the label is the id, as in COCO and in
    effdet's reader of COCO files; else label n is the n-th id in rising order.  Raises
    `DatasetError` where neither can be.
    """
    ids = sorted(dataset.categories)
    if ids and ids[0] >= 1 and ids[-1] <= spec.num_classes:
        return replace(spec, category_ids=None)
    if len(ids) == spec.num_classes:
        return replace(spec, category_ids=tuple(ids))
    raise DatasetError(
        f"{dataset.annotation_file} has {len(ids)} categories with the ids {listed(ids)}, but the "
        f"model has {spec.num_classes} classes; give the images that it was trained for, or its "
        "own --num-classes"
    )


def label_notes(spec: ModelSpec, dataset: Dataset) -> list[str]:
    """How classes of *spec* and categories of *dataset* belong together, where not as in COCO."""
    if names_of(spec):
        return []
    if spec.category_ids is None:
        return [f"{spec.num_classes} classes, whose labels are the category ids"]
    every = enumerate(spec.category_ids, 1)
    names = [f"{n} = id {id_} ({dataset.categories[id_]})" for n, id_ in every]
    return [f"{spec.num_classes} classes in the order of category ids: label {listed(names)}"]


def ids_of(spec: ModelSpec) -> list[int]:
    """The category ids that the classes of *spec* can have, rising."""
    if spec.category_ids is not None:
        return list(spec.category_ids)
    return sorted(names_of(spec)) or [*range(1, spec.num_classes + 1)]


def names_of(spec: ModelSpec) -> Mapping[int, str]:
    """The names of the categories of *spec* by id, where these are COCO's; else none."""
    cocos = spec.num_classes == D0.num_classes and spec.category_ids is None
    return NAMES if cocos else {}


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

    problems = []
    with ThreadPoolExecutor(host_threads) as pool:
        for sample, problem in zip(samples, pool.map(problem_of, samples), strict=True):
            problems += [] if problem is None else [problem]
            yield sample
    _refuse(problems, str(samples[0].path.parent) if samples else "")


#: EXIF orientations that exchange width and height.
_TURNED = range(5, 9)


def other_size(sample: Sample, size: tuple[int, int]) -> str:
    """What is wrong with *sample*, whose file has another *size* than is annotated."""
    turned = ""
    if size == sample.size[::-1]:
        turned = ": it is turned, as if an EXIF orientation were baked in"
        if (orientation := exif_orientation(sample.path)) in _TURNED:
            turned = f": its EXIF orientation {orientation} turns it, which COCO ignores"
    return (
        f"{sample.path.name} is {size[0]}x{size[1]} pixels, "
        f"but annotated as {sample.size[0]}x{sample.size[1]}{turned}"
    )


def _refuse(problems: Sequence[str], folder: str) -> None:
    """Raise one `ImageError` that counts *problems* and shows the first few."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        shown = "\n  ".join([*problems[:SHOWN], *more])
        raise ImageError(
            f"{len(problems)} of the images in {folder} cannot be used:\n  {shown}\n"
            "copy or download them again, or correct the annotation file"
        )


#: How many of many problems a message shows.
SHOWN = 5
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
#: An id; a table with an empty cell writes 139.0.  From 2**53 on, floats round what was an id.
Id = _INT64 | Annotated[float, msgspec.Meta(ge=1.0 - 2**53, le=2.0**53 - 1)]
#: A coordinate, a side or a score: squares stay finite, and all is finite in float32.
Finite = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
Box = Annotated[list[Finite], msgspec.Meta(min_length=4, max_length=4)]
_SIDES = msgspec.Meta(gt=0, lt=2**31)
_Side = Annotated[int, _SIDES] | Annotated[float, _SIDES]


class _Image(TypedDict):
    id: Id
    file_name: str
    width: _Side
    height: _Side


class _Annotation(TypedDict):
    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    area: NotRequired[Annotated[float, msgspec.Meta(ge=0, le=1e24)] | None]
    iscrowd: NotRequired[Literal[0, 1] | bool]


class _Category(TypedDict):
    id: Id
    name: str
    supercategory: NotRequired[Any]


class _Content(TypedDict):
    """What is read of an annotation file: outlines and addresses would fill the memory."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def parse_annotations(data: bytes, path: Path | str) -> tuple[dict[str, Any], list[str]]:
    """
    The ``images``, ``annotations`` and ``categories`` of a COCO file's *data*, and notes on them.

    All ids and sizes are int, and a category's name is there once.  Raises one `DatasetError`,
    which names *path*, with all that is wrong.
    """
    try:
        content: dict[str, Any] = {**decoded(data, _Content)}
        for kind, entries in content.items():
            for n, entry in enumerate(entries):
                for key in ("id", "image_id", "category_id", "width", "height"):
                    if isinstance(value := entry.get(key), float):
                        entry[key] = whole(value, f"{kind}[{n}].{key}")
    except ValueError as error:
        raise DatasetError(f"{path} is not a COCO file: {error}; correct the file") from error
    notes = [*_amended(content)]
    if problems := list(_mistakes(content)):
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DatasetError(
            f"{path} cannot be scored: {'; '.join(problems[:SHOWN])}{more}; correct the file"
        )
    return content, notes


def _amended(content: dict[str, Any]) -> Iterator[str]:
    """Amend what needs no correction by the user, and say what."""
    if bare := [a for a in content["annotations"] if a.get("area") is None]:
        for annotation in bare:
            annotation.pop("area", None)
        yield (
            f"{len(bare)} annotations have no area: their boxes' areas count; "
            "pycocotools refuses such a file"
        )
    names = Counter(category["name"] for category in content["categories"])
    used = {annotation["category_id"] for annotation in content["annotations"]}
    # The root of the classes, as some tools write it.
    above = {(c["id"], str(c.pop("supercategory", None))) for c in content["categories"]}
    for category in [c for c in content["categories"] if c["id"] not in used]:
        id_, name = category["id"], category["name"]
        root = any(name == other for below, other in above if below != id_)
        if names[name] > 1 or root:
            names[name] -= 1
            content["categories"].remove(category)
            what = "is the supercategory of others" if root else "has the name of another"
            yield f"category {id_} ({name}) is left out: it {what} and has no annotation"


def _mistakes(content: dict[str, Any]) -> Iterator[str]:
    """What would make COCO's metric wrong without a word."""
    if not content["images"]:
        yield "it lists no image"
    ids = {"image": "images", "category": "categories", "annotation": "annotations"}
    kinds = [(f"{kind} id", "id", entries) for kind, entries in ids.items()]
    for kind, key, entries in (*kinds, ("category name", "name", "categories")):
        counts = Counter(entry[key] for entry in content[entries])
        if twice := [value for value, count in counts.items() if count > 1]:
            yield f"{kind}s used more than once: {twice[:SHOWN]}"
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    used = {annotation["category_id"] for annotation in content["annotations"]}
    if not used <= categories and used <= {*range(len(categories) + 1)}:
        first = int(0 not in used)
        yield f"category ids are places in the list of categories, counted from {first}"
    for annotation in content["annotations"]:
        name, box = f"annotation {annotation['id']}", annotation["bbox"]
        if annotation["id"] == 0:
            yield f"{name}: COCO's metric can never match id 0; number annotations from 1"
        if annotation["image_id"] not in images:
            yield f"{name} belongs to image {annotation['image_id']}, which is not listed"
        if annotation["category_id"] not in categories:
            yield f"{name} has unknown category {annotation['category_id']}"
        if box[2] < 0 or box[3] < 0:
            yield f"{name} has bbox {box}, but x, y, width, height were wanted"
