"""Detections of another detector: read, and each fault planted there is named by its effect."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from effd0.data import fixture
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import input_scale
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.diagnosis.detection_hypotheses import (
    EXACT,
    count_different,
    image_candidates,
    make_detections,
    same_rows,
)
from effd0.diagnosis.detections import TRIED, faults_of_detections
from effd0.diagnosis.images import misplaced
from effd0.errors import ResultError
from effd0.metrics.coco import entries_of, read_results
from effd0.metrics.detection_diff import detection_parity
from effd0.results.check import DIAGNOSIS_LENGTH, EVIDENCE_LENGTH, Broken
from effd0.spec import D0, ModelSpec
from effd0.types import Tensors
from tests.faults.detections import PLANTED, RIGHT, Change, each, of_class, of_sides
from tests.faults.other_detector import Entries, Entry, Picture, Wrong, entries, write_entries
from tests.helpers.own_classes import FIVE, SPEC, cut_heads


class Scene:
    """Images and their heads as a whole data set, and what two detectors make of these."""

    def __init__(
        self, dataset: Dataset, heads: Sequence[HeadOutputs], file: Path, spec: ModelSpec = D0
    ) -> None:
        self.dataset, self.file, self.spec = replace(dataset, total=len(heads)), file, spec
        self.pictures = {
            sample.image_id: Picture(image, 1 / input_scale(sample.size, spec), sample.size, spec)
            for sample, image in zip(dataset.samples, heads, strict=True)
        }
        each = {id_: (p.heads, p.scale, p.size) for id_, p in self.pictures.items()}
        self.reference = {id_: postprocess(*image, spec) for id_, image in each.items()}
        self.candidates = {id_: image_candidates(*image, spec) for id_, image in each.items()}

    @cache  # noqa: B019  # a scene lives as long as the module
    def found(self, wrong: Wrong = RIGHT) -> Entries:
        """Return what the other detector finds."""
        return entries(self.pictures, wrong)

    def faults(self, content: Entries, dataset: Dataset | None = None) -> list[Broken]:
        """Return what is found wrong with a results file of *content*."""
        given = read_results(write_entries(self.file, content))
        images = self.dataset if dataset is None else dataset
        by_image = self.candidates.__getitem__
        return faults_of_detections(images, self.reference, given, self.spec, by_image)


@pytest.fixture(scope="module")
def heads(torch_heads: Tensors) -> list[HeadOutputs]:
    """The heads of five embedded images in the trained network."""
    return split_heads(torch_heads, D0)


@pytest.fixture(scope="module")
def scene(heads: list[HeadOutputs], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Five embedded images."""
    dataset = load_coco(fixture.coco_root(), image_limit=len(heads))
    return Scene(dataset, heads, tmp_path_factory.mktemp("results") / "results.json")


@pytest.fixture(scope="module")
def right(scene: Scene) -> Entries:
    """What the other detector finds if nothing is wrong with it."""
    return scene.found()


#: Candidates are suppressed over and over to find these.
LONG = ("IoU threshold", "class-agnostic", "best class", "soft NMS")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(LONG) else [])
        for name in PLANTED
    ],
)
def test_a_fault_is_named_with_its_stage(name: str, scene: Scene) -> None:
    """One fault of another detector is found as one, in lines that a verdict can show."""
    stage, wrong, change = PLANTED[name]
    (fault,) = scene.faults(change(scene.found(wrong)))
    assert (fault.stage, name in fault.diagnosis) == (stage, True)
    assert len(fault.evidence) <= EVIDENCE_LENGTH
    assert len(fault.diagnosis) <= DIAGNOSIS_LENGTH


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classes numbered 0 to 79", "classes numbered 0 to 4"),
        ("classes numbered 1 to 80", "classes numbered 1 to 5"),
        ("classes shifted up by one", "classes shifted up by one"),
        ("clipped to the padded square", "clipped to the padded square"),
        ("at most 20 detections per image", "at most 20 detections per image"),
    ],
)
def test_a_fault_is_named_among_own_classes(
    name: str, said: str, torch_heads: Tensors, scene: Scene
) -> None:
    """Ids with gaps in another order than COCO's are counted by their place too."""
    heads = split_heads(cut_heads(torch_heads, [*FIVE]), SPEC)
    own = Scene(scene.dataset, heads, scene.file, SPEC)
    stage, wrong, change = PLANTED[name]
    assert own.faults(own.found()) == []
    (fault,) = own.faults(change(own.found(wrong)))
    assert (fault.stage, said in fault.diagnosis) == (stage, True)


