"""Tests for `effd0.runners`: the contract that every backend keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from effd0.arrays import Tensor, Tensors
from effd0.compare import compare_tensors
from effd0.errors import FeedError, RunnerError
from effd0.runners import RUNNERS, RunnerOptions, open_runner
from effd0.runners.base import Runner, batch_size_of
from effd0.spec import D0, ModelSpec
from effd0.suspicions.heads import suspect_heads
from effd0.tolerances import MAY_ROUND, ROUNDED_L2, SAME_FLOAT32

OpenRunner = Callable[[str], Runner]
BATCH_SIZES = (1, 2, 5)


@pytest.fixture(scope="module")
def opened(open_under_test: OpenRunner) -> Iterator[OpenRunner]:
    """Return the open runner of a name; each is opened once for all tests of this module."""
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}

        def get(name: str) -> Runner:
            if name not in runners:
                runners[name] = stack.enter_context(open_under_test(name))
            return runners[name]

        yield get


@pytest.fixture(scope="module")
def heads_of(
    opened: OpenRunner, images: Tensor, spec: ModelSpec, torch_heads: Tensors
) -> Callable[[str, int], Tensors]:
    """Return the heads of the first so many images by a runner; each is computed once."""
    found: dict[tuple[str, int], Tensors] = {("torch", len(images)): torch_heads}

    def heads(name: str, rows: int) -> Tensors:
        fixed = batch_size_of(opened(name).inputs)
        if fixed is not None and rows > fixed:
            pytest.skip(f"--model takes batches of {fixed}: give one that takes {rows}")
        if (name, rows) not in found:
            found[name, rows] = opened(name).infer({spec.input_name: images[:rows]})
            for head in found[name, rows].values():
                head.setflags(write=False)  # shared by many tests
        return found[name, rows]

    return heads


def suspected(wanted: Tensors, got: Tensors, spec: ModelSpec) -> str:
    """Return what may have made the heads *got* of *wanted*, as the end of a message."""
    found = suspect_heads(wanted, got, spec)
    return "no suspicion fits" if found is None else f"suspicion: {found}"


@pytest.mark.parametrize("rows", BATCH_SIZES, ids="batch={}".format)
@pytest.mark.parametrize("level", D0.levels, ids="level=p{}".format)
def test_heads_have_their_levels_shape(
    runner_name: str,
    level: int,
    rows: int,
    heads_of: Callable[[str, int], Tensors],
    spec: ModelSpec,
) -> None:
    """At each level, 810 class and 36 box channels of float32 for every image that was fed."""
    side = spec.image_size // 2**level
    heads = heads_of(runner_name, rows)
    assert heads[f"class_p{level}"].shape == (rows, 810, side, side)
    assert heads[f"box_p{level}"].shape == (rows, 36, side, side)
    assert heads[f"class_p{level}"].dtype == heads[f"box_p{level}"].dtype == np.float32


def test_heads_come_in_the_recipes_order(
    runner_name: str, opened: OpenRunner, heads_of: Callable[[str, int], Tensors]
) -> None:
    """Five class heads from P3 up, then five box heads, in what is declared and what is given."""
    wanted = [f"{kind}_p{level}" for kind in ("class", "box") for level in (3, 4, 5, 6, 7)]
    assert list(heads_of(runner_name, 1)) == wanted
    assert [info.name for info in opened(runner_name).outputs] == wanted


def test_the_declared_input_is_the_specs(
    runner_name: str, opened: OpenRunner, spec: ModelSpec
) -> None:
    """A runner asks for one float32 tensor of the spec's name and size."""
    (info,) = opened(runner_name).inputs
    assert info.name == spec.input_name
    assert info.dtype == np.float32
    assert info.shape[1:] == (3, spec.image_size, spec.image_size)


