"""Tests for `effd0.suspicions.detections`: what another detector did otherwise is named."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import input_scale, preprocess
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.metrics.detection_diff import detection_parity
from effd0.results.check import EVIDENCE_LENGTH
from effd0.results_json import read_results
from effd0.runners.base import make_feed
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0
from effd0.suspicions.detection_fault import DetectionFault
from effd0.suspicions.detection_steps import ImageCandidates, image_candidates, make
from effd0.suspicions.detections import TRIED, faults_of_detections
from effd0.types import Tensors

from .detection_plants import PLANTED, Planted
from .other_detector import Entries, Entry, Picture, Wrong, entries, write_entries

RIGHT = Wrong()
CLONE = Path(__file__).parents[1]
ARTEFACT = CLONE / "tests" / "artefact" / "test_detections.py"


class Scene:
    """Images and their heads as a whole data set, and what two detectors make of these."""

    def __init__(self, dataset: Dataset, heads: Sequence[HeadOutputs], file: Path) -> None:
        self.dataset, self.file = replace(dataset, total=len(heads)), file
        self.pictures = {
            sample.image_id: Picture(image, 1 / input_scale(sample.size, D0), sample.size)
            for sample, image in zip(dataset.samples, heads, strict=True)
        }
        each = {id_: (p.heads, p.scale, p.size) for id_, p in self.pictures.items()}
        self.reference = {id_: postprocess(*image, D0) for id_, image in each.items()}
        self.candidates = {id_: image_candidates(*image, D0) for id_, image in each.items()}
        self._found: dict[Wrong, Entries] = {}

    def found(self, wrong: Wrong = RIGHT) -> Entries:
        """Return what the other detector finds."""
        if wrong not in self._found:
            self._found[wrong] = entries(self.pictures, wrong)
        return self._found[wrong]

    def faults(self, content: Entries, dataset: Dataset | None = None) -> list[DetectionFault]:
        """Return what is found wrong with a results file of *content*."""
        given = read_results(write_entries(self.file, content))
        images = self.dataset if dataset is None else dataset
        return faults_of_detections(images, self.reference, given, D0, self.candidates.__getitem__)


@pytest.fixture(scope="module")
def heads(torch_heads: Tensors) -> list[HeadOutputs]:
    """The heads of five embedded images in the trained network."""
    return split_heads(torch_heads, D0)


@pytest.fixture(scope="module")
def scene(heads: list[HeadOutputs], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Five embedded images."""
    dataset = load_coco(embedded.coco_root(), image_limit=len(heads))
    return Scene(dataset, heads, tmp_path_factory.mktemp("results") / "results.json")


@pytest.fixture(scope="module")
def right(scene: Scene) -> Entries:
    """What the other detector finds if nothing is wrong with it."""
    return scene.found()


@pytest.fixture(scope="module")
def with_noise(scene: Scene, heads: list[HeadOutputs]) -> Callable[[float], Scene]:
    """Return the scene as another arithmetic has it: noise of a part of each head's norm."""
    rng = np.random.default_rng(0)
    shapes = (heads[0].classes, heads[0].boxes)
    drawn = [[rng.standard_normal(head.shape, np.float32) for head in kind] for kind in shapes]

    def noisy(image: HeadOutputs, size: float) -> HeadOutputs:
        classes, boxes = (
            tuple(
                head + np.float32(size * np.sqrt(np.square(head).mean())) * noise
                for head, noise in zip(kind, noises, strict=True)
            )
            for kind, noises in zip((image.classes, image.boxes), drawn, strict=True)
        )
        return HeadOutputs(classes, boxes)

    @functools.cache
    def changed(size: float) -> Scene:
        return Scene(scene.dataset, [noisy(image, size) for image in heads], scene.file)

    return changed


#: Candidates are suppressed over and over to find these.
LONG = {"iou-0.7", "iou-0.63", "class-agnostic", "best-class", "soft-gaussian", "soft-linear"}


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(planted, id=name, marks=[pytest.mark.slow] if name in LONG else [])
        for name, planted in PLANTED.items()
    ],
)
def test_a_mistake_is_named_with_its_stage(planted: Planted, scene: Scene) -> None:
    """One mistake in another detector is one fault, tested, in one line that a verdict can show."""
    faults = scene.faults(planted.written(scene.found))
    assert [fault.stage for fault in faults] == [planted.stage]
    suspicion = faults[0].suspicion
    assert suspicion is not None
    assert planted.name in suspicion.name
    assert suspicion.error_after <= suspicion.error_before / 10
    assert len(str(faults[0])) <= EVIDENCE_LENGTH
    assert str(faults[0]).startswith(suspicion.name)


