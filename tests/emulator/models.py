"""Offline models: loading them, describing them, and executing them on datasets."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .aipp import normalized
from .host import Fail, Part, Thing, api
from .memory import Bytes, Span
from .om import CorruptModel, OmModel, OmTensor, read_om

Array = npt.NDArray[Any]
Dims = dict[str, Any]

GEAR_INPUT = OmTensor("ascend_mbatch_shape_data", "int64", (1,))
#: aclDataType of numpy's types.
DATA_TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int64": 9}
#: So many bytes may be missing from a buffer before the runtime refuses it.
TOLERATED = 64


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
    taken: int = 0

    @property
    def inputs(self) -> tuple[OmTensor, ...]:
        """All inputs; one sets the gear, where there are gears."""
        return (*self.om.inputs, GEAR_INPUT) if self.om.gears else self.om.inputs

    @property
    def outputs(self) -> tuple[OmTensor, ...]:
        """All outputs in the order that is shown."""
        return tuple(self.om.outputs[index] for index in self.order)


@dataclass(eq=False)
class Description(Thing):
    """A description, of a model once `get_desc` has filled it."""

    model: Model | None = None


@dataclass(eq=False)
class DataBuffer(Thing):
    """An address and a size; it does not own the memory."""

    address: int = 0
    size: int = 0
    dataset: Dataset | None = None


@dataclass(eq=False)
class Dataset(Thing):
    """Data buffers in the order of a model's inputs or outputs."""

    buffers: list[DataBuffer] = field(default_factory=list)
    #: The batch that was set, and whether it was since the last execution.
    gear: int | None = None
    gear_is_fresh: bool = False


@dataclass(frozen=True)
class Work:
    """A model with the memory that one execution reads and writes."""

    model: Model
    batch: int
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    objects: tuple[object, ...]


