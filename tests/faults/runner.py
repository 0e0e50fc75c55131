"""Faults of raw outputs that another tool wrote, and of a backend while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from effd0.data.preprocess import preprocess
from effd0.runners.checkpoint import read_weights
from effd0.runners.onnxruntime import OrtRunner
from effd0.runners.recorded import RecordedRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.runners.torch import TorchRunner
from effd0.types import Tensors

from .checkpoint import noisy
from .inputs import MEAN, STD
from .run import Fault, Good, Plant, Planted, base_options, detections_by, with_model

Array = npt.NDArray[Any]
#: Stem -> output number -> head, (C, H, W).
Heads = dict[str, dict[int, Array]]


def _folder(change: Callable[[Good, Path], object], *, runs: bool = True) -> Plant:
    """A folder of links to the good results, as *change* leaves it: what it changes is new."""

    def plant(good: Good, folder: Path) -> Planted:
        copy = folder / "result"
        shutil.copytree(good.results, copy, copy_function=os.link)
        shutil.copy(good.results.parent / "result_manifest.json", folder)
        change(good, copy)

        def found() -> Any:
            with RecordedRunner(copy, good.spec) as runner:
                return detections_by(runner, good.dataset, good.spec)

        options = (*base_options(good), f"--results={copy}")
        return Planted(options, found=found if runs else None)

    return plant


def _write(folder: Path, stem: str, heads: dict[int, Array]) -> None:
    for number, head in heads.items():
        target = folder / f"{stem}_{number}.bin"
        target.unlink(missing_ok=True)
        np.ascontiguousarray(head, np.float32).tofile(target)


def _heads(change: Callable[[Heads], Heads], *, runs: bool = True) -> Plant:
    """Every file holds what *change* makes of all heads."""

    def rewrite(good: Good, folder: Path) -> None:
        heads = {
            sample.path.stem: {
                n: np.fromfile(good.results / f"{sample.path.stem}_{n}.bin", np.float32).reshape(s)
                for n, s in enumerate(good.spec.head_shapes.values())
            }
            for sample in good.dataset.samples
        }
        for stem, of in change(heads).items():
            _write(folder, stem, of)

    return _folder(rewrite, runs=runs)


def _each(change: Callable[[Array], Array], only: range = range(10)) -> Plant:
    """Each head, or those of *only* class (0 to 4) or box outputs, as *change* makes it."""
    return _heads(lambda heads: {
        stem: {n: change(head) if n in only else head for n, head in of.items()}
        for stem, of in heads.items()
    })  # fmt: skip


def _files(change: Callable[[list[Path]], object]) -> Plant:
    return _folder(lambda _, folder: change(sorted(folder.iterdir())), runs=False)


def _next_images(heads: Heads) -> Heads:
    stems = list(heads)
    return dict(zip(stems, [heads[s] for s in stems[1:] + stems[:1]], strict=True))


def _cut(paths: list[Path]) -> None:
    content = paths[4].read_bytes()
    paths[4].unlink()
    paths[4].write_bytes(content[: len(content) // 2])


def _turned(paths: list[Path]) -> None:
    for path in paths:
        values = np.fromfile(path, "<f4")
        path.unlink()  # a link to the good one
        values.astype(">f4").tofile(path)


def _by_anchor(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """*change* is given (9, classes or 4, H, W)."""
    return lambda head: change(head.reshape(9, -1, *head.shape[1:])).reshape(head.shape)


def _stale(_: Good, folder: Path) -> None:
    """Results of an earlier set of inputs: the manifest beside them is of others."""
    path = folder.parent / "result_manifest.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["sha256"] = image["sha256"][::-1]
    path.write_text(json.dumps(content))


def _of_inputs(remake: Callable[[Array], Array]) -> Plant:
    """Right results of wrong inputs: what the model says of images that were prepared wrongly."""

    def rewrite(good: Good, folder: Path) -> None:
        with open_runner("ort", good.model, good.spec, RunnerOptions()) as runner:
            for sample in good.dataset.samples:
                tensor = remake(preprocess(sample.path, good.spec).tensor.astype(np.float32))
                feed = {runner.inputs[0].name: np.ascontiguousarray(tensor)[None]}
                heads = runner.infer(feed).values()
                _write(folder, sample.path.stem, dict(enumerate(heads)))

    return _folder(rewrite)


def _three_of_another_checkpoint(good: Good, folder: Path) -> None:
    """The heads of three images by weights a twentieth of their spread away."""
    other = folder.parent / "other.pth"
    torch.save(noisy(read_weights(good.checkpoint), 0.05, 1), other)
    with open_runner("torch", other, good.spec, RunnerOptions()) as runner:
        for sample in good.dataset.samples[6:9]:
            tensor = preprocess(sample.path, good.spec).tensor[None]
            heads = runner.infer({good.spec.input_name: tensor})
            _write(folder, sample.path.stem, dict(enumerate(heads.values())))


def _stale_box_head(heads: Heads) -> Heads:
    """One file of one image is of the image before."""
    stems = list(heads)
    return {stems[8]: {**heads[stems[8]], 6: heads[stems[7]][6]}}


def _rotated(heads: Heads) -> Heads:
    """The rows of the second batch of four are one place on, those of the first are right."""
    stems = list(heads)[8:]
    return dict(zip(stems, [heads[s] for s in stems[1:] + stems[:1]], strict=True))


def _last_batch_zero(heads: Heads) -> Heads:
    return {s: {n: np.zeros_like(h) for n, h in heads[s].items()} for s in list(heads)[8:]}


#: A runner's right heads and its feed -> what the faulty backend gives.
Spoil = Callable[[Tensors, Tensors], Tensors]


def _runtime(spoil: Spoil) -> Plant:
    """ONNX Runtime with its default optimisation, as users run it, gives spoiled heads."""
    # The export is run by the same backend, so it is given, not made under the patch.
    return lambda good, _: replace(with_model(good, good.model), patched=lambda: _patched(spoil))


@contextlib.contextmanager
def _patched(spoil: Spoil) -> Iterator[object]:
    """ONNX Runtime as *spoil* leaves it, for the time of the block."""
    right = OrtRunner.infer

    def infer(self: OrtRunner, feed: Tensors) -> Tensors:
        heads = right(self, feed)
        return heads if self.graph_optimization == "disable" else spoil(heads, feed)

    def infer_stream(self: OrtRunner, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        return (infer(self, feed) for feed in feeds)

    with mock.patch.multiple(OrtRunner, infer=infer, infer_stream=infer_stream):
        yield None


def _spoiled(change: Callable[[str, Array], Array]) -> Plant:
    return _runtime(lambda heads, _: {name: change(name, head) for name, head in heads.items()})


def _by_torch(precision: str, change: Callable[[Any], Any] | None = None) -> Plant:
    """The heads of the same weights, or of what *change* makes of them, in a precision."""

    def plant(good: Good, folder: Path) -> Planted:
        runners: list[TorchRunner] = []

        def spoil(heads: Tensors, feed: Tensors) -> Tensors:
            if not runners:
                opened = TorchRunner(good.checkpoint, good.spec, precision=precision)
                runners.append(opened.__enter__())
                for module in runners[0].opened()[0].modules() if change else ():
                    if isinstance(module, torch.nn.Conv2d):
                        with torch.no_grad():
                            module.weight.copy_(change(module.weight))  # type: ignore[misc]
            (images,) = feed.values()
            found = runners[0].infer({good.spec.input_name: images})
            return {name: found[name].astype(np.float32) for name in heads}

        return _runtime(spoil)(good, folder)

    return plant


def _int8(weight: Any) -> Any:
    step = weight.abs().amax() / 127
    return (weight / step).round() * step


class _Reused:
    """A backend that gives views of its own buffers."""

    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}

    def __call__(self, heads: Tensors, _feed: Tensors) -> Tensors:
        given = {}
        for name, head in heads.items():
            buffer = self.buffers.setdefault(f"{name}{head.shape}", np.empty_like(head))
            buffer[:] = head
            given[name] = buffer.view()
        return given


class _Stateful:
    """A backend whose first batch norm keeps a trace of the image before."""

    before = 0.0

    def __call__(self, heads: Tensors, feed: Tensors) -> Tensors:
        (images,) = feed.values()
        trace, self.before = self.before, float(images.mean())
        return {name: head + np.float32(0.0005 * trace) for name, head in heads.items()}


def _noisy() -> Plant:
    """Sums in an order that changes from run to run."""
    rng = np.random.default_rng(0)
    return _spoiled(lambda _, head: head + rng.normal(0, 1e-5, head.shape).astype(np.float32))


def _leaking(heads: Tensors, feed: Tensors) -> Tensors:
    """Statistics over the batch, as of a network left in training mode."""
    (images,) = feed.values()
    shift = np.float32(images.mean() - images[:1].mean())
    return heads if len(images) == 1 else {n: h + shift * np.float32(0.5) for n, h in heads.items()}


def _with(head: Array, places: Any, value: float) -> Array:
    spoiled = head.copy()
    spoiled[places] = value
    return spoiled


_CLASSES, _BOXES = range(5), range(5, 10)
FAULTS = (
    Fault("results-shifted-by-one", "runner", "peers F18", "shifted by one", _heads(_next_images)),
    Fault("a-head-twice-in-results", "runner", "peers F23", "", _heads(
        lambda h: {s: {**of, 4: of[9], 9: of[9]} for s, of in h.items()}, runs=False)),
    Fault("result-missing", "runner", "peers F20", "", _files(lambda p: p[7].unlink())),
    Fault("result-cut-off", "runner", "peers F20", "", _files(_cut)),
    Fault("results-nhwc", "runner", "peers F26", "NHWC",
          _each(lambda h: h.transpose(1, 2, 0).reshape(h.shape))),
    Fault("scores-not-logits", "runner", "TensorRT's samples", "through a sigmoid",
          _each(lambda h: 1 / (1 + np.exp(-h)), _CLASSES)),
    Fault("box-x-and-y-swapped", "runner", "peers F27", "box x and y swapped",
          _each(_by_anchor(lambda a: a[:, [1, 0, 3, 2]]), _BOXES)),
    Fault("background-class", "runner", "peers F46", "class channels shifted up",
          _each(_by_anchor(lambda a: np.roll(a, 1, axis=1)), _CLASSES)),
    Fault("anchors-reordered", "runner", "a converter's reshape", "anchors of a cell",
          _each(_by_anchor(lambda a: a[::-1]))),
    Fault("boxes-scaled", "runner", "TFOD's box coder, 10 10 5 5", "boxes scaled",
          _each(lambda h: h * 0.2, _BOXES)),
    Fault("results-of-other-inputs", "runner", "peers F47: inference #1332", "",
          _folder(_stale, runs=False)),
    Fault("results-of-bgr-inputs", "preprocess", "peers F1", "BGR", _of_inputs(lambda t: t[::-1])),
    Fault("results-of-unnormalised-inputs", "preprocess", "peers F2", "divided by 255|normalised",
          _of_inputs(lambda t: (t.T * STD + MEAN).T.astype(np.float32))),
    Fault("results-three-of-another-checkpoint", "runner", "a board with last week's model", "",
          _folder(_three_of_another_checkpoint), in_part=True),
    Fault("results-one-stale-box-head", "runner", "a file that was not overwritten",
          "a fault in box_p4 alone", _heads(_stale_box_head), in_part=True),
    Fault("results-rows-rotated", "runner", "peers F39", "images rotated within a batch of 4",
          _heads(_rotated), in_part=True),
    Fault("results-last-batch-zero", "runner", "a batch that was not filled",
          "nothing was written", _heads(_last_batch_zero), in_part=True),
    Fault("results-big-endian", "runner", "Java's DataOutputStream", "", _files(_turned)),
    Fault("quietly-bf16", "runner", "peers F40: OpenVINO on CPUs with AMX", "bf16|bfloat16",
          _by_torch("bf16")),
    Fault("weights-in-int8", "runner", "peers 2: int8 loses 4.2 points", "int8",
          _by_torch("fp32", _int8)),
    Fault("heads-stored-in-fp16", "runner", "peers F40", "float16",
          _spoiled(lambda _, head: head.astype(np.float16).astype(np.float32))),
    Fault("heads-stored-in-bf16", "runner", "peers F40", "bfloat16", _spoiled(lambda _, head: (
        np.ascontiguousarray(head).view(np.uint32) & 0xFFFF0000).view(np.float32))),
    Fault("saturated", "runner", "peers F41", "65504", _spoiled(lambda name, head: (
        _with(head, np.s_[:, ::7], -65504) if name == "class_p5" else head))),
    Fault("nan-in-a-head", "runner", "peers F34", "not finite|NaN", _spoiled(lambda name, head: (
        _with(head, np.s_[:, 3, 2, 2], np.nan) if name == "box_p6" else head))),
    Fault("head-stuck", "runner", "peers F41", "stuck", _spoiled(lambda name, head: (
        np.full_like(head, -4.595) if name == "class_p7" else head))),
    Fault("buffers-reused", "runner", "Polygraphy's runner, house style 7", "buffers are reused",
          _runtime(_Reused())),
    Fault("state-left-over", "runner", "a cache between requests", "state left over",
          _runtime(_Stateful())),
    Fault("not-deterministic", "runner", "atomics on a GPU", "not deterministic", _noisy()),
    Fault("batch-statistics", "runner", "peers 3: larger batch must not change mAP",
          "depend on the batch", _runtime(_leaking)),
    Fault("batch-rows-rolled", "runner", "peers F39", "rows shifted",
          _spoiled(lambda _, head: np.roll(head, 1, axis=0).copy())),
    Fault("first-row-repeated", "runner", "peers F39: batch baked in", "rows repeated",
          _spoiled(lambda _, head: np.repeat(head[:1], len(head), axis=0))),
)  # fmt: skip
