"""Model descriptions: what a loaded model says of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .host import Thing
from .ledger import Fail
from .models import GEAR_INPUT, Model, tensor_bytes
from .om import OmTensor
from .surface import api

if TYPE_CHECKING:
    from .host import Host

#: aclDataType of numpy's types.
DATA_TYPES = {
    "float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int16": 6, "uint16": 7,
    "uint32": 8, "int64": 9, "uint64": 10, "float64": 11, "bool": 12,
}  # fmt: skip
NCHW, NHWC, ND = 0, 1, 2

Dims = dict[str, Any]


@dataclass(eq=False)
class Description(Thing):
    """A description, of a model once `get_desc` has filled it."""

    model: Model | None = None


class Descriptions:
    """Calls that ask what a model is."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @api("mdl.create_desc", "", "handle")
    def create_desc(self) -> int:
        """Make an empty description."""
        return self.host.add(Description, "description").handle

    @api("mdl.destroy_desc", "k", releases=True)
    def destroy_desc(self, handle: int) -> None:
        """End a description."""
        self.host.get(handle, Description, "description").alive = False

    @api("mdl.get_desc", "kI", doubts=(0,))
    def get_desc(self, handle: int, number: int) -> None:
        """Fill a description with a model."""
        description = self.host.get(handle, Description, "description")
        description.model = self.host.models.model(number)

    def model(self, handle: int) -> Model:
        """The model that a description tells of."""
        model = self.host.get(handle, Description, "description").model
        if model is None:
            self.host.ledger.report(26, f"description {handle:#x} is used before get_desc")
            raise Fail(100000, "the description is empty")
        return model

    def _tensor(self, handle: int, index: int, side: str) -> OmTensor:
        tensors: tuple[OmTensor, ...] = getattr(self.model(handle), side)
        if index >= len(tensors):
            raise Fail(100000, f"index {index} of {len(tensors)} {side}")
        return tensors[index]

    @api("mdl.get_num_inputs", "k", "number")
    def get_num_inputs(self, handle: int) -> int:
        """How many inputs there are, the one that tells the gear included."""
        return len(self.model(handle).inputs)

    @api("mdl.get_num_outputs", "k", "number")
    def get_num_outputs(self, handle: int) -> int:
        """How many outputs there are."""
        return len(self.model(handle).outputs)

    @api("mdl.get_input_size_by_index", "kk", "number")
    def get_input_size_by_index(self, handle: int, index: int) -> int:
        """Bytes of an input, for the largest gear."""
        return tensor_bytes(self._tensor(handle, index, "inputs"))

    @api("mdl.get_output_size_by_index", "kk", "number")
    def get_output_size_by_index(self, handle: int, index: int) -> int:
        """Bytes of an output, for the largest gear."""
        return tensor_bytes(self._tensor(handle, index, "outputs"))

    # Shapes

    def _dims(self, model: Model, tensor: OmTensor, shape: tuple[int, ...], name: str) -> Dims:
        if model.om.gears and tensor is not GEAR_INPUT:
            shape = (-1, *shape[1:])
        return {"name": name, "dimCount": len(shape), "dims": list(shape)}

    @api("mdl.get_input_dims", "kk", "dict")
    def get_input_dims(self, handle: int, index: int) -> Dims:
        """Shape of an input as the network had it, before any AIPP."""
        model, tensor = self.model(handle), self._tensor(handle, index, "inputs")
        shape = tensor.shape
        if model.om.aipp is not None and len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        return self._dims(model, tensor, shape, tensor.name)

    @api("mdl.get_input_dims_v2", "kk", "dict")
    def get_input_dims_v2(self, handle: int, index: int) -> Dims:
        """Shape of an input as it must be fed."""
        tensor = self._tensor(handle, index, "inputs")
        return self._dims(self.model(handle), tensor, tensor.shape, tensor.name)

    @api("mdl.get_output_dims", "kk", "dict")
    def get_output_dims(self, handle: int, index: int) -> Dims:
        """Shape of an output."""
        tensor = self._tensor(handle, index, "outputs")
        return self._dims(self.model(handle), tensor, tensor.shape, self.shown_name(tensor))

    @api("mdl.get_cur_output_dims", "kk", "dict")
    def get_cur_output_dims(self, handle: int, index: int) -> Dims:
        """Shape of an output with the gear that was last set."""
        model, tensor = self.model(handle), self._tensor(handle, index, "outputs")
        batch = model.gear or tensor.shape[0]
        shape = (batch, *tensor.shape[1:]) if model.om.gears else tensor.shape
        return {"name": self.shown_name(tensor), "dimCount": len(shape), "dims": list(shape)}

    # Names and kinds

    def shown_name(self, tensor: OmTensor) -> str:
        """``node:index:name``, or without the name where the profile has none."""
        if self.host.profile.output_names == "node":
            return tensor.name
        node, *rest = tensor.name.split(":")
        return f"{node}:{rest[0] if rest else 0}"

    @api("mdl.get_input_name_by_index", "kk", "text")
    def get_input_name_by_index(self, handle: int, index: int) -> str:
        """The name of an input."""
        return self._tensor(handle, index, "inputs").name

    @api("mdl.get_output_name_by_index", "kk", "text")
    def get_output_name_by_index(self, handle: int, index: int) -> str:
        """The name of an output."""
        return self.shown_name(self._tensor(handle, index, "outputs"))

    @api("mdl.get_input_index_by_name", "ks", "count")
    def get_input_index_by_name(self, handle: int, name: str) -> int:
        """The place of an input."""
        return self._index([tensor.name for tensor in self.model(handle).inputs], name)

    @api("mdl.get_output_index_by_name", "ks", "count")
    def get_output_index_by_name(self, handle: int, name: str) -> int:
        """The place of an output."""
        names = [self.shown_name(tensor) for tensor in self.model(handle).outputs]
        return self._index(names, name)

    @staticmethod
    def _index(names: list[str], name: str) -> int:
        if name not in names:
            raise Fail(100000, f"{name} is none of {names}")
        return names.index(name)

    def _kind(self, handle: int, index: int, side: str) -> int:
        try:
            return DATA_TYPES[np.dtype(self._tensor(handle, index, side).dtype).name]
        except Fail:
            return -1

    @api("mdl.get_input_data_type", "kk", "number")
    def get_input_data_type(self, handle: int, index: int) -> int:
        """The aclDataType of an input."""
        return self._kind(handle, index, "inputs")

    @api("mdl.get_output_data_type", "kk", "number")
    def get_output_data_type(self, handle: int, index: int) -> int:
        """The aclDataType of an output."""
        return self._kind(handle, index, "outputs")

    @api("mdl.get_input_format", "kk", "number")
    def get_input_format(self, handle: int, index: int) -> int:
        """The aclFormat of an input."""
        tensor = self._tensor(handle, index, "inputs")
        if len(tensor.shape) != 4:
            return ND
        return NCHW if self.model(handle).om.aipp is None else NHWC

    @api("mdl.get_output_format", "kk", "number")
    def get_output_format(self, handle: int, index: int) -> int:
        """The aclFormat of an output."""
        return NCHW if len(self._tensor(handle, index, "outputs").shape) == 4 else ND

    @api("mdl.get_dynamic_batch", "k", "dict")
    def get_dynamic_batch(self, handle: int) -> Dims:
        """The gears; a static model has none."""
        gears = list(self.model(handle).om.gears)
        return {"batchCount": len(gears), "batch": gears}
