"""Tests for `effd0.runners.base`: what a feed must hold, and how a batch is filled up."""

from __future__ import annotations

import numpy as np
import pytest

from effd0.errors import FeedError
from effd0.runners.base import TensorInfo, batch_size_of, check_feed, pad_feed, trim_outputs
from effd0.types import Tensors

FOUR = TensorInfo("images", (4, 3, 2, 2), np.dtype(np.float32))
FREE = TensorInfo("images", (None, 3, 2, 2), np.dtype(np.float32))
SIZES = TensorInfo("sizes", (4, 2), np.dtype(np.float32))


def rows(count: int) -> np.ndarray:
    """Input of *count* rows, each filled with its own number from 1."""
    return np.broadcast_to(
        np.arange(1, count + 1, dtype=np.float32)[:, None, None, None], (count, 3, 2, 2)
    )


@pytest.mark.parametrize("count", [1, 3, 4], ids="rows={}".format)
@pytest.mark.parametrize("info", [FOUR, FREE], ids=["fixed", "free"])
def test_check_feed_counts_the_rows_of_a_feed_that_fits(info: TensorInfo, count: int) -> None:
    """A whole or smaller batch of the declared name, shape and dtype passes."""
    assert check_feed({"images": rows(count)}, [info]) == count


def test_check_feed_takes_any_batch_where_the_model_does() -> None:
    """A free first dimension has no largest batch."""
    assert check_feed({"images": rows(50)}, [FREE]) == 50


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
def test_check_feed_names_both_sides(feed: Tensors, message: str) -> None:
    """The message shows what came beside what was wanted, so that no rerun is needed."""
    with pytest.raises(FeedError, match=message):
        check_feed(feed, [FOUR])


def test_check_feed_refuses_inputs_of_different_rows() -> None:
    """Two inputs that each fit do not make a batch if one is shorter."""
    feed = {"images": rows(4), "sizes": np.ones((3, 2), np.float32)}
    with pytest.raises(FeedError, match=r"inputs have \[3, 4\] rows, but all must have the same"):
        check_feed(feed, [FOUR, SIZES])


def test_pad_feed_repeats_the_first_row() -> None:
    """A short batch is filled up with its own first row, which the model can surely take."""
    padded = pad_feed({"images": rows(2)}, [FOUR])["images"]
    assert padded.dtype == np.float32
    assert padded[:, 0, 0, 0].tolist() == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("info", "count"),
    [pytest.param(FOUR, 4, id="full"), pytest.param(FREE, 2, id="free")],
)
def test_pad_feed_leaves_a_batch_that_fits(info: TensorInfo, count: int) -> None:
    """Nothing is copied where nothing is missing."""
    feed = {"images": rows(count)}
    assert pad_feed(feed, [info])["images"] is feed["images"]


def test_trim_outputs_copies_what_it_cuts() -> None:
    """The rows that stay do not keep the cut ones in memory."""
    outputs = {"heads": np.arange(8.0).reshape(4, 2)}
    trimmed = trim_outputs(outputs, 3)["heads"]
    assert trimmed.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert not np.shares_memory(trimmed, outputs["heads"])


def test_trim_outputs_leaves_whole_ones() -> None:
    """Nothing is copied where nothing is cut."""
    outputs = {"heads": np.zeros((4, 2))}
    assert trim_outputs(outputs, 4)["heads"] is outputs["heads"]


@pytest.mark.parametrize(
    ("info", "text"),
    [
        pytest.param(FOUR, "float32 (4, 3, 2, 2)", id="fixed"),
        pytest.param(FREE, "float32 (N, 3, 2, 2)", id="free"),
    ],
)
def test_tensor_info_reads_as_dtype_and_shape(info: TensorInfo, text: str) -> None:
    """Messages show a free dimension as N."""
    assert str(info) == text


@pytest.mark.parametrize(
    ("info", "size"), [pytest.param(FOUR, 4, id="fixed"), pytest.param(FREE, None, id="free")]
)
def test_batch_size_is_the_first_dimension(info: TensorInfo, size: int | None) -> None:
    """A fixed batch size is read off the first input; None stands for any."""
    assert batch_size_of([info]) == size
