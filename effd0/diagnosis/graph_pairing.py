"""
Two ONNX graphs side by side: which node of one is which of the other.

A graph is read as what it computes from images: its data nodes, and the constants that they read.
Whatever does not depend on the values of an input is a constant here, be it stored or computed
(the sides of a padding, from Shape): so a raw and a simplified export look alike.

Every tensor is looked at in bounded memory: copies of the graph are given other outputs, a group
at a time, and run in ONNX Runtime without any optimisation, so that no fusion hides a tensor.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, RunnerError, require
from ..graph.onnx_info import constants, fed_inputs, sides_of
from ..graph.rewrites import GraphEdit
from ..runners.base import TensorInfo, as_input
from ..spec import D0, ModelSpec
from ..types import Fractions

Array = npt.NDArray[Any]
#: Tensors of one image held at a time at first: 48 of the largest in a row of a D0 are 0.3 GB.
GROUP = 48
#: From then on as many as the last group's size lets expect to fit; never so many times more.
BUDGET_BYTES, GROWTH = 300_000_000, 3.0
#: Values of a tensor that are kept to recognise it by.
SAMPLE = 4096
#: Samples of a tensor as close as this are of one tensor; float16 on either side moves them more.
SAME_SAMPLE, SAME_SAMPLE_FLOAT16 = 1e-3, 2e-2
#: Of the nodes with a common name, so many must also read tensors of common names.
NAMES_AGREE = 0.5
#: What they give depends on the shape of their input, not on its values.
_SHAPES_ONLY = ("Shape", "Size")
#: What they read may stand in any order.
COMMUTATIVE = ("Add", "Mul", "Max", "Min", "Sum", "Mean")


@dataclass(frozen=True)
class Node:
    """
    One computation on data.

    *data* names the tensors that it reads and that depend on the images, *constants* its other
    inputs by position.
    """

    index: int
    name: str
    op: str
    data: tuple[str, ...]
    constants: Mapping[int, str]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        """The tensor that stands for the node: its first output."""
        return self.outputs[0]


class Seen(NamedTuple):
    """What is kept of a tensor: its shape, its dtype and some of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sample: Fractions