class Models(Part):
    """Calls on models, descriptions, data buffers and datasets."""

    # Models

    def _model(self, number: int, *, here: bool = False) -> Model:
        """The model of an id; *here*: which must have been loaded in the current context."""
        context = self.host.process.context() if here else None
        model = self.host.things.get(number)
        if not isinstance(model, Model) or not model.alive:
            raise Fail(145003, f"model id {number}")
        if here and model.context is not context:
            raise Fail(107004, "the model is not of the current context")
        return model

    @api("mdl.load_from_file", "s", "id")
    def load_from_file(self, path: str) -> int:
        """Load a model into the current context."""
        self.host.process.context()
        if not Path(path).is_file():
            raise Fail(145002, path)
        try:
            om = read_om(Path(path))
        except CorruptModel as error:
            raise Fail(100012, str(error)) from error
        taken = sum(tensor_bytes(tensor) for tensor in om.outputs) + len(om.onnx)
        self.host.memory.take(taken, 245000)
        order = tuple(range(len(om.outputs)))
        if self.host.profile.output_order == "reversed":
            order = order[::-1]
        return self.host.add(Model, "model", bits=30, om=om, order=order, taken=taken).handle

    @api("mdl.unload", "I", releases=True)
    def unload(self, number: int) -> None:
        """Take a model away, in the context that it was loaded in."""
        model = self._model(number, here=True)
        for op in self.host.streams.pending:
            if op.model is model:
                self.host.report("unload", f"{model} is unloaded while {op} is pending")
                raise Fail(107037, "the model is running")
        model.alive = False
        self.host.memory.used -= model.taken

    # Descriptions

    @api("mdl.create_desc", "", "handle")
    def create_desc(self) -> int:
        """Make an empty description."""
        return self.host.add(Description, "description").handle

    @api("mdl.destroy_desc", "k", releases=True)
    def destroy_desc(self, handle: int) -> None:
        """End a description."""
        self.host.get(handle, Description, "description").alive = False

    @api("mdl.get_desc", "kI")
    def get_desc(self, handle: int, number: int) -> None:
        """Fill a description with a model."""
        description = self.host.get(handle, Description, "description")
        description.model = self._model(number)

    def _tensors(self, handle: int, side: str) -> tuple[Model, tuple[OmTensor, ...]]:
        model = self.host.get(handle, Description, "description").model
        if model is None:
            self.host.report("handle", f"description {handle:#x} is used before get_desc")
            raise Fail(100000, "the description is empty")
        return model, model.inputs if side == "input" else model.outputs

    def _tensor(self, handle: int, index: int, side: str) -> tuple[Model, OmTensor, str]:
        """The model, the tensor at *index* and the name that is shown."""
        model, tensors = self._tensors(handle, side)
        if index >= len(tensors):
            raise Fail(100000, f"index {index} of {len(tensors)} {side}s")
        tensor, name = tensors[index], tensors[index].name
        if side == "output" and self.host.profile.output_names == "bare-index":
            # ``node:index`` in place of ``node:index:name``.
            name = name.rpartition(":")[0]
        return model, tensor, name

    @api("mdl.get_num_{}s", "k", "number")
    def get_number(self, handle: int, side: str) -> int:
        """How many inputs or outputs there are, the one that sets the gear included."""
        return len(self._tensors(handle, side)[1])

    @api("mdl.get_{}_size_by_index", "kk", "number")
    def get_size(self, handle: int, index: int, side: str) -> int:
        """Bytes for the largest gear."""
        return tensor_bytes(self._tensor(handle, index, side)[1])

    @api("mdl.get_{}_name_by_index", "kk", "text")
    def get_name(self, handle: int, index: int, side: str) -> str:
        """The name."""
        return self._tensor(handle, index, side)[2]

    @api("mdl.get_{}_data_type", "kk", "number")
    def get_data_type(self, handle: int, index: int, side: str) -> int:
        """The aclDataType; -1 for what there is not."""
        try:
            return DATA_TYPES[self._tensor(handle, index, side)[1].dtype]
        except Fail:
            return -1

    @api("mdl.get_{}_dims", "kk", "dict")
    def get_dims(self, handle: int, index: int, side: str) -> Dims:
        """The shape; of an input as the network had it, before any AIPP."""
        return self._dims(handle, index, side, planes=True)

    @api("mdl.get_input_dims_v2", "kk", "dict")
    def get_input_dims_v2(self, handle: int, index: int) -> Dims:
        """The shape of an input as it must be fed."""
        return self._dims(handle, index, "input", planes=False)

    def _dims(self, handle: int, index: int, side: str, *, planes: bool) -> Dims:
        model, tensor, name = self._tensor(handle, index, side)
        shape = tensor.shape
        if planes and side == "input" and model.om.aipp is not None and len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        if model.om.gears and tensor is not GEAR_INPUT:
            shape = (-1, *shape[1:])
        return {"name": name, "dimCount": len(shape), "dims": list(shape)}

    @api("mdl.get_dynamic_batch", "k", "dict")
    def get_dynamic_batch(self, handle: int) -> Dims:
        """The gears; a static model has none."""
        gears = list(self._tensors(handle, "input")[0].om.gears)
        return {"batchCount": len(gears), "batch": gears}

    # Data buffers and datasets

    def _dataset(self, handle: int) -> Dataset:
        return self.host.get(handle, Dataset, "dataset")

    def _buffer(self, handle: int) -> DataBuffer:
        return self.host.get(handle, DataBuffer, "data buffer")

    @api("create_data_buffer", "kk", "handle")
    def create_data_buffer(self, address: int, size: int) -> int:
        """Note an address and a size."""
        return self.host.add(DataBuffer, "data buffer", address=address, size=size).handle

    @api("destroy_data_buffer", "k", releases=True)
    def destroy_data_buffer(self, handle: int) -> None:
        """End a data buffer; the memory stays."""
        buffer = self._buffer(handle)
        self.host.streams.check_object(buffer, "destroyed")
        buffer.alive = False

    @api("mdl.create_dataset", "", "handle")
    def create_dataset(self) -> int:
        """Make an empty dataset."""
        return self.host.add(Dataset, "dataset").handle

    @api("mdl.add_dataset_buffer", "kk", "pointer")
    def add_dataset_buffer(self, handle: int, buffer_handle: int) -> int:
        """Append a buffer."""
        dataset, buffer = self._dataset(handle), self._buffer(buffer_handle)
        if buffer.dataset is not None:
            self.host.report("handle", f"{buffer} is in {buffer.dataset} already")
        buffer.dataset = dataset
        dataset.buffers.append(buffer)
        return handle

    @api("mdl.destroy_dataset", "k", releases=True)
    def destroy_dataset(self, handle: int) -> None:
        """End a dataset; its buffers stay."""
        dataset = self._dataset(handle)
        self.host.streams.check_object(dataset, "destroyed")
        for buffer in dataset.buffers:
            buffer.dataset = None
        dataset.alive = False

    @api("mdl.set_dynamic_batch_size", "IkkK")
    def set_dynamic_batch_size(self, number: int, handle: int, index: int, batch: int) -> None:
        """Choose the gear of the next execution of a dataset."""
        model, dataset = self._model(number), self._dataset(handle)
        if not model.om.gears:
            # That it fails is known, with which code is not.
            raise Fail(100000, "the model has no gears")
        if not batch or index >= len(dataset.buffers) or model.inputs[index] is not GEAR_INPUT:
            raise Fail(100000, f"batch {batch} is set at index {index}")
        if batch not in model.om.gears:
            raise Fail(145013, f"{batch} is none of {model.om.gears}")
        buffer = dataset.buffers[index]
        span = self.host.memory.span(buffer.address, buffer.size, rule="execute")
        self.host.streams.check_host_access((), (span,))
        span.write(np.frombuffer(np.int64(batch).tobytes(), np.uint8)[: span.size])
        dataset.gear, dataset.gear_is_fresh = batch, True

    # Execution

    @api("mdl.execute", "Ikk")
    def execute(self, number: int, inputs: int, outputs: int) -> None:
        """Compute at once."""
        work = self._work(number, inputs, outputs, stream=None)
        self.host.streams.check_host_access(work.reads, work.writes)
        self.host.streams.spend(
            self.host.process.context().device, "compute", self.host.profile.times.compute_ms
        )
        self._compute(work)

    @api("mdl.execute_async", "Ikkk")
    def execute_async(self, number: int, inputs: int, outputs: int, stream_handle: int) -> None:
        """Queue an execution; its outputs are poison until somebody waits for it."""
        stream = self.host.streams.stream(stream_handle)
        work = self._work(number, inputs, outputs, stream=stream)
        self.host.streams.enqueue(
            stream, f"execution of {work.batch} images", "compute",
            self.host.profile.times.compute_ms, effect=lambda: self._compute(work),
            reads=work.reads, writes=work.writes, model=work.model, objects=work.objects,
        )  # fmt: skip

    def _work(self, number: int, inputs: int, outputs: int, stream: object) -> Work:
        """What an execution works on, with all that must hold of its datasets."""
        model = self._model(number, here=True)
        into, out = (self._executed(handle) for handle in (inputs, outputs))
        batch = model.om.inputs[0].shape[0]
        if model.om.gears:
            if not into.gear_is_fresh:
                text = f"set_dynamic_batch_size was not called for this execution of {into}"
                self.host.report("gear", text)
            into.gear_is_fresh = False
            batch = into.gear or max(model.om.gears)
        reads = self._spans(into, model.inputs, batch)
        writes = self._spans(out, model.outputs, batch)
        for index, span in enumerate(writes):
            if any(span.overlaps(other) for other in (*reads, *writes[:index])):
                self.host.report("execute", f"{span.block} is used twice in one execution")
        for op in self.host.streams.pending:
            if op.model is model and op.stream is not stream:
                text = f"{model} is executed while {op} is pending in another stream"
                self.host.report("order", text)
        return Work(model, batch, reads, writes, (into, out, *into.buffers, *out.buffers))

    def _executed(self, handle: int) -> Dataset:
        if isinstance(self.host.things.get(handle), DataBuffer):
            self.host.report("execute", f"a dataset is wanted, but {handle:#x} is a data buffer")
            raise Fail(100000, "no dataset")
        return self._dataset(handle)

    def _spans(
        self, dataset: Dataset, tensors: tuple[OmTensor, ...], batch: int
    ) -> tuple[Span, ...]:
        """The memory of each tensor for *batch* images; sizes and places are checked."""
        if len(dataset.buffers) != len(tensors):
            raise Fail(145000, f"{len(dataset.buffers)} buffers for {len(tensors)} tensors")
        spans = []
        for buffer, tensor in zip(dataset.buffers, tensors, strict=True):
            if not buffer.alive:
                self.host.report("handle", f"{buffer} was destroyed, but its dataset is executed")
                raise Fail(100000, "a data buffer was destroyed")
            exact, full = tensor_bytes(tensor, batch), tensor_bytes(tensor)
            if buffer.size < exact - TOLERATED:
                raise Fail(145000, f"{tensor.name} has {buffer.size} bytes, but needs {exact}")
            if buffer.size not in (exact, full):
                text = f"the buffer of {tensor.name} has {buffer.size} bytes, but the model {full}"
                self.host.report("execute", text)
            span = self.host.memory.span(buffer.address, buffer.size, rule="execute")
            if not span.block.on_device:
                text = f"{tensor.name} lies in {span.block}, not on the device"
                self.host.report("execute", text)
            spans.append(Span(span.block, span.start, min(exact, span.size)))
        return tuple(spans)

    def _compute(self, work: Work) -> None:
        """Compute a batch from the bytes of each input; write the outputs as they are shown."""
        om, batch = work.model.om, work.batch
        session = _session(om.onnx)
        feed: dict[str, Array] = {}
        half = om.precision == "fp16"
        for span, tensor in zip(work.reads, work.model.inputs, strict=True):
            if not span.block.alive:
                self.host.report("order", f"{span.block} was freed before its execution")
            elif span.block.unwritten(span.start, span.stop):
                text = f"the input {tensor.name} in {span.block} was never written as a whole"
                self.host.report("gear" if tensor is GEAR_INPUT else "execute", text)
            if tensor is GEAR_INPUT:
                continue
            content: Bytes = span.read()
            missing = tensor_bytes(tensor, batch) - len(content)
            content = np.pad(content, (0, missing)) if missing else content
            array = content.view(tensor.dtype).reshape(batch, *tensor.shape[1:])
            values: Array = array if om.aipp is None else normalized(array, om.aipp)
            values = _through_half(values) if half else values
            feed[session.get_inputs()[len(feed)].name] = np.ascontiguousarray(values, np.float32)
        try:
            results: list[Array] = session.run(None, feed)
        except Exception as error:
            raise Fail(507011, str(error)) from error
        for span, index in zip(work.writes, work.model.order, strict=True):
            result, dtype = results[index], om.outputs[index].dtype
            if half or dtype == "float16":
                result = _through_half(result)
            flat = np.ascontiguousarray(result.astype(dtype, copy=False)).reshape(-1)
            span.write(flat.view(np.uint8)[: span.size])


def _through_half(values: Array) -> Array:
    """Round *values* as float16 does; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


@functools.cache
def _session(content: bytes) -> Any:
    """A session for a graph, made once for its *content*."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
