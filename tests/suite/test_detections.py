"""The detections in --detections, made elsewhere, are those that effd0 makes of the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from effd0.data.coco import Dataset
from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.diagnosis.detection_hypotheses import ImageCandidates, image_candidates
from effd0.diagnosis.detections import faults_of_detections
from effd0.diagnosis.hypothesis import one_of
from effd0.errors import ResultError
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.coco import read_results
from effd0.results.check import Broken
from effd0.runners.base import Runner, choose_batch_size, make_feed, takes_pixels
from effd0.spec import ModelSpec

from .conftest import NoteFigure


@pytest.fixture(scope="session")
def detection_faults(
    pytestconfig: pytest.Config,
    open_under_test: Callable[[str], Runner],
    dataset_under_test: Dataset,
    scored_spec: ModelSpec,
) -> dict[str, list[Broken]]:
    """What is wrong with the file at each stage where it could be compared with effd0's heads."""
    file: Path | None = pytestconfig.getoption("--detections")
    if file is None:
        pytest.skip("needs detections made elsewhere: no --detections FILE was given")
    try:
        given = read_results(file)
    except ResultError as error:
        return {"evaluate": [Broken(str(error), stage="evaluate")]}
    samples = dataset_under_test.samples
    paths = {sample.image_id: sample.path for sample in samples}
    with open_under_test("recorded" if pytestconfig.getoption("--results") else "ort") as runner:

        def candidates(image_id: int) -> ImageCandidates:
            image = preprocess(paths[image_id], scored_spec, normalized=not takes_pixels(runner))
            heads = split_heads(runner.infer(make_feed([image], runner)), scored_spec)[0]
            return image_candidates(heads, image.image_scale, image.image_size, scored_spec)

        size = choose_batch_size(runner, None)
        found = run_dataset(samples, runner, scored_spec, batch_size=size)
        own = {sample.image_id: detections for sample, detections in found}
        faults = faults_of_detections(dataset_under_test, own, given, scored_spec, candidates)
    # Ids of no image are those of images in another order, which has a diagnosis, or of others.
    known = given.images.keys() & own.keys() or any(fault.diagnosis for fault in faults)
    stages = ("decode", "nms", "evaluate") if known else ("evaluate",)
    return {stage: [fault for fault in faults if fault.stage == stage] for stage in stages}


def _check(faults: dict[str, list[Broken]], stage: str, note_figure: NoteFigure) -> None:
    if stage not in faults:
        pytest.skip("needs detections that can be read, of the images under test")
    mine = faults[stage]
    note_figure(len(mine), 0, "faults")
    if mine:
        raise one_of(mine)


@pytest.mark.stage("decode")
def test_boxes_are_decoded_right(
    detection_faults: dict[str, list[Broken]], note_figure: NoteFigure
) -> None:
    """Boxes and scores are what the heads say, in pixels of the image."""
    _check(detection_faults, "decode", note_figure)


@pytest.mark.stage("nms")
def test_suppression_is_right(
    detection_faults: dict[str, list[Broken]], note_figure: NoteFigure
) -> None:
    """The detections kept are those that suppression within each class keeps, all of them."""
    _check(detection_faults, "nms", note_figure)


@pytest.mark.stage("evaluate")
def test_results_are_those_of_the_images(
    detection_faults: dict[str, list[Broken]], note_figure: NoteFigure
) -> None:
    """Each image has its detections once, written as COCO's evaluator reads them."""
    _check(detection_faults, "evaluate", note_figure)
