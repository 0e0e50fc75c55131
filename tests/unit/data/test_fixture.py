"""The embedded default holds what the other tests rely on, and its generator really made it."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from effd0.data.coco import Dataset

#: JPEG of quality 88 moves a pixel by 2.5 grey levels in the mean on these noisy scenes (measured
#: 2026-11-23: 1.8 to 3.1); another scene of the same size moves it by more than 30.
JPEG_NOISE = 5.0


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """The generator script, which lies outside the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[3] / "data_fixtures"))
        yield importlib.import_module("generate")


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


def test_the_embedded_set_has_every_kind_of_image(embedded_dataset: Dataset) -> None:
    """Categories beside the gaps of ids, objects and images of all sizes, crowds, gray, nothing."""
    truths, samples = embedded_dataset.annotations, embedded_dataset.samples
    used = {truth["category_id"] for truth in truths}
    assert len(used) >= 10
    assert (min(used) < 11, max(used) > 80) == (True, True)
    areas = np.array([truth["area"] for truth in truths if not truth["iscrowd"]])
    assert np.histogram(areas, [0, 32**2, 96**2, 1e9])[0].min() >= 20
    assert sum(truth["iscrowd"] for truth in truths) >= 3
    sizes = np.array([sample.size for sample in samples])
    assert {-1, 0, 1} == set(np.sign(sizes[:, 0] - sizes[:, 1]).tolist())
    assert (sizes % 2).all(axis=1).any()
    assert (sizes.max(axis=1).min() < 512, sizes.max() > 640) == (True, True)
    modes = []
    for sample in samples:
        with Image.open(sample.path) as image:
            modes.append(image.mode)
    assert modes.count("L") == 1
    assert len(samples) - len({truth["image_id"] for truth in truths}) == 1