def _rounded(boxes: int, scores: int) -> Callable[[Entries], Entries]:
    def change(content: Entries) -> Entries:
        return [
            {
                **entry,
                "bbox": [round(side, boxes) for side in entry["bbox"]],
                "score": round(entry["score"], scores),
            }
            for entry in content
        ]

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(list, id="as-it-is"),
        pytest.param(lambda c: random.Random(3).sample(c, len(c)), id="shuffled"),  # noqa: S311
        pytest.param(_rounded(3, 5), id="three-decimals"),
        pytest.param(_rounded(2, 3), id="two-decimals"),
        pytest.param(_rounded(1, 3), id="one-decimal"),
        pytest.param(
            lambda c: [*c, *({**e, "score": 5e-4, "bbox": [0, 0, 9, 9]} for e in c[::7])],
            id="more-below-the-floor",
        ),
        pytest.param(
            lambda c: [*c, *({**e, "score": 1e-2, "bbox": [0, 0, 9, 9]} for e in c[::2])],
            id="more-than-are-scored",
        ),
    ],
)
def test_right_detections_have_no_fault(
    change: Callable[[Entries], Entries], scene: Scene, right: Entries
) -> None:
    """Order, rounding of decimals, and what the evaluator leaves out are no mistakes."""
    assert scene.faults(change(right)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1e-5, id="float32"),
        pytest.param(2e-4, id="stored-in-float16"),
        pytest.param(2.2e-3, id="float16"),
        pytest.param(5e-3, id="coarser"),
    ],
)
def test_heads_of_another_precision_are_no_fault(
    size: float, scene: Scene, with_noise: Callable[[float], Scene]
) -> None:
    """What a backend's arithmetic leaves in the heads is not taken for a mistake behind them."""
    assert scene.faults(with_noise(size).found()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "xyxy",
        "network-pixels",
        "80-from-0",
        "class-agnostic",
        "iou-0.7",
    ],
)
def test_a_mistake_is_named_in_another_precision(
    name: str, scene: Scene, with_noise: Callable[[float], Scene]
) -> None:
    """Heads in float16 do not hide what was done wrong with them."""
    planted = PLANTED[name]
    faults = scene.faults(planted.written(with_noise(2.2e-3).found))
    assert [fault.stage for fault in faults] == [planted.stage]
    # A threshold that fits is nowhere exact in noise.
    assert planted.name.rstrip("0.7") in str(faults[0])


@pytest.mark.parametrize(
    ("wrong", "spoils", "stages"),
    [
        pytest.param(
            Wrong(), ("xyxy", "classes-from-0"), ["evaluate", "evaluate"], id="two-of-writing"
        ),
        pytest.param(
            Wrong(), ("network-pixels", "80-from-0"), ["decode", "evaluate"], id="two-stages"
        ),
        pytest.param(Wrong(iou=0.6), ("xyxy",), ["nms", "evaluate"], id="suppression-and-writing"),
        pytest.param(Wrong(floor=0.3), ("xyxy",), ["nms", "evaluate"], id="floor-and-writing"),
    ],
)
def test_two_mistakes_are_both_named(
    wrong: Wrong, spoils: tuple[str, ...], stages: list[str], scene: Scene
) -> None:
    """Mistakes in different steps are each named, the first stage first."""
    content = scene.found(wrong)
    for name in spoils:
        content = [PLANTED[name].spoil(entry) for entry in content]
    faults = scene.faults(content)
    assert [fault.stage for fault in faults] == stages
    said = " ".join(map(str, faults))
    assert all(PLANTED[name].name in said for name in spoils)


