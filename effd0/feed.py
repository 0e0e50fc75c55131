"""What is fed to a model: how many images at a time, as pixels or normalised, under which name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Tensor, Tensors
from .errors import FeedError
from .preprocess import ModelInput
from .runners.base import Runner, TensorInfo, batch_size_of, only_input


def choose_batch_size(runner: Runner, asked: int | None) -> int:
    """
    The batch size to feed *runner*: *asked*, or the model's own, or 1.

    Raises `FeedError` where more is asked than a fixed-batch model takes.
    """
    fixed = batch_size_of(runner.inputs)
    if asked is None:
        return fixed if fixed is not None else 1
    if asked < 1:
        raise FeedError(f"--batch-size is {asked}, but must be at least 1")
    if fixed is not None and asked > fixed:
        raise FeedError(
            f"--batch-size is {asked}, but the model takes {fixed}; "
            f"export it with --batch-size {asked} or --dynamic-batch"
        )
    return asked


def takes_pixels(runner: Runner) -> bool:
    """Whether the model normalises by itself (AIPP) and is fed letterboxed uint8 pixels."""
    return runner.inputs[0].dtype == np.uint8


def make_feed(inputs: Sequence[ModelInput], runner: Runner, rows: Tensor | None = None) -> Tensors:
    """
    Stack network inputs for *runner*, in its input's name and dtype.

    *rows*, where given, is the batch whose rows the inputs' tensors are already.
    """
    info = only_input(runner.inputs)
    if rows is None:
        return stacked([i.tensor for i in inputs], info)
    return {info.name: rows.astype(info.dtype, copy=False)}


def stacked(tensors: Sequence[np.ndarray], info: TensorInfo) -> Tensors:
    """Make one batch of *tensors*, in the name and dtype of the input *info*."""
    # A single image is a batch as it is; copied, it would be three megabytes of fresh memory.
    batch = tensors[0][None] if len(tensors) == 1 else np.stack(tensors)
    return {info.name: batch.astype(info.dtype, copy=False)}
