"""Stage runner: every backend keeps one contract, and computes what the checkpoint does."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from effd0.diagnosis.bisect import BATCH, one_among
from effd0.diagnosis.parity import (
    DiagnoseInput,
    check_heads,
    check_kernels,
    diagnose_runner,
    record,
)
from effd0.errors import FeedError, RunnerError
from effd0.results.check import Broken
from effd0.results.suite import SuiteRecord
from effd0.runners.base import batch_size_of
from effd0.spec import D0, ModelSpec
from effd0.tensors.diff import scan
from effd0.types import Tensor, Tensors

from .conftest import HeadsOf, NoteFigure, OpenRunner

pytestmark = pytest.mark.stage("runner")
BATCH_SIZES = (1, 2, 5)


@pytest.mark.parametrize("rows", BATCH_SIZES, ids="batch={}".format)
def test_heads_have_their_levels_shape(
    runner_name: str, level: int, rows: int, heads_of: HeadsOf, spec: ModelSpec
) -> None:
    """At each level, 9 channels a class and 36 for boxes, float32, of every image that was fed."""
    size = tuple(math.ceil(side / 2**level) for side in spec.image_size)
    heads = heads_of(runner_name, rows)
    rows = len(heads[f"class_p{level}"])
    assert heads[f"class_p{level}"].shape == (rows, 9 * spec.num_classes, *size)
    assert heads[f"box_p{level}"].shape == (rows, 36, *size)
    assert heads[f"class_p{level}"].dtype == heads[f"box_p{level}"].dtype == np.float32


def test_heads_come_in_the_recipes_order(
    runner_name: str, opened: OpenRunner, heads_of: HeadsOf, spec: ModelSpec
) -> None:
    """Class heads from P3 up, then box heads, in what is declared and in what is given."""
    wanted = [f"{kind}_p{level}" for kind in ("class", "box") for level in spec.levels]
    assert list(heads_of(runner_name, 1)) == wanted
    assert [info.name for info in opened(runner_name).outputs] == wanted


def test_the_declared_input_is_the_specs(
    runner_name: str, opened: OpenRunner, spec: ModelSpec
) -> None:
    """A runner asks for one float32 tensor of the spec's name and size."""
    (info,) = opened(runner_name).inputs
    assert info.name == spec.input_name
    assert info.dtype == np.float32
    assert info.shape[1:] == (3, *spec.image_size)


def test_heads_hold_numbers(runner_name: str, opened: OpenRunner, heads_of: HeadsOf) -> None:
    """No value is NaN, infinite, or cut off where a format of 16 bits ends."""
    heads = heads_of(runner_name, batch_size_of(opened(runner_name).inputs) or 5)
    found = {name: what for name, head in heads.items() if (what := scan(head))}
    if found:
        name = next(iter(found))
        raise Broken(
            f"{name} holds {found[name]} among {heads[name].size} values; "
            f"{len(found)} of {len(heads)} heads hold such",
            "overflow in 16 bits: values are cut off at 65504 or run to infinity from there"
            if "saturated" in " ".join(found.values()) or "infinite" in " ".join(found.values())
            else "values that are not finite: NaN comes out of the backend",
            details=[f"{head}: {what}" for head, what in found.items()],
        )


@pytest.mark.parametrize("rows", [1, 5], ids="batch={}".format)
def test_heads_are_those_of_torch(
    runner_name: str,
    rows: int,
    heads_of: HeadsOf,
    torch_heads: Tensors,
    spec: ModelSpec,
    precision_of: Callable[[str], str],
    opened: OpenRunner,
    images: Tensor,
    diagnose_first_input: DiagnoseInput,
    session_record: SuiteRecord,
    note_figure: NoteFigure,
    request: pytest.FixtureRequest,
) -> None:
    """Every backend computes the same network, whatever the batch, as exactly as it claims to."""
    got = heads_of(runner_name, rows)
    if got is torch_heads:
        pytest.skip("torch's heads of all images are what the others are compared with")
    wanted = {name: head[: len(got[name])] for name, head in torch_heads.items()}
    found = record(runner_name, wanted, got, precision_of(runner_name))
    session_record.parity.append(found)
    note_figure(*found.worst)
    try:
        check_heads(wanted, got, spec, precision_of(runner_name))
    except Broken as broken:
        runner = opened(runner_name)
        one_by_one = [runner.infer({spec.input_name: image[None]}) for image in images]
        alone = {name: np.concatenate([one[name] for one in one_by_one]) for name in got}
        precision = precision_of(runner_name)
        raise diagnose_runner(
            broken,
            got,
            alone,
            torch_heads,
            spec,
            precision,
            diagnose_first_input,
            recorded=runner_name == "recorded",
            explained=session_record.explained,
        ) from broken
    if runner_name == "ort" and rows == 1 and precision_of(runner_name) == "int8":
        model = request.getfixturevalue("onnx_model")
        check_kernels(model, images[: len(got[next(iter(got))])], wanted, got, spec)


