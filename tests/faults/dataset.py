"""Faults of images and annotation files on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from effd0.data.coco import NAMES, load_coco

from .run import Fault, Good, Plant, Planted, base_options, detections_of

Content = dict[str, Any]


def _changed(change: Callable[[Path], object], *, runs: bool = True) -> Plant:
    """A copy of the scenes as *change* leaves it."""

    def plant(good: Good, folder: Path) -> Planted:
        root = folder / "coco"
        shutil.copytree(good.root, root)
        change(root)
        options = (*base_options(good, root=root), f"--model={good.model}", "--runner=ort")
        found = (lambda: detections_of(good.model, load_coco(root))) if runs else None
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


FAULTS = (
    Fault("jpeg-cut-off", "dataset", "peers F15", "", _file(
        lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))),
    Fault("lfs-pointer", "dataset", "peers F15", "", _file(lambda path, _: path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"))),
    Fault("image-missing", "dataset", "peers F15", "", _file(lambda path, _: path.unlink())),
    Fault("image-resized", "dataset", "peers F30", "", _file(_shrunk)),
    Fault("image-of-another", "dataset", "peers F18", "", _file(_exchanged)),
    Fault("boxes-as-corners", "dataset", "peers F28", "x1, y1, x2, y2", _truth(_corners)),
    Fault("categories-1-to-80", "dataset", "peers F46", "1 to 80", _truth(_numbered)),
    Fault("crowd-flags-lost", "dataset", "peers F47", "crowd flags lost", _truth(_no_crowds)),
    Fault("images-filtered-out", "dataset", "peers F16", "filtered out", _truth(_filtered)),
    Fault("annotation-id-0", "dataset", "peers 3.12", "", _truth(_zero_id, runs=False)),
    Fault("annotations-dropped", "dataset", "peers F16", "left out", _truth(_dropped)),
)  # fmt: skip