class Network:
    """
    A ``ModelProto`` and its data *nodes* in topological order.

    *values* are its constants and *seen* is what was seen of its data tensors, by name; both are
    filled by `observe`.  Where it takes pixels, they are those of *spec*.  Raises `GraphError` if
    the model has no input for images.
    """

    def __init__(self, model: Any, spec: ModelSpec = D0) -> None:
        helper = require("onnx.helper", extra="onnx")
        self.model, self.spec, self.values = model, spec, constants(model)
        self.outputs = [output.name for output in model.graph.output]
        self.nodes: list[Node] = []
        self.producer: dict[str, Node] = {}
        self.seen: dict[str, Seen] = {}
        self._images: Array | None = None
        self.inputs = []
        for value in fed_inputs(model):
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            self.inputs.append(TensorInfo(value.name, sides_of(value), np.dtype(kind)))
        if not self.inputs:
            raise GraphError("the model has no input, but images are to be fed; export it again")
        data = {info.name for info in self.inputs}
        for index, node in enumerate(model.graph.node):
            if node.op_type in _SHAPES_ONLY or not data & set(node.input):
                continue
            given = {position: name for position, name in enumerate(node.input) if name}
            made = Node(
                index,
                node.name or f"{node.op_type} #{index}",
                node.op_type,
                tuple(name for name in given.values() if name in data),
                {position: name for position, name in given.items() if name not in data},
                tuple(name for name in node.output if name),
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
            )
            self.nodes.append(made)
            self.producer |= dict.fromkeys(made.outputs, made)
            data |= set(made.outputs)

    def fused(self) -> "Network":
        """The same, its batch norms folded into the convolutions above, as exporters do it."""
        whole = require("onnx_ir", extra="onnx").Model
        rules = require("onnxscript.rewriter.rules.common", extra="onnx")
        model = type(self.model)()
        model.CopyFrom(self.model)

        def fuse(graph: Any) -> int:
            norms = [node for node in graph if node.op_type == "BatchNormalization"]
            convs = {norm.outputs[0].name: norm.inputs[0].producer() for norm in norms}
            names = {output: conv.name for output, conv in convs.items() if conv is not None}
            count = rules.fuse_batchnorm_into_conv_rule.apply_to_model(whole(graph, ir_version=8))
            for node in [node for node in graph if node.op_type == "Conv"]:
                # The rule gives it another name.
                node.name = names.get(node.outputs[0].name, node.name)
            return int(count)

        GraphEdit("fuse-norms", fuse, "", "").run(model)
        return Network(model, self.spec)

    def fingerprint(self, node: Node) -> Hashable:
        """All that sets *node* apart but its data: weights and attributes."""
        weights = ((position, self.values[name]) for position, name in node.constants.items())
        return (
            repr(sorted(node.attributes.items())),
            *((at, value.dtype.str, value.shape, value.tobytes()) for at, value in weights),
        )

    def observe(self, images: Array) -> None:
        """Fill in what is `seen` on *images* and constants that are not stored; `RunnerError`."""
        if self._images is images:
            return
        self._images = images
        read = dict.fromkeys(name for node in self.nodes for name in node.constants.values())
        if computed := [name for name in read if name not in self.values]:
            self.values.update(zip(computed, self.run(computed, images), strict=True))
        names = [node.output for node in self.nodes]
        for name, (value,) in zip(names, each([(self, names)], images), strict=True):
            flat = value.reshape(-1)
            if flat.size > SAMPLE:
                # The same places for all tensors of a size, or samples could not be compared.
                flat = flat[np.random.default_rng(flat.size).integers(0, flat.size, SAMPLE)]
            self.seen[name] = Seen(value.shape, value.dtype, flat.astype(np.float64))

    def run(self, names: Sequence[str], images: Array) -> list[Array]:
        """Values of the tensors *names* on normalised *images*; raise `RunnerError`."""
        ir, ort = require("onnx_ir", extra="onnx"), require("onnxruntime", extra="onnx")
        info, wanted = self.inputs[0], list(dict.fromkeys(names))
        whole = ir.from_proto(self.model)
        part = ir.convenience.extract(whole.graph, [info.name], wanted)
        functions = tuple(whole.functions.values())
        copy = ir.to_proto(ir.Model(part, ir_version=whole.ir_version, functions=functions))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads that spin between the many short runs take the core from whatever else runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(
                copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            values = session.run(wanted, {info.name: as_input(images, info, self.spec)})
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception.
            raise RunnerError(
                f"{self.model.graph.name or 'the model'} failed in ONNX Runtime on {images.shape} "
                f"images: {error}; it has to run before it can be bisected"
            ) from error
        found = dict(zip(wanted, values, strict=True))
        return [found[name] for name in names]


def each(sides: Sequence[tuple[Network, list[str]]], images: Array) -> Iterator[tuple[Array, ...]]:
    """Values of the tensors at each place of the lists of *sides*, a group of places at a time."""
    start, step = 0, max(1, GROUP // images.shape[0])
    while start < len(sides[0][1]):
        runs = [network.run(names[start : start + step], images) for network, names in sides]
        yield from zip(*runs, strict=True)
        size = sum(value.nbytes for value in runs[0])
        start += step
        step = max(1, int(step * min(GROWTH, BUDGET_BYTES / max(1, size))))


# Which node of one graph is which of the other.

Found = Iterable[tuple[Node, Node]]


class Pairs:
    """
    Nodes and tensors of *bad* and their partners in *good*, both observed, and by which rule.

    Nodes are paired by structure, by name, by value.  Rules stand in order of trust.  After each
    pair the strongest one is asked first again, so that a weak rule is used only where all
    stronger ones have nothing more to say.
    """

    def __init__(self, bad: Network, good: Network) -> None:
        self.bad, self.good = bad, good
        self.nodes: dict[int, Node] = {}
        self.rules: dict[int, str] = {}
        self.tensors = {bad.inputs[0].name: good.inputs[0].name}
        self._taken: set[int] = set()
        self._close: dict[int, list[Node]] = {}
        rules: tuple[tuple[str, Callable[[], Found]], ...] = (
            ("topology", partial(self._forward, exactly=True)),
            *((("name", lambda: self._alike((n.output, n.output) for n in self._left()[0])),)
              if self._names_agree() else ()),
            ("value", self._by_value),
            ("topology", partial(self._forward, exactly=False)),
            ("topology", self._backward),
        )  # fmt: skip
        while any(self._add(word, rule()) for word, rule in rules):
            pass

    def _add(self, word: str, found: Found) -> bool:
        """Add what a rule *found*; whether that was anything."""
        before = len(self.nodes)
        for one, other in found:
            if one.index not in self.nodes and other.index not in self._taken:
                self.nodes[one.index], self.rules[one.index] = other, word
                self._taken.add(other.index)
                self.tensors.update(zip(one.outputs, other.outputs, strict=False))
        return len(self.nodes) > before

    def _left(self) -> tuple[list[Node], list[Node]]:
        """The nodes of both sides that have no partner yet."""
        return (
            [node for node in self.bad.nodes if node.index not in self.nodes],
            [node for node in self.good.nodes if node.index not in self._taken],
        )

    def _forward(self, *, exactly: bool) -> Found:
        """The only node of its operator and shape, *exactly* of its weights, that reads these."""
        known = set(self.tensors.values())
        bad, good = (defaultdict[Hashable, list[Node]](list) for _ in range(2))
        for side, network, left in zip(
            (bad, good), (self.bad, self.good), self._left(), strict=True
        ):
            for node in left:
                mine = network is self.bad
                data = [self.tensors.get(name, "") if mine else name for name in node.data]
                if known.issuperset(data):
                    order = tuple(sorted(data) if node.op in COMMUTATIVE else data)
                    own = network.fingerprint(node) if exactly else None
                    side[node.op, network.seen[node.output].shape, order, own].append(node)
        for key in bad.keys() & good.keys():
            if len(bad[key]) == len(good[key]) == 1:
                yield bad[key][0], good[key][0]

    def _alike(self, places: Iterable[tuple[str, str]]) -> Found:
        """The nodes that give two tensors each, where they are of one operator and one shape."""
        for mine, theirs in places:
            one, other = self.bad.producer.get(mine), self.good.producer.get(theirs)
            if one is None or other is None or one.op != other.op:
                continue
            if self.bad.seen[one.output].shape == self.good.seen[other.output].shape:
                yield one, other

    def _names_agree(self) -> bool:
        """Whether tensors of equal names are mostly computed from tensors of equal names."""
        common = [(n, self.good.producer[n.output]) for n in self.bad.nodes
                  if n.output in self.good.producer]  # fmt: skip
        fed = self.good.inputs[0].name
        agreed = [one.op == other.op and {*one.data} & {*other.data, fed} for one, other in common]
        return sum(map(bool, agreed)) >= NAMES_AGREE * max(1, len(common))

    def _backward(self) -> Found:
        """What partners read at the same place, and what the same output shows."""
        yield from self._alike(self.same_outputs())
        # What was found on the way is there already: one sweep goes up to the inputs.
        for node in reversed(self.bad.nodes):
            if node.index in self.nodes:
                yield from self._alike(zip(node.data, self.nodes[node.index].data, strict=False))

    def same_outputs(self) -> list[tuple[str, str]]:
        """Outputs of both models that are the only ones of their shape, else of equal name."""
        bad, good = (
            {name: side.seen[name].shape for name in side.outputs if name in side.seen}
            for side in (self.bad, self.good)
        )
        mine, theirs = (
            {shape: name for name, shape in side.items() if [*side.values()].count(shape) == 1}
            for side in (bad, good)
        )
        shaped = [(mine[shape], theirs[shape]) for shape in mine if shape in theirs]
        return shaped or [(n, n) for n in bad.keys() & good.keys() if bad[n] == good[n]]

    def _by_value(self) -> Found:
        """The same values, whatever gives them: the ends of blocks that were fused differently."""
        bad, good = self._left()

        def same(one: Seen, other: Seen) -> bool:
            if one.shape != other.shape or not np.isfinite(one.sample).all():
                return False
            limit = SAME_SAMPLE_FLOAT16 if np.float16 in (one.dtype, other.dtype) else SAME_SAMPLE
            size = float(np.linalg.norm(other.sample))
            return size > 0 and float(np.linalg.norm(one.sample - other.sample)) <= limit * size

        for node in bad:
            if node.index not in self._close:  # samples do not change, so they are compared once
                mine, seen = self.bad.seen[node.output], self.good.seen
                self._close[node.index] = [o for o in good if same(mine, seen[o.output])]
            close = [other for other in self._close[node.index] if other.index not in self._taken]
            if len(close) == 1:
                yield node, close[0]
