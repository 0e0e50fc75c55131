"""
A checkpoint in PyTorch, on the CPU, on CUDA or on an Ascend NPU through torch_npu.

Detections are made on the host, or on the device by a `TorchDetector`: work then goes in one order
on one stream, and uploads go beside it on others.
"""

import contextlib
import importlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.preprocess import ModelInput
from ..detection.postprocess import Detections
from ..detection.torch_ops import DeviceSteps, on_host, unpack
from ..errors import FeedError, RunnerError, refuse, require
from ..spec import ModelSpec
from ..types import Floats, Tensors
from .base import Runner, TensorInfo, head_infos
from .checkpoint import load_model

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
#: Batches that are under way: one is computed while the next one goes up.
_LANES = 2


class TorchRunner(Runner):
    """
    The network of a checkpoint, evaluated without gradients.

    Inputs and outputs are float32 in every precision; fp16 and bf16 convert the weights.
    TF32 is off: fp32 means fp32.
    """

    def __init__(
        self,
        checkpoint: Path,
        spec: ModelSpec,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(checkpoint, f"PyTorch, {device}, {precision}")
        self.spec, self.threads, self.weights = spec, threads, weights
        self.device, self.precision = device, precision
        self.dtype: Any = None

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Load the network onto the device, in its precision; it takes any batch size."""
        torch = require("torch", extra="torch")
        _check_device(torch, self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.dtype = getattr(torch, PRECISIONS[self.precision])
        network = load_model(self.model, self.spec, self.weights).to(self.device, self.dtype)
        if not self.device.startswith("npu"):
            # A fifth faster on a CPU; an NPU has layouts of its own.
            network = network.to(memory_format=torch.channels_last)
        self.description = f"PyTorch {torch.__version__}, {self.device}, {self.precision}"
        shape = (None, *self.spec.input_shape)
        image = TensorInfo(self.spec.input_name, shape, np.dtype(np.float32))
        return network, [image], head_infos(self.spec)

    def run(self, session: Any, feed: Tensors) -> Sequence[np.ndarray]:
        """Run the network on *feed*; see `Runner.run`.  The device is done when it returns."""
        torch = require("torch", extra="torch")
        # A copy of what is read-only: torch knows no such tensors, and warns.
        images = np.require(feed[self.spec.input_name], requirements=["C", "W"])
        with self.translated(len(images)), torch.inference_mode():
            classes, boxes = session(torch.from_numpy(images).to(self.device, self.dtype))
            # To the host: this waits for the device, and the arrays are the caller's own.
            return [head.float().contiguous().cpu().numpy() for head in (*classes, *boxes)]

    @contextlib.contextmanager
    def translated(self, rows: int, hint: str = "") -> Iterator[None]:
        """Raise what torch raises for a batch of *rows* as a `RunnerError`, with a *hint*."""
        try:
            yield
        except RuntimeError as error:
            raise RunnerError(
                f"{self.model} failed in PyTorch on {self.device} "
                f"with a batch of {rows}: {error}{hint}"
            ) from error


def _check_device(torch: Any, device: str) -> None:
    """Raise `RunnerError` unless *device* (cpu, cuda[:N], npu[:N]) is there."""
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda", "npu"):
        raise RunnerError(f"--device is {device!r}, but cpu, cuda[:N] and npu[:N] exist")
    if kind == "npu":
        try:
            importlib.import_module("torch_npu")
        except ImportError as error:
            raise RunnerError(
                f"--device is {device}, but torch_npu cannot be imported ({error}); "
                "install the version that matches torch and source CANN's set_env.sh"
            ) from error
    if kind != "cpu" and not getattr(torch, kind).is_available():
        raise RunnerError(f"--device is {device}, but torch sees no {kind} device here")


class Lane:
    """Buffers of one batch under way: on the host, pinned for CUDA, and on the device."""

    def __init__(self, torch: Any, device: str, spec: ModelSpec, rows: int) -> None:
        self.rows, self._torch, self.device = rows, torch, torch.device(device)
        self._on_cuda = self.device.type == "cuda"
        pixels = (rows, *spec.image_size, 3)
        self._host = [
            torch.ones(pixels, dtype=torch.uint8, pin_memory=self._on_cuda),
            torch.ones((rows, 3), dtype=torch.float32, pin_memory=self._on_cuda),
        ]
        self.staged = [one.to(self.device, copy=True) for one in self._host]
        self._packed: Any = None
        if self._on_cuda:
            self._copying = torch.cuda.Stream(self.device)
            self._done = torch.cuda.Event()

    def upload(self, images: Sequence[ModelInput]) -> None:
        """Send *images*, letterboxed uint8 pixels, to the device, beside what is computed there."""
        wanted = tuple(self._host[0].shape[1:])
        for row, image in enumerate(images):
            pixels = image.tensor
            if pixels.dtype != np.uint8 or pixels.shape != wanted:
                raise FeedError(
                    f"an image is {pixels.dtype} {pixels.shape}, but a detector takes uint8 pixels "
                    f"{wanted}; preprocess with normalized=False"
                )
            writeable = np.require(pixels, requirements=["C", "W"])
            self._host[0][row] = self._torch.from_numpy(writeable)
            self._host[1][row] = self._torch.tensor([image.image_scale, *image.image_size])
        with self._torch.cuda.stream(self._copying) if self._on_cuda else contextlib.nullcontext():
            for staged, host in zip(self.staged, self._host, strict=True):
                staged.copy_(host, non_blocking=True)

    def compute(self, program: Any, rows: int) -> None:
        """Run *program* on the first *rows* and download what it gives, without waiting for it."""
        if self._on_cuda:
            self._torch.cuda.current_stream(self.device).wait_stream(self._copying)
        with self._torch.inference_mode():
            packed = program(*(staged[:rows] for staged in self.staged))
            self._packed = packed.to("cpu", non_blocking=self._on_cuda)  # into pinned memory
        if self._on_cuda:
            self._done.record(self._torch.cuda.current_stream(self.device))

    def packed(self) -> Floats:
        """What came down, once it is there."""
        if self._on_cuda:
            self._done.synchronize()
        found: Floats = self._packed.numpy()
        return found


def cuda_graph(torch: Any, detect: Any, lane: Lane) -> Callable[..., Any]:
    """
    Capture *detect* for the batch size of *lane* as one CUDA graph; return what replays it.

    What that gives is overwritten by its next call.
    """
    torch.cuda.synchronize(lane.device)  # a smaller graph before this one may be under way
    inputs = [one.clone() for one in lane.staged]
    aside = torch.cuda.Stream(lane.device)
    aside.wait_stream(torch.cuda.current_stream(lane.device))
    # Whatever is chosen, compiled or allocated once is so before the capture.
    with torch.inference_mode(), torch.cuda.stream(aside):
        for _ in range(3):
            detect(*inputs)
    torch.cuda.current_stream(lane.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.device(lane.device), torch.cuda.graph(graph):
        packed = detect(*inputs)

    def replay(*staged: Any) -> Any:
        for static, one in zip(inputs, staged, strict=True):
            static.copy_(one)
        graph.replay()
        return packed

    return replay


class TorchDetector(TorchRunner):
    """
    A `TorchRunner` that is a `DetectingRunner` too.

    With a *launch* other than eager, the largest batch so far has a program of its own that serves
    smaller ones as well: their rows are filled up, and what fills them never comes out.  What
    cannot be captured or compiled is a `RunnerError`; nothing falls back to eager by itself.
    """

    def __init__(
        self, checkpoint: Path, spec: ModelSpec, *, launch: str = "eager", **options: Any
    ) -> None:
        super().__init__(checkpoint, spec, **options)
        on_cuda = self.device.startswith("cuda")
        refuse({
            f"--postprocess is device, but --device is {self.device}, where it was never tried; "
            "leave it to the host": self.device.startswith("npu"),
            f"--launch is graph, but --device is {self.device}, and only CUDA has graphs; use "
            "eager": launch == "graph" and not on_cuda,
        }, RunnerError)  # fmt: skip
        self.launch, self._captured = launch, launch != "eager" and on_cuda
        self._hint = "" if launch == "eager" else f" (--launch is {launch}; eager does without)"
        self._steps: Any = None
        self._program: Any = None
        self._lanes: list[Lane] = []

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Load the network, and what goes on from its heads to detections."""
        opened = super().open()
        self._torch = require("torch", extra="torch")
        self._steps = DeviceSteps(self.spec, self.device)
        self.description += f", detections on the device, {self.launch}"
        return opened

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._steps = self._program = None
        self._lanes = []

    def detect_stream(
        self, batches: Iterable[Sequence[ModelInput]], *, uploads: int | None = None
    ) -> Generator[list[Detections]]:
        """
        Yield the detections of each batch of pixels, overlapped; see `DetectingRunner`.

        After *uploads* batches, where that many are given, the pixels on the device serve again.
        """
        self.opened()
        under_way: deque[tuple[Sequence[ModelInput], Lane]] = deque()
        for index, images in enumerate(batches):
            rows = len(images)
            with self.translated(rows, self._hint):
                if not self._lanes or rows > self._lanes[0].rows:
                    # What is under way keeps its own lane, and the tensors in it, until it is done.
                    sized = (self._torch, self.device, self.spec, rows)
                    self._lanes = [Lane(*sized) for _ in range(_LANES)]
                    self._program = self._detect
                    if self.launch == "compile":
                        self._program = self._torch.compile(self._detect, dynamic=False)
                    if self._captured:
                        self._program = cuda_graph(self._torch, self._program, self._lanes[0])
                lane = self._lanes[index % _LANES]
                if uploads is None or index < uploads:
                    lane.upload(images)
                lane.compute(self._program, rows if self.launch == "eager" else lane.rows)
            under_way.append((images, lane))
            if len(under_way) == _LANES:
                yield self._finished(*under_way.popleft())
        while under_way:
            yield self._finished(*under_way.popleft())

    def _detect(self, pixels: Any, geometry: Any) -> Any:
        """Everything between upload and download."""
        return self._steps.packed(*self._heads(pixels), geometry)

    def _heads(self, pixels: Any) -> Any:
        network, _, _ = self.opened()
        return network(self._steps.normalize(pixels).to(self.dtype))

    def _finished(self, images: Sequence[ModelInput], lane: Lane) -> list[Detections]:
        with self.translated(len(images)):
            found = unpack(lane.packed()[: len(images)], self.spec)
            undecided = [image for image, one in zip(images, found, strict=True) if one is None]
            others: Iterator[Detections] = iter(())
            if undecided:  # their heads again, for the host to look at all of them
                with self._torch.inference_mode():
                    pixels = self._torch.from_numpy(np.stack([one.tensor for one in undecided]))
                    classes, boxes = self._heads(pixels.to(self.device))
                places = [(one.image_scale, one.image_size) for one in undecided]
                others = iter([on_host(classes, boxes, row, *place, self.spec)
                               for row, place in enumerate(places)])  # fmt: skip
        return [next(others) if one is None else one for one in found]


def open_torch(
    checkpoint: Path,
    spec: ModelSpec,
    *,
    device: str | None,
    precision: str,
    threads: int | None,
    postprocess: str,
    launch: str,
    weights: str | None,
) -> TorchRunner:
    """
    The runner of *checkpoint* whose detections are made where *postprocess* says.

    ``auto`` is the device on CUDA, else the host.  *device* is ``cpu`` where None is given.  Raises
    `RunnerError` for what does not exist or cannot go together.
    """
    device = "cpu" if device is None else device
    options: dict[str, Any] = {"device": device, "precision": precision, "threads": threads}
    options["weights"] = weights
    if postprocess == "device" or (postprocess == "auto" and device.startswith("cuda")):
        return TorchDetector(checkpoint, spec, launch=launch, **options)
    if launch != "eager":
        raise RunnerError(
            f"--launch is {launch}, but detections are made on the host; "
            "give --postprocess device too"
        )
    return TorchRunner(checkpoint, spec, **options)
