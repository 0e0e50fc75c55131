"""Results: folders as effd0, ais_infer and ais_bench write them, and detections made of truths."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effd0.data.coco import Dataset, Sample, load_coco
from effd0.detection.postprocess import Detections
from effd0.spec import ModelSpec
from effd0.tensors.inputs import write_inputs
from effd0.types import Floats, Tensors
from tests.helpers import SMALL, coco_content, synthetic_heads, write_coco
from tests.suite.truth import Found, made

#: Naming -> name of a file without its ending, by sample number, input's stem and output number.
NAMINGS: dict[str, Callable[[int, str, int], str]] = {
    "sample-id": lambda n, _, i: f"sample_id_{n}_output_{i}",
    "input-n": lambda n, _, i: f"input{n}_output_{i}",
    "cut-at-dot": lambda _, stem, i: f"{stem.split('.')[0]}_{i}",
    "whole-stem": lambda _, stem, i: f"{stem}_{i}",
}
FORMATS = (".bin", ".npy", ".txt")
#: The head outputs interleaved, as exports of 2022 gave them; no reader may count on an order.
INTERLEAVED = (0, 5, 1, 6, 2, 7, 3, 8, 4, 9)


def heads_of(seed: int, spec: ModelSpec = SMALL) -> Tensors:
    """Return the synthetic heads of one image, in the recipe's order, (1, C, H, W)."""
    heads = synthetic_heads(seed, spec)
    every = (*heads.classes, *heads.boxes)
    return {name: head[None] for name, head in zip(spec.output_names, every, strict=True)}


def noisy(heads: Tensors, size: float) -> dict[str, Floats]:
    """Return *heads* with noise of *size* standard deviations."""
    rng = np.random.default_rng(7)
    return {
        name: head + (size * head.std() * rng.standard_normal(head.shape)).astype(np.float32)
        for name, head in heads.items()
    }


def as_bfloat16(head: Floats) -> Floats:
    """Return the values with the mantissa of bfloat16, cut off."""
    return (head.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def as_float16(head: Floats) -> Floats:
    """Return the values rounded to float16."""
    return head.astype(np.float16).astype(np.float32)


def write_array(path: Path, array: npt.NDArray[Any], dtype: Any = np.float32) -> None:
    """Write *array* to *path* by its ending, as ais_bench does."""
    if path.suffix == ".npy":
        np.save(path, array.astype(dtype))
    elif path.suffix == ".txt":
        np.savetxt(path, array.ravel(), fmt="%.9g")
    else:
        array.astype(np.dtype(dtype).newbyteorder("<")).tofile(path)


def write_results(
    folder: Path,
    stems: Sequence[str],
    naming: str,
    suffix: str = ".bin",
    *,
    batch: int = 1,
    padded: bool = True,
    dtype: Any = np.float32,
    order: Sequence[int] = INTERLEAVED,
    spec: ModelSpec = SMALL,
) -> Path:
    """
    Write the heads of *stems*, seeded by their place in it, by *naming*; return *folder*.

    A file holds *batch* rows; the last is *padded* by its first image, as the models' batch asks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(-(-len(stems) // batch)):
        seeds = list(range(n * batch, min((n + 1) * batch, len(stems))))
        rows = seeds + seeds[:1] * (batch - len(seeds) if padded else 0)
        heads = [heads_of(seed, spec) for seed in rows]
        for i, place in enumerate(order):
            name = spec.output_names[place]
            file = NAMINGS[naming](n, stems[seeds[0]], i) + suffix
            write_array(folder / file, np.concatenate([h[name] for h in heads]), dtype)
    return folder


def write_summary(path: Path, samples: Sequence[Sequence[str]], **more: object) -> Path:
    """Write ais_bench's summary of *samples*, the files that each was made of; return *path*."""
    content = {
        "filesinfo": {str(n): {"infiles": list(files)} for n, files in enumerate(samples)},
        **more,
    }
    path.write_text(json.dumps(content))
    return path


def coco_of(root: Path, names: Sequence[str]) -> Dataset:
    """Write a COCO folder of noise whose images have the file *names*; return it as read."""
    content = coco_content(len(names))
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    return load_coco(write_coco(root, content))


def write_bins(folder: Path, dataset: Dataset, spec: ModelSpec = SMALL, **options: Any) -> Path:
    """Write the network inputs of *dataset*, with their manifest; return *folder*."""
    list(write_inputs(dataset, folder, spec, **options))
    return folder


def jittered(dataset: Dataset, seed: int) -> Found:
    """Return what a middling detector finds: shifted, doubled, mistaken, missed, invented."""
    rng = np.random.default_rng(seed)
    categories = list(dataset.categories)
    found = {}
    for image_id in dataset.image_ids:
        # Crowds are looked at too: what lies in them is neither right nor wrong.
        truth = [a for a in dataset.annotations if a["image_id"] == image_id]
        rows = []
        for annotation in truth:
            for _ in range(rng.integers(0, 3)):
                x, y, width, height = annotation["bbox"]
                shift = rng.normal(0, 0.07, 4) * (width, height, width, height)
                category = (
                    annotation["category_id"] if rng.random() < 0.8 else rng.choice(categories)
                )
                corners = np.array((x, y, x + width, y + height)) + shift
                rows.append((*corners, rng.random(), category))
        for _ in range(5):
            corner, size = rng.uniform(0, 200, 2), rng.uniform(4, 200, 2)
            rows.append((*corner, *(corner + size), rng.random(), rng.choice(categories)))
        found[image_id] = made(rows)
    return found


def drawn_scenes(seed: int, images: int, *, crowds: bool = True) -> Dataset:
    """Return annotations of *images* images that are nowhere on disk: 4 classes, some crowds."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.uniform(0, 200, 2), rng.uniform(4, 150, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([1, 2, 5, 9])),
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod()),
                    "iscrowd": int(crowds and rng.random() < 0.2),
                    "ignore": int(rng.random() < 0.2),
                }
            )
    samples = tuple(Sample(n, Path(f"{n}.png"), (400, 400)) for n in range(1, images + 1))
    categories = {1: "person", 2: "bicycle", 5: "airplane", 9: "boat"}
    return Dataset(Path("drawn"), samples, tuple(annotations), categories, images, ())


#: Numbers of an object or of a detection.
Row = tuple[float, ...]


def scene(objects: Sequence[Row]) -> Dataset:
    """Return an image with *objects*, x, y, width, height, category and crowd, and an empty one."""
    annotations = tuple(
        {
            "id": n,
            "image_id": 1,
            "category_id": category,
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": crowd,
        }
        for n, (x, y, width, height, category, crowd) in enumerate(objects, start=1)
    )
    samples = tuple(Sample(n, Path(f"{n}.png"), (400, 400)) for n in (1, 2))
    return Dataset(Path("drawn"), samples, annotations, {1: "a", 2: "b", 3: "c"}, 2, ())


def as_dicts(found: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """Return detections as the list of dicts that COCO's server takes."""
    return [
        {
            "image_id": image_id,
            "category_id": int(category),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": float(score),
        }
        for image_id, found_here in found.items()
        for box, score, category in zip(
            found_here.boxes, found_here.scores, found_here.classes, strict=True
        )
    ]
