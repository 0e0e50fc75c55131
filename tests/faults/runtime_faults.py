"""Faults of a backend while it runs: precision, memory, batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from effd0.runners.onnxruntime import OrtRunner
from effd0.runners.torch import TorchRunner
from effd0.types import Tensors

from .fault import Fault, Good, Plant, Planted
from .good import detections_of
from .run import base_options

Array = npt.NDArray[Any]
#: A runner, its right heads and its feed -> what the faulty backend gives.
Spoil = Callable[[OrtRunner, Tensors, Tensors], Tensors]


def _runtime(spoil: Spoil) -> Plant:
    """ONNX Runtime with its default optimisation, as users run it, gives spoiled heads."""

    @contextlib.contextmanager
    def patched() -> Iterator[object]:
        right = OrtRunner.infer

        def infer(self: OrtRunner, feed: Tensors) -> Tensors:
            heads = right(self, feed)
            return heads if self.graph_optimization == "disable" else spoil(self, heads, feed)

        with mock.patch.object(OrtRunner, "infer", infer):
            yield None

    def plant(good: Good, _: object) -> Planted:
        # The export is run by the same backend, so it is given, not made under the patch.
        options = (*base_options(good), f"--model={good.model}", "--runner=ort")
        return Planted(options, patched, lambda: detections_of(good.model, good.dataset))

    return plant


def _each(change: Callable[[str, Array], Array]) -> Spoil:
    return lambda _self, heads, _feed: {name: change(name, head) for name, head in heads.items()}


def _autocast(kind: str) -> Spoil:
    """The heads of the same weights, computed by PyTorch in another precision."""
    runners: dict[str, TorchRunner] = {}

    def spoil(_self: OrtRunner, heads: Tensors, feed: Tensors) -> Tensors:
        from effd0.data import fixture as embedded
        from effd0.spec import D0

        if kind not in runners:
            runners[kind] = TorchRunner(embedded.checkpoint(), D0, precision=kind).__enter__()
        (images,) = feed.values()
        found = runners[kind].infer({D0.input_name: images})
        return {name: found[name].astype(np.float32) for name in heads}

    return spoil


def _with_weights(change: Callable[[Any], Any]) -> Spoil:
    """The heads of weights that are changed, as by a backend that stores them otherwise."""
    runners: dict[str, TorchRunner] = {}

    def spoil(_self: OrtRunner, heads: Tensors, feed: Tensors) -> Tensors:
        import torch

        from effd0.data import fixture as embedded
        from effd0.spec import D0

        if "it" not in runners:
            runner = TorchRunner(embedded.checkpoint(), D0).__enter__()
            with torch.no_grad():
                for module in runner._model.modules():
                    if isinstance(module, torch.nn.Conv2d):
                        module.weight.copy_(change(module.weight))
            runners["it"] = runner
        (images,) = feed.values()
        return {n: h for n, h in runners["it"].infer({D0.input_name: images}).items() if n in heads}

    return spoil


def _int8(weight: Any) -> Any:
    step = weight.abs().amax() / 127
    return (weight / step).round() * step


class _Reused:
    """A backend that gives views of its own buffers."""

    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}

    def __call__(self, _self: OrtRunner, heads: Tensors, _feed: Tensors) -> Tensors:
        given = {}
        for name, head in heads.items():
            key = f"{name}{head.shape}"
            buffer = self.buffers.setdefault(key, np.empty_like(head))
            buffer[:] = head
            given[name] = buffer.view()
        return given


class _Stateful:
    """A backend whose first batch norm keeps a trace of the image before."""

    def __init__(self) -> None:
        self.before: float = 0.0

    def __call__(self, _self: OrtRunner, heads: Tensors, feed: Tensors) -> Tensors:
        (images,) = feed.values()
        trace, self.before = self.before, float(images.mean())
        return {name: head + np.float32(0.0005 * trace) for name, head in heads.items()}


class _Noisy:
    """Sums in an order that changes from run to run."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, _self: OrtRunner, heads: Tensors, _feed: Tensors) -> Tensors:
        return {
            name: head + self.rng.normal(0, 1e-5, head.shape).astype(np.float32)
            for name, head in heads.items()
        }


def _leaking(_self: OrtRunner, heads: Tensors, feed: Tensors) -> Tensors:
    """Statistics over the batch, as of a network left in training mode."""
    (images,) = feed.values()
    if len(images) == 1:
        return heads
    shift = np.float32(images.mean() - images[:1].mean())
    return {name: head + shift * np.float32(0.5) for name, head in heads.items()}


def _rolled(_name: str, head: Array) -> Array:
    return np.roll(head, 1, axis=0).copy()


def _first_repeated(_name: str, head: Array) -> Array:
    return np.repeat(head[:1], len(head), axis=0)


def _saturated(name: str, head: Array) -> Array:
    if not name.startswith("class_p5"):
        return head
    spoiled = head.copy()
    spoiled[:, ::7] = -65504
    return spoiled


def _nan(name: str, head: Array) -> Array:
    if name != "box_p6":
        return head
    spoiled = head.copy()
    spoiled[:, 3, 2, 2] = np.nan
    return spoiled


def _stored_float16(_name: str, head: Array) -> Array:
    return head.astype(np.float16).astype(np.float32)


def _stored_bfloat16(_name: str, head: Array) -> Array:
    return (np.ascontiguousarray(head).view(np.uint32) & 0xFFFF0000).view(np.float32)


def _stuck(name: str, head: Array) -> Array:
    return np.full_like(head, -4.595) if name == "class_p7" else head


RUNTIME_FAULTS = (
    Fault("quietly-bf16", "runner", "peers F40: OpenVINO on CPUs with AMX", "bf16|bfloat16",
          _runtime(_autocast("bf16"))),
    Fault("weights-in-int8", "runner", "peers 2: int8 loses 4.2 points", "int8",
          _runtime(_with_weights(_int8))),
    Fault("heads-stored-in-fp16", "runner", "peers F40", "float16",
          _runtime(_each(_stored_float16))),
    Fault("heads-stored-in-bf16", "runner", "peers F40", "bfloat16",
          _runtime(_each(_stored_bfloat16))),
    Fault("saturated", "runner", "peers F41", "65504", _runtime(_each(_saturated))),
    Fault("nan-in-a-head", "runner", "peers F34", "not finite|NaN", _runtime(_each(_nan))),
    Fault("head-stuck", "runner", "peers F41", "stuck", _runtime(_each(_stuck))),
    Fault("buffers-reused", "runner", "Polygraphy's runner, house style 7", "buffers are reused",
          _runtime(_Reused())),
    Fault("state-left-over", "runner", "a cache between requests", "state left over",
          _runtime(_Stateful())),
    Fault("not-deterministic", "runner", "atomics on a GPU", "not deterministic",
          _runtime(_Noisy())),
    Fault("batch-statistics", "runner", "peers 3: larger batch must not change mAP",
          "depend on the batch", _runtime(_leaking)),
    Fault("batch-rows-rolled", "runner", "peers F39", "rows shifted", _runtime(_each(_rolled))),
    Fault("first-row-repeated", "runner", "peers F39: batch baked in", "rows repeated",
          _runtime(_each(_first_repeated))),
)  # fmt: skip
