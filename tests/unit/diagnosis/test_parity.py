"""Heads pass within their precision's tolerance, else are explained; arithmetic has a name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from effd0.data import fixture
from effd0.data.coco import Sample, load_coco
from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.diagnosis.hypothesis import Diagnosis
from effd0.diagnosis.parity import (
    LIMITS,
    check_heads,
    compare_batch,
    compare_recorded,
    diagnose_precision,
    diagnose_runner,
    estimate,
    excess,
    record,
)
from effd0.graph.onnx_info import read_model
from effd0.results.check import Broken
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Floats, Tensors
from tests.helpers import SMALL, coco_content, write_coco
from tests.helpers.onnx_models import from_row_five, head_model, nodes_of
from tests.helpers.results import as_bfloat16, as_float16, heads_of, noisy

HEADS = heads_of(0)
NOISY, FAINT = noisy(HEADS, 0.1), noisy(HEADS, 1e-2)


def off_by(part: float) -> dict[str, Floats]:
    """Heads of which one, box_p4, is off by *part* of its norm."""
    rng, head = np.random.default_rng(3), HEADS["box_p4"]
    noise = rng.standard_normal(head.shape)
    noise *= part * float(np.linalg.norm(head)) / float(np.linalg.norm(noise))
    return {**HEADS, "box_p4": (head + noise).astype(np.float32)}


def moved(by: float) -> dict[str, Floats]:
    """Heads in which one value is moved."""
    head = HEADS["class_p5"].copy()
    head[0, 7, 1, 2] += np.float32(by)
    return {**HEADS, "class_p5": head}


def broken_by(got: Tensors, precision: str = "fp32") -> Broken:
    """What is said of heads *got*."""
    with pytest.raises(Broken) as caught:
        check_heads(HEADS, got, SMALL, precision)
    return caught.value


def test_one_value_decides_in_float32() -> None:
    """The largest difference of all counts; the message and its table show where it is."""
    check_heads(HEADS, HEADS, SMALL)
    check_heads(HEADS, moved(0.9 * SAME_FLOAT32.limit), SMALL)
    broken = broken_by(moved(-1.1 * SAME_FLOAT32.limit))
    wanted = r"class_p5 differs by 0\.0022 at \[0, 7, 1, 2\] \(.*reference .*\), but at most "
    assert re.match(f"{wanted}{SAME_FLOAT32.limit} is allowed in float32$", broken.evidence)
    assert broken.details[0].startswith("class_p5  max abs 0.0022, 99.9 % within ")
    assert broken.details[0].endswith("would need a tolerance of 0.0023")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_the_worst_head_decides_in_other_precisions(precision: str) -> None:
    """Single values may be off; the relative L2 of no head may."""
    allowed = LIMITS[precision]
    check_heads(HEADS, off_by(0.95 * allowed), SMALL, precision)
    said = broken_by(off_by(1.05 * allowed), precision).evidence
    assert said.startswith("box_p4 differs by ")
    assert said.endswith(f"a relative L2 of at most {allowed} is allowed in {precision}")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "infinite"])
def test_what_is_not_finite_never_passes(value: float, precision: str) -> None:
    """A NaN or an infinity is broken, however coarse the precision."""
    assert re.search(r"; 1 (NaN|infinite), but", broken_by(moved(value), precision).evidence)


def test_a_fault_of_heads_is_the_diagnosis() -> None:
    """What explains the difference is named; heads that are off by chance have no diagnosis."""
    scores = {n: 1 / (1 + np.exp(-h)) if n.startswith("class") else h for n, h in HEADS.items()}
    assert "sigmoid: the error falls from" in broken_by(scores).diagnosis
    assert broken_by(NOISY).diagnosis == ""


@pytest.mark.parametrize(
    ("error", "round_", "claimed", "diagnosis"),
    [
        (6e-3, None, "fp32", "computed in bf16, not in fp32: bf16 (relative error 0.00"),
        (1.2e-3, as_float16, "fp32", "computed in fp16, not in fp32: fp16 (relative error 0.0"),
        (1.5e-2, None, "fp16", "computed in int8, not in fp16: int8 ("),
        (6e-3, None, "bf16", None),
        (3e-6, None, "fp16", None),
        (5e-4, None, "bf16", None),
        (0.1, None, "fp32", None),
        (7e-4, None, "fp32", None),
    ],
    ids=[
        "bf16",
        "fp16",
        "int8",
        "as-claimed",
        "finer",
        "tf32-for-bf16",
        "as-large-as-a-fault",
        "like-two-precisions",
    ],
)
def test_another_precision_is_named(
    error: float, round_: Callable[[Floats], Floats] | None, claimed: str, diagnosis: str | None
) -> None:
    """Where the error is like one precision's, small enough, and not that which was claimed."""
    got = {
        name: head if round_ is None else round_(head) for name, head in noisy(HEADS, error).items()
    }
    found = diagnose_precision(HEADS, got, claimed)
    assert (found is None) == (diagnosis is None)
    assert (found or "").startswith(diagnosis or "")