def test_ids_of_no_own_class_are_listed(torch_heads: Tensors, scene: Scene) -> None:
    """COCO's ids are foreign to a data set of other ones."""
    heads = split_heads(cut_heads(torch_heads, [*FIVE]), SPEC)
    own = Scene(scene.dataset, heads, scene.file, SPEC)
    (fault,) = own.faults([{**e, "category_id": n % 3 + 1} for n, e in enumerate(own.found())])
    assert fault.details[1:] == ("not the category ids of the data: 1, 2, 3",)


def _more(score: float, step: int) -> Change:
    """Small boxes of a low *score*, besides."""
    return lambda c: [*c, *({**e, "score": score, "bbox": [0, 0, 9, 9]} for e in c[::step])]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: random.Random(3).sample(c, len(c)),  # noqa: S311
        each(bbox=lambda e: [round(s, 1) for s in e["bbox"]], score=lambda e: round(e["score"], 3)),
        _more(5e-4, step=7),
        _more(1e-2, step=2),
    ],
    ids=["shuffled", "one-decimal", "more-below-the-threshold", "more-than-are-scored"],
)
def test_right_detections_have_no_fault(change: Change, scene: Scene, right: Entries) -> None:
    """Order, rounding of decimals, and what the evaluator leaves out are no faults."""
    assert scene.faults(change(right)) == []


def _with_noise(scene: Scene, heads: Sequence[HeadOutputs], size: float) -> Scene:
    """The scene as another arithmetic has it: noise of a part of each head's norm."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal(h.shape, np.float32) for h in (*heads[0].classes, *heads[0].boxes)]

    def noisy(image: HeadOutputs) -> HeadOutputs:
        levels = [
            head + np.float32(size * np.sqrt(np.square(head).mean())) * noise
            for head, noise in zip((*image.classes, *image.boxes), drawn, strict=True)
        ]
        return HeadOutputs(tuple(levels[:5]), tuple(levels[5:]))

    return Scene(scene.dataset, [noisy(image) for image in heads], scene.file)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-5, 2e-4, 2.2e-3, 5e-3], ids="noise={}".format)
def test_heads_of_another_precision_are_no_fault(
    size: float, scene: Scene, heads: list[HeadOutputs]
) -> None:
    """What a backend's arithmetic leaves in the heads is not taken for a fault behind them."""
    assert scene.faults(_with_noise(scene, heads, size).found()) == []


@pytest.mark.slow
def test_a_fault_is_named_in_another_precision(scene: Scene, heads: list[HeadOutputs]) -> None:
    """Heads in float16 do not hide what was done wrong with them."""
    noisy = _with_noise(scene, heads, 2.2e-3)
    names = ("xyxy written", "scale not applied", "classes numbered 0 to 79", "class-agnostic NMS")
    for name, words in (*zip(names, names, strict=True), ("IoU threshold 0.63", "IoU threshold 0")):
        stage, wrong, change = PLANTED[name]
        (fault,) = scene.faults(change(noisy.found(wrong)))
        # A threshold that fits is nowhere exact in noise.
        assert (fault.stage, words in fault.diagnosis) == (stage, True)


