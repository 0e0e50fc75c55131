"""Tests for `effd0.detection.draw`: boxes and labels lie where the detections are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from effd0.data.coco import names_of
from effd0.detection.draw import draw_detections
from effd0.detection.postprocess import Detections
from effd0.errors import ImageError, OutputError
from effd0.spec import D0, ModelSpec
from tests.suite.truth import made

GRAY = 119
WIDTH, HEIGHT = 320, 200
PERSON, DOG = 1, 18

Box = tuple[float, float, float, float]
Picture = npt.NDArray[np.uint8]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A gray picture, on which whatever is drawn can be seen."""
    path = tmp_path / "gray.png"
    Image.new("RGB", (WIDTH, HEIGHT), (GRAY, GRAY, GRAY)).save(path)
    return path


def found(*boxes: Box, classes: tuple[int, ...] = ()) -> Detections:
    """Detections at *boxes* by falling score, from 0.9 in steps of a tenth."""
    kinds = classes or [PERSON] * len(boxes)
    return made([(*boxes[n], 0.9 - n / 10, kind) for n, kind in enumerate(kinds)])


def drawn(image: Path, detections: Detections, min_score: float = 0.3) -> Picture:
    """Return the picture with *detections* drawn, without loss."""
    out = image.with_name("out.bmp")
    draw_detections(image, detections, out, min_score)
    with Image.open(out) as picture:
        return np.array(picture)


def touched(picture: Picture) -> npt.NDArray[np.bool_]:
    """Where the picture is not gray any more."""
    changed: npt.NDArray[np.bool_] = (picture != GRAY).any(axis=2)
    return changed


def extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First column and row, last column and row in which *mask* holds anything."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_a_box_is_an_outline_of_the_pixels_it_covers(image: Path) -> None:
    """Corners (100, 80, 180, 150) covers columns 100 to 179 and rows 80 to 149, not the inside."""
    picture = drawn(image, found((100, 80, 180, 150)))
    mask = touched(picture)
    assert mask[80:150, [100, 179]].all()
    assert mask[[80, 149], 100:180].all()
    assert not mask[84:146, 104:176].any()
    assert not mask[80:, :100].any()
    assert not mask[80:, 180:].any()
    assert not mask[150:].any()


def test_the_best_lies_on_top(image: Path) -> None:
    """Where boxes coincide, the outline is that of the highest score."""
    box = (100.0, 80.0, 180.0, 150.0)
    alone = drawn(image, found(box, classes=(DOG,)))
    other = drawn(image, found(box, classes=(PERSON,)))
    both = drawn(image, found(box, box, classes=(DOG, PERSON)))
    assert both[149, 140].tolist() == alone[149, 140].tolist() != other[149, 140].tolist()


@pytest.mark.parametrize(("min_score", "count"), [(0.75, 2), (0.95, 0)], ids=["two", "none"])
def test_only_what_is_certain_enough_is_drawn(image: Path, min_score: float, count: int) -> None:
    """Scores 0.9, 0.8 and 0.7 against a floor; the number that is given is the number drawn."""
    boxes = [(x, 80.0, x + 40, 150.0) for x in (20.0, 120.0, 220.0)]
    out = image.with_name("out.png")
    assert draw_detections(image, found(*boxes), out, min_score) == count
    with Image.open(out) as picture:
        mask = touched(np.array(picture))
    assert [bool(mask[149, int(x) + 20]) for x, *_ in boxes] == [i < count for i in range(3)]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((300.0, 80.0, 320.0, 150.0), id="right"),
        pytest.param((0.0, 80.0, 10.0, 150.0), id="left"),
        pytest.param((300.0, 0.0, 320.0, 30.0), id="top-right"),
        pytest.param((150.0, 190.0, 160.0, 200.0), id="bottom"),
    ],
)
def test_a_label_stays_in_the_picture(image: Path, box: Box) -> None:
    """The label of a box at the border is as large as that of one in the middle."""
    middle = drawn(image, found((150, 100, 155, 105)))
    left, top, right, _ = extent(touched(middle[:100]))
    size = (right - left, 100 - top)  # the label, which ends at or a little above the box
    x1, y1, x2, y2 = extent(touched(drawn(image, found(box))))
    # The rightmost column of a label may fall on the picture's edge.
    assert x2 - x1 >= size[0] - 1
    assert y2 - y1 >= min(size[1], int(box[3] - box[1]) - 1)


@pytest.mark.parametrize("name", ["out.xyz", "out.psd"], ids=["unknown", "no-writer"])
def test_a_suffix_that_is_no_pictures_is_refused(image: Path, name: str) -> None:
    """The suffix picks the format, so one that Pillow cannot write is named before any work."""
    with pytest.raises(OutputError, match=rf"--out is '{name}', but its suffix must be a picture"):
        draw_detections(image, found(), image.with_name(name), 0.3)
    assert not image.with_name(name).exists()


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    """The picture to look at is checked before one is written."""
    with pytest.raises(ImageError, match=r"nothing\.jpg"):
        draw_detections(tmp_path / "nothing.jpg", found(), tmp_path / "out.png", 0.3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "category", "label"),
    [
        pytest.param(D0, PERSON, "person 0.90", id="cocos"),
        # COCO leaves ids such as 12 unused; a model may still give them.
        pytest.param(D0, 12, "class 12 0.90", id="nameless"),
        pytest.param(replace(D0, num_classes=5), PERSON, "class 1 0.90", id="own-classes"),
    ],
)
def test_a_label_is_cocos_name_or_a_number(
    spec: ModelSpec, category: int, label: str, image: Path
) -> None:
    """What a model of other classes found is called by no name of COCO's."""
    with mock.patch.object(ImageDraw.ImageDraw, "text") as text:
        one = found((20, 80, 60, 150), classes=(category,))
        assert draw_detections(image, one, image, 0.3, names_of(spec)) == 1
    assert [call.args[1] for call in text.call_args_list] == [label]
