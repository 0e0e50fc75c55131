"""What several test modules build: little COCO folders, small specs, synthetic heads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from effd0.detection.heads import HeadOutputs
from effd0.spec import D0, ModelSpec
from effd0.types import Floats

#: A D0 in all but size: 3,069 anchors, so that a test can look at every logit.
SMALL = replace(D0, image_size=128, num_classes=5, max_candidates=50)
#: Smaller still, 45 anchors and 135 logits: Hypothesis can draw each of them.
TINY = replace(D0, image_size=128, levels=(6, 7), num_classes=3, max_candidates=20)


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pixels of *size* (width, height): whatever moves a pixel shows in them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size[1], size[0], channels), np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return *image* as the bytes of a file of *kind*, ``JPEG`` or ``PNG``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def names_in(folder: Path) -> list[str]:
    """Return the names of all that lies in *folder*, sorted."""
    return sorted(path.name for path in folder.iterdir())


def coco_content(images: int = 3, size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    """Return a valid annotation file: image ids 10, 20, ..., one annotation each, two classes."""
    return {
        "images": [
            {"id": 10 * n, "file_name": f"{n}.png", "width": size[0], "height": size[1]}
            for n in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": 10 * n,
                "category_id": 1 + n % 2,
                "bbox": [2.0, 3.0, 10.0, 8.0],
                "area": 80.0,
                "iscrowd": 0,
            }
            for n in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
    }


def write_coco(
    root: Path, content: dict[str, Any] | None = None, colours: Sequence[int] | None = None
) -> Path:
    """
    Write *content* and its pictures as the COCO folder *root*; return it.

    Pictures are noise, or of one red each where *colours* are given.
    """
    content = coco_content() if content is None else content
    write_annotations(root, content)
    folder = root / "val2017"
    folder.mkdir(parents=True, exist_ok=True)
    for n, entry in enumerate(content["images"]):
        size = (entry["width"], entry["height"])
        pixels = noise(size, seed=n)
        if colours is not None:
            pixels[:] = (colours[n], 0, 0)
        Image.fromarray(pixels).save(folder / entry["file_name"])
    return root


def write_annotations(root: Path, content: object) -> Path:
    """Write *content*, or bytes as they are, as the annotation file of *root*; return it."""
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def synthetic_heads(seed: int, spec: ModelSpec = D0, shift: float = -6.0) -> HeadOutputs:
    """Return heads of normal spread: logits around *shift*, by 2.5, box codes around 0, by 0.3."""
    rng = np.random.default_rng(seed)

    def normal(name: str, mean: float, spread: float) -> Floats:
        # Shared by tests, so that any write into them is an error.
        head = rng.standard_normal(spec.head_shapes[name], np.float32) * np.float32(spread)
        head += np.float32(mean)
        head.setflags(write=False)
        return head

    return HeadOutputs(
        tuple(normal(name, shift, 2.5) for name in spec.class_names),
        tuple(normal(name, 0, 0.3) for name in spec.box_names),
    )