@pytest.mark.parametrize(
    ("wrong", "names", "stages"),
    [
        (RIGHT, ("xyxy written", "classes shifted down by one"), ["evaluate"] * 2),
        (Wrong(iou=0.6), ("xyxy written",), ["nms", "evaluate"]),
        (Wrong(floor=0.3), ("xyxy written",), ["nms", "evaluate"]),
        (RIGHT, ("xyxy written", "each has the next one's"), ["evaluate"] * 2),
    ],
    ids=["two-of-writing", "suppression-and-writing", "threshold-and-writing", "shifted-images"],
)
def test_two_faults_are_both_named(
    wrong: Wrong, names: tuple[str, ...], stages: list[str], scene: Scene
) -> None:
    """Faults in different steps are each named, the first stage first."""
    content = scene.found(wrong)
    for name in names:
        content = PLANTED[name][2](content)
    faults = scene.faults(content)
    assert [fault.stage for fault in faults] == stages
    said = " ".join(fault.diagnosis for fault in faults)
    assert all(name in said for name in names)


MISSING = "2 of 5 images have no detections, where effd0 finds some: 1074, 1111"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [e for e in c if e["image_id"] not in (1074, 1111)], MISSING),
        (lambda c: [*c, {**c[0], "image_id": 7}], "1 of 6 image ids are of no image: 7"),
        (lambda c: c + c, "5 of 5 images have all detections twice or more"),
        (
            lambda c: c + [e for e in c if e["image_id"] == 1148],
            "1 of 5 images have all detections twice or more: 1148",
        ),
        (
            each(image_id=lambda e: f"{e['image_id']:012d}"),
            "500 of 500 image ids in results.json are text",
        ),
    ],
    ids=["missing", "foreign", "all-twice", "last-image-twice", "text"],
)
def test_each_image_is_there_once(
    change: Change, message: str, scene: Scene, right: Entries
) -> None:
    """Images that are missing, foreign, doubled or named by text are counted and listed."""
    (fault,) = scene.faults(change(right))
    assert fault.stage == "evaluate"
    assert fault.evidence.startswith(message)


def test_what_is_left_out_is_not_missing_or_foreign(scene: Scene, right: Entries) -> None:
    """A limited run has no foreign image; a threshold that leaves images empty is one fault."""
    limited = replace(scene.dataset, total=6)
    assert scene.faults([*right, *({**e, "image_id": 7} for e in right[:9])], limited) == []
    # Two images have their best detection below 0.9.
    (fault,) = scene.faults(scene.found(Wrong(floor=0.9)))
    assert "score threshold 0.9" in fault.diagnosis


@pytest.mark.parametrize(
    ("field", "change", "stage", "others"),
    [
        ("boxes", of_sides(lambda side, _: side**1.1), "decode", "classes and scores"),
        ("scores", each(score=lambda e: e["score"] ** 2), "decode", "classes and boxes"),
        ("classes", of_class(lambda id_: 1 + id_ * 7 % 90), "evaluate", "boxes and scores"),
    ],
)
def test_what_has_no_name_is_confined(
    field: str, change: Change, stage: str, others: str, scene: Scene, right: Entries
) -> None:
    """Where one thing alone is wrong, it is said which, with the figures of all pairs."""
    (fault,) = scene.faults(change(right))
    assert fault.stage == stage
    assert fault.diagnosis.startswith(f"a fault of {field} alone: the error falls from ")
    assert fault.diagnosis.endswith(f"if only {others} are compared")
    assert "detections of 5 images matched" in fault.details[0]


@pytest.mark.slow
def test_what_nothing_explains_is_told_by_its_candidates(scene: Scene, right: Entries) -> None:
    """Boxes gone wrong before suppression, a wrong choice, and other heads are told apart."""
    factor = random.Random(1).uniform  # noqa: S311 (any factors)
    chosen = random.Random(5).sample(scene.found(Wrong(nms="none", keep=5000)), 300)  # noqa: S311
    other = [
        {**e, "bbox": [s * factor(0.9, 1.1) for s in e["bbox"]], "score": e["score"] * size}
        for e in right
        for size in [factor(0.8, 1)]
    ]
    for content, stage, message in (
        (scene.found(Wrong(factors=(1, 1, 0.6, 0.6))), "decode",
         "boxes are wrong, classes and scores of 100% are those of candidates"),
        (chosen, "nms", "100% are among effd0's candidates, but others are kept"),
        (other, "decode", "or the heads were others: compare those first"),
    ):  # fmt: skip
        (fault,) = scene.faults(content)
        assert (fault.stage, fault.diagnosis) == (stage, "")
        assert message in fault.evidence


