"""
Write the embedded validation set: drawn scenes in COCO's layout.

Run: python data_fixtures/generate.py --out data_fixtures/coco_data
The scenes' seeds (0 to 47) are none of the training's (1,000,000 and up).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from effd0.data.coco import COCO_CATEGORIES
from scenes import Scene, draw_scene

SPLIT = "val2017"
COUNT = 48
# Landscape, portrait, square, odd, smaller than the network's input, and larger.
SIZES = (
    (640, 480), (480, 640), (500, 500), (640, 427), (427, 640), (333, 517), (612, 612), (640, 361),
    (375, 500), (511, 313), (640, 640), (257, 193), (500, 333), (429, 640), (800, 533), (512, 512),
)  # fmt: skip
GRAYSCALE, WITHOUT_OBJECTS = 7, 11
CROWDED = (5, 17, 29, 41)
QUALITY = 88
# Training goes down to 16 pixels.  At the border of what the detector learns, figures would be
# noise; from 24 pixels there are small objects enough, and most of them are found.
SMALLEST = 24


def image_id(index: int) -> int:
    """Ids with gaps, in another order than the scenes: nothing may rely on positions."""
    return 1000 + (index * 29) % COUNT * 37


def scene(index: int) -> Scene:
    """The embedded scene number *index*."""
    objects = 0 if index == WITHOUT_OBJECTS else None
    return draw_scene(
        index, SIZES[index % len(SIZES)], objects=objects, smallest=SMALLEST, crowd=index in CROWDED
    )


def entries(index: int, drawn: Scene, first_annotation: int) -> tuple[Any, list[Any]]:
    """The image entry and the annotation entries of a scene, as COCO writes them."""
    width, height = drawn.image.size
    name = f"{image_id(index):012d}.jpg"
    image = {"id": image_id(index), "file_name": name, "width": width, "height": height}
    annotations = [
        {
            "id": first_annotation + i,
            "image_id": image_id(index),
            "category_id": truth.category_id,
            "bbox": list(truth.bbox),
            "area": truth.area,
            "iscrowd": int(truth.iscrowd),
        }
        for i, truth in enumerate(drawn.truths)
    ]
    return image, annotations


def main() -> None:
    """Draw all scenes and write images and annotations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    (out / SPLIT).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    images: list[Any] = []
    annotations: list[Any] = []
    for index in range(COUNT):
        drawn = scene(index)
        image, found = entries(index, drawn, len(annotations) + 1)
        images.append(image)
        annotations.extend(found)
        picture = drawn.image.convert("L") if index == GRAYSCALE else drawn.image
        picture.save(out / SPLIT / image["file_name"], quality=QUALITY)
    info = {"description": "drawn scenes, made by data_fixtures/generate.py"}
    content = {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": COCO_CATEGORIES,
    }
    path = out / "annotations" / f"instances_{SPLIT}.json"
    path.write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main()
