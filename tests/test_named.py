"""Tests for `effd0.runners.base`: whatever a tool called it, spoken to in the spec's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from effd0.errors import FeedError, HeadError, RunnerError
from effd0.runners.base import (
    DeviceTimes,
    NamedRunner,
    Runner,
    TensorInfo,
    TimedRunner,
    infer_stream,
)
from effd0.types import Tensors

from .helpers import SMALL
from .recordings import heads_of

FLOAT = np.dtype(np.float32)
HEADS = heads_of(0)


def info(
    name: str = "images", dtype: Any = FLOAT, *, rows: int | None = None, last: bool = False
) -> TensorInfo:
    """An input of `SMALL`, with channels *last* where it is of pixels."""
    shape = (128, 128, 3) if last else (3, 128, 128)
    return TensorInfo(name, (rows, *shape), np.dtype(dtype))


class Inner:
    """A runner that gives *outputs*, and notes what it is fed and how it is left."""

    outputs = ()

    def __init__(self, outputs: Tensors, *inputs: TensorInfo) -> None:
        self.given, self.inputs = outputs, inputs or (info(),)
        self.description = "closed"
        self.fed: list[Tensors] = []
        self.left: list[BaseException | None] = []

    def __enter__(self) -> Self:
        self.description = "open, version 2"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert (kind is None) == (error is None) == (trace is None)
        self.left.append(error)

    def infer(self, feed: Tensors) -> Tensors:
        """Return what it was made with."""
        self.fed.append(feed)
        return self.given


def images(dtype: Any = np.float32) -> npt.NDArray[Any]:
    """One input of noise, by the spec's layout."""
    return np.random.default_rng(0).standard_normal((1, 3, 128, 128)).astype(dtype)


def heads_by(inner: Runner, tensor: npt.NDArray[Any] | None = None) -> Mapping[str, Any]:
    """What *inner* gives for *tensor* through a `NamedRunner`."""
    with NamedRunner(inner, SMALL) as runner:
        return runner.infer({SMALL.input_name: images() if tensor is None else tensor})


def shuffled(heads: Tensors) -> dict[str, Any]:
    """The same heads in another order under names that say nothing."""
    order = np.random.default_rng(1).permutation(len(heads))
    every = list(heads.values())
    return {f"t{n}": every[place] for n, place in enumerate(order)}


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(HEADS, id="own-names"),
        pytest.param(dict(reversed(list(HEADS.items()))), id="own-names-reversed"),
        pytest.param(shuffled(HEADS), id="other-names-shuffled"),
    ],
)
def test_heads_come_in_the_specs_names_and_order(outputs: Tensors) -> None:
    """By name, or by shape where names are others."""
    found = heads_by(Inner(outputs))
    assert list(found) == list(SMALL.output_names)
    for name, head in found.items():
        assert np.array_equal(head, HEADS[name]), name


def test_float16_is_spoken_inside_alone() -> None:
    """The feed is rounded on the way in, and heads are float32 on the way out."""
    half = {name: head.astype(np.float16) for name, head in HEADS.items()}
    inner = Inner(half, info(dtype=np.float16))
    with NamedRunner(inner, SMALL) as runner:
        assert runner.inputs == [info("x.1")]
        found = runner.infer({"x.1": images()})
    assert inner.fed[0]["images"].dtype == np.float16
    assert np.array_equal(inner.fed[0]["images"], images().astype(np.float16))
    for name, head in found.items():
        assert head.dtype == np.float32
        assert np.array_equal(head, half[name].astype(np.float32)), name


def test_pixels_stay_pixels() -> None:
    """A model that normalises by itself takes uint8 in its own layout, and is told nothing else."""
    inner = Inner(HEADS, info(dtype=np.uint8, last=True))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    with NamedRunner(inner, SMALL) as runner:
        assert runner.inputs == [info("x.1", np.uint8, last=True)]
        runner.infer({"x.1": pixels})
        with pytest.raises(FeedError, match=r"is float32 .*, but the model takes uint8"):
            runner.infer({"x.1": pixels.astype(np.float32)})
    assert inner.fed[0]["images"] is pixels


