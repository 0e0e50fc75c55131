"""
Queries that wait in memory, and what answers them.

The scenarios are MLPerf's in their terms, not in its rules: one image at a time, whose 90th
percentile counts, or all images at once, whose images a second count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ..data.coco import Sample
from ..data.preprocess import ModelInput, preprocess
from ..detection.heads import split_heads
from ..detection.postprocess import Detections, postprocess
from ..runners.base import DetectingRunner, Runner, infer_each, make_feed, takes_pixels
from ..spec import ModelSpec
from ..types import Tensors
from .timing import Call


@dataclass(frozen=True)
class Queries:
    """
    Batches of real images as network input, and what leads back to the images.

    *pixels* are the same images for a runner that detects by itself.
    """

    feeds: tuple[Tensors, ...]
    inputs: tuple[tuple[ModelInput, ...], ...]
    pixels: tuple[tuple[ModelInput, ...], ...] = ()

    def feed(self, index: int) -> Tensors:
        """The *index*-th batch; after the last one the first comes again."""
        return self.feeds[index % len(self.feeds)]

    def images(self, index: int) -> tuple[ModelInput, ...]:
        """The images of the *index*-th batch."""
        return self.inputs[index % len(self.inputs)]


def read_queries(samples: Sequence[Sample], runner: Runner, batch: int, spec: ModelSpec) -> Queries:
    """
    Batches of *batch* images that hold every one of *samples*, for the open *runner*.

    Where there are fewer samples than a batch or the last one needs, the first come again.
    """

    def batches(*, normalized: bool) -> tuple[tuple[ModelInput, ...], ...]:
        read = [preprocess(sample.path, spec, normalized=normalized) for sample in samples]
        starts = range(0, len(read), batch)
        return tuple(tuple(read[(s + i) % len(read)] for i in range(batch)) for s in starts)

    inputs = batches(normalized=not takes_pixels(runner))
    feeds = tuple(make_feed(images, runner) for images in inputs)
    detecting = isinstance(runner, DetectingRunner)
    return Queries(feeds, inputs, batches(normalized=False) if detecting else ())


def single_stream(runner: Runner, queries: Queries, spec: ModelSpec) -> Call:
    """Answer one query after the other: the input of an image to its detections."""
    if isinstance(runner, DetectingRunner):
        return lambda index: next(
            runner.detect_stream([queries.pixels[index % len(queries.pixels)]])
        )

    def answer(index: int) -> list[Detections]:
        outputs = runner.infer(queries.feed(index))
        images = zip(split_heads(outputs, spec), queries.images(index), strict=True)
        return [postprocess(heads, i.image_scale, i.image_size, spec) for heads, i in images]

    return answer


def offline(
    runner: Runner, queries: Queries, spec: ModelSpec, loop: int, host_threads: int
) -> Call:
    """Answer *loop* queries that are there at once: batches overlap, as in the run line."""
    if isinstance(runner, DetectingRunner):
        detecting, pixels = runner.detect_stream, queries.pixels

        def detect(_: int) -> list[Detections]:
            batches = itertools.islice(itertools.cycle(pixels), loop)
            return list(itertools.chain.from_iterable(detecting(batches)))

        return detect

    def answer(_: int) -> list[Detections]:
        found: list[Detections] = []
        pending: list[Future[Detections]] = []
        with ThreadPoolExecutor(host_threads, "effd0") as pool:
            stream = infer_each(runner, (queries.feed(n) for n in range(loop)))
            for index, outputs in enumerate(stream):
                # The batch before ends here, so that memory stays bounded.
                found += [future.result() for future in pending]
                images = queries.images(index)
                pending = [
                    pool.submit(postprocess, heads, image.image_scale, image.image_size, spec)
                    for heads, image in zip(split_heads(outputs, spec), images, strict=True)
                ]
            return found + [future.result() for future in pending]

    return answer
