"""What a model is fed: names, dtypes, rows; and a runner spoken to in the spec's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from effd0.data.preprocess import ModelInput
from effd0.errors import FeedError, HeadError, RunnerError
from effd0.runners.base import (
    DeviceTimes,
    NamedRunner,
    TensorInfo,
    TimedRunner,
    check_feed,
    choose_batch_size,
    infer_stream,
    make_feed,
    pad_feed,
    trim_outputs,
)
from effd0.types import Tensors
from tests.helpers import SMALL
from tests.helpers.results import heads_of
from tests.helpers.runners import FLOAT, FakeRunner

FOUR = TensorInfo("images", (4, 3, 2, 2), FLOAT)
FREE = TensorInfo("images", (None, 3, 2, 2), FLOAT)
SIZES = TensorInfo("sizes", (4, 2), FLOAT)
HEADS = heads_of(0)


def rows(count: int) -> np.ndarray:
    """Input of *count* rows, each filled with its own number from 1."""
    numbers = np.arange(1, count + 1, dtype=np.float32)
    return np.broadcast_to(numbers[:, None, None, None], (count, 3, 2, 2))


@pytest.mark.parametrize(
    ("info", "count"),
    [(FOUR, 1), (FOUR, 4), (FREE, 1), (FREE, 50)],
    ids=["fixed-fewer", "fixed", "free", "free-many"],
)
def test_a_feed_that_fits_is_counted(info: TensorInfo, count: int) -> None:
    """A whole or smaller batch of the declared name, shape and dtype passes."""
    assert check_feed({"images": rows(count)}, [info]) == count


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        pytest.param({}, r"feed has \[\], but the model takes \['images'\]", id="missing"),
        pytest.param(
            {"images": rows(4), "x": rows(4)},
            r"feed has \['images', 'x'\], but the model takes \['images'\]",
            id="extra",
        ),
        pytest.param(
            {"images": rows(4)[0]},
            r"images is float32 \(3, 2, 2\), but the model takes float32 \(4, 3, 2, 2\)",
            id="rank",
        ),
        pytest.param({"images": np.float32(1)}, r"images is float32 \(\), but", id="scalar"),
        pytest.param(
            {"images": rows(4)[:, :, :1]}, r"\(4, 3, 1, 2\), but .* \(4, 3, 2, 2\)", id="size"
        ),
        pytest.param(
            {"images": rows(4).astype(np.float64)},
            r"images is float64 \(4, 3, 2, 2\), but the model takes float32",
            id="dtype",
        ),
        pytest.param({"images": rows(0)}, r"\(0, 3, 2, 2\), but", id="zero-rows"),
        pytest.param({"images": rows(5)}, r"\(5, 3, 2, 2\), but .* \(4, 3", id="too-many-rows"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(feed: Tensors, message: str) -> None:
    """The message shows what came beside what was wanted, so that no rerun is needed."""
    with pytest.raises(FeedError, match=message):
        check_feed(feed, [FOUR])


def test_inputs_of_different_rows_are_refused() -> None:
    """Two inputs that each fit do not make a batch if one is shorter."""
    feed = {"images": rows(4), "sizes": np.ones((3, 2), np.float32)}
    with pytest.raises(FeedError, match=r"inputs have \[3, 4\] rows, but all must have the same"):
        check_feed(feed, [FOUR, SIZES])


def test_a_short_batch_is_filled_by_its_first_row() -> None:
    """Only where rows are missing; a batch that fits is not copied."""
    assert pad_feed({"images": rows(2)}, [FOUR])["images"][:, 0, 0, 0].tolist() == [1, 2, 1, 1]
    for info, count in ((FOUR, 4), (FREE, 2)):
        feed = {"images": rows(count)}
        assert pad_feed(feed, [info])["images"] is feed["images"]


def test_rows_that_are_cut_off_are_freed() -> None:
    """The rows that stay do not keep the cut ones in memory; whole outputs are not copied."""
    outputs = {"heads": np.arange(8.0).reshape(4, 2)}
    trimmed = trim_outputs(outputs, 3)["heads"]
    assert trimmed.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert not np.shares_memory(trimmed, outputs["heads"])
    assert trim_outputs(outputs, 4)["heads"] is outputs["heads"]


def test_a_feed_is_named_and_typed_as_the_model_wants() -> None:
    """The batch is stacked in order and cast to float16 for a model of it; one image stays."""
    tensors = [np.full((3, 128, 128), value, FLOAT) for value in (0.1, 2.5)]
    inputs = [ModelInput(tensor, 1.0, (1, 1)) for tensor in tensors]
    half = make_feed(inputs, FakeRunner(dtype=np.dtype(np.float16)))["in"]
    assert half.dtype == np.float16
    assert np.array_equal(half, np.stack(tensors).astype(np.float16))
    assert np.array_equal(make_feed(inputs, FakeRunner())["in"], np.stack(tensors))
    assert np.shares_memory(make_feed(inputs[:1], FakeRunner())["in"], tensors[0])


@pytest.mark.parametrize(
    ("fixed", "asked", "chosen"),
    [(None, None, 1), (None, 8, 8), (4, None, 4), (4, 4, 4), (4, 1, 1)],
    ids=["free", "free-asked", "fixed", "fixed-asked", "fixed-asked-less"],
)
def test_the_batch_size_is_the_asked_one_or_the_models(
    fixed: int | None, asked: int | None, chosen: int
) -> None:
    """A model of free batch runs one by one unless asked; a fixed one takes less, too."""
    assert choose_batch_size(FakeRunner(fixed=fixed), asked) == chosen


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param(0, "--batch-size is 0, but must be at least 1", id="zero"),
        pytest.param(
            5, "--batch-size is 5, but the model takes 4; export it with --batch-size 5", id="more"
        ),
    ],
)
def test_a_batch_size_that_does_not_fit_is_refused(asked: int, message: str) -> None:
    """The message shows what was asked, what the model takes, and how to get one that does."""
    with pytest.raises(FeedError, match=message):
        choose_batch_size(FakeRunner(fixed=4), asked)


def info(
    name: str = "images", dtype: Any = FLOAT, *, batch: int | None = None, last: bool = False
) -> TensorInfo:
    """An input of `SMALL`, with channels *last* where it is of pixels."""
    shape = (128, 128, 3) if last else (3, 128, 128)
    return TensorInfo(name, (batch, *shape), np.dtype(dtype))


class Inner:
    """A runner that gives *outputs*, and notes what it is fed and how it is left."""

    outputs = ()

    def __init__(self, outputs: Tensors, *inputs: TensorInfo) -> None:
        self.given, self.inputs = outputs, inputs or (info(),)
        self.description = "closed"
        self.fed: list[Tensors] = []
        self.left: list[object] = []

    def __enter__(self) -> Self:
        self.description = "open, version 2"
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        self.left.append(error)

    def infer(self, feed: Tensors) -> Tensors:
        """Return what it was made with."""
        self.fed.append(feed)
        return self.given


class Streaming(Inner):
    """A runner that works on several feeds at a time, and times itself."""

    device_times = DeviceTimes()

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Take all feeds before the first result goes out."""
        taken = [self.infer(feed) for feed in feeds]
        yield from taken