@pytest.mark.parametrize("rows", [1, 5], ids="batch={}".format)
def test_heads_are_those_of_torch(
    runner_name: str,
    rows: int,
    heads_of: Callable[[str, int], Tensors],
    torch_heads: Tensors,
    spec: ModelSpec,
) -> None:
    """Every backend computes the same float32 network, whatever the batch."""
    if (runner_name, rows) == ("torch", 5):
        pytest.skip("torch's heads of five images are what the others are held against")
    wanted = {name: head[:rows] for name, head in torch_heads.items()}
    got = heads_of(runner_name, rows)
    diffs = compare_tensors(wanted, got)
    if runner_name in MAY_ROUND:
        for diff in diffs:
            assert diff.relative_l2 <= ROUNDED_L2.limit, f"{diff}; {suspected(wanted, got, spec)}"
        return
    worst = diffs[0]
    # Measured 2026-11-23 on the embedded scenes: torch at most 1.5e-5, ONNX Runtime 4.4e-5,
    # OpenVINO 3.1e-5.
    allowed = f"at most {SAME_FLOAT32.limit} is allowed"
    assert worst.max_abs <= SAME_FLOAT32.limit, (
        f"{worst}, but {allowed}; {suspected(wanted, got, spec)}"
    )


def test_outputs_belong_to_the_caller(
    runner_name: str, opened: OpenRunner, images: Tensor, spec: ModelSpec
) -> None:
    """No run changes an earlier result, and nothing done to a result a later one: same bits."""
    runner = opened(runner_name)
    first = runner.infer({spec.input_name: images[:1]})
    kept = {name: head.copy() for name, head in first.items()}
    other = runner.infer({spec.input_name: images[1:2]})
    assert [name for name in kept if not np.array_equal(kept[name], first[name])] == []
    assert [name for name in kept if np.array_equal(kept[name], other[name])] == []
    for head in first.values():
        head.fill(np.nan)
    again = runner.infer({spec.input_name: images[:1]})
    assert [name for name in kept if not np.array_equal(kept[name], again[name])] == []


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
        pytest.param({}, r"feed has \[\], but the model takes", id="nothing"),
        pytest.param(
            {"input": np.zeros((1, 3, 512, 512), np.float32)}, r"feed has \['input'\]", id="name"
        ),
        pytest.param(
            {D0.input_name: np.zeros((1, 512, 512, 3), np.float32)},
            r"\(1, 512, 512, 3\), but the model takes float32 \(.*, 3, 512, 512\)",
            id="channels-last",
        ),
        pytest.param(
            {D0.input_name: np.zeros((1, 3, 512, 512))}, "is float64 .*, but", id="float64"
        ),
        pytest.param(
            {D0.input_name: np.zeros((0, 3, 512, 512), np.float32)}, r"\(0, 3", id="no-row"
        ),
    ],
)
def test_a_wrong_feed_never_reaches_the_backend(
    runner_name: str, opened: OpenRunner, feed: Tensors, message: str
) -> None:
    """The error is about the feed, in the same words for each backend."""
    with pytest.raises(FeedError, match=message):
        opened(runner_name).infer(feed)


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
    ascend = r"(emulated )?ACL \d+\.\d+.*, Ascend\w+, device \d"
    backend = {
        "ort": r"ONNX Runtime \d+\.\d+.*, CPUEx",
        "openvino": r"OpenVINO \d{4}\.\d+\.\d+, CPU, f32$",
        "torch": r"PyTorch \d+\.\d+.*, cpu, fp32",
        "acl": ascend,
        "emulated": ascend,
        "recorded": r"results in .*, by \w+",
    }
    assert re.match(backend[runner_name], opened(runner_name).description)


def test_an_unknown_runner_is_refused(spec: ModelSpec) -> None:
    """The message lists the runners that exist."""
    with pytest.raises(
        RunnerError, match=f"--runner is 'tpu', but effd0 knows {', '.join(RUNNERS)}"
    ):
        open_runner("tpu", Path("d0.om"), spec, RunnerOptions())
