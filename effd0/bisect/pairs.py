"""Two networks beside each other, and the partners found so far."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .network import Network, Node
from .tensors import Seen


@dataclass(frozen=True)
class Side:
    """A network, and what was seen of its tensors."""

    network: Network
    seen: Mapping[str, Seen]

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of the first output of *node*."""
        return self.seen[node.output].shape

    def constants(self, node: Node) -> Hashable:
        """A fingerprint of all that sets *node* apart but its data: weights and attributes."""
        digest = hashlib.sha256(repr(sorted(node.attributes.items())).encode())
        for position, name in node.constants.items():
            value = self.network.values[name]
            digest.update(f"{position}{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.digest()


@dataclass
class Pairs:
    """Nodes and tensors of *bad* and their partners in *good*, and by which rule."""

    bad: Side
    good: Side
    nodes: dict[int, Node] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    rules: dict[int, str] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    close: dict[int, list[Node]] = field(default_factory=dict)

    def add(self, one: Node, other: Node, rule: str) -> None:
        """Let *other* be the partner of *one*."""
        self.nodes[one.index], self.rules[one.index] = other, rule
        self.taken.add(other.index)
        self.tensors.update(zip(one.outputs, other.outputs, strict=False))

    def left(self) -> tuple[list[Node], list[Node]]:
        """The nodes of both sides that have no partner yet."""
        return (
            [node for node in self.bad.network.nodes if node.index not in self.nodes],
            [node for node in self.good.network.nodes if node.index not in self.taken],
        )
