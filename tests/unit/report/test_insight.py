"""Tests for `effd0.report.insight`: what pictures of an evaluation are drawn from."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset, Sample, load_coco
from effd0.detection.postprocess import Detections
from effd0.metrics.coco import match_table, to_coco_results
from effd0.metrics.summary import coco_metrics
from effd0.metrics.tide import KINDS, find_errors
from effd0.report.insight import (
    LARGEST,
    LONGEST,
    PICTURES,
    difference,
    gallery,
    insight_of,
    mistakes,
    thumbnail,
)
from effd0.results.run import Insight
from effd0.spec import D0
from tests.helpers import coco_content, noise, write_coco
from tests.helpers.results import drawn_scenes, jittered
from tests.suite.truth import NOTHING, made

#: The same fractions in another order of sums; measured 2026-11-25 over 300 sets: 3.9e-16.
SAME = 1e-12
#: Name of a curve -> COCO's number that is its mean.
CURVES = {"0.50": "AP50", "0.75": "AP75", "0.50:0.95": "AP"}


def insight(
    dataset: Dataset, candidate: dict[int, Detections], reference: dict[int, Detections] | None
) -> Insight:
    """What is drawn of detections by image id."""
    evaluation: Any = SimpleNamespace(dataset=dataset, spec=D0, reference=None)
    evaluation.matches = match_table(dataset, candidate, D0)
    if reference is not None:
        evaluation.reference = SimpleNamespace(matches=match_table(dataset, reference, D0))
    return insight_of(evaluation)


@pytest.fixture(scope="module")
def of_embedded(embedded_dataset: Dataset) -> Insight:
    """The insight into two middling detectors of the embedded images."""
    found = [jittered(embedded_dataset, seed) for seed in (0, 1)]
    return insight(embedded_dataset, found[0], found[1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_mean_of_a_curve_is_its_metric(seed: int) -> None:
    """Each curve is the precision that a number of COCO's is the mean of."""
    dataset = drawn_scenes(seed, 8)
    found = jittered(dataset, seed)
    curves = insight(dataset, found, None).curves.candidate
    values = coco_metrics(dataset, found, D0).values
    for name, metric in CURVES.items():
        if values[metric] is None:
            assert curves[name] == [None] * 101
            continue
        mean = np.mean(np.array(curves[name], float))
        assert mean == pytest.approx(values[metric], rel=0, abs=SAME)


def test_both_sides_are_described_alike(of_embedded: Insight, embedded_dataset: Dataset) -> None:
    """What stands under reference is what would stand under candidate, were it that."""
    alone = insight(embedded_dataset, jittered(embedded_dataset, 1), None)
    for part in ("curves", "scores", "errors"):
        both, one = getattr(of_embedded, part), getattr(alone, part)
        assert both.reference == one.candidate != both.candidate
        assert one.reference is None
    for shown, sides in ((of_embedded, 2), (alone, 1)):
        order = [picture.difference for picture in shown.gallery]
        assert order == sorted(order, reverse=True)
        # With a reference images differ by 0 to 1; without one by whole mistakes.
        assert order[0] <= 1 if sides == 2 else order[0] == int(order[0]) > 1
        assert {picture.reference is None for picture in shown.gallery} == {sides == 1}
        assert all(picture.jpeg for picture in shown.gallery)
    assert tuple(of_embedded.errors.candidate) == KINDS
    assert of_embedded.recall == [n / 100 for n in range(101)]
    assert msgspec.json.decode(msgspec.json.encode(of_embedded), type=Insight) == of_embedded


def test_scores_are_counted_in_twenty_bins() -> None:
    """A bound belongs to the bin above it, 1 to the last; below the score floor nothing counts."""
    dataset = drawn_scenes(0, 1)
    scores = [0.0005, 0.0625, 0.25, 0.5, 0.625, 0.65625, 1]
    found = {1: made([(0, 0, 9, 9, score, 1) for score in scores])}
    bins = insight(dataset, found, None).scores
    assert bins.edges == [n / 20 for n in range(21)]
    wanted = dict.fromkeys(range(20), 0) | {1: 1, 5: 1, 10: 1, 12: 1, 13: 1, 19: 1}
    assert dict(enumerate(bins.candidate)) == wanted


