"""Tests for `effd0.suspicions.detections`: what another detector did otherwise is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from effd0 import embedded
from effd0.arrays import Floats, Tensors
from effd0.dataset import Dataset, load_coco
from effd0.heads import HeadOutputs, split_heads
from effd0.match import detection_parity
from effd0.postprocess import Detections, postprocess
from effd0.preprocess import input_scale
from effd0.results_json import read_results
from effd0.spec import D0, ModelSpec
from effd0.stages import EVIDENCE_LENGTH
from effd0.suspicions.detection_fault import DetectionFault
from effd0.suspicions.detection_steps import ImageCandidates, image_candidates, make
from effd0.suspicions.detections import TRIED, faults_of_detections

from .detection_plants import PLANTED, Planted
from .other_detector import Entries, Picture, Wrong, entries, write_entries


@dataclass(frozen=True)
class Scene:
    """Images, their heads, and what effd0 makes of these."""

    dataset: Dataset
    pictures: dict[int, Picture]
    spec: ModelSpec
    file: Path

    def reference(self) -> dict[int, Detections]:
        """Return effd0's own detections."""
        return {
            id_: postprocess(p.heads, p.scale, p.size, self.spec)
            for id_, p in self.pictures.items()
        }

    def candidates(self, image_id: int) -> ImageCandidates:
        """Return effd0's own candidates of an image."""
        picture = self.pictures[image_id]
        return image_candidates(picture.heads, picture.scale, picture.size, self.spec)

    def faults(self, content: Entries) -> list[DetectionFault]:
        """Return what is found wrong with a results file of *content*."""
        given = read_results(write_entries(self.file, content))
        return faults_of_detections(
            self.dataset, self.reference(), given, self.spec, self.candidates
        )