@pytest.mark.parametrize("wrong", [6e-3, 0.2], ids=["as-in-bf16", "by-far"])
def test_the_worst_image_counts(wrong: float) -> None:
    """Images that are right do not hide one that is wrong."""
    wanted = {name: np.repeat(head, 5, axis=0) for name, head in HEADS.items()}
    got = {name: np.concatenate([head[:4], noisy(HEADS, wrong)[name]])
           for name, head in wanted.items()}  # fmt: skip
    assert estimate(wanted, got) == estimate(HEADS, noisy(HEADS, wrong))


@pytest.mark.parametrize(
    ("cause", "recorded", "explained", "wanted"),
    [
        ("RGB/BGR swapped", True, False, ("input RGB/BGR swapped: ", "preprocess")),
        ("RGB/BGR swapped", False, False, ("the model expects BGR: input RGB/BGR sw", "export")),
        ("normalised twice", False, False,
         ("the model expects inputs that are not normalised: input normalised twice", "export")),
        ("mirrored", False, False, ("the model changes a right input: input mirrored", "export")),
        (None, False, False, ("computed in bf16, not in fp32", None)),
        (None, False, True, ("", None)),
    ],
    ids=["recorded", "fed-by-effd0", "normalises", "mirrors", "precision", "explained-before"],
)  # fmt: skip
def test_an_input_is_blamed_only_where_it_came_from_outside(
    cause: str | None, recorded: bool, explained: bool, wanted: tuple[str, str | None]
) -> None:
    """What effd0 fed was right: the model is wrong, and a precision is the last thing named."""
    named = None if cause is None else Diagnosis(f"input {cause}", "it is not", 0.5, 0.0)
    got = noisy(HEADS, 6e-3)
    found = diagnose_runner(
        Broken("off"), got, got, HEADS, SMALL, "fp32", lambda _heads: named,
        recorded=recorded, explained=explained,
    )  # fmt: skip
    assert found.diagnosis.startswith(wanted[0])
    assert (bool(found.diagnosis), found.stage) == (bool(wanted[0]), wanted[1])


@pytest.mark.parametrize(
    ("candidate", "possible", "grid"),
    [
        pytest.param(HEADS, ("fp32",), None, id="the-same"),
        pytest.param(noisy(HEADS, 3e-6), ("fp32",), None, id="another-order-of-sums"),
        pytest.param({**HEADS, "box_p3": HEADS["box_p3"][..., ::-1]}, ("fp32",), None, id="1-head"),
        pytest.param(noisy(HEADS, 5e-4), ("tf32",), None, id="tf32"),
        pytest.param({k: as_bfloat16(h) for k, h in FAINT.items()}, ("bf16",), "bf16", id="bf16"),
        pytest.param(NOISY, ("int8",), None, id="int8"),
        pytest.param(noisy(HEADS, 9e-4), ("tf32", "fp16"), None, id="tf32-or-fp16"),
        pytest.param(noisy(HEADS, 6e-5), (), None, id="between-bands"),
        pytest.param({k: as_float16(h) for k, h in NOISY.items()}, (), "fp16", id="far"),
        pytest.param({k: np.full_like(h, np.nan) for k, h in HEADS.items()}, (), "bf16", id="nan"),
    ],
)
def test_size_and_grid_of_the_error_tell_the_precision(
    candidate: Tensors, possible: tuple[str, ...], grid: str | None
) -> None:
    """An error inside one band alone, on or off a grid of 16 bits, has one name, else none."""
    found = estimate(HEADS, candidate)
    assert (found.possible, found.grid) == (possible, grid)
    assert found.name == (possible[0] if len(possible) == 1 else "unclear")
    why = {0: "unclear: like no known precision (", 1: f"{found.name} ("}
    assert str(found).startswith(why.get(len(possible), "unclear: tf32 or fp16 ("))


