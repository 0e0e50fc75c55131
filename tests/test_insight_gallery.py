"""Tests for `effd0.insight.gallery` and its thumbnails: which images, and what is shown of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset, Sample, load_coco
from effd0.insight.gallery import BOXES, PICTURES, difference, gallery, mistakes
from effd0.insight.thumbnail import LARGEST, LONGEST, thumbnail
from effd0.metrics.coco import match_table
from effd0.metrics.tide import find_errors
from effd0.spec import D0

from .helpers import coco_content, noise, write_coco
from .scored import NOTHING, drawn_scenes, jittered, made

SQUARE, HALF, AWAY = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)


def decoded(text: str | None) -> Image.Image:
    """Return the picture in a thumbnail."""
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.mark.parametrize(
    ("reference", "candidate", "wanted"),
    [
        pytest.param([(*SQUARE, 0.5, 1)], [(*SQUARE, 0.5, 1)], 0, id="same"),
        pytest.param([], [], 0, id="nothing"),
        pytest.param([(*SQUARE, 0.5, 1)], [], 1, id="lost"),
        pytest.param([], [(*SQUARE, 0.5, 1)], 1, id="invented"),
        pytest.param([(*SQUARE, 0.5, 1)], [(*SQUARE, 0.5, 2)], 1, id="other-class"),
        pytest.param([(*SQUARE, 0.5, 1)], [(*HALF, 0.5, 1)], 0.5, id="half-the-iou"),
        pytest.param([(*SQUARE, 0.75, 1)], [(*SQUARE, 0.25, 1)], 0.5, id="third-of-the-score"),
        pytest.param([(*SQUARE, 0.25, 1)], [], 0, id="lost-unseen"),
        pytest.param([(*SQUARE, 0.25, 1)], [(*HALF, 0.25, 1)], 0, id="moved-unseen"),
        pytest.param(
            [(*SQUARE, 0.5, 1), (*AWAY, 0.5, 1)], [(*SQUARE, 0.5, 1)], 1 / 3, id="one-of-two"
        ),
        pytest.param(
            [(*SQUARE, 0.5, 1), (*AWAY, 0.25, 1)], [(*SQUARE, 0.5, 1)], 0, id="one-and-unseen"
        ),
    ],
)
def test_the_difference_is_the_part_of_scores_that_is_not_shared(
    reference: list[tuple[float, ...]], candidate: list[tuple[float, ...]], wanted: float
) -> None:
    """It is 0 for the same and 1 for nothing in common, weighed by score, and of what is shown."""
    # Scores are float32; these are exact in it, but for a third.
    assert difference(made(reference), made(candidate)) == pytest.approx(wanted, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_difference_has_no_sides(seed: int) -> None:
    """Swapping the sides changes nothing, it is 0 to 1, and 0 of a run with itself."""
    dataset = drawn_scenes(seed, 2)
    one, other = jittered(dataset, seed), jittered(dataset, seed + 1)
    for id_ in dataset.image_ids:
        there, back = difference(one[id_], other[id_]), difference(other[id_], one[id_])
        # Sums of the same float32 numbers in another order.
        assert there == pytest.approx(back, abs=1e-6)
        assert 0 <= there <= 1
        # An IoU with itself is 1, but for float32's rounding.
        assert difference(one[id_], one[id_]) == pytest.approx(0, abs=1e-6)


def test_mistakes_are_those_that_are_seen(tmp_path: Path) -> None:
    """An object counts unless a shown detection found it; so does a shown one that found none."""
    content = coco_content(6)
    large = {"id": 7, "image_id": 20, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 1200}
    crowd = {**large, "id": 8, "image_id": 60, "category_id": 2, "iscrowd": 1}
    content["annotations"] += [large, crowd]
    dataset = load_coco(write_coco(tmp_path, content))
    there, category = (2, 3, 12, 11), {n: 1 + n % 2 for n in range(1, 7)}
    found = {
        10: made([(*there, 0.9, category[1])]),
        20: made([(*there, 0.2, category[2])]),
        30: NOTHING,
        40: made([(*there, 0.9, category[4]), (*AWAY, 0.31, 1), (*AWAY, 0.29, 1)]),
        50: made([(*there, 0.9, category[4])]),
        60: made([(*there, 0.9, category[6]), (*there, 0.8, category[6])]),
    }
    errors = find_errors(match_table(dataset, found, D0))
    assert mistakes(dataset, errors) == {10: 0, 20: 2, 30: 1, 40: 1, 50: 2, 60: 1}


def test_the_greatest_differences_come_first(tmp_path: Path) -> None:
    """At most 80 images are chosen, equal ones by their id."""
    samples = tuple(Sample(n, tmp_path / f"{n}.png", (8, 8)) for n in range(1, PICTURES + 5))
    dataset = Dataset(Path("drawn"), samples, (), {1: "a"}, len(samples), ())
    found = dict.fromkeys(dataset.image_ids, NOTHING)
    differences = dict.fromkeys(dataset.image_ids, 0.25) | {50: 0.5, 84: 0.75}
    pictures = gallery(dataset, found, None, differences, D0)
    chosen = [84, 50, *(n for n in range(1, PICTURES) if n != 50)]
    assert [picture["image_id"] for picture in pictures] == chosen
    assert [picture["difference"] for picture in pictures[:3]] == [0.75, 0.5, 0.25]


def test_a_picture_holds_what_is_drawn_on_it(tmp_path: Path) -> None:
    """Boxes are x, y, width, height under their class's name; low scores are not shown."""
    content = coco_content(1)
    content["annotations"][0]["iscrowd"] = 1
    dataset = load_coco(write_coco(tmp_path, content))
    reference = {10: made([(1, 2, 4, 6, 0.75, 3), (0, 0, 1, 1, 0.5, 12)])}
    candidate = {10: made([(1.234, 2, 4, 6, 0.5, 2), (0, 0, 1, 1, 0.25, 2)])}
    (picture,) = gallery(dataset, candidate, reference, {10: 0.25}, D0)
    assert decoded(picture.pop("jpeg")).size == (40, 30)
    assert picture == {
        "image_id": 10,
        "file_name": "1.png",
        "width": 40,
        "height": 30,
        "difference": 0.25,
        "truth": [{"box": [2.0, 3.0, 10.0, 8.0], "class": "bicycle", "crowd": True}],
        "candidate": [{"box": [1.23, 2.0, 2.77, 4.0], "class": "bicycle", "score": 0.5}],
        # 3 is not in the dataset, but in COCO; 12 is in neither.
        "reference": [
            {"box": [1.0, 2.0, 3.0, 4.0], "class": "car", "score": 0.75},
            {"box": [0.0, 0.0, 1.0, 1.0], "class": "category 12", "score": 0.5},
        ],
    }


