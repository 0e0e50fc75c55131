"""An ONNX model in ONNX Runtime."""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunnerError, refuse, require
from ..io import ONNX, check_kind
from ..timing import cores
from ..types import Tensors
from .base import Runner, TensorInfo, batch_size_of

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_CPU = "CPUExecutionProvider"
#: The most runs at a time, each of which holds the feature maps of an image, 0.1 GB.
_SIDE_BY_SIDE = 4
#: Part of what ONNX Runtime says of a model that it cannot open -> the likely cause and remedy.
_HINTS = {
    "fallback to CPU EP": (
        " A model of fixed batch size, simplified, has no nodes that compute shapes, "
        "which a device leaves to the CPU: 'effd0 export --batch-size 1', then 'effd0 simplify'"
    ),
    "uantizeLinear": (
        " The quantization does not fit the opset: scales per channel (axis) need opset 13, "
        "16 and 4 bits opset 21, and a zero point has the type of what is quantized"
    ),
}


class OrtRunner(Runner):
    """
    One inference session on the provider asked for, and on no other.

    Each *provider_option* is a KEY=VALUE of the provider's own, as ONNX Runtime documents them;
    *graph_optimization* is one of `RunnerOptions`' choices.  Raises `RunnerError` for what ONNX
    Runtime would not know or would pass over in silence; for a provider that is missing, that it
    quietly replaced, or that would leave nodes of the model to the CPU.
    """

    def __init__(
        self,
        model: Path,
        *,
        provider: str,
        threads: int | None = None,
        graph_optimization: str = "all",
        provider_option: Sequence[str] = (),
    ) -> None:
        super().__init__(model, f"ONNX Runtime, {provider}")
        self.provider, self.threads = provider, threads
        self.graph_optimization = graph_optimization
        #: The session of runs side by side, opened when they are first asked for.
        self._narrow: Any = None
        pairs = [option.partition("=") for option in provider_option]
        self.provider_options = {key: value for key, _, value in pairs}
        refuse({
            f"--provider-option is {', '.join(provider_option)}, but each must be KEY=VALUE, with "
            "every key once; write it as device_id=1": len(self.provider_options) < len(pairs)
                or not all(key and equals for key, equals, _ in pairs),
            # It would take any, and look at none.
            f"--provider-option gives {', '.join(self.provider_options)}, but {_CPU} has none; "
            "leave it out, or choose another --provider": provider == _CPU and pairs,
        }, RunnerError)  # fmt: skip

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Open a session of *threads*, on the provider alone."""
        ort = require("onnxruntime", extra="onnx")
        available = ort.get_available_providers()
        if self.provider not in available:
            raise RunnerError(
                f"--provider is {self.provider}, but this ONNX Runtime has {', '.join(available)}"
            )
        check_kind(self.model, ONNX, RunnerError, "make it with 'effd0 export'")
        session = self._session(self.threads)
        if (found := session.get_providers()[0]) != self.provider:
            raise RunnerError(
                f"{self.model} was opened on {found}, but {self.provider} was asked for"
            )
        parts = [f"ONNX Runtime {ort.__version__}", self.provider]
        parts += [f"{key}={value}" for key, value in self.provider_options.items()]
        if self.graph_optimization != "all":
            parts.append(f"graph optimization {self.graph_optimization}")
        self.description = ", ".join(parts)
        inputs, outputs = (
            [TensorInfo.declared(self.model, v.name, v.shape, v.type, _DTYPES) for v in values]
            for values in (session.get_inputs(), session.get_outputs())
        )
        return session, inputs, outputs

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._narrow = None

    def run(self, session: Any, feed: Tensors) -> Sequence[np.ndarray]:
        """Run the model on *feed*; see `Runner.run`."""
        try:
            values: Sequence[np.ndarray] = session.run(None, dict(feed))
        except Exception as error:  # see _session
            raise RunnerError(f"{self.model} failed in ONNX Runtime: {error}") from error
        return values

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """
        Yield the outputs of each feed, in order; see `Runner.infer_stream`.

        On a CPU, runs of one image go side by side with few threads each: threads that share so
        small a run wait for each other at every node.
        """
        feeds = iter(feeds)
        first = next(feeds, {})
        feeds = chain([first] if first else [], feeds)
        rows = batch_size_of(self.inputs) or max(map(len, first.values()), default=0)
        threads = cores() if self.threads is None else self.threads
        runs = min(threads, _SIDE_BY_SIDE) if self.provider == _CPU and rows == 1 else 1
        if runs == 1:
            yield from map(self.infer, feeds)
            return
        if self._narrow is None:
            self._narrow = self._session(threads // runs)
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

    def _session(self, threads: int | None) -> Any:
        ort = require("onnxruntime", extra="onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what is fatal; every error is raised too
        level = self.graph_optimization
        name = "ORT_DISABLE_ALL" if level == "disable" else f"ORT_ENABLE_{level.upper()}"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, name)
        if threads is not None:
            options.intra_op_num_threads = threads
        if self.provider != _CPU:
            # Without this, nodes that the device cannot take run on the CPU without a word.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            # Without enable_fallback=0, the CPU would take over what fails, now or in a run.
            return ort.InferenceSession(
                str(self.model),
                options,
                providers=[(self.provider, self.provider_options)],
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception.
            hint = next((hint for part, hint in _HINTS.items() if part in str(error)), "")
            raise RunnerError(
                f"{self.model} cannot be opened by ONNX Runtime on {self.provider}: {error}{hint}"
            ) from error