def test_a_larger_input_may_differ_in_proportion() -> None:
    """Means over whole maps sum more values: at 1024 pixels four times as much is allowed."""
    maps = {name: np.zeros((1, 9, 128 >> n, 128 >> n), np.float32) for n, name in enumerate("ab")}
    off = {name: head + np.float32(3.9 * SAME_FLOAT32.limit) for name, head in maps.items()}
    assert excess(maps, off, "fp32") == ""
    off = {name: head + np.float32(4.1 * SAME_FLOAT32.limit) for name, head in maps.items()}
    assert excess(maps, off, "fp32").endswith("at most 0.008 is allowed in float32")


def test_a_record_is_plain_and_whole() -> None:
    """Runner, batch, precision and each head's figures, as the run file's schema has them."""
    written = record("ort", HEADS, noisy(HEADS, 6e-3), "bf16")
    assert (written.runner, written.batch, written.precision) == ("ort", 1, "bf16")
    wanted = {diff.name: diff for diff in compare_tensors(HEADS, noisy(HEADS, 6e-3))}
    assert [f"{head.head}_{head.level.lower()}" for head in written.heads] == [*wanted]
    for head, diff in zip(written.heads, wanted.values(), strict=True):
        for figure in ("max_abs", "relative_l2", "cosine", "q999", "required"):
            assert getattr(head, figure) == getattr(diff, figure)
        assert (head.measure, head.allowed) == ("relative_l2", LIMITS["bf16"])
    assert written.worst == (
        max(diff.relative_l2 for diff in wanted.values()), LIMITS["bf16"], "relative l2"
    )  # fmt: skip


def test_what_is_not_finite_is_null_in_a_record() -> None:
    """JSON knows no infinity; the worst figure is infinite."""
    written = record("ort", HEADS, moved(np.inf))
    infinite = written.heads[0]
    assert (infinite.head, infinite.level, infinite.max_abs) == ("class", "P5", None)
    assert written.worst == (math.inf, SAME_FLOAT32.limit, "max abs")


def test_a_batch_that_changes_an_image_is_of_the_graph(tmp_path: Path) -> None:
    """The evidence has the row, and the diagnosis the node; a fixed batch is tried whole."""
    images = fixture.sample_inputs(2, SMALL)

    def broken(plant: bool, batch: int | None) -> Broken | None:
        model, path = head_model(SMALL.head_shapes, batch=batch), tmp_path / "d0.onnx"
        if plant:
            from_row_five(model, nodes_of(model, "Conv")[1])
        onnx.save(model, str(path))
        return compare_batch(read_model(path, SMALL), images, SMALL)

    for batch in (None, 1, 6):
        assert broken(False, batch) is None
    for batch in (None, 6):
        said = broken(True, batch)
        assert said is not None
        assert said.evidence.startswith(f"in row 5 of a batch of {batch or 8}, class_p4 differs by")
        named = "heads depend on the batch: alone, the same image has others; Concat joined: row 5"
        assert said.diagnosis.startswith(named)
        assert said.stage == "graph"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_is_named_by_its_precision(precision: str) -> None:
    """What torch really computes in shows in its heads, on images that no band was measured on."""
    samples = load_coco(fixture.coco_root()).samples[40:42]
    images = np.stack([preprocess(sample.path, D0).tensor for sample in samples])
    heads = []
    for name in ("fp32", precision):
        options = RunnerOptions(precision=name)
        with open_runner("torch", fixture.checkpoint(), D0, options) as runner:
            heads.append(runner.infer({D0.input_name: images}))
    wanted, got = heads
    assert estimate(wanted, got).name == precision
    rounded = {name: as_float16(head) for name, head in wanted.items()}
    assert (estimate(wanted, rounded).name, estimate(wanted, rounded).grid) == ("fp32", "fp16")


