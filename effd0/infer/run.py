"""
Files of network input -> files of head outputs, by any runner, in bounded memory.

Threads read one batch ahead and write the batch before, so that at most three batches of either
exist, whatever the number of files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Tensors
from ..errors import FeedError
from ..feed import choose_batch_size, stacked
from ..runners.base import Runner, TensorInfo, only_input
from ..tensorfiles.inputs import InputFiles
from ..tensorfiles.writer import PURE, ResultWriter
from .clock import Clock
from .throughput import Performance

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InferSettings:
    """
    How files are run: images a batch (None: the model's own, or 1), runs of each batch.

    *warmup* runs of the first batch come before and are not counted.
    """

    batch_size: int | None = None
    loop: int = 1
    warmup: int = 1
    host_threads: int = 2


def infer_files(
    runner: Runner,
    inputs: InputFiles,
    writer: ResultWriter | None,
    settings: InferSettings,
    advance: Callable[[int], None] = lambda _: None,
) -> Performance:
    """
    Run *inputs* through the open *runner*; save the outputs of each by *writer*, if there is one.

    Raises `FeedError` where the model takes other inputs, and what reading, running and writing
    raise.  A batch's padding is never saved.
    """
    info = only_input(runner.inputs)
    check_fits(inputs, info)
    size = choose_batch_size(runner, settings.batch_size)
    batches = [inputs.files[i : i + size] for i in range(0, len(inputs.files), size)]
    order = [output.name for output in runner.outputs]
    with ThreadPoolExecutor(settings.host_threads, "effd0") as pool:
        try:
            read = inputs.read
            _warm_up(runner, stacked([read(file) for file in batches[0]], info), settings.warmup)
            clock = Clock(runner)
            feeds = _feeds(pool, inputs, batches, info, settings.loop, clock)
            writing: list[Future[None]] = []
            for batch, outputs in clock.timed(feeds, batches, settings.loop):
                for future in writing:
                    future.result()
                writing = [] if writer is None else _save(pool, writer, batch, outputs, order)
                advance(len(batch))
            for future in writing:
                future.result()
            return clock.performance()
        finally:
            pool.shutdown(cancel_futures=True)


def infer_nothing(
    runner: Runner, writer: ResultWriter | None, settings: InferSettings
) -> Performance:
    """
    Run zeros through the open *runner*, ``settings.loop`` times: what a batch takes, no files.

    Where there is a *writer*, it saves the last outputs as ``pure_infer_data_{i}``.
    """
    info = only_input(runner.inputs)
    size = choose_batch_size(runner, settings.batch_size)
    if None in info.shape[1:]:
        raise FeedError(f"{info.name} is {info}, but only its batch may be free; give --input")
    shape = [size, *(side for side in info.shape[1:] if side is not None)]
    feed = {info.name: np.zeros(shape, info.dtype)}
    _warm_up(runner, feed, settings.warmup)
    clock = Clock(runner)
    batch = (Path(PURE),) * size
    feeds = (feed for _ in range(settings.loop))
    ((_, outputs),) = deque(clock.timed(feeds, [batch] * settings.loop, 1), maxlen=1)
    performance = clock.performance()
    if writer is not None:
        order = [output.name for output in runner.outputs]
        writer.name(PURE, len(order), None)
        writer.save(PURE, outputs, order)
    return performance


def check_fits(inputs: InputFiles, info: TensorInfo) -> None:
    """Raise `FeedError` unless *inputs*, or their values in another float, are what *info* asks."""
    alike = inputs.dtype.kind == info.dtype.kind
    sides = info.shape[1:]
    fits = len(sides) == len(inputs.shape) and all(
        side in (None, of) for side, of in zip(sides, inputs.shape, strict=True)
    )
    if not (alike and fits):
        raise FeedError(
            f"inputs are {inputs.dtype} {inputs.shape}, but the model's {info.name} is {info}; "
            "preprocess for this model, or choose the model that they were made for"
        )


def _warm_up(runner: Runner, feed: Tensors, runs: int) -> None:
    for _ in range(runs):
        runner.infer(feed)


def _feeds(
    pool: ThreadPoolExecutor,
    inputs: InputFiles,
    batches: Sequence[Sequence[Path]],
    info: TensorInfo,
    loop: int,
    clock: Clock,
) -> Iterator[Tensors]:
    """Each batch *loop* times, the next one being read; what is waited for is noted."""
    reading: deque[list[Future[Array]]] = deque()
    for index in range(len(batches)):
        start = time.perf_counter()
        while len(reading) < min(2, len(batches) - index):
            ahead = batches[index + len(reading)]
            reading.append([pool.submit(inputs.read, file) for file in ahead])
        feed = stacked([future.result() for future in reading.popleft()], info)
        clock.reading += time.perf_counter() - start
        for _ in range(loop):
            yield feed


def _save(
    pool: ThreadPoolExecutor,
    writer: ResultWriter,
    batch: Sequence[Path],
    outputs: Tensors,
    order: Sequence[str],
) -> list[Future[None]]:
    saving = []
    for row, file in enumerate(batch):
        heads = {name: outputs[name][row : row + 1] for name in order}
        writer.name(file.stem, len(order), file)
        saving.append(pool.submit(writer.save, file.stem, heads, order))
    return saving
