"""What a model is fed: names, dtypes, rows; and a runner spoken to in the spec's names."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from effd0.data.preprocess import ModelInput, normalize
from effd0.errors import FeedError, HeadError, RunnerError
from effd0.runners.base import (
    DeviceTimes,
    NamedRunner,
    Runner,
    TensorInfo,
    check_feed,
    check_size,
    choose_batch_size,
    laid_out,
    make_feed,
)
from effd0.spec import ModelSpec
from effd0.types import Tensors
from tests.helpers import FED_APART, SMALL
from tests.helpers.results import heads_of
from tests.helpers.runners import FLOAT, FakeRunner

FOUR = TensorInfo("images", (4, 3, 2, 2), FLOAT)
SIZES = TensorInfo("sizes", (4, 2), FLOAT)
HEADS = heads_of(0)


def rows(count: int) -> np.ndarray:
    """Input of *count* rows, each filled with its own number from 1."""
    numbers = np.arange(1, count + 1, dtype=np.float32)
    return np.broadcast_to(numbers[:, None, None, None], (count, 3, 2, 2))


def info(
    name: str = "images", dtype: Any = FLOAT, *, batch: int | None = None, last: bool = False
) -> TensorInfo:
    """An input of `SMALL`, with channels *last* where it is of pixels."""
    shape = (128, 128, 3) if last else (3, 128, 128)
    return TensorInfo(name, (batch, *shape), np.dtype(dtype))


class Given(Runner):
    """A runner that gives *outputs* for inputs of *infos*, and notes feeds and how it is left."""

    def __init__(self, outputs: Tensors, *infos: TensorInfo) -> None:
        super().__init__(Path("given"), "closed")
        self.given, self.infos = outputs, infos or (info(),)
        self.fed: list[Tensors] = []
        self.left: list[object] = []

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Declare outputs of any shape."""
        self.description = "open, version 2"
        return "session", list(self.infos), [TensorInfo(name, (), FLOAT) for name in self.given]

    def run(self, session: Any, feed: Tensors) -> list[Any]:
        """Return what it was made with."""
        assert session == "session"
        self.fed.append(feed)
        return list(self.given.values())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        super().__exit__(kind, error, trace)
        self.left.append(error)