def test_odd_values_are_listed(scene: Scene, right: Entries) -> None:
    """Negative sizes and ids that are not the data's are shown beside the worst images."""
    bad = {"bbox": [0, 0, -1, 5], "category_id": 91}
    (fault,) = scene.faults([{**e, **(bad if n % 9 == 0 else {})} for n, e in enumerate(right)])
    assert "worst images: " in fault.details[0]
    assert fault.details[1:] == (
        "56 boxes have a negative width or height", "not the category ids of the data: 91"
    )  # fmt: skip


def test_two_images_exchanged_are_named(scene: Scene, right: Entries) -> None:
    """Among right images, two whose detections were exchanged are told by both ids."""
    one, two = scene.dataset.samples[1], scene.dataset.samples[4]
    ids = {one.image_id: two.image_id, two.image_id: one.image_id}
    (fault,) = scene.faults(
        [{**e, "image_id": ids.get(e["image_id"], e["image_id"])} for e in right]
    )
    assert f"in 2 of 5 images ({one.image_id}, {two.image_id})" in fault.evidence
    assert fault.stage == "evaluate"
    assert fault.diagnosis.startswith("images exchanged: the error falls from ")
    assert f"{one.path.name} holds {two.path.name}" in fault.diagnosis


def test_an_image_that_holds_its_own_is_not_misplaced(scene: Scene) -> None:
    """With few classes another image may be like it too by chance, and even more so."""
    two = scene.dataset.samples[:2]
    for own, found in ((0.25, False), (0.75, True)):
        errors = {(a, b): own if a == b else 0.2 for a in two for b in two}
        order = misplaced(two, two, lambda a, b, of=errors: of[a, b], 0.4)  # type: ignore[misc]
        assert (order is not None) == found


def test_few_images_are_looked_into(scene: Scene, right: Entries) -> None:
    """Candidates are asked for of some images only, and of none where nothing is wrong."""
    ids = [10 * n for n in range(1, 41)]
    sample = scene.dataset.samples[0]
    samples = tuple(replace(sample, image_id=id_) for id_ in ids)
    dataset = replace(scene.dataset, samples=samples, total=len(ids))
    reference = dict.fromkeys(ids, scene.reference[sample.image_id])
    one = [entry for entry in right if entry["image_id"] == sample.image_id]
    candidates = Mock(return_value=scene.candidates[sample.image_id])
    for content, count in ((one, 0), (PLANTED["xyxy written"][2](one), TRIED - 2)):
        every = [{**entry, "image_id": id_} for id_ in ids for entry in content]
        given = read_results(write_entries(scene.file, every))
        faults = faults_of_detections(dataset, reference, given, D0, candidates)
        said = [fault.evidence for fault in faults]
        assert all("in 40 of 40 images (10, 20, 30, ...)" in text for text in said)
        assert (len(said), candidates.call_count) == (count > 0, count)


def test_steps_give_what_postprocessing_gives(scene: Scene) -> None:
    """The steps in which faults are planted are, without one, those of `postprocess`."""
    found = {id_: make_detections(image, D0) for id_, image in scene.candidates.items()}
    own = {
        id_: Detections(f.boxes.astype(np.float32), f.scores.astype(np.float32), f.classes)
        for id_, f in found.items()
    }
    parity = detection_parity(scene.reference, own)
    assert (parity.missing, parity.extra, parity.worst) == (0, 0, ())


# The file, and its rows.

