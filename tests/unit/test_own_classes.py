"""A model of one's own classes: labels, names, files, metrics, and the whole suite."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import safetensors.torch
import torch

from effd0.data import fixture
from effd0.data.coco import Dataset, Sample, ids_of, label_notes, labelled, load_coco
from effd0.data.preprocess import input_scale
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.diagnosis.dataset import check_categories, check_reference
from effd0.errors import DatasetError, RunnerError
from effd0.metrics.coco import match_table
from effd0.results.check import STAGES, Broken
from effd0.results.run import read_run
from effd0.runners.base import TensorInfo, check_classes
from effd0.runners.checkpoint import class_count, read_weights
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tolerances import TO_RECORD
from effd0.types import Tensor, Tensors
from tests.emulator.acl import installed
from tests.emulator.tools import FLOAT32, emulated_path
from tests.faults.run import Good, Planted, base_options, make_good, run_suite
from tests.faults.work import FAULTS, run_fault
from tests.helpers import assert_one_error, effd0
from tests.helpers.own_classes import FIVE, SPEC, cut_checkpoint, cut_heads, cut_scenes
from tests.suite.truth import perfect

State = dict[str, Any]
OWN = dict(FIVE.values())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded scenes with objects of five classes."""
    return cut_scenes(FIVE, tmp_path_factory.mktemp("own") / "coco")