def test_without_objects_only_ap_is_undefined(embedded_dataset: Dataset) -> None:
    """Curves and what fixing adds are null; scores, mistakes and the gallery are still there."""
    found = jittered(embedded_dataset, 0)
    empty = insight(replace(embedded_dataset, annotations=()), found, found)
    assert set(empty.curves.candidate["0.50"]) == {None}
    background = empty.errors.candidate["background"]
    assert (background.count, background.delta_ap) == (len(to_coco_results(found, D0)), None)
    assert sum(empty.scores.candidate) == background.count
    assert len(empty.gallery) == len(embedded_dataset.samples)


SQUARE, HALF, AWAY = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)


def decoded(text: str | None) -> Image.Image:
    """Return the picture in a thumbnail."""
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.mark.parametrize(
    ("reference", "candidate", "wanted"),
    [
        pytest.param([(*SQUARE, 0.5, 1)], [(*SQUARE, 0.5, 1)], 0, id="same"),
        pytest.param([(*SQUARE, 0.5, 1)], [], 1, id="lost"),
        pytest.param([(*SQUARE, 0.5, 1)], [(*SQUARE, 0.5, 2)], 1, id="other-class"),
        pytest.param([(*SQUARE, 0.5, 1)], [(*HALF, 0.5, 1)], 0.5, id="half-the-iou"),
        pytest.param([(*SQUARE, 0.75, 1)], [(*SQUARE, 0.25, 1)], 0.5, id="third-of-the-score"),
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
    dataset = drawn_scenes(seed, 1)
    (one,), (other,) = (jittered(dataset, n).values() for n in (seed, seed + 1))
    # Sums of the same float32 numbers in another order; an IoU with itself is 1 but for rounding.
    assert difference(one, other) == pytest.approx(difference(other, one), abs=1e-6)
    assert 0 <= difference(one, other) <= 1
    assert difference(one, one) == pytest.approx(0, abs=1e-6)


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
    pictures = gallery(dataset, [found], differences, D0)
    chosen = [84, 50, *(n for n in range(1, PICTURES) if n != 50)]
    assert [picture.image_id for picture in pictures] == chosen
    assert [picture.difference for picture in pictures[:3]] == [0.75, 0.5, 0.25]


def test_a_picture_holds_what_is_drawn_on_it(tmp_path: Path) -> None:
    """Boxes are x, y, width, height under their class's name; low scores are not shown."""
    content = coco_content(1)
    content["annotations"][0]["iscrowd"] = 1
    dataset = load_coco(write_coco(tmp_path, content))
    reference = {10: made([(1, 2, 4, 6, 0.75, 3), (0, 0, 1, 1, 0.5, 12)])}
    candidate = {10: made([(1.234, 2, 4, 6, 0.5, 2), (0, 0, 1, 1, 0.25, 2)])}
    (picture,) = gallery(dataset, [candidate, reference], {10: 0.25}, D0)
    plain = msgspec.to_builtins(picture)
    assert decoded(plain.pop("jpeg")).size == (40, 30)
    assert plain == {
        "image_id": 10,
        "file_name": "1.png",
        "width": 40,
        "height": 30,
        "difference": 0.25,
        "truth": [{"box": (2.0, 3.0, 10.0, 8.0), "class": "bicycle", "crowd": True}],
        "candidate": [{"box": (1.23, 2.0, 2.77, 4.0), "class": "bicycle", "score": 0.5}],
        # 3 is not in the dataset, but in COCO; 12 is in neither.
        "reference": [
            {"box": (1.0, 2.0, 3.0, 4.0), "class": "car", "score": 0.75},
            {"box": (0.0, 0.0, 1.0, 1.0), "class": "category 12", "score": 0.5},
        ],
    }


def test_an_image_that_cannot_be_read_has_no_thumbnail(tmp_path: Path) -> None:
    """The rest of the gallery is not lost with it."""
    path = tmp_path / "1.jpg"
    assert thumbnail(path) is None
    path.write_bytes(b"no picture")
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