ENTRY: Entry = {"image_id": 139, "category_id": 62, "bbox": [1.5, 2, 30.25, 4], "score": 0.5}


def test_rows_are_read_by_image_and_falling_score(tmp_path: Path) -> None:
    """Each row is what was written, whatever a detector cannot mean; a text id is its number."""
    other = {**ENTRY, "image_id": 285.0, "category_id": 1, "score": 1, "segmentation": []}
    odd = {"image_id": -4, "category_id": 700, "bbox": [9, 9, -3, 0], "score": -7.5}
    texts = ("139", "000000000139", "000000000139.jpg", "COCO_val2014_000000000139.jpg")
    content = [ENTRY, other, odd, odd, *({**ENTRY, "image_id": t, "score": 0.75} for t in texts)]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    found = read_results(path)
    assert (found.text_ids, [*found.images]) == (4, [-4, 139, 285])
    assert found.images[139]["score"].tolist() == [0.75] * 4 + [0.5]
    assert [*entries_of(found.images[139])][4] == ENTRY
    assert [*entries_of(found.images[-4])] == [odd, odd]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param([], "holds no detection", id="no-detection"),
        pytest.param(b"[" * 100_000, "got `array`", id="deep"),
        pytest.param({"annotations": []}, "Expected `array`, got `object`", id="dict"),
        pytest.param(
            [{**ENTRY, "bbox": [1, 2, 3]}], r"\[0\].bbox: .*length 4: \[1, 2, 3", id="three"
        ),
        pytest.param([{**ENTRY, "score": float("inf")}], "malformed", id="infinite"),
        pytest.param(
            [{**ENTRY, "category_id": 1.5}],
            r"\[0\].category_id: 1.5 is no whole",
            id="half-category",
        ),
        pytest.param(
            [{**ENTRY, "category_id": "cat"}],
            r'\[0\].category_id: .* got `str`: "cat"',
            id="category-name",
        ),
        pytest.param([{**ENTRY, "image_id": "scene"}], "'scene' is no id", id="no-digits"),
        pytest.param([{**ENTRY, "image_id": 2**63}], "<= 9223372036854775807: 92", id="huge-id"),
        pytest.param(None, "cannot be read: .*; give a COCO results file", id="absent"),
    ],
)
def test_another_form_is_refused(content: object, message: str, tmp_path: Path) -> None:
    """The message says what came and where, what was wanted, and to write the file again."""
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ResultError, match=message) as caught:
        read_results(path)
    assert str(caught.value).startswith(str(path))
    if content is not None:
        assert "but a COCO results file is one list of" in str(caught.value)
        assert str(caught.value).endswith("write the file again")


#: x, y, width, height, score, category id.
ROWS = np.array([
    [10, 20, 30, 40, 0.9, 1], [50, 60, 70, 80, 0.5, 2], [11, 21, 31, 41, 0.1, 1],
])  # fmt: skip


def test_rows_below_the_threshold_do_not_count() -> None:
    """What one side alone has below the threshold is neither a difference nor counted."""
    for score, alone in ((5e-4, 0), (1.5e-3, 0), (2e-3, 2)):
        one, other = ROWS.copy(), ROWS.copy()
        one[2, 4] = other[2, 4] = score
        other[2, :4] += 5
        assert count_different(one, other, EXACT, threshold=1e-3) == (alone, 4 + alone)


def test_rows_are_compared_by_their_size_and_paired_once() -> None:
    """Small boxes are not alike because they are small; of two like rows only one has a like."""
    left, right = same_rows(ROWS[[0, 0, 1]], ROWS, EXACT)
    assert sorted(right.tolist()) == [0, 1]
    assert len(set(left.tolist())) == 2
    small = np.hstack([ROWS[:, :4] / 640, ROWS[:, 4:]])
    moved = np.hstack([small[:, :4] + 0.01, ROWS[:, 4:]])
    assert count_different(small, moved, EXACT, threshold=1e-3) == (6, 6)