def images(dtype: Any = np.float32) -> npt.NDArray[Any]:
    """One input of noise, by the spec's layout."""
    return np.random.default_rng(0).standard_normal((1, 3, 128, 128)).astype(dtype)


def shuffled(heads: Tensors) -> dict[str, Any]:
    """The same heads in another order under names that say nothing."""
    order = np.random.default_rng(1).permutation(len(heads))
    every = list(heads.values())
    return {f"t{n}": every[place] for n, place in enumerate(order)}


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(dict(reversed(list(HEADS.items()))), id="own-names-reversed"),
        pytest.param(shuffled(HEADS), id="other-names-shuffled"),
    ],
)
def test_heads_come_in_the_specs_names_and_order(outputs: Tensors) -> None:
    """By name, or by shape where names are others; the runner declares what it gives."""
    inner = Inner(outputs, info(batch=4))
    with NamedRunner(inner, SMALL) as runner:
        assert runner.description == "open, version 2"
        assert runner.inputs == [info("x.1", batch=4)]
        declared = [(one.name, one.shape, one.dtype) for one in runner.outputs]
        found = runner.infer({"x.1": images()})
    assert declared == [(n, (4, *shape), FLOAT) for n, shape in SMALL.head_shapes.items()]
    assert list(found) == list(SMALL.output_names)
    assert [name for name, head in found.items() if not np.array_equal(head, HEADS[name])] == []
    assert inner.left == [None]


