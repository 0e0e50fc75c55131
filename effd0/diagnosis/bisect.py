"""
Two ONNX models on the same images: the first node at which one leaves the other.

The node that is named is clean above and dirty below.  An error that heals at once is another cut
through the same computation (a convolution before and after its batch normalisation was folded
in), not a fault: that runs down to an output, or fades.
"""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.fixture import sample_inputs
from ..data.preprocess import preprocess
from ..errors import require, require_all
from ..export import verify
from ..graph.onnx_info import load_graph, precision_of
from ..runners.base import as_input
from ..spec import ModelSpec
from ..tensors.diff import compare_tensors
from ..tolerances import NOISE, NOISE_FLOAT16
from ..types import Tensor
from .graph_pairing import COMMUTATIVE, Array, Network, Node, Pairs, each
from .rounding import SHOWN, Restored, own_errors, restored

#: Status of a finding -> what it means.
STATUSES = {
    "same": "all that both compute agrees up to float noise",
    "hidden": "the outputs agree on these images, but a node inside does not",
    "differs": "the outputs differ",
    "inputs differ": "the two cannot be fed the same images",
}
#: An error so many times that of what a node reads is the node's own.
JUMP = 10.0
#: An error that falls below the noise fades if the next tensor keeps this much of it, else heals:
#: a residual branch may be a hundredth of its trunk, while a false pair is off by nearly all.
KEPT = 1e-3
#: Rows of the batch in which an image has to get what it gets alone, where a model takes any.
BATCH = 8
#: Operator that pads what it reads -> with what.
PADDING = {"Conv": 0.0, "MaxPool": -np.inf}
#: Values of a small tensor that are shown.
_FEW = 8
#: A ratio is reported only where it explains the difference to this part of it.
_EXPLAINED = 1e-3
#: How the difference of a weight ends that lost digits alone.
ROUNDED_FLOAT16 = ", rounded to float16"
_PART = re.compile(r"backbone|fpn|class_net|box_net")
#: A relative L2 beyond this is of a reference of zeros.
_HUGE = 1e300


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
    error: float
    differences: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shape: tuple[int, ...] = ()
    upstream: float = 0.0
    partner: str = ""
    paired_by: str = ""

    @property
    def stage(self) -> str:
        """``export`` where weights alone differ, else ``graph``: the computation does."""
        # Another operator or edge explains other weights beside it; not the other way round.
        weights = all(difference.startswith("weight ") for difference in self.differences)
        return "export" if self.differences and weights else "graph"


