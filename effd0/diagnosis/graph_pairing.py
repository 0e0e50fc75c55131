"""
Two ONNX graphs side by side: which node of one is which of the other.

A graph is read as what it computes from images: its data nodes, and the constants that they read.
Whatever does not depend on the values of an input is a constant here, be it stored or computed
(the sides of a padding, from Shape): so a raw and a simplified export look alike.

Nodes are paired by structure, by name, at last by value.  Rules stand in order of trust.  After
each pair the strongest one is asked first again, so that a weak rule is used only where all
stronger ones have nothing more to say.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, require
from ..graph.onnx_info import constants, fed_inputs, sides_of
from ..runners.base import TensorInfo

#: What they give depends on the shape of their input, not on its values.
_SHAPES_ONLY = ("Shape", "Size")
#: What they read may stand in any order.
COMMUTATIVE = ("Add", "Mul", "Max", "Min", "Sum", "Mean")
#: Samples of a tensor as close as this are of one tensor; float16 on either side moves them more.
SAME_SAMPLE, SAME_SAMPLE_FLOAT16 = 1e-3, 2e-2
#: Of the nodes with a common name, so many must also read tensors of common names.
NAMES_AGREE = 0.5


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


@dataclass(frozen=True)
class Seen:
    """What is kept of a tensor: its shape, its dtype and some of its values, as float64."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sample: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """
    A ``ModelProto`` and its data nodes in topological order.

    *values* are its constants and *seen* is what was seen of its data tensors, by name; both are
    filled by a run on images.
    """

    model: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: dict[str, npt.NDArray[Any]]
    seen: dict[str, Seen] = field(default_factory=dict)

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The data node that gives each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}

    @property
    def computed(self) -> list[str]:
        """The constants that are read but not stored: they are still to be measured."""
        read = dict.fromkeys(name for node in self.nodes for name in node.constants.values())
        return [name for name in read if name not in self.values]

    def fingerprint(self, node: Node) -> Hashable:
        """A digest of all that sets *node* apart but its data: weights and attributes."""
        digest = hashlib.sha256(repr(sorted(node.attributes.items())).encode())
        for position, name in node.constants.items():
            value = self.values[name]
            digest.update(f"{position}{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.digest()


def network_of(model: Any) -> Network:
    """Return the data nodes of *model*; raise `GraphError` if it has no input for images."""
    helper = require("onnx.helper", extra="onnx")
    inputs = tuple(
        TensorInfo(
            value.name,
            sides_of(value),
            np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in fed_inputs(model)
    )
    if not inputs:
        raise GraphError("the model has no input, but images are to be fed; export it again")
    data, nodes = {info.name for info in inputs}, []
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
        nodes.append(made)
        data |= set(made.outputs)
    outputs = tuple(output.name for output in model.graph.output)
    return Network(model, inputs, outputs, tuple(nodes), constants(model))


@dataclass
class Pairs:
    """Nodes and tensors of *bad* and their partners in *good*, and by which rule."""

    bad: Network
    good: Network
    nodes: dict[int, Node] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    rules: dict[int, str] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    close: dict[int, list[Node]] = field(default_factory=dict)

    def left(self) -> tuple[list[Node], list[Node]]:
        """The nodes of both sides that have no partner yet."""
        return (
            [node for node in self.bad.nodes if node.index not in self.nodes],
            [node for node in self.good.nodes if node.index not in self.taken],
        )

    def alike(self, one: Node | None, other: Node | None) -> bool:
        """Whether both are there, with one operator and one shape."""
        if one is None or other is None or one.op != other.op:
            return False
        return self.bad.seen[one.output].shape == self.good.seen[other.output].shape


Found = Iterable[tuple[Node, Node]]
Rule = Callable[[Pairs], Found]


def pair(bad: Network, good: Network) -> Pairs:
    """Return the pairs of all nodes of *bad*, which was seen as *good* was, with a partner."""
    pairs = Pairs(bad, good)
    inputs = zip(bad.inputs, good.inputs, strict=True)
    pairs.tensors.update({mine.name: theirs.name for mine, theirs in inputs})
    # Equal names mean equal tensors only where what they are computed from has equal names too.
    common = [(n, good.producer[n.output]) for n in bad.nodes if n.output in good.producer]
    fed = {info.name for info in good.inputs}
    agreed = [one.op == other.op and {*one.data} & {*other.data, *fed} for one, other in common]
    names = sum(map(bool, agreed)) >= NAMES_AGREE * max(1, len(common))
    rules = [(word, rule) for word, rule in RULES if names or word != "name"]
    while any(_apply(pairs, word, rule) for word, rule in rules):
        pass
    return pairs


def _apply(pairs: Pairs, word: str, rule: Rule) -> bool:
    """Add what *rule* finds; whether that was anything."""
    before = len(pairs.nodes)
    for one, other in rule(pairs):
        if one.index not in pairs.nodes and other.index not in pairs.taken:
            pairs.nodes[one.index], pairs.rules[one.index] = other, word
            pairs.taken.add(other.index)
            pairs.tensors.update(zip(one.outputs, other.outputs, strict=False))
    return len(pairs.nodes) > before


def _forward(pairs: Pairs, *, exactly: bool) -> Found:
    """
    The only node of its operator and shape that reads these partners.

    With *exactly* of these weights and attributes too.
    """
    known = set(pairs.tensors.values())
    sides: list[dict[Hashable, list[Node]]] = []
    for network, nodes in zip((pairs.bad, pairs.good), pairs.left(), strict=True):
        groups: dict[Hashable, list[Node]] = defaultdict(list)
        for node in nodes:
            mine = network is pairs.bad
            data = [pairs.tensors.get(name, "") if mine else name for name in node.data]
            if known.issuperset(data):
                order = tuple(sorted(data) if node.op in COMMUTATIVE else data)
                own = network.fingerprint(node) if exactly else None
                groups[node.op, network.seen[node.output].shape, order, own].append(node)
        sides.append(groups)
    bad, good = sides
    for key in bad.keys() & good.keys():
        if len(bad[key]) == len(good[key]) == 1:
            yield bad[key][0], good[key][0]


def _by_name(pairs: Pairs) -> Found:
    """The same name, operator and shape."""
    bad, good = pairs.left()
    theirs = {node.output: node for node in good}
    for node in bad:
        other = theirs.get(node.output)
        if other and pairs.alike(node, other):
            yield node, other


def _backward(pairs: Pairs) -> Found:
    """What partners read at the same place, and what the same output shows."""
    mine, theirs = pairs.bad.producer, pairs.good.producer

    def alike(places: Iterable[tuple[str, str]]) -> Found:
        for one, other in ((mine.get(a), theirs.get(b)) for a, b in places):
            if one and other and pairs.alike(one, other):
                yield one, other

    yield from alike(same_outputs(pairs))
    # What was found on the way is in `pairs` already: one sweep goes up to the inputs.
    for node in reversed(pairs.bad.nodes):
        if node.index in pairs.nodes:
            yield from alike(zip(node.data, pairs.nodes[node.index].data, strict=False))


def same_outputs(pairs: Pairs) -> list[tuple[str, str]]:
    """Outputs of both models that are the only ones of their shape, else those of equal name."""
    bad, good = (
        {name: side.seen[name].shape for name in side.outputs if name in side.seen}
        for side in (pairs.bad, pairs.good)
    )
    mine, theirs = Counter(bad.values()), Counter(good.values())
    shaped = [
        (one, other)
        for one, shape in bad.items()
        for other, its in good.items()
        if shape == its and mine[shape] == theirs[shape] == 1
    ]
    return shaped or [(n, n) for n in bad.keys() & good.keys() if bad[n] == good[n]]


def _by_value(pairs: Pairs) -> Found:
    """The same values, whatever gives them: the ends of blocks that were fused differently."""
    bad, good = pairs.left()
    for node in bad:
        if node.index not in pairs.close:  # samples do not change, so they are compared once
            mine, seen = pairs.bad.seen[node.output], pairs.good.seen
            pairs.close[node.index] = [o for o in good if _same_values(mine, seen[o.output])]
        close = [other for other in pairs.close[node.index] if other.index not in pairs.taken]
        if len(close) == 1:
            yield node, close[0]


def _same_values(one: Seen, other: Seen) -> bool:
    if one.shape != other.shape or not np.isfinite(one.sample).all():
        return False
    limit = SAME_SAMPLE_FLOAT16 if np.float16 in (one.dtype, other.dtype) else SAME_SAMPLE
    size = float(np.linalg.norm(other.sample))
    return size > 0 and float(np.linalg.norm(one.sample - other.sample)) <= limit * size


RULES: tuple[tuple[str, Rule], ...] = (
    ("topology", partial(_forward, exactly=True)),
    ("name", _by_name),
    ("value", _by_value),
    ("topology", partial(_forward, exactly=False)),
    ("topology", _backward),
)
