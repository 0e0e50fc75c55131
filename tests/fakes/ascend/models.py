"""Offline models: loading them, and computing what they compute."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from .aipp import normalized
from .host import Profile, Thing
from .ledger import Fail
from .memory import Bytes
from .om import CorruptModel, OmModel, OmTensor, read_om
from .surface import api

if TYPE_CHECKING:
    from .host import Host

Array = npt.NDArray[Any]

GEAR_INPUT = OmTensor("ascend_mbatch_shape_data", "int64", (1,))
HALF_MAX = 65504.0

_SESSIONS: dict[str, Any] = {}


def tensor_bytes(tensor: OmTensor, batch: int | None = None) -> int:
    """Bytes of *tensor*, or of its first *batch* rows."""
    shape = tensor.shape if batch is None or tensor is GEAR_INPUT else (batch, *tensor.shape[1:])
    return int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize


@dataclass(eq=False)
class Model(Thing):
    """A loaded model; its handle is the model id."""

    om: OmModel = field(default_factory=lambda: OmModel(b"", (), (), ""))
    #: Position in the model of each output that is shown.
    order: tuple[int, ...] = ()
    executions: int = 0
    #: The last gear that was set.
    gear: int | None = None

    @property
    def inputs(self) -> tuple[OmTensor, ...]:
        """All inputs; one tells the gear, where there are gears."""
        return (*self.om.inputs, GEAR_INPUT) if self.om.gears else self.om.inputs

    @property
    def outputs(self) -> tuple[OmTensor, ...]:
        """All outputs in the order that is shown."""
        return tuple(self.om.outputs[index] for index in self.order)

    @property
    def work_bytes(self) -> int:
        """Bytes that it needs to work."""
        return sum(tensor_bytes(tensor) for tensor in self.om.outputs)


class Models:
    """Calls that load and unload models."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def model(self, number: int) -> Model:
        """The model of an id; fails with 145003 for any other."""
        model = self.host.things.get(number)
        if not isinstance(model, Model) or not model.alive:
            raise Fail(145003, f"model id {number}")
        return model

    def model_here(self, number: int) -> Model:
        """The model of an id, which must have been loaded in the current context."""
        context = self.host.process.context()
        model = self.model(number)
        if model.context is not context:
            raise Fail(107004)
        return model

    @api("mdl.query_size", "s", "counts")
    def query_size(self, path: str) -> tuple[int, int]:
        """Bytes of work and of weights that a model needs."""
        om = _read(Path(path))
        return sum(tensor_bytes(tensor) for tensor in om.outputs), len(om.onnx)

    @api("mdl.load_from_file", "s", "id")
    def load_from_file(self, path: str) -> int:
        """Load a model into the current context."""
        self.host.process.context()
        return self._load(_read(Path(path)), own_memory=True)

    @api("mdl.load_from_mem", "kk", "id")
    def load_from_mem(self, address: int, size: int) -> int:
        """Load a model that lies in memory."""
        self.host.process.context()
        content = self.host.memory.span(address, size).read().tobytes()
        with tempfile.NamedTemporaryFile(suffix=".om") as file:
            file.write(content)
            file.flush()
            return self._load(_read(Path(file.name)), own_memory=True)

    @api("mdl.load_from_file_with_mem", "skkkk", "id")
    def load_from_file_with_mem(
        self, path: str, work: int, work_size: int, weight: int, weight_size: int
    ) -> int:
        """Load a model into memory that the caller provides."""
        self.host.process.context()
        om = _read(Path(path))
        for address, size, wanted in zip(
            (work, weight), (work_size, weight_size), self.query_size(path), strict=True
        ):
            if size < wanted:
                raise Fail(145000, f"{size} bytes are given, but the model needs {wanted}")
            self.host.memory.span(address, size)
        return self._load(om, own_memory=False)

    def _load(self, om: OmModel, *, own_memory: bool) -> int:
        model = self.host.add(Model, "model", bits=30)
        model.om, model.order = _weighed(om, self.host.profile), self._order(len(om.outputs))
        needed = model.work_bytes + len(om.onnx) if own_memory else 0
        try:
            self.host.memory.take(needed, 245000)
        except Fail:
            model.alive = False
            raise
        self._taken[model.handle] = needed
        return model.handle

    @property
    def _taken(self) -> dict[int, int]:
        taken: dict[int, int] = self.__dict__.setdefault("_taken_by_id", {})
        return taken

    def _order(self, count: int) -> tuple[int, ...]:
        order = list(range(count))
        if self.host.profile.output_order == "reversed":
            order.reverse()
        elif self.host.profile.output_order == "shuffled":
            while count > 1 and order == sorted(order):
                self.host.random.shuffle(order)
        return tuple(order)

    @api("mdl.unload", "I", releases=True)
    def unload(self, number: int) -> None:
        """Take a model away, in the context that it was loaded in."""
        model = self.model_here(number)
        pending = [op for op in self.host.streams.queue.pending if op.model is model]
        if pending:
            self.host.ledger.report(22, f"{model} is unloaded while {pending[0]} is pending")
            raise Fail(107037)
        model.alive = False
        self.host.memory.used -= self._taken.pop(number)

    def run(self, model: Model, contents: list[Bytes], batch: int) -> list[Array]:
        """Compute a *batch* from the bytes of each input; give the outputs as they are shown."""
        om, half = model.om, model.om.precision == "fp16"
        feed = {}
        session = _session(om)
        for tensor, content, wanted in zip(om.inputs, contents, session.get_inputs(), strict=False):
            array = content.view(tensor.dtype).reshape(batch, *tensor.shape[1:])
            values = normalized(array, om.aipp) if om.aipp is not None else array
            if half:
                values = _through_half(values, "inf")
            feed[wanted.name] = np.ascontiguousarray(values, np.float32)
        try:
            results: list[Array] = session.run(None, feed)
        except Exception as error:
            raise Fail(507011, str(error)) from error
        limit = self.host.profile.overflow_from_batch
        overflow = self.host.profile.fp16_overflow
        shown = []
        for index in model.order:
            result, tensor = results[index], om.outputs[index]
            if limit is not None and batch >= limit:
                result = result.copy()
                result[-1] = np.inf if overflow == "inf" else HALF_MAX
            if half or tensor.dtype == "float16":
                result = _through_half(result, overflow)
            shown.append(result.astype(tensor.dtype, copy=False))
        return shown


