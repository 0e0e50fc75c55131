"""Faults of images and annotation files on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from effd0.data.coco import NAMES, load_coco

from .fault import Fault, Good, Plant, Planted
from .good import detections_of
from .run import base_options

Content = dict[str, Any]


def _copied(good: Good, folder: Path) -> Path:
    root = folder / "coco"
    shutil.copytree(good.root, root)
    return root


def _planted(good: Good, root: Path, *, runs: bool = True) -> Planted:
    options = (*base_options(good, root=root), f"--model={good.model}", "--runner=ort")
    found = (lambda: detections_of(good.model, load_coco(root))) if runs else None
    return Planted(options, found=found, dataset=root)


def _file(change: Callable[[Path, Path], None]) -> Plant:
    """Change one picture: *change* is given it and the next."""

    def plant(good: Good, folder: Path) -> Planted:
        root = _copied(good, folder)
        pictures = sorted((root / "val2017").iterdir())
        change(pictures[1], pictures[2])
        return _planted(good, root, runs=False)

    return plant


def _truth(change: Callable[[Content], object], *, runs: bool = True) -> Plant:
    """Change the content of the annotation file."""

    def plant(good: Good, folder: Path) -> Planted:
        root = _copied(good, folder)
        path = root / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return _planted(good, root, runs=runs)

    return plant


def _cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _pointer(path: Path, _: Path) -> None:
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:"
        f"{'0' * 64}\nsize {path.stat().st_size}\n"
    )


def _shrunk(path: Path, _: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((image.width // 2, image.height // 2))
    small.save(path)


def _exchanged(path: Path, other: Path) -> None:
    with Image.open(path) as one, Image.open(other) as two:
        size = one.size
        two.resize(size).save(path.with_suffix(".tmp.jpg"))
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
    crowds = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}
    assert crowds, "the scenes hold no crowd: no fault"
    for a in content["annotations"]:
        a["iscrowd"] = 0


def _filtered(content: Content) -> None:
    """Images without an object are gone from the file; the folder still has them."""
    lost = content["images"].pop(3)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != lost["id"]]


def _zero_id(content: Content) -> None:
    content["annotations"][0]["id"] = 0


def _whole_pixels(content: Content) -> None:
    for n, a in enumerate(content["annotations"]):
        a["bbox"] = [int(side) - (n % 2 and side > 4) for side in a["bbox"]]


def _dropped(content: Content) -> None:
    """A tenth of the annotations is gone, as behind a filter of small objects."""
    del content["annotations"][::10]


DATASET_FAULTS = (
    Fault("jpeg-cut-off", "dataset", "peers F15", "", _file(_cut)),
    Fault("lfs-pointer", "dataset", "peers F15", "", _file(_pointer)),
    Fault("image-missing", "dataset", "peers F15", "", _file(lambda p, _: p.unlink())),
    Fault("image-resized", "dataset", "peers F30", "", _file(_shrunk)),
    Fault("image-of-another", "dataset", "peers F18", "", _file(_exchanged)),
    Fault("boxes-as-corners", "dataset", "peers F28", "x1, y1, x2, y2", _truth(_corners)),
    Fault("categories-1-to-80", "dataset", "peers F46", "1 to 80", _truth(_numbered)),
    Fault("crowd-flags-lost", "dataset", "peers F47", "crowd flags lost", _truth(_no_crowds)),
    Fault("images-filtered-out", "dataset", "peers F16", "filtered out", _truth(_filtered)),
    Fault("annotation-id-0", "dataset", "peers 3.12", "", _truth(_zero_id, runs=False)),
    Fault("annotations-dropped", "dataset", "peers F16", "left out", _truth(_dropped)),
)