@pytest.fixture(scope="module")
def scene(torch_heads: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Five embedded images with the heads of the trained network, as a whole data set."""
    heads = split_heads(torch_heads, D0)
    dataset = load_coco(embedded.coco_root(), image_limit=len(heads))
    pictures = {
        sample.image_id: Picture(image, 1 / input_scale(sample.size, D0), sample.size)
        for sample, image in zip(dataset.samples, heads, strict=True)
    }
    file = tmp_path_factory.mktemp("results") / "results.json"
    return Scene(replace(dataset, total=len(heads)), pictures, D0, file)


@pytest.fixture(scope="module")
def right(scene: Scene) -> Entries:
    """What the other detector finds if nothing is wrong with it."""
    return entries(scene.pictures)


def noisy(heads: HeadOutputs, size: float, seed: int) -> HeadOutputs:
    """Return *heads* with noise of *size* of their norm, as another arithmetic has."""
    rng = np.random.default_rng(seed)

    def changed(head: Floats) -> Floats:
        spread = size * float(np.sqrt(np.square(head).mean()))
        return head + rng.standard_normal(head.shape, np.float32) * np.float32(spread)

    return HeadOutputs(tuple(map(changed, heads.classes)), tuple(map(changed, heads.boxes)))


def with_noise(scene: Scene, size: float) -> dict[int, Picture]:
    """Return the pictures of *scene* with `noisy` heads."""
    return {
        id_: replace(picture, heads=noisy(picture.heads, size, id_))
        for id_, picture in scene.pictures.items()
    }


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_mistake_is_named_with_its_stage(planted: Planted, scene: Scene) -> None:
    """One mistake in another detector is one fault, tested, in one line that a verdict can show."""
    faults = scene.faults(planted.written(scene.pictures))
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


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1e-5, id="float32"),
        pytest.param(2e-4, id="stored-in-float16"),
        pytest.param(2.2e-3, id="float16"),
    ],
)
def test_heads_of_another_precision_are_no_fault(size: float, scene: Scene) -> None:
    """What a backend's arithmetic leaves in the heads is not taken for a mistake behind them."""
    assert scene.faults(entries(with_noise(scene, size))) == []


@pytest.mark.parametrize("name", ["xyxy", "network-pixels", "class-agnostic", "iou-0.7"])
def test_a_mistake_is_named_in_another_precision(name: str, scene: Scene) -> None:
    """Heads in float16 do not hide what was done wrong with them."""
    planted = PLANTED[name]
    faults = scene.faults(planted.written(with_noise(scene, 2.2e-3)))
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
    content = entries(scene.pictures, wrong)
    for name in spoils:
        content = [PLANTED[name].spoil(entry) for entry in content]
    faults = scene.faults(content)
    assert [fault.stage for fault in faults] == stages
    said = " ".join(map(str, faults))
    assert all(PLANTED[name].name in said for name in spoils)


def test_shifted_images_do_not_hide_another_mistake(scene: Scene) -> None:
    """Detections are held against the image that they are of, whatever their id."""
    content = PLANTED["xyxy"].written(scene.pictures)
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
    limited = replace(scene, dataset=replace(scene.dataset, total=6))
    assert limited.faults([*right, *({**e, "image_id": 7} for e in right[:9])]) == []


def test_an_image_below_a_floor_is_not_missing(scene: Scene) -> None:
    """A floor that leaves images without detections is one fault, not two."""
    # Two images have their best detection below 0.9.
    faults = scene.faults(entries(scene.pictures, Wrong(floor=0.9)))
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
    (fault,) = scene.faults(entries(scene.pictures, Wrong(factors=(1, 1, 0.6, 0.6))))
    assert (fault.stage, fault.suspicion) == ("decode", None)
    assert "boxes are wrong, classes and scores of 100% are those of candidates" in str(fault)


def test_detections_chosen_in_an_unknown_way_are_a_fault_of_nms(scene: Scene) -> None:
    """Right candidates, wrongly chosen, are suppression's."""
    found = entries(scene.pictures, Wrong(nms="none", keep=5000))
    chosen = random.Random(5).sample(found, 300)  # noqa: S311 (any choice)
    (fault,) = scene.faults(chosen)
    assert (fault.stage, fault.suspicion) == ("nms", None)
    assert "100% are among effd0's candidates, but others are kept" in str(fault)


def test_detections_of_another_network_are_not_explained(scene: Scene) -> None:
    """Heads that differ by more than a precision leave nothing to be named but that."""
    (fault,) = scene.faults(entries(with_noise(scene, 3e-2)))
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


def test_few_images_are_looked_into(scene: Scene) -> None:
    """Candidates are asked for of some images only, and of none where nothing is wrong."""
    ids = [10 * n for n in range(1, 41)]
    sample, picture = scene.dataset.samples[0], next(iter(scene.pictures.values()))
    samples = tuple(replace(sample, image_id=id_) for id_ in ids)
    dataset = replace(scene.dataset, samples=samples, total=len(ids))
    own = postprocess(picture.heads, picture.scale, picture.size, D0)
    asked: list[int] = []

    def candidates(image_id: int) -> ImageCandidates:
        asked.append(image_id)
        return scene.candidates(sample.image_id)

    def faults(name: str | None) -> list[DetectionFault]:
        one = entries({0: picture}) if name is None else PLANTED[name].written({0: picture})
        content = [{**entry, "image_id": id_} for id_ in ids for entry in one]
        given = read_results(write_entries(scene.file, content))
        return faults_of_detections(dataset, dict.fromkeys(ids, own), given, D0, candidates)

    assert faults(None) == []
    assert asked == []
    assert "in 40 of 40 images (10, 20, 30, ...)" in str(faults("xyxy")[0])
    assert 0 < len(asked) <= TRIED


def test_steps_give_what_postprocessing_gives(scene: Scene) -> None:
    """The steps in which mistakes are made are, without one, those of `postprocess`."""
    reference = scene.reference()
    found = {id_: make(scene.candidates(id_), D0) for id_ in scene.pictures}
    own = {id_: Detections(f.boxes, f.scores, f.classes) for id_, f in found.items()}
    parity = detection_parity(reference, own)
    assert (parity.missing, parity.extra) == (0, 0)
    assert parity.worst == ()
