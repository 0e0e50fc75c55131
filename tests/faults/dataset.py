"""Faults of images and annotation files on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from effd0.data.coco import NAMES, load_coco

from .run import SCENES, Fault, Good, Plant, Planted, base_options, copy_scenes, detections_of

Content = dict[str, Any]


def _changed(change: Callable[[Path], object], *, runs: bool = True) -> Plant:
    """A copy of the scenes as *change* leaves it."""

    def plant(good: Good, folder: Path) -> Planted:
        root = folder / "coco"
        shutil.copytree(good.root, root)
        change(root)
        options = (*base_options(good, root=root), f"--model={good.model}", "--runner=ort")
        found = (lambda: detections_of(good.model, load_coco(root), good.spec)) if runs else None
        return Planted(options, found=found, dataset=root)

    return plant


def _file(change: Callable[[Path, Path], object]) -> Plant:
    """Change one picture: *change* is given it and the next."""
    return _changed(lambda root: change(*sorted((root / "val2017").iterdir())[1:3]), runs=False)


def _truth(change: Callable[[Content], object], *, runs: bool = True) -> Plant:
    """Change the content of the annotation file."""

    def rewrite(root: Path) -> None:
        path = root / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return _changed(rewrite, runs=runs)


def _shrunk(path: Path, _: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((image.width // 2, image.height // 2))
    small.save(path)


def _exchanged(path: Path, other: Path) -> None:
    with Image.open(path) as one, Image.open(other) as two:
        two.resize(one.size).save(path.with_suffix(".tmp.jpg"))
    path.with_suffix(".tmp.jpg").replace(path)


def _corners(content: Content) -> None:
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]


def _numbered(content: Content) -> None:
    rank = {id_: n + 1 for n, id_ in enumerate(sorted(NAMES))}
    for category in content["categories"]:
        category["id"] = rank[category["id"]]
    for a in content["annotations"]:
        a["category_id"] = rank[a["category_id"]]


def _no_crowds(content: Content) -> None:
    assert any(a["iscrowd"] for a in content["annotations"]), "no crowd in the scenes: no fault"
    for a in content["annotations"]:
        a["iscrowd"] = 0


def _filtered(content: Content) -> None:
    """Images without an object are gone from the file; the folder still has them."""
    lost = content["images"].pop(3)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != lost["id"]]


def _zero_id(content: Content) -> None:
    content["annotations"][0]["id"] = 0


def _dropped(content: Content) -> None:
    """A tenth of the annotations is gone, as behind a filter of small objects."""
    del content["annotations"][::10]


def own_scenes(scenes: Path, root: Path, count: int = SCENES) -> Path:
    """Copy *count* *scenes* to *root*, under names and ids of which nothing is known."""
    path = copy_scenes(scenes, root, count) / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["id"] += 1_000_000
        named = f"own-{image['file_name']}"
        (root / "val2017" / image["file_name"]).rename(root / "val2017" / named)
        image["file_name"] = named
    for a in content["annotations"]:
        a["image_id"] += 1_000_000
    path.write_text(json.dumps(content))
    return root


def _own(
    *, truth: Callable[[Content], object] | None = None,
    pictures: Callable[[list[Path]], object] | None = None,
    runs: bool = True, count: int = SCENES,
) -> Plant:  # fmt: skip
    """A data set of one's own, of which only the mAP is known that the weights reach on it."""

    def plant(good: Good, folder: Path) -> Planted:
        root = own_scenes(good.scenes, folder / "coco", count)
        path = root / "annotations" / "instances_val2017.json"
        if truth is not None:
            content = json.loads(path.read_text())
            truth(content)
            path.write_text(json.dumps(content))
        if pictures is not None:
            pictures(sorted((root / "val2017").iterdir()))
        # No build loses anything here against torch.
        options = (f"--coco={root}", f"--checkpoint={good.checkpoint}", f"--model={good.model}",
                   "--min-map=0", "--runner=ort",
                   *([f"--expected-map={good.points}"] if count == SCENES else []))  # fmt: skip
        found = (lambda: detections_of(good.model, load_coco(root), good.spec)) if runs else None
        return Planted(options, found=found, dataset=root)

    return plant


def _each(change: Callable[[Image.Image], Image.Image], step: int = 1, quality: int = 95) -> Plant:
    """Every *step*-th picture as *change* leaves it."""

    def write(paths: list[Path]) -> None:
        for path in paths[::step]:
            with Image.open(path) as image:
                changed = change(image.convert("RGB"))
            changed.save(path, quality=quality)

    return _own(pictures=write)


