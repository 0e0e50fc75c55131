"""Tests for `effd0.runners.base`: what is fed to a model, and how much of it at once."""

from __future__ import annotations

import numpy as np
import pytest

from effd0.data.preprocess import ModelInput
from effd0.errors import FeedError, RunnerError
from effd0.runners.base import TensorInfo, choose_batch_size, make_feed
from tests.fakes.runner import FLOAT, FakeRunner


def test_feed_is_named_and_typed_as_the_model_wants() -> None:
    """The batch is stacked in order and cast to what a half-precision model takes."""
    tensors = [np.full((3, 128, 128), value, FLOAT) for value in (0.1, 2.5)]
    inputs = [ModelInput(tensor, 1.0, (1, 1)) for tensor in tensors]
    single = make_feed(inputs, FakeRunner())["in"]
    half = make_feed(inputs, FakeRunner(dtype=np.dtype(np.float16)))["in"]
    assert single.dtype == np.float32
    assert half.dtype == np.float16
    assert np.array_equal(single, np.stack(tensors))
    assert np.array_equal(half, np.stack(tensors).astype(np.float16))


def test_a_single_image_is_fed_without_a_copy() -> None:
    """Its tensor is the batch of one, in the memory that it has."""
    tensor = np.ones((3, 128, 128), FLOAT)
    batch = make_feed([ModelInput(tensor, 1.0, (1, 1))], FakeRunner())["in"]
    assert batch.shape == (1, 3, 128, 128)
    assert np.shares_memory(batch, tensor)


def test_model_of_two_inputs_is_refused() -> None:
    """Which of them is the image cannot be known, so that the message names both."""
    runner = FakeRunner()
    runner.inputs = [*runner.inputs, TensorInfo("image_info", (1, 6), FLOAT)]
    message = r"the model has the inputs \['in', 'image_info'\], but an EfficientDet-D0 has one"
    with pytest.raises(RunnerError, match=message):
        make_feed([], runner)


@pytest.mark.parametrize(
    ("fixed", "asked", "chosen"),
    [(None, None, 1), (None, 8, 8), (4, None, 4), (4, 4, 4), (4, 1, 1)],
    ids=["free", "free-asked", "fixed", "fixed-asked", "fixed-asked-less"],
)
def test_batch_size_is_the_asked_one_or_the_models(
    fixed: int | None, asked: int | None, chosen: int
) -> None:
    """A model of free batch runs one by one unless asked; a fixed one takes less, too."""
    assert choose_batch_size(FakeRunner(fixed=fixed), asked) == chosen


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param(0, "--batch-size is 0, but must be at least 1", id="zero"),
        pytest.param(-2, "--batch-size is -2, but must be at least 1", id="negative"),
        pytest.param(
            5, "--batch-size is 5, but the model takes 4; export it with --batch-size 5", id="more"
        ),
    ],
)
def test_batch_size_that_does_not_fit_is_refused(asked: int, message: str) -> None:
    """The message shows what was asked, what the model takes, and how to get one that does."""
    with pytest.raises(FeedError, match=message):
        choose_batch_size(FakeRunner(fixed=4), asked)