def _through_half(values: Array, overflow: str) -> Array:
    """Round *values* as float16 does; what is too large becomes infinite, or the largest."""
    if overflow == "saturate":
        values = np.clip(values, -HALF_MAX, HALF_MAX)
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _read(path: Path) -> OmModel:
    if not path.is_file():
        raise Fail(145002, str(path))
    try:
        return read_om(path)
    except CorruptModel as error:
        raise Fail(100012, str(error)) from error


def _session(om: OmModel) -> Any:
    """A session for a model, made once for its content."""
    import onnxruntime as ort

    key = hashlib.sha256(om.onnx).hexdigest()
    if key not in _SESSIONS:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        _SESSIONS[key] = ort.InferenceSession(om.onnx, options, providers=["CPUExecutionProvider"])
    return _SESSIONS[key]


def _weighed(om: OmModel, profile: Profile) -> OmModel:
    """The model as the profile distorts it."""
    return replace(om, onnx=with_zero_pads(om.onnx)) if profile.zero_pads else om


def with_zero_pads(content: bytes) -> bytes:
    """Return an ONNX model whose max-pools see 0, not minus infinity, around their input."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    graph = model.graph
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute]
    for tensor in (*graph.initializer, *constants):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and values.size == 1 and np.isneginf(values).all():
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(values), tensor.name))
    for index, node in reversed(list(enumerate(graph.node))):
        pads = [a for a in node.attribute if a.name == "pads" and any(a.ints)]
        if node.op_type != "MaxPool" or not pads:
            continue
        half = len(pads[0].ints) // 2
        ring = np.array([0, 0, *pads[0].ints[:half], 0, 0, *pads[0].ints[half:]], np.int64)
        name = f"zero_padded_{index}"
        graph.initializer.append(numpy_helper.from_array(ring, f"{name}_pads"))
        graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), f"{name}_0"))
        padded = helper.make_node("Pad", [node.input[0], f"{name}_pads", f"{name}_0"], [name])
        node.attribute.remove(pads[0])
        node.input[0] = name
        graph.node.insert(index, padded)
    return cast("bytes", model.SerializeToString())