def test_float16_stays_inside() -> None:
    """The feed is rounded on the way in, and heads are float32 on the way out."""
    half = {name: head.astype(np.float16) for name, head in HEADS.items()}
    inner = Inner(half, info(dtype=np.float16))
    with NamedRunner(inner, SMALL) as runner:
        assert runner.inputs == [info("x.1")]
        found = runner.infer({"x.1": images()})
    assert np.array_equal(inner.fed[0]["images"], images().astype(np.float16))
    assert inner.fed[0]["images"].dtype == np.float16
    for name, head in found.items():
        assert head.dtype == np.float32
        assert np.array_equal(head, half[name].astype(np.float32)), name


def test_pixels_stay_pixels() -> None:
    """A model that normalises by itself takes uint8 in its own layout, and nothing else."""
    inner = Inner(HEADS, info(dtype=np.uint8, last=True))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    with NamedRunner(inner, SMALL) as runner:
        assert runner.inputs == [info("x.1", np.uint8, last=True)]
        runner.infer({"x.1": pixels})
        with pytest.raises(FeedError, match=r"is float32 .*, but the model takes uint8"):
            runner.infer({"x.1": pixels.astype(np.float32)})
    assert inner.fed[0]["images"] is pixels


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        pytest.param({"images": images()}, r"feed has \['images'\], but .* \['x.1'\]", id="name"),
        pytest.param({"x.1": images(np.float16)}, "x.1 is float16 .* takes float32", id="dtype"),
    ],
)
def test_a_feed_is_checked_in_the_specs_name(feed: Tensors, message: str) -> None:
    """Whoever feeds knows only that name, and float32 though the model computes in float16."""
    inner = Inner(HEADS, info(dtype=np.float16))
    with NamedRunner(inner, SMALL) as runner, pytest.raises(FeedError, match=message):
        runner.infer(feed)
    assert inner.fed == []


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        pytest.param(
            shuffled(HEADS) | {"again": HEADS["box_p4"]},
            r"output again is \(1, 36, 8, 8\), but",
            id="ambiguous",
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
        pytest.param(
            shuffled(HEADS) | {"boxes": np.zeros((1, 9))}, "output boxes is", id="no-head"
        ),
    ],
)
def test_heads_that_cannot_be_told_apart_are_refused(outputs: Tensors, message: str) -> None:
    """Nothing is paired by position; the inner runner is closed with the error."""
    inner = Inner(outputs)
    with pytest.raises(HeadError, match=message) as raised, NamedRunner(inner, SMALL) as runner:
        runner.infer({SMALL.input_name: images()})
    assert inner.left == [raised.value]


def test_a_model_of_two_inputs_is_refused() -> None:
    """Images alone are fed; the message shows what the model asks for."""
    inner = Inner(HEADS, info("images"), info("scales"))
    message = r"inputs \['images', 'scales'\], but an EfficientDet-D0 has one"
    with NamedRunner(inner, SMALL) as runner, pytest.raises(RunnerError, match=message):
        runner.infer({"x.1": images()})
    with pytest.raises(RunnerError, match=message):
        make_feed([], inner)


def test_several_feeds_at_a_time_stay_so() -> None:
    """Feeds go to the inner stream under its names, ahead of their results; so do its times."""
    inner = Streaming(HEADS)
    feeds = [{SMALL.input_name: np.full((1, 3, 128, 128), n, np.float32)} for n in range(2)]
    with NamedRunner(inner, SMALL) as runner:
        stream = infer_stream(runner, feeds)
        first = next(stream)
        assert [list(feed) for feed in inner.fed] == [["images"], ["images"]]
        assert list(first) == list(SMALL.output_names)
        assert len(list(stream)) == 1
        assert isinstance(runner, TimedRunner)
        assert runner.device_times is Streaming.device_times
    assert not isinstance(NamedRunner(Inner(HEADS), SMALL), TimedRunner)