def test_shifted_images_do_not_hide_another_mistake(scene: Scene) -> None:
    """Detections are held against the image that they are of, whatever their id."""
    content = PLANTED["xyxy"].written(scene.found)
    faults = scene.faults(PLANTED["next-image"].order(content))
    assert [fault.stage for fault in faults] == ["evaluate", "evaluate"]
    assert "the next one's" in str(faults[0])
    assert "xyxy written" in str(faults[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda c, ids: [e for e in c if e["image_id"] not in ids[2:4]],
            "2 of 5 images have no detections, where effd0 finds some: 1074, 1111",
            id="missing",
        ),
        pytest.param(
            lambda c, ids: [*c, *({**e, "image_id": 7} for e in c if e["image_id"] == ids[0])],
            "1 of 6 image ids are of no image: 7",
            id="foreign",
        ),
        pytest.param(
            lambda c, _: c + c, "5 of 5 images have all detections twice or more", id="all-twice"
        ),
        pytest.param(
            lambda c, ids: c + [e for e in c if e["image_id"] == ids[-1]],
            "1 of 5 images have all detections twice or more: 1148",
            id="last-image-twice",
        ),
        pytest.param(
            lambda c, _: [{**e, "image_id": f"{e['image_id']:012d}"} for e in c],
            "500 of 500 image ids in results.json are text",
            id="text",
        ),
    ],
)
def test_each_image_is_there_once(
    change: Callable[[Entries, list[int]], Entries], message: str, scene: Scene, right: Entries
) -> None:
    """Images that are missing, foreign, doubled or named by text are counted and listed."""
    faults = scene.faults(change(right, list(scene.pictures)))
    assert [fault.stage for fault in faults] == ["evaluate"]
    assert str(faults[0]).startswith(message)


def test_of_a_part_of_the_images_none_is_foreign(scene: Scene, right: Entries) -> None:
    """A limited run does not blame detections of images that were left out of it."""
    limited = replace(scene.dataset, total=6)
    assert scene.faults([*right, *({**e, "image_id": 7} for e in right[:9])], limited) == []


def test_an_image_below_a_floor_is_not_missing(scene: Scene) -> None:
    """A floor that leaves images without detections is one fault, not two."""
    # Two images have their best detection below 0.9.
    faults = scene.faults(scene.found(Wrong(floor=0.9)))
    assert [fault.stage for fault in faults] == ["nms"]
    assert "score floor 0.9" in str(faults[0])


@pytest.mark.parametrize(
    ("spoil", "stage", "message"),
    [
        pytest.param(
            lambda e: {**e, "bbox": [side**1.1 for side in e["bbox"]]},
            "decode",
            "a fault of boxes alone: the error falls from 1 to 0 if only classes and scores",
            id="boxes",
        ),
        pytest.param(
            lambda e: {**e, "score": e["score"] ** 2},
            "decode",
            "a fault of scores alone: the error falls from",
            id="scores",
        ),
        pytest.param(
            lambda e: {**e, "category_id": 1 + e["category_id"] * 7 % 90},
            "evaluate",
            "a fault of classes alone: the error falls from",
            id="classes",
        ),
    ],
)
def test_what_has_no_name_is_confined(
    spoil: Callable[[dict[str, object]], dict[str, object]],
    stage: str,
    message: str,
    scene: Scene,
    right: Entries,
) -> None:
    """Where one thing alone is wrong, it is said which, with the figures of all pairs."""
    (fault,) = scene.faults([spoil(entry) for entry in right])
    assert fault.stage == stage
    assert str(fault).startswith(message)
    assert len(str(fault).partition("\n")[0]) <= EVIDENCE_LENGTH
    assert "detections of 5 images matched" in fault.details


def test_boxes_decoded_in_an_unknown_way_are_a_fault_of_decoding(scene: Scene) -> None:
    """Boxes of right candidates that went wrong before suppression are told from suppression."""
    (fault,) = scene.faults(scene.found(Wrong(factors=(1, 1, 0.6, 0.6))))
    assert (fault.stage, fault.suspicion) == ("decode", None)
    assert "boxes are wrong, classes and scores of 100% are those of candidates" in str(fault)


@pytest.mark.slow
def test_detections_chosen_in_an_unknown_way_are_a_fault_of_nms(scene: Scene) -> None:
    """Right candidates, wrongly chosen, are suppression's."""
    found = scene.found(Wrong(nms="none", keep=5000))
    chosen = random.Random(5).sample(found, 300)  # noqa: S311 (any choice)
    (fault,) = scene.faults(chosen)
    assert (fault.stage, fault.suspicion) == ("nms", None)
    assert "100% are among effd0's candidates, but others are kept" in str(fault)