@pytest.mark.parametrize("rows", [None, 4], ids=["free-batch", "batch=4"])
def test_it_declares_what_it_takes_and_gives(rows: int | None) -> None:
    """The batch is the model's; names, order and float32 are the spec's."""
    runner = NamedRunner(Inner(shuffled(HEADS), info(rows=rows)), SMALL)
    assert runner.inputs == [info("x.1", rows=rows)]
    assert [(o.name, o.shape, o.dtype) for o in runner.outputs] == [
        (name, (rows, *shape), FLOAT) for name, shape in SMALL.head_shapes.items()
    ]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        pytest.param({"images": images()}, r"feed has \['images'\], but .* \['x.1'\]", id="name"),
        pytest.param({"x.1": images(np.float16)}, "x.1 is float16 .* takes float32", id="dtype"),
        pytest.param({"x.1": images()[0]}, r"x.1 is float32 \(3, 128, 128\)", id="rank"),
    ],
)
def test_a_feed_is_checked_in_the_specs_name(feed: Tensors, message: str) -> None:
    """Whoever feeds knows only that name, and float32 though the model computes in float16."""
    inner = Inner(HEADS, info(dtype=np.float16))
    with NamedRunner(inner, SMALL) as runner, pytest.raises(FeedError, match=message):
        runner.infer(feed)
    assert inner.fed == []


def _unnamed(**more: Any) -> dict[str, Any]:
    return shuffled(HEADS) | more


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        pytest.param(
            _unnamed(again=HEADS["box_p4"]), r"output again is \(1, 36, 8, 8\), but", id="ambiguous"
        ),
        pytest.param(
            {f"t_{n}": h for n, h in HEADS.items() if n != "class_p5"},
            r"class_p5 \(N, \(45, 4, 4\)\) is missing among",
            id="missing",
        ),
        pytest.param(
            {**HEADS, "class_p3": HEADS["box_p3"], "box_p3": HEADS["class_p3"]},
            "class_p3 is .* may be swapped: export it again",
            id="names-over-other-shapes",
        ),
        pytest.param(_unnamed(boxes=np.zeros((1, 9))), "output boxes is", id="no-head"),
    ],
)
def test_heads_that_cannot_be_told_are_refused(outputs: Tensors, message: str) -> None:
    """Nothing is paired by position."""
    with pytest.raises(HeadError, match=message):
        heads_by(Inner(outputs))


def test_two_inputs_are_refused() -> None:
    """Images alone are fed; the message shows what the model asks for."""
    inner = Inner(HEADS, info("images"), info("scales"))
    runner = NamedRunner(inner, SMALL)
    with pytest.raises(RunnerError, match=r"inputs \['images', 'scales'\], but .* has one"):
        _ = runner.inputs
    with runner, pytest.raises(RunnerError, match="has one"):
        runner.infer({"x.1": images()})


def test_it_is_described_as_what_it_opened() -> None:
    """Versions are known once the model is loaded."""
    runner = NamedRunner(Inner(HEADS), SMALL)
    assert runner.description == "closed"
    with runner as entered:
        assert entered is runner
        assert runner.description == "open, version 2"


def test_the_inner_runner_is_closed_after_use() -> None:
    """Once, without an error."""
    inner = Inner(HEADS)
    with NamedRunner(inner, SMALL):
        assert inner.left == []
    assert inner.left == [None]


def test_the_inner_runner_is_closed_on_an_error() -> None:
    """It sees the error, which goes on to whoever made it."""
    inner, error = Inner(HEADS), ValueError("of the caller")
    with pytest.raises(ValueError, match="of the caller"), NamedRunner(inner, SMALL):
        raise error
    assert inner.left == [error]


class Streaming(Inner):
    """A runner that looks one feed ahead, and tells its times."""

    device_times = DeviceTimes([1.0], [2.0], [3.0], [4.0])

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Take all feeds before the first result goes out."""
        taken = [self.infer(feed) for feed in feeds]
        yield from taken


def test_what_overlaps_inside_still_does() -> None:
    """Feeds go to the inner stream under its names, ahead of their results."""
    inner = Streaming(HEADS)
    feeds = [{SMALL.input_name: np.full((1, 3, 128, 128), n, np.float32)} for n in range(2)]
    with NamedRunner(inner, SMALL) as runner:
        stream = infer_stream(runner, feeds)
        first = next(stream)
        assert len(inner.fed) == 2
        assert list(inner.fed[1]) == ["images"]
        assert list(first) == list(SMALL.output_names)
        assert len(list(stream)) == 1


def test_only_what_tells_times_has_any() -> None:
    """The report asks for times of transfers where there are some, and only there."""
    timed, plain = NamedRunner(Streaming(HEADS), SMALL), NamedRunner(Inner(HEADS), SMALL)
    assert isinstance(timed, TimedRunner)
    assert timed.device_times is Streaming.device_times
    assert not isinstance(plain, TimedRunner)
