"""The embedded default holds what the other tests rely on, and its generator really made it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, check_images

SMALL, LARGE = 32**2, 96**2
#: JPEG of quality 88 moves a pixel by 2.5 grey levels in the mean on these noisy scenes (measured
#: 2026-11-23: 1.8 to 3.1); another scene of the same size moves it by more than 30.
JPEG_NOISE = 5.0


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """The generator script, which lies outside the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[3] / "data_fixtures"))
        yield importlib.import_module("generate")


def test_embedded_images_are_whole(embedded_dataset: Dataset) -> None:
    """Every embedded image decodes and has the annotated size."""
    assert len(list(check_images(embedded_dataset.samples))) == len(embedded_dataset.samples)


def test_embedded_categories_cover_the_id_gaps(embedded_dataset: Dataset) -> None:
    """At least ten categories, on both sides of the first unused id (12) and above 80."""
    used = {a["category_id"] for a in embedded_dataset.annotations}
    assert len(used) >= 10
    assert min(used) < 11 < max(used)
    assert {u for u in used if u > 80}


@pytest.mark.parametrize(
    ("lowest", "highest"),
    [
        pytest.param(0, SMALL, id="small"),
        pytest.param(SMALL, LARGE, id="medium"),
        pytest.param(LARGE, 1e9, id="large"),
    ],
)
def test_embedded_objects_come_in_all_sizes(
    embedded_dataset: Dataset, lowest: float, highest: float
) -> None:
    """Each of COCO's size classes has at least twenty objects."""
    areas = [a["area"] for a in embedded_dataset.annotations if not a["iscrowd"]]
    assert sum(lowest <= area < highest for area in areas) >= 20


def test_embedded_images_come_in_all_shapes(embedded_dataset: Dataset) -> None:
    """Landscape, portrait, square, odd sides, smaller and larger than the network's input."""
    sizes = [sample.size for sample in embedded_dataset.samples]
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)
    assert any(width == height for width, height in sizes)
    assert any(width % 2 and height % 2 for width, height in sizes)
    assert any(max(size) < 512 for size in sizes)
    assert any(max(size) > 640 for size in sizes)


def test_embedded_set_has_its_special_images(embedded_dataset: Dataset) -> None:
    """One grayscale JPEG, one image without annotation, and crowd regions."""
    modes = []
    for sample in embedded_dataset.samples:
        with Image.open(sample.path) as image:
            modes.append(image.mode)
    annotated = {a["image_id"] for a in embedded_dataset.annotations}
    assert modes.count("L") == 1
    assert len(embedded_dataset.samples) - len(annotated) == 1
    assert sum(a["iscrowd"] for a in embedded_dataset.annotations) >= 3


@pytest.mark.parametrize("index", [0, 5, 7, 30], ids=["plain", "crowd", "grayscale", "large"])
def test_generator_made_the_embedded_set(
    generate: ModuleType, embedded_dataset: Dataset, index: int
) -> None:
    """Drawn again, a scene has the committed annotations, and the committed pixels but for JPEG."""
    drawn = generate.scene(index)
    image_id = generate.image_id(index)
    committed = [a for a in embedded_dataset.annotations if a["image_id"] == image_id]
    assert [(t.category_id, list(t.bbox), t.area, int(t.iscrowd)) for t in drawn.truths] == [
        (a["category_id"], a["bbox"], a["area"], a["iscrowd"]) for a in committed
    ]
    sample = next(s for s in embedded_dataset.samples if s.image_id == image_id)
    with Image.open(sample.path) as image:
        got = np.asarray(image, np.float32)
        wanted = np.asarray(drawn.image.convert(image.mode), np.float32)
    assert np.abs(got - wanted).mean() < JPEG_NOISE


def test_embedded_default_stays_small() -> None:
    """A clone stays quick: the images take a few MB, the half-precision checkpoint eight."""
    files = [path for path in embedded.coco_root().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    assert embedded.checkpoint().stat().st_size < 9e6