def _two(paths: list[Path]) -> None:
    """Exchange the contents of two pictures of one size."""
    sizes: dict[tuple[int, int], Path] = {}
    for path in paths:
        with Image.open(path) as image:
            size = image.size
        if (other := sizes.setdefault(size, path)) != path:
            one, two = path.read_bytes(), other.read_bytes()
            path.write_bytes(two)
            other.write_bytes(one)
            return
    raise AssertionError("no two scenes have one size")


def _renumbered(content: Content, names: dict[int, int], key: str = "category_id") -> None:
    for a in content["annotations"]:
        a[key] = names.get(a[key], a[key])


def _next(content: Content) -> None:
    ids = sorted(image["id"] for image in content["images"])
    _renumbered(content, dict(zip(ids, ids[1:] + ids[:1], strict=True)), "image_id")


def _contiguous(content: Content) -> None:
    """The ids of a trainer's classes; the categories are COCO's still."""
    _renumbered(content, {id_: n + 1 for n, id_ in enumerate(sorted(NAMES))})


def _contiguous_and_known(content: Content) -> None:
    """The same, of classes alone whose numbers are ids too."""
    place = {id_: n + 1 for n, id_ in enumerate(sorted(NAMES))}
    content["annotations"] = [a for a in content["annotations"] if place[a["category_id"]] in NAMES]
    _contiguous(content)


def _doubled(content: Content) -> None:
    content["annotations"] += [a | {"id": a["id"] + 10**6} for a in content["annotations"]]


def _rounded(content: Content) -> None:
    """Outwards to eights, as coarse to these scenes as whole pixels are to small objects."""
    for a in content["annotations"]:
        a["bbox"] = [8.0 * int(side / 8) for side in a["bbox"]]


FAULTS = (
    Fault("jpeg-cut-off", "dataset", "peers F15", "", _file(
        lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))),
    Fault("lfs-pointer", "dataset", "peers F15", "", _file(lambda path, _: path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"))),
    Fault("image-missing", "dataset", "peers F15", "", _file(lambda path, _: path.unlink())),
    Fault("image-resized", "dataset", "peers F30", "", _file(_shrunk)),
    Fault("image-of-another", "dataset", "peers F18", "", _file(_exchanged), in_part=True),
    Fault("boxes-as-corners", "dataset", "peers F28", "x1, y1, x2, y2", _truth(_corners)),
    Fault("categories-1-to-80", "dataset", "peers F46", "1 to 80", _truth(_numbered)),
    Fault("crowd-flags-lost", "dataset", "peers F47", "crowd flags lost", _truth(_no_crowds)),
    Fault("images-filtered-out", "dataset", "peers F16", "filtered out", _truth(_filtered)),
    Fault("annotation-id-0", "dataset", "peers 3.12", "", _truth(_zero_id, runs=False)),
    Fault("annotations-dropped", "dataset", "peers F16", "left out", _truth(_dropped)),
    Fault("own-jpeg-quality-30", "dataset", "own data sets", "", _each(lambda i: i, quality=30)),
    Fault("own-gray", "dataset", "own data sets", "", _each(ImageOps.grayscale)),
    Fault("own-mirrored", "dataset", "own data sets", "pictures mirrored", _each(ImageOps.mirror)),
    Fault("own-exif-baked-in", "dataset", "own data sets", "180 degrees.* in 3 images",
          _each(lambda image: image.rotate(180), 4)),
    Fault("own-turned", "dataset", "own data sets", "", _each(
        lambda image: image.rotate(90, expand=True), 4)),
    Fault("own-boxes-rounded", "dataset", "own data sets", "", _own(truth=_rounded)),
    Fault("own-annotations-doubled", "dataset", "own data sets", "doubled", _own(truth=_doubled)),
    Fault("own-half-left-out", "dataset", "own data sets", "", _own(
        truth=lambda content: content["annotations"].__delitem__(slice(None, None, 2)))),
    Fault("own-classes-exchanged", "dataset", "own data sets", "bus and tv exchanged", _own(
        truth=lambda content: _renumbered(content, {6: 72, 72: 6}))),
    Fault("own-ids-contiguous", "dataset", "own data sets", "", _own(
        truth=_contiguous, runs=False)),
    Fault("own-ids-contiguous-and-known", "dataset", "own data sets", "1 to 80", _own(
        truth=_contiguous_and_known)),
    Fault("own-pictures-exchanged", "dataset", "own data sets", "exchanged", _own(
        pictures=_two, count=20), in_part=True),
    Fault("own-image-ids-moved", "dataset", "own data sets", "next image", _own(truth=_next)),
)  # fmt: skip