def test_the_best_detections_are_shown(tmp_path: Path) -> None:
    """Of more than 50, those with the highest scores."""
    dataset = load_coco(write_coco(tmp_path, coco_content(1)))
    scores = np.linspace(0.4, 0.9, BOXES + 10)
    found = {10: made([(0, 0, 9, 9, score, 1) for score in scores])}
    (picture,) = gallery(dataset, found, None, {10: 1}, D0)
    shown = [row["score"] for row in picture["candidate"]]
    assert shown == pytest.approx(sorted(scores, reverse=True)[:BOXES], abs=1e-4)  # rounded
    assert picture["reference"] is None


@pytest.mark.parametrize("content", [None, b"", b"no picture"], ids=["absent", "empty", "foreign"])
def test_an_image_that_cannot_be_read_has_no_thumbnail(
    content: bytes | None, tmp_path: Path
) -> None:
    """The rest of the gallery is not lost with it."""
    path = tmp_path / "1.jpg"
    if content is not None:
        path.write_bytes(content)
    assert thumbnail(path) is None


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((640, 480), (320, 240)), ((300, 1200), (80, 320)), ((50, 40), (50, 40))],
    ids=["landscape", "portrait", "small"],
)
def test_thumbnails_keep_their_aspect(
    size: tuple[int, int], wanted: tuple[int, int], tmp_path: Path
) -> None:
    """The longest side is 320 pixels at most, and nothing is enlarged; colours stay."""
    path = tmp_path / "1.png"
    Image.new("RGB", size, (200, 100, 50)).save(path)
    picture = decoded(thumbnail(path))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", wanted)
    # JPEG rounds colours; measured 2026-11-25: 1.
    assert np.array(picture)[0, 0] == pytest.approx((200, 100, 50), abs=3)


def test_eighty_thumbnails_stay_under_three_megabytes(tmp_path: Path) -> None:
    """Even noise, which no codec makes small, and a long comment in the file, fit their share."""
    path = tmp_path / "1.jpg"
    picture = Image.fromarray(noise((LONGEST, LONGEST)))
    picture.save(path, quality=95, comment=b"x" * 60_000)
    text = thumbnail(path)
    assert text is not None
    assert len(text) <= LARGEST
    assert PICTURES * LARGEST <= 3_000_000
    assert decoded(text).size == picture.size
