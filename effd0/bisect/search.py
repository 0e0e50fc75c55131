"""
The first node that leaves the reference: clean above it, dirty below.

An error that heals at once is another cut through the same computation (a convolution before and
after its batch normalisation was folded in), not a fault: that runs down to an output, or fades.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..tolerances import NOISE, NOISE_FLOAT16
from .differences import differences
from .network import Node
from .pairs import Pairs

#: An error so many times that of what a node reads is the node's own.
JUMP = 10.0
#: An error that falls below the noise fades if the next tensor keeps this much of it, else heals:
#: a residual branch may be a hundredth of its trunk, while a false pair is off by nearly all.
KEPT = 1e-3


@dataclass(frozen=True)
class Suspect:
    """
    A node of the bad model that makes an error: *error* is that of its output, relative L2.

    *upstream* is the largest error of what it reads; *paired_by* is empty for a node without a
    partner, and then *error* is that of the first tensor below it that has one.
    """

    node: str
    op: str
    output: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    error: float
    upstream: float
    partner: str
    paired_by: str
    differences: tuple[str, ...]


def noise_of(pairs: Pairs) -> float:
    """The error that is nobody's fault, in the coarser of both precisions."""
    kinds = {seen.dtype for side in (pairs.bad, pairs.good) for seen in side.seen.values()}
    return (NOISE_FLOAT16 if np.dtype(np.float16) in kinds else NOISE).limit


def suspects(pairs: Pairs, errors: Mapping[str, float], noise: float) -> list[Suspect]:
    """
    Return the nodes that make an error of their own, in topological order.

    *errors* holds the relative L2 of each tensor of the bad model that has a partner; *noise* is
    what it may be where nothing is wrong.
    """
    return list(_Search(pairs, errors, noise).found())


@dataclass(frozen=True)
class _Search:
    pairs: Pairs
    errors: Mapping[str, float]
    noise: float

    def found(self) -> Iterator[Suspect]:
        dirty, reached = self._dirty(), set[int]()
        for node in self.pairs.bad.network.nodes:
            if node.index not in dirty or node.output not in self.errors:
                continue
            region, upstream = self._above(node)
            error = self.errors[node.output]
            if error > self.noise and error > JUMP * upstream:
                chosen = self._maker(node, region)
                if chosen.index not in reached:
                    reached.add(chosen.index)
                    yield self._suspect(chosen, error, upstream)

    def _dirty(self) -> set[int]:
        """The nodes from which an error runs down to an output, or to where it fades."""
        network, found = self.pairs.bad.network, set[int]()
        producer, stack = network.producer, [*network.outputs, *self._fading()]
        while stack:
            node = producer.get(stack.pop())
            if node is None or node.index in found:
                continue
            if self.errors.get(node.output, np.inf) > self.noise:
                found.add(node.index)
                stack += node.data
        return found

    def _fading(self) -> Iterator[str]:
        """Tensors whose error falls below the noise with the next node, but not to nothing."""
        for node in self.pairs.bad.network.nodes:
            left = self.errors.get(node.output, np.inf)
            for name in node.data:
                if KEPT * self.errors.get(name, np.inf) < left <= self.noise:
                    yield name

    def _above(self, node: Node) -> tuple[list[Node], float]:
        """The nodes without partner right above *node*, and the largest error above those."""
        producer, stack = self.pairs.bad.network.producer, list(node.data)
        region: dict[int, Node] = {}
        upstream = 0.0
        while stack:
            name = stack.pop()
            above = producer.get(name)
            if above is not None and name not in self.errors and above.index not in region:
                region[above.index] = above
                stack += above.data
            upstream = max(upstream, self.errors.get(name, 0.0))
        return [region[index] for index in sorted(region)], upstream

    def _maker(self, node: Node, region: list[Node]) -> Node:
        """*node* if it differs from its partner by itself, else the first of *region*."""
        partner = self.pairs.nodes.get(node.index)
        own = differences(node, partner, self.pairs) if partner else ("has no partner",)
        edges_alone = all(text.startswith("reads ") for text in own)
        return region[0] if region and edges_alone else node

    def _suspect(self, node: Node, error: float, upstream: float) -> Suspect:
        pairs, partner = self.pairs, self.pairs.nodes.get(node.index)
        seen = pairs.bad.seen
        inputs = {info.name: info.shape for info in pairs.bad.network.inputs}
        shapes = [seen[n].shape if n in seen else inputs.get(n, ()) for n in node.data]
        return Suspect(
            node.name,
            node.op,
            node.output,
            tuple(tuple(side or 0 for side in shape) for shape in shapes),
            seen[node.output].shape,
            error,
            upstream,
            partner.name if partner else "",
            pairs.rules.get(node.index, ""),
            differences(node, partner, pairs) if partner else ("has no partner in the reference",),
        )