@pytest.mark.slow
def test_detections_of_another_network_are_not_explained(scene: Scene, right: Entries) -> None:
    """Where boxes and scores are all others, nothing is named but that."""
    factor = random.Random(1).uniform  # noqa: S311 (any factors)
    content = [
        {
            **entry,
            "bbox": [side * factor(0.9, 1.1) for side in entry["bbox"]],
            "score": entry["score"] * factor(0.8, 1),
        }
        for entry in right
    ]
    (fault,) = scene.faults(content)
    assert fault.suspicion is None
    assert "or the heads were others: compare those first" in str(fault)


def test_odd_values_are_listed(scene: Scene, right: Entries) -> None:
    """Negative sizes and ids that are not COCO's are shown beside what they are part of."""
    odd = [
        {**e, "bbox": [0, 0, -1, 5], "category_id": 91} if n % 9 == 0 else e
        for n, e in enumerate(right)
    ]
    (fault,) = scene.faults(odd)
    assert "56 boxes have a negative width or height" in str(fault)
    assert "not COCO's category ids: 91" in str(fault)


def test_one_wrong_image_is_found(scene: Scene, right: Entries) -> None:
    """An image alone is enough, and is listed."""
    content = [
        {**e, "bbox": [2 * side for side in e["bbox"]]} if e["image_id"] == 1074 else e
        for e in right
    ]
    (fault,) = scene.faults(content)
    assert fault.stage == "decode"
    assert "in 1 of 5 images (1074)" in str(fault)
    assert "worst images: 1074" in fault.details


@pytest.mark.slow
def test_few_images_are_looked_into(scene: Scene, right: Entries) -> None:
    """Candidates are asked for of some images only, and of none where nothing is wrong."""
    ids = [10 * n for n in range(1, 41)]
    sample = scene.dataset.samples[0]
    dataset = replace(
        scene.dataset, samples=tuple(replace(sample, image_id=id_) for id_ in ids), total=len(ids)
    )
    reference = dict.fromkeys(ids, scene.reference[sample.image_id])
    one = [entry for entry in right if entry["image_id"] == sample.image_id]
    asked: list[int] = []

    def candidates(image_id: int) -> ImageCandidates:
        asked.append(image_id)
        return scene.candidates[sample.image_id]

    def faults(planted: Callable[[Entry], Entry]) -> list[DetectionFault]:
        content = [{**planted(entry), "image_id": id_} for id_ in ids for entry in one]
        given = read_results(write_entries(scene.file, content))
        return faults_of_detections(dataset, reference, given, D0, candidates)

    assert faults(dict) == []
    assert asked == []
    assert "in 40 of 40 images (10, 20, 30, ...)" in str(faults(PLANTED["xyxy"].spoil)[0])
    assert 0 < len(asked) <= TRIED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"), [("network-pixels", "decode"), ("iou-0.7", "nms"), ("xyxy", "evaluate")]
)
def test_the_suite_names_the_stage_and_the_mistake(name: str, stage: str, tmp_path: Path) -> None:
    """With --detections alone, a mistake breaks its stage, and the verdict says which it is."""
    dataset = load_coco(embedded.coco_root())
    with open_runner("torch", embedded.checkpoint(), D0, RunnerOptions()) as runner:
        inputs = {sample: preprocess(sample.path, D0) for sample in dataset.samples}
        pictures = {
            sample.image_id: Picture(
                split_heads(runner.infer(make_feed([image], runner)), D0)[0],
                image.image_scale,
                image.image_size,
            )
            for sample, image in inputs.items()
        }

    def run(content: Entries) -> subprocess.CompletedProcess[str]:
        file = write_entries(tmp_path / "detections.json", content)
        command = [sys.executable, "-m", "pytest", "-q", f"--detections={file}", str(ARTEFACT)]
        return subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False)

    planted = PLANTED[name]
    wrong = run(planted.written(lambda setup: entries(pictures, setup)))
    assert wrong.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"FAIL  the first broken stage is {stage}" in wrong.stdout
    assert f"suspicion {planted.name}" in wrong.stdout


def test_steps_give_what_postprocessing_gives(scene: Scene) -> None:
    """The steps in which mistakes are made are, without one, those of `postprocess`."""
    found = {id_: make(image, D0) for id_, image in scene.candidates.items()}
    own = {id_: Detections(f.boxes, f.scores, f.classes) for id_, f in found.items()}
    parity = detection_parity(scene.reference, own)
    assert (parity.missing, parity.extra) == (0, 0)
    assert parity.worst == ()