# Recorded results of a whole set.


IMAGES = 12


def other(place: int | None, seed: int = 99) -> Tensors:
    """Heads of the image at a *place*; of *seed* where that is None."""
    return heads_of(seed if place is None else place)


RECORDED: dict[str, tuple[dict[int, Tensors], str, str]] = {
    "three-of-another-model": (
        {n: other(None, 50 + n) for n in (2, 6, 11)}, "(3.png, 7.png, 12.png); class_p", "",
    ),
    "two-exchanged": (
        {1: other(7), 7: other(1)}, "(2.png, 8.png); class_p",
        r"images exchanged: .*: 2.png holds 8.png, 8.png holds 2.png",
    ),
    "rotated": (
        {8: other(9), 9: other(10), 10: other(11), 11: other(8)},
        "(9.png, 10.png, 11.png, ...): neighbours in file order, 9.png to 12.png, the last of all;",
        "images rotated within a batch of 4: ",
    ),
    "zeros": (
        {n: {k: np.zeros_like(h) for k, h in HEADS.items()} for n in (10, 11)},
        "(11.png, 12.png): neighbours in file order, 11.png to 12.png, the last of all;",
        "nothing was written: every value of their heads is 0",
    ),
    "a-stale-head": (
        {4: {**other(4), "box_p3": other(3)["box_p3"]}}, "(5.png); box_p3 differs by ",
        "a fault in box_p3 alone: ",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Twelve images of noise; the heads of each are those of its place as seed."""
    root = write_coco(tmp_path_factory.mktemp("coco"), coco_content(IMAGES))
    return load_coco(root).samples


def compared(
    samples: Sequence[Sample], recorded: Mapping[int, Tensors]
) -> tuple[Broken | None, list[int]]:
    """What is said of *recorded* heads, by place, beside right ones; and whose heads were read."""
    tensors = {preprocess(s.path, SMALL).tensor.tobytes(): n for n, s in enumerate(samples)}
    read: list[int] = []

    def found(of: Callable[[int], Tensors]) -> dict[Sample, Detections]:
        return {
            sample: postprocess(split_heads(of(n), SMALL)[0], 0.3, sample.size, SMALL)
            for n, sample in enumerate(samples)
        }

    def given(sample: Sample) -> Tensors:
        read.append(samples.index(sample))
        return recorded.get(read[-1], heads_of(read[-1]))

    broken = compare_recorded(
        found(lambda n: recorded.get(n, heads_of(n))),
        found(heads_of),
        given,
        lambda tensor: heads_of(tensors.get(tensor.tobytes(), 999)),
        SMALL,
        "fp16",
        {},
    )
    return broken, read


@pytest.mark.parametrize(("recorded", "said", "cause"), RECORDED.values(), ids=RECORDED)
def test_wrong_ones_among_recorded_heads_are_listed_and_named(
    recorded: dict[int, Tensors], said: str, cause: str, pictures: tuple[Sample, ...]
) -> None:
    """Which images, what they share and whose heads they have; heads of right ones are not read."""
    broken, read = compared(pictures, recorded)
    assert broken is not None
    assert broken.evidence.startswith(f"heads of {len(recorded)} of {IMAGES} images differ {said}")
    assert len(broken.details) == len(recorded)
    assert read == sorted(recorded)
    if cause:
        assert re.match(cause, broken.diagnosis)
    assert bool(cause) == bool(broken.diagnosis)


def test_recorded_heads_in_float16_pass(pictures: tuple[Sample, ...]) -> None:
    """Heads that were rounded decide where detections are turned over by that."""
    halves = {n: {k: as_float16(h) for k, h in heads_of(n).items()} for n in range(IMAGES)}
    broken, _ = compared(pictures, halves)
    assert broken is None
