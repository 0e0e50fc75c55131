"""An ONNX model in ONNX Runtime."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import RunnerError, require
from ..types import Tensors
from .base import TensorInfo, batch_size_of, check_feed, pad_feed, trim_outputs

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_CPU = "CPUExecutionProvider"
#: The most runs at a time, each of which holds the feature maps of an image, 0.1 GB.
_SIDE_BY_SIDE = 4
#: What may be asked for -> ONNX Runtime's name of it.
GRAPH_OPTIMIZATIONS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_ALL_OR_NOTHING = (
    " A model of fixed batch size, simplified, has no nodes that compute shapes, "
    "which a device leaves to the CPU: 'effd0 export --batch-size 1', then 'effd0 simplify'"
)


def check_options(
    provider: str, graph_optimization: str, provider_options: Mapping[str, str]
) -> None:
    """Raise `RunnerError` for what ONNX Runtime would not know, or would pass over in silence."""
    if graph_optimization not in GRAPH_OPTIMIZATIONS:
        raise RunnerError(
            f"--graph-optimization is {graph_optimization!r}, "
            f"but {', '.join(GRAPH_OPTIMIZATIONS)} exist"
        )
    if provider == _CPU and provider_options:
        # It would take any, and look at none.
        raise RunnerError(
            f"--provider-option gives {', '.join(provider_options)}, but {_CPU} has none; "
            "leave it out, or choose another --provider"
        )


class OrtRunner:
    """
    One inference session on the provider asked for, and on no other.

    *provider_options* are the provider's own, as ONNX Runtime documents them; *graph_optimization*
    is a key of `GRAPH_OPTIMIZATIONS`.  A provider that is missing, that ONNX Runtime quietly
    replaced, or that would leave nodes of the model to the CPU is a `RunnerError`.
    """

    def __init__(
        self,
        model: Path,
        *,
        provider: str,
        threads: int | None = None,
        graph_optimization: str = "all",
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.provider, self.threads = model, provider, threads
        self.graph_optimization = graph_optimization
        self.provider_options = {} if provider_options is None else dict(provider_options)
        check_options(provider, graph_optimization, self.provider_options)
        self.description = f"ONNX Runtime, {provider}"
        self._session: Any = None
        #: The session of runs side by side, opened when they are first asked for.
        self._narrow: Any = None

    def __enter__(self) -> Self:
        ort = require("onnxruntime", extra="onnx")
        available = ort.get_available_providers()
        if self.provider not in available:
            raise RunnerError(
                f"--provider is {self.provider}, but this ONNX Runtime has {', '.join(available)}"
            )
        if not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 export'")
        session = self._open(ort, self.threads)
        if session.get_providers()[0] != self.provider:
            raise RunnerError(
                f"{self.model} was opened on {session.get_providers()[0]}, "
                f"but {self.provider} was asked for"
            )
        self.description = self._describe(ort.__version__)
        self._session = session
        return self

    def __exit__(self, *_: object) -> None:
        self._session = self._narrow = None

    @property
    def inputs(self) -> list[TensorInfo]:
        """The model's inputs."""
        return [self._info(value) for value in self._opened().get_inputs()]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The model's outputs."""
        return [self._info(value) for value in self._opened().get_outputs()]

    def infer(self, feed: Tensors) -> Tensors:
        """Run the model on *feed*; see `Runner.infer`."""
        return self._infer(self._opened(), feed)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """
        Yield the outputs of each feed, in order; see `StreamingRunner`.

        On a CPU, runs of one image go side by side with few threads each: threads that share so
        small a run wait for each other at every node.
        """
        threads = _usable_cores() if self.threads is None else self.threads
        runs = min(threads, _SIDE_BY_SIDE)
        feeds = iter(feeds)
        first = list(islice(feeds, 1))
        feeds, fixed = chain(first, feeds), batch_size_of(self.inputs)
        rows = (
            {len(value) for feed in first for value in feed.values()} if fixed is None else {fixed}
        )
        alone = rows == {1}
        if not alone or self.provider != _CPU or runs == 1:
            yield from map(self.infer, feeds)
            return
        if self._narrow is None:
            self._narrow = self._open(require("onnxruntime", extra="onnx"), threads // runs)
        pool = ThreadPoolExecutor(runs, "effd0-ort")
        pending: deque[Future[Tensors]] = deque()
        try:
            for feed in feeds:
                pending.append(pool.submit(self._infer, self._narrow, feed))
                # One more than can run, so that none of them waits for the next feed.
                if len(pending) > runs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _infer(self, session: Any, feed: Tensors) -> Tensors:
        inputs = self.inputs
        rows = check_feed(feed, inputs)
        try:
            values = session.run(None, dict(pad_feed(feed, inputs)))
        except Exception as error:  # see _open
            raise RunnerError(f"{self.model} failed in ONNX Runtime: {error}") from error
        names = [output.name for output in session.get_outputs()]
        return trim_outputs(dict(zip(names, values, strict=True)), rows)

    def _open(self, ort: Any, threads: int | None) -> Any:
        try:
            # Without enable_fallback=0, the CPU would take over what fails, now or in a run.
            return ort.InferenceSession(
                str(self.model),
                self._session_options(ort, threads),
                providers=[(self.provider, self.provider_options)],
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception.
            hint = "" if "fallback to CPU EP" not in str(error) else _ALL_OR_NOTHING
            raise RunnerError(
                f"{self.model} cannot be opened by ONNX Runtime on {self.provider}: {error}{hint}"
            ) from error

    def _session_options(self, ort: Any, threads: int | None) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what is fatal; every error is raised too
        level = GRAPH_OPTIMIZATIONS[self.graph_optimization]
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        if threads is not None:
            options.intra_op_num_threads = threads
        if self.provider != _CPU:
            # Without this, nodes that the device cannot take run on the CPU without a word.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _describe(self, version: str) -> str:
        """What computes, with all that is not ONNX Runtime's default."""
        parts = [f"ONNX Runtime {version}", self.provider]
        parts += [f"{key}={value}" for key, value in self.provider_options.items()]
        if self.graph_optimization != "all":
            parts.append(f"graph optimization {self.graph_optimization}")
        return ", ".join(parts)

    def _opened(self) -> Any:
        if self._session is None:
            raise RunnerError(f"{self.model} is not open; use the runner in a 'with' block")
        return self._session

    def _info(self, value: Any) -> TensorInfo:
        if value.type not in _DTYPES:
            raise RunnerError(
                f"{value.name} of {self.model} is {value.type}, "
                f"but effd0 takes {', '.join(_DTYPES)}"
            )
        shape = tuple(side if isinstance(side, int) else None for side in value.shape)
        return TensorInfo(value.name, shape, np.dtype(_DTYPES[value.type]))


def _usable_cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not there on every system
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))