@pytest.fixture(scope="module")
def checkpoint_of_five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded weights of these classes."""
    return cut_checkpoint([*FIVE], tmp_path_factory.mktemp("own") / "five.pth")


def detected(heads: Tensors, spec: ModelSpec) -> list[Detections]:
    """What *heads* of the first embedded scenes say."""
    every = split_heads(heads, spec)
    samples = load_coco(fixture.coco_root(), image_limit=len(every)).samples
    return [
        postprocess(image, 1 / input_scale(sample.size, spec), sample.size, spec)
        for image, sample in zip(every, samples, strict=True)
    ]


def assert_same(got: list[Detections], wanted: list[Detections], ids: Mapping[int, int]) -> None:
    """Both are the same bit for bit, but that *ids* has the category in *got* of each *wanted*."""
    for one, other in zip(got, wanted, strict=True):
        assert len(one) == len(other) > 0
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.scores, other.scores)
        assert one.classes.tolist() == [ids[id_] for id_ in other.classes.tolist()]


# Labels.


def dataset_of(categories: Mapping[int, str]) -> Dataset:
    """No image, and *categories*."""
    sample = Sample(1, Path("1.jpg"), (40, 30))
    return Dataset(Path("own.json"), (sample,), (), dict(categories), 1, ())


@pytest.mark.parametrize(
    ("ids", "classes", "wanted"),
    [
        pytest.param([1, 2, 3, 4, 5], 5, None, id="all-ids"),
        pytest.param([2, 5], 5, None, id="some-ids"),
        pytest.param([300, 7, 12, 4096, 301], 5, (7, 12, 300, 301, 4096), id="in-any-order"),
        pytest.param([0, 1, 2, 3, 4], 5, (0, 1, 2, 3, 4), id="from-zero"),
        pytest.param([3, 4, 5, 6, 7], 5, (3, 4, 5, 6, 7), id="to-beyond-the-classes"),
        pytest.param([17], 1, (17,), id="one-class"),
        pytest.param([*range(1, 201)], 200, None, id="200-classes"),
        pytest.param([*range(1000, 1200)], 200, (*range(1000, 1200),), id="200-own-ids"),
    ],
)
def test_a_label_is_an_id_or_a_place_among_the_ids(
    ids: list[int], classes: int, wanted: tuple[int, ...] | None
) -> None:
    """Ids from 1 to the number of classes are the labels; others are so in rising order."""
    spec = replace(D0, num_classes=classes)
    dataset = dataset_of({id_: f"n{id_}" for id_ in ids})
    own = labelled(spec, dataset)
    assert own == replace(spec, category_ids=wanted)
    assert ids_of(own) == [*(wanted or range(1, classes + 1))]
    assert f"{classes} classes" in label_notes(own, dataset)[0]
    check_categories(dataset, spec)


@pytest.mark.parametrize(
    ("ids", "classes"),
    [([7, 12, 300], 5), ([0, 1], 5), ([2, 6], 5), ([], 5), ([7, 12], 1), (range(201), 200)],
    ids=["fewer", "fewer-from-zero", "one-beyond", "none", "more", "more-than-200"],
)
def test_categories_that_cannot_be_the_classes_are_refused(ids: list[int], classes: int) -> None:
    """One error shows both sides and says what to give."""
    dataset = dataset_of({id_: f"n{id_}" for id_ in ids})
    said = f"own.json has {len(ids)} categories with the ids .*, but the model has {classes} clas"
    with pytest.raises(DatasetError, match=said):
        labelled(replace(D0, num_classes=classes), dataset)


def test_a_model_and_images_of_other_classes_are_one_error(
    checkpoint_of_five: Path, scenes: Path, onnx_model: Path
) -> None:
    """A command shows the ids of the data set and the classes of the model, either way round."""
    runs = ("evaluate", "--runner", "torch", "--checkpoint", checkpoint_of_five)
    assert_one_error(
        r"80 categories with the ids 1, 2, .* but the\s+model has 5 classes",
        *runs, "--root", fixture.coco_root(),
    )  # fmt: skip
    assert_one_error(
        r"5 categories with the ids 7, 12, 300, 301, 4096, but\s+the model has 90 classes",
        "evaluate", "--model", onnx_model, "--root", scenes,
    )  # fmt: skip


# The same logits, whatever classes are beside them.


def test_the_cut_network_computes_the_same_logits(
    checkpoint_of_five: Path, images: Tensor, torch_heads: Tensors
) -> None:
    """A class does not depend on those beside it: what is cut out is what a cut network gives."""
    with open_runner("torch", checkpoint_of_five, SPEC, RunnerOptions()) as runner:
        heads = runner.infer({SPEC.input_name: images[:1]})
    assert {name: head.shape[1:] for name, head in heads.items()} == SPEC.head_shapes
    for name, wanted in cut_heads({n: h[:1] for n, h in torch_heads.items()}, [*FIVE]).items():
        # None differed on two cores (measured 2026-12-01); kernels may sum in another order, which
        # leaves 5e-5 of logits up to 20.
        np.testing.assert_allclose(heads[name], wanted, rtol=0, atol=1e-4)


def test_five_classes_are_found_as_among_ninety(torch_heads: Tensors) -> None:
    """Where the other classes are silent, the five give the same detections under their own ids."""
    silent = [id_ if id_ in FIVE else None for id_ in range(1, D0.num_classes + 1)]
    wanted = detected(cut_heads(torch_heads, silent), D0)
    got = detected(cut_heads(torch_heads, [*FIVE]), SPEC)
    assert_same(got, wanted, {id_: own for id_, (own, _) in FIVE.items()})


@pytest.mark.parametrize("category", [None, (17,)], ids=["label-is-id", "own-id"])
def test_one_class_is_found_as_among_five(
    category: tuple[int, ...] | None, torch_heads: Tensors
) -> None:
    """A class alone is the same as one whose neighbours are silent."""
    spec = replace(D0, num_classes=1, category_ids=category)
    five = replace(D0, num_classes=5)
    wanted = detected(cut_heads(torch_heads, [72, *[None] * 4]), five)
    got = detected(cut_heads(torch_heads, [72]), spec)
    assert_same(got, wanted, {1: 17 if category else 1})


@pytest.mark.parametrize("first", [None, 1000], ids=["label-is-id", "own-ids"])
def test_two_hundred_classes_are_found_as_five(first: int | None, torch_heads: Tensors) -> None:
    """Classes that are silent, before, between and behind the others, change nothing."""
    ids = None if first is None else tuple(range(first, first + 200))
    spec = replace(D0, num_classes=200, category_ids=ids)
    places: list[int | None] = [None] * 200
    at = [0, 41, 90, 150, 199]
    for place, own in zip(at, FIVE, strict=True):
        places[place] = own
    got, wanted = (
        detected(cut_heads(torch_heads, places), spec),
        detected(cut_heads(torch_heads, [*FIVE]), SPEC),
    )
    assert_same(got, wanted, {own: n + (first or 1) for n, own in zip(at, OWN, strict=True)})


# Names.


@pytest.fixture(scope="module")
def recorded(torch_heads: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five classes' heads of five scenes, as ais_bench writes them."""
    folder = tmp_path_factory.mktemp("recorded") / "result"
    folder.mkdir()
    samples = load_coco(fixture.coco_root(), image_limit=5).samples
    for number, head in enumerate(cut_heads(torch_heads, [*FIVE]).values()):
        for sample, row in zip(samples, head, strict=True):
            row.tofile(folder / f"{sample.path.stem}_{number}.bin")
    return folder