@pytest.mark.parametrize("row", [0, 1, -1], ids=["first", "second", "last"])
def test_an_image_does_not_depend_on_its_batch(
    row: int,
    runner_name: str,
    opened: OpenRunner,
    heads_of: HeadsOf,
    images: Tensor,
    spec: ModelSpec,
    precision_of: Callable[[str], str],
    note_figure: NoteFigure,
) -> None:
    """Alone or in any row among others, of five or of the largest batch, an image has the same."""
    runner = opened(runner_name)
    # The first image again; torch is what others are compared with, and slow.
    which = row
    if row < 0 and runner_name != "torch":
        size = batch_size_of(runner.inputs) or BATCH
        which = 1 if size == 2 else 0  # the second image is in the second row
        heads = runner.infer({spec.input_name: one_among(images, size)})
    else:
        heads = heads_of(runner_name, 5)
    together = {name: head[row][None] for name, head in heads.items()}
    alone = runner.infer({spec.input_name: images[which][None]})
    precision = precision_of(runner_name)
    note_figure(*record(runner_name, alone, together, precision).worst)
    try:
        check_heads(alone, together, spec, precision)
    except Broken as broken:
        raise Broken(
            f"in the {row if row >= 0 else 'last'} row of a batch, {broken.evidence} "
            "(reference: the image alone)",
            broken.diagnosis or "heads depend on the batch: alone, the same image has others",
            details=broken.details,
        ) from broken


def test_runs_repeat(runner_name: str, opened: OpenRunner, images: Tensor, spec: ModelSpec) -> None:
    """The same image has the same heads, bit for bit, twice in a row and after another one."""
    runner = opened(runner_name)

    def heads(row: int) -> Tensors:
        found = runner.infer({spec.input_name: images[row : row + 1]})
        return {name: head.copy() for name, head in found.items()}

    # What was run before this test may show in the first of these, and only there.
    heads(0)
    first = heads(0)
    _same(first, heads(0), "the same image twice in a row", "not deterministic")
    if len(images) > 1:
        heads(1)
    _same(first, heads(0), "the same image after another one", "state left over from a run before")


def _same(first: Tensors, second: Tensors, when: str, name: str) -> None:
    wrong = [head for head in first if not np.array_equal(first[head], second[head])]
    if wrong:
        worst = max(float(np.abs(first[head] - second[head]).max()) for head in wrong)
        raise Broken(
            f"{when} has other heads: {len(wrong)} of {len(first)} differ, by up to {worst:.3g}, "
            "but no bit may",
            f"{name}: nothing else was changed between the two runs",
        )


def test_outputs_belong_to_the_caller(
    runner_name: str, opened: OpenRunner, images: Tensor, spec: ModelSpec
) -> None:
    """No run changes an earlier result, and nothing done to a result a later one: same bits."""
    runner = opened(runner_name)
    first = runner.infer({spec.input_name: images[:1]})
    kept = {name: head.copy() for name, head in first.items()}
    other = runner.infer({spec.input_name: images[-1:]})
    _untouched(kept, first)
    if len(images) > 1:
        assert [name for name in kept if np.array_equal(kept[name], other[name])] == []
    for head in first.values():
        head.fill(np.nan)
    _untouched(kept, runner.infer({spec.input_name: images[:1]}))


def _untouched(kept: Tensors, now: Tensors) -> None:
    changed = [name for name in kept if not np.array_equal(kept[name], now[name])]
    if changed:
        raise Broken(
            f"an earlier result changed under its owner's hands: {', '.join(changed)}",
            "output buffers are reused: a later run writes into what an earlier one gave",
        )


def test_the_feed_is_left_as_it_was(
    runner_name: str, opened: OpenRunner, images: Tensor, spec: ModelSpec
) -> None:
    """A runner reads its input, which others share; one that cannot be written will do."""
    feed = images[:1].copy()
    feed.setflags(write=False)
    opened(runner_name).infer({spec.input_name: feed})
    assert np.array_equal(feed, images[:1])


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (lambda _: {}, r"feed has \[\], but the model takes"),
        (lambda image: {"input": image}, r"feed has \['input'\]"),
        (lambda image: {D0.input_name: image.transpose(0, 2, 3, 1)}, r", 3\), but .* float32 \("),
        (lambda image: {D0.input_name: image.astype("f8")}, "is float64 .*, but"),
        (lambda image: {D0.input_name: image[:0]}, r"\(0, 3"),
    ],
    ids=["nothing", "name", "channels-last", "float64", "no-row"],
)
def test_a_wrong_feed_never_reaches_the_backend(
    runner_name: str,
    opened: OpenRunner,
    images: Tensor,
    feed: Callable[[Tensor], Tensors],
    message: str,
) -> None:
    """The error is about the feed, in the same words for each backend."""
    with pytest.raises(FeedError, match=message):
        opened(runner_name).infer(feed(images[:1]))


def test_a_closed_runner_refuses(
    runner_name: str, open_under_test: OpenRunner, images: Tensor, spec: ModelSpec
) -> None:
    """Outside its ``with`` block a runner holds nothing and says what to do."""
    runner = open_under_test(runner_name)
    with pytest.raises(RunnerError, match="is not open; use the runner in a 'with' block"):
        runner.infer({spec.input_name: images[:1]})
    with runner:
        pass
    with pytest.raises(RunnerError, match="is not open; use the runner in a 'with' block"):
        runner.infer({spec.input_name: images[:1]})


def test_the_description_names_backend_and_version(runner_name: str, opened: OpenRunner) -> None:
    """The report can say what computed."""
    ascend = r"(emulated )?ACL \d+\.\d+.*, Ascend[\w-]+, device \d"
    backend = {
        "ort": r"ONNX Runtime \d+\.\d+.*, \w+ExecutionProvider",
        "openvino": r"OpenVINO \d{4}\.\d+\.\d+, CPU, f32$",
        "torch": r"PyTorch \d+\.\d+.*, cpu, fp32",
        "acl": ascend,
        "emulated": ascend,
        "recorded": r"results in ",
    }
    assert re.match(backend[runner_name], opened(runner_name).description)