class Streaming(Given):
    """A runner that works on several feeds at a time, and times itself."""

    device_times = DeviceTimes()

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Take all feeds before the first result goes out."""
        yield from [self.infer(feed) for feed in feeds]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, r"feed has \[\], but the model takes \['images', 'sizes'\]"),
        ({"images": rows(4)[0]}, r"images is float32 \(3, 2, 2\), but .* float32 \(4, 3, 2, 2\)"),
        ({"images": np.float32(1)}, r"images is float32 \(\), but"),
        ({"images": rows(4)[:, :, :1]}, r"\(4, 3, 1, 2\), but .* \(4, 3, 2, 2\)"),
        ({"images": rows(4).astype(np.float64)}, r"images is float64 .* takes float32"),
        ({"images": rows(0)}, r"\(0, 3, 2, 2\), but"),
        ({"images": rows(5)}, r"\(5, 3, 2, 2\), but .* \(4, 3"),
        ({"images": rows(3)}, r"inputs have \[3, 4\] rows, but all must have the same"),
    ],
    ids=["missing", "rank", "scalar", "size", "dtype", "zero-rows", "too-many-rows", "unequal"],
)
def test_a_feed_that_does_not_fit_is_refused(feed: Tensors, message: str) -> None:
    """The message shows what came beside what was wanted, so that no rerun is needed."""
    given = {"sizes": np.ones((4, 2), np.float32), **feed} if feed else feed
    with pytest.raises(FeedError, match=message):
        check_feed(given, [FOUR, SIZES])


def test_a_short_batch_is_filled_by_its_first_row_and_what_fills_it_is_freed() -> None:
    """Rows that stay keep no others in memory; a batch that fits is copied neither way."""
    outputs = {"heads": np.arange(8.0).reshape(4, 2)}
    with Given(outputs, FOUR) as runner:
        found = runner.infer({"images": rows(3)})["heads"]
        assert runner.fed[0]["images"][:, 0, 0, 0].tolist() == [1, 2, 3, 1]
        assert found.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert not np.shares_memory(found, outputs["heads"])
        whole = {"images": rows(4)}
        assert runner.infer(whole)["heads"] is outputs["heads"]
        assert runner.fed[1]["images"] is whole["images"]


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
    [
        (None, None, 1),
        (None, 8, 8),
        (4, None, 4),
        (4, 1, 1),
        (4, 0, "--batch-size is 0, but must be at least 1"),
        (4, 5, "--batch-size is 5, but the model takes 4; export it with --batch-size 5"),
    ],
    ids=["free", "free-asked", "fixed", "fixed-asked-less", "zero", "fixed-asked-more"],
)
def test_the_batch_size_is_the_asked_one_or_the_models(
    fixed: int | None, asked: int | None, chosen: int | str
) -> None:
    """A model of free batch runs one by one unless asked; a fixed one takes less, but not more."""
    runner = FakeRunner(fixed=fixed)
    if isinstance(chosen, int):
        assert choose_batch_size(runner, asked) == chosen
    else:
        with pytest.raises(FeedError, match=chosen):
            choose_batch_size(runner, asked)


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
    [dict(reversed(list(HEADS.items()))), shuffled(HEADS)],
    ids=["own-names-reversed", "other-names-shuffled"],
)
def test_heads_come_in_the_specs_names_and_order(outputs: Tensors) -> None:
    """By name, or by shape where names are others; the runner declares what it gives."""
    inner = Given(outputs, info(batch=1))
    with NamedRunner(inner, SMALL) as runner:
        assert runner.description == "open, version 2"
        assert runner.inputs == [info("x.1", batch=1)]
        declared = [(one.name, one.shape, one.dtype) for one in runner.outputs]
        found = runner.infer({"x.1": images()})
    assert declared == [(n, (1, *shape), FLOAT) for n, shape in SMALL.head_shapes.items()]
    assert list(found) == list(SMALL.output_names)
    assert [name for name, head in found.items() if not np.array_equal(head, HEADS[name])] == []
    assert inner.left == [None]


def test_float16_stays_inside() -> None:
    """Float32 is fed and rounded on the way in, and heads are float32 on the way out."""
    half = {name: head.astype(np.float16) for name, head in HEADS.items()}
    inner = Given(half, info(dtype=np.float16))
    with NamedRunner(inner, SMALL) as runner:
        assert runner.inputs == [info("x.1")]
        found = runner.infer({"x.1": images()})
        with pytest.raises(FeedError, match=r"x.1 is float16 .* takes float32"):
            runner.infer({"x.1": images(np.float16)})
    assert inner.fed[0]["images"].dtype == np.float16
    for name, head in found.items():
        assert head.dtype == np.float32
        assert np.array_equal(head, half[name].astype(np.float32)), name


@pytest.mark.parametrize("last", [False, True], ids=["planes-first", "planes-last"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("spec", FED_APART.values(), ids=FED_APART)
def test_a_model_is_fed_its_own_layout_and_pixels(dtype: Any, last: bool, spec: ModelSpec) -> None:
    """One that normalises by itself gets each pixel as it was; all are spoken to alike."""
    spec = replace(SMALL, mean=spec.mean, std=spec.std)
    inner = Given(HEADS, info(dtype=dtype, last=last))
    values = np.arange(128 * 128 * 3, dtype=np.uint32).astype(np.uint8)
    pixels = values.reshape(128, 128, 3)
    planes = normalize(pixels, spec)[None]
    with NamedRunner(inner, spec) as runner:
        assert runner.inputs == [info("x.1")]
        runner.infer({"x.1": planes})
        with pytest.raises(FeedError, match=r"is uint8 .*, but the model takes float32"):
            runner.infer({"x.1": pixels[None]})
    wanted = pixels[None] if dtype == np.uint8 else planes.transpose(0, 2, 3, 1)
    wanted = wanted if last else wanted.transpose(0, 3, 1, 2)
    assert np.array_equal(inner.fed[0]["images"], wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("last", [False, True], ids=["planes-first", "planes-last"])
def test_a_batch_is_laid_out_as_the_model_declares(dtype: Any, last: bool) -> None:
    """What lies as wanted, or fits in no order, is left as it is."""
    batch = images(dtype) if not last else images(dtype).transpose(0, 2, 3, 1)
    assert laid_out(batch, info(dtype=dtype, last=last)) is batch
    other = laid_out(batch, info(dtype=dtype, last=not last))
    assert np.array_equal(other, batch.transpose((0, 3, 1, 2) if last else (0, 2, 3, 1)))
    assert laid_out(batch[:, :, :9], info(dtype=dtype, last=last)).shape == batch[:, :, :9].shape


def test_heads_that_are_none_are_refused() -> None:
    """Nothing is paired by position; the inner runner is closed with the error."""
    inner = Given(shuffled(HEADS) | {"again": HEADS["box_p4"]})
    message = r"output again is \(1, 36, 8, 8\), but"
    with pytest.raises(HeadError, match=message) as raised, NamedRunner(inner, SMALL) as runner:
        runner.infer({SMALL.input_name: images()})
    assert inner.left == [raised.value]


def test_a_model_of_two_inputs_is_refused() -> None:
    """Images alone are fed; the message shows what the model asks for."""
    inner = Given(HEADS, info("images"), info("scales"))
    message = r"inputs \['images', 'scales'\], but an EfficientDet has one"
    with NamedRunner(inner, SMALL) as runner, pytest.raises(RunnerError, match=message):
        runner.infer({"x.1": images()})


def test_several_feeds_at_a_time_stay_so() -> None:
    """Feeds go to the inner stream under its names, ahead of their results; so do its times."""
    inner = Streaming(HEADS)
    feeds = [{SMALL.input_name: np.full((1, 3, 128, 128), n, np.float32)} for n in range(2)]
    with NamedRunner(inner, SMALL) as runner:
        stream = runner.infer_stream(feeds)
        first = next(stream)
        assert [list(feed) for feed in inner.fed] == [["images"], ["images"]]
        assert list(first) == list(SMALL.output_names)
        assert len(list(stream)) == 1
        assert runner.device_times is Streaming.device_times
    with NamedRunner(Given(HEADS), SMALL) as runner:
        assert runner.device_times is None


@pytest.mark.parametrize(
    ("size", "fits"),
    [((128, 128), True), ((128, 256), False), ((256, 128), False)],
    ids=["its-own", "wider", "taller"],
)
def test_a_model_of_another_size_is_refused(size: tuple[int, int], fits: bool) -> None:
    """The error shows what the model takes, what the architecture is fed, and both options."""
    spec = replace(SMALL, image_size=size)
    with FakeRunner() as runner:
        if fits:
            check_size(runner, spec)
        else:
            message = rf"images as \(3, 128, 128\), but .* fed {size[0]}x{size[1]} .*--image-size$"
            with pytest.raises(RunnerError, match=message):
                check_size(runner, spec)
