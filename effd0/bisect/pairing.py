"""
Which node of one graph is which of the other: by structure, by name, at last by value.

Rules stand in order of trust.  After each pair the strongest one is asked first again, so that a
weak rule is used only where all stronger ones have nothing more to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from .network import COMMUTATIVE, Network, Node
from .pairs import Pairs, Side
from .tensors import Seen

#: Samples of a tensor as close as this are of one tensor; float16 on either side moves them more.
SAME_SAMPLE, SAME_SAMPLE_FLOAT16 = 1e-3, 2e-2
#: Of the nodes with a common name, so many must also read tensors of common names.
NAMES_AGREE = 0.5


Found = Iterable[tuple[Node, Node]]
Rule = Callable[[Pairs], Found]


def pair(bad: Side, good: Side) -> Pairs:
    """Return the pairs of all nodes of *bad* for which *good* has a partner."""
    pairs = Pairs(bad, good)
    inputs = zip(bad.network.inputs, good.network.inputs, strict=True)
    pairs.tensors.update({mine.name: theirs.name for mine, theirs in inputs})
    names = names_agree(bad.network, good.network)
    rules = [(word, rule) for word, rule in RULES if names or word != "name"]
    while any(_apply(pairs, word, rule) for word, rule in rules):
        pass
    return pairs


def _apply(pairs: Pairs, word: str, rule: Rule) -> bool:
    """Add what *rule* finds; whether that was anything."""
    before = len(pairs.nodes)
    for one, other in rule(pairs):
        if one.index not in pairs.nodes and other.index not in pairs.taken:
            pairs.add(one, other, word)
    return len(pairs.nodes) > before


def names_agree(bad: Network, good: Network) -> bool:
    """Whether equal names mean equal tensors: numbers, given anew, do not."""
    theirs = good.producer
    common = [(node, theirs[node.output]) for node in bad.nodes if node.output in theirs]
    inputs = {info.name for info in good.inputs}
    same = [set(one.data) & (set(other.data) | inputs) for one, other in common]
    ops = [one.op == other.op for one, other in common]
    agreed = sum(bool(shared) and op for shared, op in zip(same, ops, strict=True))
    return agreed >= NAMES_AGREE * max(1, len(common))


def _exactly(pairs: Pairs) -> Found:
    """The same computation, weights and all, on tensors that are partners."""
    return _unique(pairs, lambda node, side, data: (data, side.constants(node)))


def _forward(pairs: Pairs) -> Found:
    """The only node of its kind that reads these partners, whatever its weights."""
    return _unique(pairs, lambda _node, _side, data: data)


def _twins(pairs: Pairs) -> Found:
    """Several that nothing tells apart, in their order."""
    bad, good = _grouped(pairs, lambda node, side, data: (data, side.constants(node)))
    for key in bad.keys() & good.keys():
        yield from zip(bad[key], good[key], strict=False)


Key = Callable[[Node, Side, tuple[str, ...]], Hashable]


def _unique(pairs: Pairs, key: Key) -> Found:
    """Nodes whose *key*, operator, shape and inputs no other of their side shares."""
    bad, good = _grouped(pairs, key)
    for same in bad.keys() & good.keys():
        if len(bad[same]) == len(good[same]) == 1:
            yield bad[same][0], good[same][0]


def _grouped(
    pairs: Pairs, key: Key
) -> tuple[dict[Hashable, list[Node]], dict[Hashable, list[Node]]]:
    """The nodes left, of which all inputs have partners, by operator, shape and *key*."""
    known, groups = set(pairs.tensors.values()), []
    for side, nodes in zip((pairs.bad, pairs.good), pairs.left(), strict=True):
        found: dict[Hashable, list[Node]] = defaultdict(list)
        for node in nodes:
            mine = side is pairs.bad
            data = [pairs.tensors.get(name) if mine else name for name in node.data]
            named = tuple(name for name in data if name in known)
            if len(named) == len(node.data):
                order = tuple(sorted(named)) if node.op in COMMUTATIVE else named
                found[node.op, side.shape(node), key(node, side, order)].append(node)
        groups.append(found)
    return groups[0], groups[1]


def _by_name(pairs: Pairs) -> Found:
    """The same name, operator and shape."""
    bad, good = pairs.left()
    theirs = {node.output: node for node in good}
    for node in bad:
        other = theirs.get(node.output)
        if other and _alike(pairs, node, other):
            yield node, other


def _by_name_alone(pairs: Pairs) -> Found:
    """The same name and operator, of another shape."""
    bad, good = pairs.left()
    theirs = {(node.output, node.op): node for node in good}
    return [(node, theirs[n]) for node in bad if (n := (node.output, node.op)) in theirs]


def _backward(pairs: Pairs) -> Found:
    """What partners read at the same place, and what the same output shows."""
    mine, theirs = pairs.bad.network.producer, pairs.good.network.producer

    def alike(places: Iterable[tuple[str, str]]) -> Found:
        for one, other in places:
            if one in mine and other in theirs and _alike(pairs, mine[one], theirs[other]):
                yield mine[one], theirs[other]

    yield from alike(same_outputs(pairs))
    # What was found on the way is in `pairs` already: one sweep goes up to the inputs.
    for node in reversed(pairs.bad.network.nodes):
        if node.index in pairs.nodes:
            yield from alike(zip(node.data, pairs.nodes[node.index].data, strict=False))


def same_outputs(pairs: Pairs) -> list[tuple[str, str]]:
    """Outputs of both models of equal name, else the only ones of their shape."""
    bad, good = (_shapes(side) for side in (pairs.bad, pairs.good))
    named = [(name, name) for name in bad.keys() & good.keys() if bad[name] == good[name]]
    shaped = [
        (one, other)
        for one, shape in bad.items()
        for other, theirs in good.items()
        if shape == theirs
        and list(bad.values()).count(shape) == 1
        and list(good.values()).count(shape) == 1
    ]
    return shaped or named


def _shapes(side: Side) -> dict[str, tuple[int, ...]]:
    outputs: Sequence[str] = side.network.outputs
    return {name: side.seen[name].shape for name in outputs if name in side.seen}


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


def _alike(pairs: Pairs, one: Node, other: Node) -> bool:
    return one.op == other.op and pairs.bad.shape(one) == pairs.good.shape(other)


RULES: tuple[tuple[str, Rule], ...] = (
    ("topology", _exactly),
    ("name", _by_name),
    ("value", _by_value),
    ("topology", _forward),
    ("topology", _backward),
    ("name", _by_name_alone),
    ("topology", _twins),
)