@dataclass(frozen=True)
class Finding:
    """
    What a bisection found: *status* is one of `STATUSES`.

    *suspects* are in topological order, the culprit first; *worst* is the largest relative L2 of
    an output, *noise* what is allowed; *pairs* counts the pairs by rule; *nodes* are those of the
    bad model on data, *notes* are sentences on what else differs; *weights* says how many
    convolutions have others.
    """

    status: str
    suspects: tuple[Suspect, ...] = ()
    worst: float = 0.0
    noise: float = 0.0
    nodes: int = 0
    pairs: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
    weights: str = ""

    @property
    def culprit(self) -> Suspect | None:
        """The first node that leaves the reference."""
        return self.suspects[0] if self.suspects else None

    @property
    def explanation(self) -> str:
        """The culprit, in what it differs, and that what it reads agrees; empty without one."""
        first, more = self.culprit, len(self.suspects) - 1
        if first is None:
            return ""
        what = "; ".join(first.differences) or "the same node computes something else"
        others = "node errs by itself" if more == 1 else "nodes err by themselves"
        count = f"{self.weights}; the first is " if self.weights else ""
        return (
            f"{count}{first.op} {first.node}: {what}; what it reads is off by "
            f"{first.upstream:.2g}, what it gives by {first.error:.2g}"
            + (f" ({more} more {others})" if more else "")
        )

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values; an error that is infinite is the word ``inf``."""
        plain = asdict(self)
        for part in (plain, *plain["suspects"]):
            part |= {name: "inf" for name, value in part.items() if value == np.inf}
        return plain


def bisect(model: Path, reference: Path, spec: ModelSpec, image: Path | None = None) -> Finding:
    """
    Find where the ONNX file *model* leaves *reference*, an ONNX file or a checkpoint.

    Both are run on *image*, or on embedded ones; where nothing differs, *model* is run on a batch,
    too.  A rounded model is compared without its rounding, and the worst of its quantisers are
    noted.  Raises `GraphError`, `RunnerError`, `CheckpointError`, `ImageError`.
    """
    if reference.suffix != ".onnx":
        require_all(verify.EXPORTING | verify.SIMPLIFYING)
    bad = Network(load_graph(model), spec)
    if reference.suffix == ".onnx":
        good = Network(load_graph(reference), spec)
    else:
        with verify.exported(reference, spec) as made:
            good = Network(load_graph(made), spec)
    batches = [network.inputs[0].shape[:1] for network in (bad, good)]
    rows = next((batch[0] for batch in batches if batch and batch[0] is not None), 1)
    images = sample_inputs(max(rows, 2), spec)
    if image is not None:
        images[0] = preprocess(image, spec).tensor
    fed = images[:rows] if image is None else images[[0] * rows]
    mine = restored(bad.model, good, fed) if precision_of(bad.model) != "fp32" else None
    finding = bisect_restored(mine, fed) if mine else bisect_networks(bad, good, fed)
    if mine:
        count = f"{len(mine.rounding.steps) - len(mine.wrong)} of {len(mine.rounding.steps)}"
        said = f"compared without its rounding: {count} stored weights are the reference's, rounded"
        quantisers = (f"quantiser of {own}" for own in own_errors(mine, fed)[:SHOWN])
        finding = replace(finding, notes=(said, *quantisers, *finding.notes))
    if finding.status != "same":
        return finding
    if first := batch_suspect(bad, one_among(images, bad.inputs[0].shape[0] or BATCH)):
        return replace(finding, status="differs", suspects=(first,), worst=first.error)
    return finding


def bisect_restored(mine: Restored, images: Tensor) -> Finding:
    """Find where a model without its rounding leaves the reference; `RunnerError`."""
    found = bisect_networks(mine.network, mine.pairs.good, images)
    in_steps = {f"weight {name} differs": text for name, text in mine.wrong.items()}
    suspects = []
    for one in found.suspects:
        parts = [text.partition(": ") for text in one.differences]
        said = tuple(f"{start}{colon}{in_steps.get(start, rest)}" for start, colon, rest in parts)
        suspects.append(replace(one, differences=said))
    return replace(found, suspects=tuple(suspects), notes=(*found.notes, *mine.notes))


def bisect_networks(bad: Network, good: Network, images: Tensor) -> Finding:
    """Find where *bad* leaves *good* on *images*, (N, 3, S, S); raise `RunnerError`."""
    if len(bad.inputs) != 1 or len(good.inputs) != 1:
        counts = f"{len(bad.inputs)} inputs, the reference {len(good.inputs)}"
        note = f"the model has {counts}, but one is wanted of each"
        return Finding("inputs differ", notes=(note,))
    (mine,), (theirs,) = bad.inputs, good.inputs
    notes = []
    if mine.name != theirs.name:
        notes.append(f"the input is called {mine.name}, but {theirs.name} in the reference")
    fits = len(mine.shape) == len(theirs.shape) and all(
        one == other or None in (one, other)
        for one, other in zip(mine.shape, theirs.shape, strict=True)
    )
    if mine.dtype != theirs.dtype or not fits:
        notes.append(f"the input is {mine}, but {theirs} in the reference")
        for info in (mine, theirs):
            fed = as_input(images, info, bad.spec)
            if info.shape[:1] not in ((None,), (len(fed),)) or not info.takes(fed):
                return Finding("inputs differ", notes=tuple(notes))
    if len({any(n.op == "BatchNormalization" for n in side.nodes) for side in (bad, good)}) > 1:
        bad, good = bad.fused(), good.fused()
    for network in (bad, good):
        network.observe(images)
    pairs = Pairs(bad, good)
    # An output is compared whatever gives it: a Cast, which the other model does not have.
    partners = ((node.output, pairs.nodes.get(node.index)) for node in bad.nodes)
    names = dict(pairs.same_outputs()) | {name: its.output for name, its in partners if its}
    both = each([(bad, [*names]), (good, [*names.values()])], images)
    errors = {name: distance(*values) for name, values in zip(names, both, strict=True)}
    # The error that is nobody's fault, in the coarser of both precisions.
    kinds = {seen.dtype for side in (bad, good) for seen in side.seen.values()}
    noise = (NOISE_FLOAT16 if np.dtype(np.float16) in kinds else NOISE).limit
    found = tuple(suspects(pairs, errors, noise))
    outputs = [(name, names[name]) for name in bad.outputs if name in names]
    worst = max((errors.get(name, np.inf) for name in bad.outputs), default=0.0)
    notes += [
        f"output {name} is {pairs.tensors[name]} in the reference"
        for name in bad.outputs
        if name in good.outputs and pairs.tensors.get(name, name) != name
    ]
    status = "differs" if worst > noise else "hidden" if found else "same"
    by_rule, said = dict(Counter(pairs.rules.values())), ""
    if found and found[0].stage == "export":
        said = _other_weights(pairs, outputs, images, noise)
    return Finding(status, found, worst, noise, len(bad.nodes), by_rule, tuple(notes), said)


def _other_weights(
    pairs: Pairs, outputs: Sequence[tuple[str, str]], images: Tensor, noise: float
) -> str:
    """
    How many convolutions have other weights, in which parts of the network; empty for one at most.

    They are of another checkpoint where a part has no other, and all *outputs*, of both sides,
    agree once the reference's weights are in their place.
    """
    to_tensor = require("onnx.numpy_helper", extra="onnx").from_array
    bad, good, model = pairs.bad, pairs.good, type(pairs.bad.model)()
    model.CopyFrom(bad.model)
    parts = defaultdict[str, list[bool]](list)
    for node in bad.nodes:
        partner = pairs.nodes.get(node.index)
        if partner is None or {node.op, partner.op} != {"Conv"}:
            continue
        before = len(model.graph.initializer)
        for at in node.constants.keys() & partner.constants.keys():
            got, wanted = bad.values[node.constants[at]], good.values[partner.constants[at]]
            said = _weights_differ(got, wanted)
            if said and got.shape == wanted.shape and not said.endswith(ROUNDED_FLOAT16):
                name = f"{node.output}_wanted_{at}"
                model.graph.initializer.append(to_tensor(wanted.astype(got.dtype), name))
                model.graph.node[node.index].input[at] = name
        part = _PART.search(partner.name)
        parts[part[0] if part else ""].append(len(model.graph.initializer) > before)
    differ = sum(map(sum, parts.values()))
    if differ <= 1:
        return ""
    counts = [f"{'all' if all(of) else f'{sum(of)} of'} {len(of)} in {part}"
              for part, of in parts.items() if any(of) and part]  # fmt: skip
    said = f"{differ} of {sum(map(len, parts.values()))} convolutions have other weights"
    said += f": {', '.join(counts)}" if counts else ""
    if any(all(of) for of in parts.values()):
        mine, theirs = zip(*outputs, strict=True)
        both = zip(Network(model).run(mine, images), good.run(theirs, images), strict=True)
        if all(distance(got, wanted) <= noise for got, wanted in both):
            return f"another checkpoint: {said}; with the reference's all outputs agree"
    return said


def one_among(images: Tensor, rows: int) -> Tensor:
    """A batch of *rows* rows of *images*: the second in the second row, the first in all others."""
    return images[[min(row, len(images) - 1) if row == 1 else 0 for row in range(rows)]]


def batch_suspect(network: Network, batch: Tensor) -> Suspect | None:
    """
    The first node of *network* that gives an image of *batch* something else than alone.

    *batch* is that of `one_among`.  None where the outputs are the same.  Raises `RunnerError`.
    """
    alone = np.repeat(batch[:1], network.inputs[0].shape[0] or 1, axis=0)
    half = any(value.dtype == np.float16 for value in network.values.values())
    noise = (NOISE_FLOAT16 if half else NOISE).limit

    def part(value: Array, fed: Tensor, row: int) -> Array:
        """What is of the image in *row*; the first row where there are fewer rows than images."""
        rows = np.atleast_1d(value)
        size = len(rows) // len(fed)
        return rows[row * size :][: size or 1]

    def errors(names: list[str], rows: list[int]) -> Iterator[list[float]]:
        runs = (each([(network, names)], fed) for fed in (alone, batch))
        for (one,), (many,) in zip(*runs, strict=True):
            wanted, got = part(one, alone, 0), [part(many, batch, row) for row in rows]
            yield [distance(has, wanted) if has.shape == wanted.shape else 0.0 for has in got]

    rows = [row for row in range(len(batch)) if row != 1]
    by_row = np.max([*errors(network.outputs, rows)], axis=0)
    row, names = rows[int(by_row.argmax())], [node.output for node in network.nodes]
    what = f"row {row} of a batch of {len(batch)} is not what the same image gets alone"
    if not by_row.max() > noise:
        return None
    for node, (error,) in zip(network.nodes, errors(names, [row]), strict=True):
        if error > noise:
            return Suspect(node.name, node.op, node.output, error, (what,))
    return None


def distance(got: Array, wanted: Array) -> float:
    """
    Relative L2 norm of ``got - wanted``, where an equal NaN or infinity is no difference.

    Infinite for other shapes, for a reference of zeros and for a NaN on one side alone.
    """
    if got.shape != wanted.shape:
        return np.inf
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        got, wanted = np.where(same, 0, got), np.where(same, 0, wanted)
    if np.array_equal(got, wanted):
        return 0.0
    found = compare_tensors({"": wanted}, {"": got})[0].relative_l2
    return found if found < _HUGE else np.inf


# Which nodes make an error, and in what they differ.


def suspects(pairs: Pairs, errors: Mapping[str, float], noise: float) -> Iterator[Suspect]:
    """
    Yield the nodes that make an error of their own, in topological order.

    *errors* holds the relative L2 of each tensor of the bad model that has a partner; *noise* is
    what it may be where nothing is wrong.
    """
    dirty, reached, seen = _dirty(pairs.bad, errors, noise), set[int](), pairs.bad.seen
    fed = {info.name: tuple(side or 0 for side in info.shape) for info in pairs.bad.inputs}
    for node in pairs.bad.nodes:
        if node.index not in dirty or node.output not in errors:
            continue
        region, upstream = _above(pairs.bad, errors, node)
        error = errors[node.output]
        if error <= noise or error <= JUMP * upstream:
            continue
        # A node that differs from its partner by what it reads alone was not changed itself.
        edges_alone = all(text.startswith("reads ") for text in node_differences(node, pairs))
        maker = region[0] if region and edges_alone else node
        if maker.index in reached:
            continue
        reached.add(maker.index)
        said, partner = tuple(node_differences(maker, pairs)), pairs.nodes.get(maker.index)
        shapes = tuple(seen[n].shape if n in seen else fed.get(n, ()) for n in maker.data)
        names = partner.name if partner else "", pairs.rules.get(maker.index, "")
        own = (maker.name, maker.op, maker.output, error, said)
        yield Suspect(*own, shapes, seen[maker.output].shape, upstream, *names)


def _dirty(network: Network, errors: Mapping[str, float], noise: float) -> set[int]:
    """The nodes from which an error runs down to an output, or to where it fades."""
    # An error fades that falls below the noise with the next node, but not to nothing.
    fading = [
        name
        for node in network.nodes
        for name in node.data
        if KEPT * errors.get(name, np.inf) < errors.get(node.output, np.inf) <= noise
    ]
    found, stack = set[int](), [*network.outputs, *fading]
    while stack:
        node = network.producer.get(stack.pop())
        if node is None or node.index in found:
            continue
        if errors.get(node.output, np.inf) > noise:
            found.add(node.index)
            stack += node.data
    return found


def _above(network: Network, errors: Mapping[str, float], node: Node) -> tuple[list[Node], float]:
    """The nodes without partner right above *node*, and the largest error above those."""
    region: dict[int, Node] = {}
    upstream, stack = 0.0, list(node.data)
    while stack:
        name = stack.pop()
        above = network.producer.get(name)
        if above is not None and name not in errors and above.index not in region:
            region[above.index] = above
            stack += above.data
        upstream = max(upstream, errors.get(name, 0.0))
    return [region[index] for index in sorted(region)], upstream


def node_differences(node: Node, pairs: Pairs) -> Iterator[str]:
    """Sentences on what differs between *node* and its partner as they stand in the files."""
    partner = pairs.nodes.get(node.index)
    if partner is None:
        yield "has no partner in the reference"
        return
    node, partner = _with_own_padding(node, pairs.bad), _with_own_padding(partner, pairs.good)
    settings: dict[str, tuple[str, ...]] = {"is": (node.op, partner.op)}
    for name in sorted(node.attributes.keys() | partner.attributes.keys()):
        usual = _default(node.op, name)
        both = (side.attributes.get(name, usual) for side in (node, partner))
        settings[f"attribute {name} is"] = tuple(map(_text, both))
    for what, (got, wanted) in settings.items():
        if got != wanted:
            yield f"{what} {got}, but {wanted} in the reference"
    for position in sorted(node.constants.keys() | partner.constants.keys()):
        mine, theirs = node.constants.get(position), partner.constants.get(position)
        if mine is None or theirs is None:
            got, wanted = mine or "no constant", theirs or "no constant"
            yield f"input {position} is {got}, but {wanted} in the reference"
        elif values := _weights_differ(pairs.bad.values[mine], pairs.good.values[theirs]):
            yield f"weight {mine} differs: {values}"
    yield from _edges(node, partner, pairs)


def _default(op: str, name: str) -> Any:
    """What ONNX takes for the attribute *name* of *op* where it is absent; None for nothing."""
    onnx = require("onnx", extra="onnx")
    with contextlib.suppress(onnx.defs.SchemaError, KeyError):
        value = onnx.defs.get_schema(op).attributes[name].default_value
        return onnx.helper.get_attribute_value(value) if value.name else None
    return None


def _with_own_padding(node: Node, network: Network) -> Node:
    """*node* as it is where the Pad in front of it is folded into it, as onnxsim does."""
    pad = network.producer.get(node.data[0])
    if node.op not in PADDING or pad is None or pad.op != "Pad" or set(pad.constants) != {1, 2}:
        return node
    ring, filler = (network.values[pad.constants[position]] for position in (1, 2))
    before, after = np.split(ring, 2)
    modes = (pad.attributes.get("mode", b"constant"), node.attributes.get("auto_pad", b"NOTSET"))
    outside = [*before[:2], *after[:2]]
    if modes != (b"constant", b"NOTSET") or filler != PADDING[node.op] or any(outside):
        return node
    more = np.append(before[2:], after[2:])
    pads = (more + node.attributes.get("pads", 0)).tolist()
    return replace(
        node, data=(*pad.data, *node.data[1:]), attributes={**node.attributes, "pads": pads}
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "absent" if value is None else str(value)


def _edges(node: Node, partner: Node, pairs: Pairs) -> Iterator[str]:
    """Inputs that are not partners."""
    if len(node.data) != len(partner.data):
        yield f"reads {len(node.data)} tensors, but {len(partner.data)} in the reference"
    reads = [pairs.tensors.get(name) for name in node.data]
    if node.op in COMMUTATIVE and sorted(map(str, reads)) == sorted(partner.data):
        return
    partners = {theirs: mine for mine, theirs in pairs.tensors.items()}
    for name, got, theirs in zip(node.data, reads, partner.data, strict=False):
        if got != theirs:
            yield f"reads {name}, but {partners.get(theirs, theirs)} in the reference"


def _weights_differ(got: Array, wanted: Array) -> str:
    """How *got* differs from *wanted*, by which rounding or factor; empty where it does not."""
    if got.shape != wanted.shape:
        return f"shape {got.shape}, but {wanted.shape} in the reference"
    # A norm that is folded in rounds otherwise than the exporter's.
    if distance(got, wanted) <= (NOISE.limit if np.issubdtype(wanted.dtype, np.floating) else 0):
        return ""
    if not np.issubdtype(wanted.dtype, np.floating) or got.size <= 1:
        more = ", ..." if got.size > _FEW else ""
        shown = [", ".join(f"{v:g}" for v in side.reshape(-1)[:_FEW]) for side in (got, wanted)]
        return f"{shown[0]}{more}, but {shown[1]}{more} in the reference"
    one, other = got.astype(np.float64), wanted.astype(np.float64)
    moved = np.abs(one - other)[~((one == other) | (np.isnan(one) & np.isnan(other)))]
    what = f"max abs {moved.max():.3g} in {moved.size} of {one.size} values"
    with np.errstate(over="ignore"):
        if np.array_equal(one, other.astype(np.float16).astype(np.float64)):
            return f"{what}{ROUNDED_FLOAT16}"
    size = float(np.vdot(other, other))
    factor = float(np.vdot(one, other)) / size if size and np.isfinite(one).all() else np.nan
    left = float(np.linalg.norm(one - factor * other))
    scaled = left <= _EXPLAINED * float(np.linalg.norm(one - other))
    return f"{what}, scaled by {factor:.6g}" if scaled else what
