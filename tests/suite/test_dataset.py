"""Stage dataset: images and truths are whole, and mean what COCO means by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from effd0.data.coco import Dataset, check_images
from effd0.diagnosis.dataset import (
    check_boxes,
    check_categories,
    check_contents,
    check_doubles,
    facts,
)
from effd0.spec import ModelSpec

from .conftest import NoteFigure, need_its_images

pytestmark = pytest.mark.stage("dataset")


def test_every_image_can_be_decoded(dataset_under_test: Dataset, note_figure: NoteFigure) -> None:
    """Each image file is there, is whole, and has the size that is annotated."""
    decoded, wanted = 0, len(dataset_under_test.samples)
    for _ in check_images(dataset_under_test.samples):
        decoded += 1
    note_figure(decoded, wanted, "images")
    assert decoded == wanted > 0


def test_categories_are_the_models_classes(
    dataset_under_test: Dataset, spec: ModelSpec, pytestconfig: pytest.Config
) -> None:
    """Each category is a class: COCO's under COCO's ids, others by their ids or their order."""
    need_its_images(pytestconfig, spec)
    check_categories(dataset_under_test, spec)


def test_boxes_lie_in_their_images(dataset_under_test: Dataset) -> None:
    """Annotated boxes are x, y, width and height in pixels of their images."""
    check_boxes(dataset_under_test)


def test_no_object_is_annotated_twice(dataset_under_test: Dataset) -> None:
    """Annotations differ in image, category or box."""
    check_doubles(dataset_under_test)


def test_a_published_set_is_as_published(
    dataset_under_test: Dataset,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    """val2017 and the embedded scenes have the contents that they are known by."""
    notes = [*dataset_under_test.notes, check_contents(dataset_under_test)]
    if pytestconfig.getoption("--coco") is not None:
        notes += facts(dataset_under_test)
    record_property("evidence", "; ".join(filter(None, notes)))