def test_names_come_through_as_they_are_written(
    recorded: Path, scenes: Path, tmp_path: Path
) -> None:
    """Table, CSV, JSON, run file and page have the data set's names, in whatever alphabet."""
    table, flat, run, page = (tmp_path / n for n in ("ap.csv", "ap.json", "run.json", "run.html"))
    done = effd0(
        "postprocess", "--root", scenes, "--omfile", recorded, "--num-classes", 5,
        "--image-limit", 5, "--per-class", "--csv", table, "--json", flat, "--report-json", run,
        columns=160,
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    assert effd0("report", run, "--html", page).code == 0
    (accuracy,) = read_run(run).accuracy
    assert accuracy.per_class.keys() == {*OWN.values()}
    assert accuracy.operating_point is not None
    assert accuracy.operating_point.candidate.per_class.keys() == {*OWN.values()}
    assert json.loads(flat.read_text())["per_class"] == accuracy.per_class
    with table.open(newline="", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {*OWN.values(), "all"}
    html = page.read_text(encoding="utf-8")
    for id_, name in OWN.items():
        assert name in done.out
        assert name in html
        assert re.search(rf"\b{id_}\b", done.out)
    # None of COCO's names belongs to these classes.
    assert not [name for name in ("person", "stop sign") if name in html]


def test_classes_in_another_order_are_named(scenes: Path) -> None:
    """Where ids were given to other names than the model has learnt, both are named."""
    dataset = replace(load_coco(scenes, image_limit=12), total=12)
    found, swap = perfect(dataset), {7: 4096, 4096: 7}
    check_reference(match_table(dataset, found, SPEC), SPEC, None)
    wrong = tuple(
        a | {"category_id": swap.get(a["category_id"], a["category_id"])}
        for a in dataset.annotations
    )
    with pytest.raises(Broken) as caught:
        check_reference(match_table(replace(dataset, annotations=wrong), found, SPEC), SPEC, None)
    assert caught.value.diagnosis.startswith(
        f"category {OWN[7]} and {OWN[4096]} exchanged: mAP rises from "
    )


# The number of classes, read from files.


def wrapped(state: State) -> State:
    """What a training tool saves."""
    return {"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}}


def two_sets(state: State) -> State:
    """The weights, and their moving average."""
    return {"state_dict": state, "state_dict_ema": {n: v.clone() for n, v in state.items()}}


def differing(state: State) -> State:
    """Two sets of weights, one of them of fewer classes."""
    of = ("class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias")
    return {"model": state, "teacher": state | {name: state[name][:36] for name in of}}


def contiguous(state: State, path: Path) -> None:
    """Save *state* as safetensors."""
    safetensors.torch.save_file({n: v.contiguous() for n, v in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "save", "count"),
    [
        pytest.param("five.pth", torch.save, 5, id="state-dict"),
        pytest.param("five.pth", lambda s, p: torch.save(wrapped(s), p), 5, id="wrapped"),
        pytest.param("five.pth", lambda s, p: torch.save(two_sets(s), p), 5, id="moving-average"),
        pytest.param("five.pth", lambda s, p: torch.save(differing(s), p), None, id="differing"),
        pytest.param(
            "five.pth", lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False), None,
            id="before-torch-1.6",
        ),
        pytest.param("five.safetensors", contiguous, 5, id="safetensors"),
        pytest.param("five.pth", lambda _, p: p.write_bytes(b"PK\3\4 no zip"), None, id="damaged"),
    ],
)  # fmt: skip
def test_the_number_of_classes_is_read_from_weights(
    name: str,
    save: Callable[[State, Path], object],
    count: int | None,
    checkpoint_of_five: Path,
    tmp_path: Path,
) -> None:
    """However they are wrapped; None where sets differ or the file is not of a form it can read."""
    save(dict(read_weights(checkpoint_of_five)), tmp_path / name)
    assert class_count(tmp_path / name, D0) == count


def test_the_number_of_classes_needs_no_torch(checkpoint_of_five: Path) -> None:
    """It is read in a moment, where torch takes seconds to be imported or is not installed."""
    code = (
        "import sys; from pathlib import Path; from effd0.evaluation.model import ArchOptions; "
        "print(ArchOptions().spec(Path(sys.argv[1])).num_classes, 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(checkpoint_of_five)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False"]


def test_another_number_of_classes_is_refused(checkpoint_of_five: Path, onnx_model: Path) -> None:
    """Of weights and of a model, one error names what there is, what was asked for, and the way."""
    assert_one_error(
        r"is not a checkpoint of tf_efficientdet_d0 with 6 classes: class_net.*is \(45,.* but "
        r"\(54,.*--num-classes",
        "export", "--checkpoint", checkpoint_of_five, "--num-classes", 6, "--out", "never.onnx",
    )  # fmt: skip
    assert_one_error(
        r"with 5 classes.*--num-classes|5 classes",
        "evaluate", "--model", onnx_model, "--num-classes", 5, "--image-limit", 1,
    )  # fmt: skip


def test_a_compiled_model_of_other_classes_is_refused() -> None:
    """What no file says is seen when the model is opened: the error has the number to give."""
    heads = [TensorInfo(name, (1, *s), np.dtype("f4")) for name, s in SPEC.head_shapes.items()]
    runner = Mock(outputs=heads)
    check_classes(runner, SPEC)
    with pytest.raises(RunnerError, match=r"have 5 classes, but 90 .*--num-classes 5$"):
        check_classes(runner, D0)


# From the images to the gate.


def points(root: Path, out: Path, *model: object) -> dict[str, float]:
    """AP by class of a *model* on the images of *root*, and ``all``, in percent."""
    assert effd0("evaluate", "--root", root, *model, "--json", out).code == 0
    found = json.loads(out.read_text())
    every = {**found["per_class"], "all": found["metrics"]["AP"]}
    return {name: 100 * ap for name, ap in every.items() if ap is not None}


@pytest.mark.slow
def test_five_classes_score_as_among_ninety(
    checkpoint_of_five: Path, scenes: Path, onnx_model: Path, tmp_path: Path
) -> None:
    """
    The AP of a class is what it has among ninety, but for what others crowd out there.

    Ninety share the best 5,000 candidates and 100 detections of an image: AP of a class moved by
    up to 0.42 points, mAP of the five by 0.07 (measured 2026-12-01).
    """
    ninety = points(fixture.coco_root(), tmp_path / "ninety.json", "--model", onnx_model)
    five = points(scenes, tmp_path / "five.json", "--checkpoint", checkpoint_of_five)
    names = load_coco(fixture.coco_root()).categories
    wanted = {own: ninety[names[id_]] for id_, (_, own) in FIVE.items()}
    assert {name: five[name] for name in wanted} == pytest.approx(wanted, abs=1.0)
    assert five["all"] == pytest.approx(np.mean([*wanted.values()]), abs=0.2)


@pytest.fixture(scope="module")
def good(checkpoint_of_five: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Good:
    """The zoo's pipeline of five classes."""
    return make_good(tmp_path_factory.mktemp("good"), SPEC, scenes, checkpoint_of_five)


@pytest.mark.slow
def test_the_suite_passes(good: Good) -> None:
    """Each stage that these files let be tested passes on classes of one's own."""
    planted = Planted((*base_options(good), f"--model={good.model}", "--runner=ort"))
    outcome = run_suite(planted, first_only=False)
    assert outcome.passed, outcome.output
    # Twelve images decide no drop.
    assert {*outcome.verdict.passed, "gate"} == {*STAGES}


@pytest.mark.slow
def test_without_images_the_stages_up_to_the_runners_are_tested(good: Good) -> None:
    """Nothing is scored on scenes of other classes; the verdict says what is missing."""
    files = (f"--model={good.model}", f"--checkpoint={good.checkpoint}", "--runner=ort")
    outcome = run_suite(Planted(files), first_only=False)
    assert outcome.passed, outcome.output
    assert outcome.verdict.status == "incomplete"
    assert {"export", "graph", "runner"} <= set(outcome.verdict.passed)
    assert outcome.verdict.untested == ("gate",)
    assert "images of the model's 5 classes" in outcome.output


@pytest.mark.slow
def test_images_of_other_classes_fail_the_stage_dataset(good: Good) -> None:
    """The suite says what the command says."""
    planted = Planted(tuple(
        word if not word.startswith("--coco") else f"--coco={fixture.coco_root()}"
        for word in (*base_options(good), f"--model={good.model}", "--runner=ort")
    ))  # fmt: skip
    verdict = run_suite(planted).verdict
    assert (verdict.status, verdict.stage) == ("fail", "dataset")
    assert "80 categories with the ids 1, 2, " in verdict.evidence
    assert "but the model has 5 classes" in verdict.evidence


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["class-biases-lost", "weights-scaled-in-a-head", "resize-mode", "background-class",
     "nms-over-classes"],
)  # fmt: skip
def test_faults_are_caught_as_among_ninety(name: str, good: Good) -> None:
    """A fault of weights, graph, outputs or detections is caught in its stage, under its name."""
    outcome, _ = run_fault(good, name)
    fault = FAULTS[name]
    assert not outcome.passed
    assert outcome.verdict.stage == fault.stage
    assert re.search(fault.diagnosis, outcome.verdict.diagnosis)


@pytest.mark.slow
def test_the_recipe_runs_on_an_emulated_board(
    checkpoint_of_five: Path, scenes: Path, tmp_path: Path
) -> None:
    """Export, simplify, modify, compile, preprocess, infer, postprocess: 45 channels, same mAP."""

    def run(*words: object) -> None:
        done = effd0(*words)
        assert done.code == 0, done.err

    few, classes, scores = ("--image-limit", 4), ("--num-classes", 5), tmp_path / "scores.json"
    raw, sim, modified = (tmp_path / f"{name}.onnx" for name in ("raw", "sim", "m"))
    run("export", "--checkpoint", checkpoint_of_five, "--batch-size", 2, "--out", raw)
    run("simplify", "--model", raw, "--out", sim)
    run("modify", "--model", sim, "--out", modified)
    with emulated_path():
        om, bins = tmp_path / "five.om", tmp_path / "bins"
        soc = ("--soc-version", "Ascend310P3", "--precision-mode", FLOAT32)
        run("compile", "--model", modified, "--output", om, *soc)
        run("preprocess", "--root", scenes, "--bin-save", bins, *few)
        with installed() as emulator:
            infer = ("infer", "--model", om, "--input", bins, "--output", tmp_path)
            # A compiled model does not say its classes before it is opened.
            assert_one_error("heads of the model have 5 classes, .* give --num-classes 5", *infer)
            run(*infer, *classes)
            emulator.assert_clean()
    files = [path.stat().st_size for path in (tmp_path / "result").glob("*.bin")]
    assert max(files) == 45 * 64 * 64 * 4
    score = ("--root", scenes, "--omfile", tmp_path / "result", *few, *classes)
    run("postprocess", *score, "--json", scores)
    whole = tmp_path / "whole.json"
    run("evaluate", "--root", scenes, "--model", raw, *few, "--json", whole)
    one, other = (json.loads(path.read_text())["metrics"]["AP"] for path in (scores, whole))
    # Float32 in another order of sums moves mAP by at most TO_RECORD, of 48 images and of 4.
    assert 100 * one == pytest.approx(100 * other, abs=TO_RECORD.limit)
