"""
What quantisation cost, and where: which nodes of an int8 build to leave in float.

All is measured on graphs that round between float operators, without any optimisation, so that no
kernel of the host on whole numbers has a part in it.  Nodes come in groups: a tensor stays rounded
as long as one quantised node reads or makes it, so that a node left alone gains next to nothing.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.preprocess import preprocess
from ..detection.heads import named_heads
from ..errors import GraphError
from ..evaluation.engines import LocalEngine, reference_choice
from ..evaluation.evaluate import Evaluation, EvaluationJob, evaluate, loaded, run_of
from ..evaluation.model import ModelChoice
from ..graph.onnx_info import load_graph
from ..graph.quantised import Array, InFloat32, Place, given_back, in_float32, with_errors
from ..io import write_json, write_text
from ..metrics.bootstrap import PairedDrop, paired_drop
from ..metrics.tide import KINDS, find_errors
from ..progress import OpenProgress, silent
from ..results.check import Check
from ..results.run import Run
from ..runners.registry import RunnerOptions
from ..spec import ModelSpec
from ..tolerances import MAX_DROP_INT8
from ..types import Tensor
from .bisect import distance
from .graph_pairing import Network, Pairs
from .parity import fresh_export

#: Images on which nodes and groups are compared; the drop is measured on all.
IMAGES = 2
#: The drop is explained where so much of it is regained.
REGAINED = 0.9
#: Nodes shown, those with the largest error by themselves.
NODES = 8
#: Classes shown, those that lose most.
CLASSES = 5
#: What names a group within the name of a node, as effdet calls its modules, and the rest of both.
_GROUP = re.compile(r"blocks\.\d+\.\d+|cell\.\d+|class_net|box_net")
_REST = {"backbone": "stem", "fpn": "resample", "": "rest"}
#: Operators that AMCT quantises, which it calls layers.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool")


@dataclass(frozen=True)
class NodeError:
    """The relative L2 *error* that a quantised node makes by itself, given float inputs."""

    node: str
    op: str
    group: str
    error: float


@dataclass(frozen=True)
class Group:
    """
    The *nodes* of one part of the network, and what quantising it alone does.

    *worst* is its node with the largest error by itself; *classes* and *boxes* are the relative L2
    of the heads where all other groups compute in float.
    """

    name: str
    nodes: tuple[str, ...]
    worst: NodeError
    classes: float
    boxes: float


@dataclass(frozen=True)
class DropExplained:
    """
    What a quantised build loses to its reference, and where.

    *runtime* is the drop as ONNX Runtime computes the build on this host, *graph* that of its
    graph; *rows* are (figure, reference, build), in points, of the latter.  *nodes* stand by
    falling error, *groups* by falling effect.  *trials* are the drops that remain with so many
    groups in float; the last is recommended, and *explained* is whether it regains enough.
    *unpaired* nodes have no partner in the reference.  *run* is that of the build on this host.
    """

    runtime: PairedDrop
    graph: PairedDrop
    rows: list[tuple[str, float, float]]
    nodes: list[NodeError]
    groups: list[Group]
    trials: dict[int, PairedDrop]
    explained: bool
    unpaired: int
    run: Run | None = None

    @property
    def names(self) -> list[str]:
        """The nodes that are recommended to be left in float."""
        left = max(self.trials, default=0)
        return [name for group in self.groups[:left] for name in group.nodes]

    def to_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        plain = asdict(replace(self, run=None)) | {"left_in_float": self.names}
        return {name: value for name, value in plain.items() if name != "run"}

    def advice(self, max_drop: float) -> list[str]:
        """What to leave in float so that at most *max_drop* points are lost, and the next step."""
        if not self.trials:
            return [f"leave nothing in float: at most {max_drop:g} points are lost"]
        left, drop = max(self.trials.items())
        names = ", ".join(group.name for group in self.groups[:left])
        step = "rounding does not explain the drop: look for another fault with 'effd0 bisect'"
        if self.explained:
            step = "next step: effd0 quantize --exclude DIR/nodes_to_exclude.json, with the DIR of"
            step += " --out"
        every = "all groups" if left == len(self.groups) else names
        what = f"leave in float: {every} ({len(self.names)} nodes)"
        return [what, f"that reaches {100 * drop.candidate_ap:.2f} %: {drop}", step]

    def checks(self, max_drop: float) -> list[Check]:
        """Rows for a run file, none of which decides: the advice, each trial, the worst nodes."""
        advice = "; ".join(self.advice(max_drop))
        rows: list[tuple[str, str, float, str]] = [
            ("what quantisation costs", advice, self.graph.points, "points"),
            *((f"mAP with {', '.join(one.name for one in self.groups[:n])} in float", "",
               100 * drop.candidate_ap, "%") for n, drop in self.trials.items()),
            *((f"{one.node} ({one.op}, {one.group}) by itself", "", one.error, "relative L2")
              for one in self.nodes[:NODES]),
        ]  # fmt: skip
        return [Check("graph", name, "skipped", said, figure=figure, unit=unit)
                for name, said, figure, unit in rows]  # fmt: skip

    def write(self, folder: Path) -> None:
        """
        Write the recommendation for each tool to *folder*.

        ``nodes_to_exclude.json`` is a list for ONNX Runtime and ``effd0 quantize --exclude``;
        ``keep_dtype.cfg`` is for ATC, whose --modify_mixlist takes types of operators alone;
        ``skip_layers.json`` is a part of AMCT's configuration.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(self.names, indent=1) + "\n", folder / "nodes_to_exclude.json")
        write_text("".join(f"{name}\n" for name in self.names), folder / "keep_dtype.cfg")
        layers = [n.node for n in self.nodes if n.op in _LAYERS and n.node in self.names]
        write_json({"skip_layers": layers}, folder / "skip_layers.json")


def explain_drop(
    model: Path,
    reference: Path,
    job: EvaluationJob,
    spec: ModelSpec,
    open_progress: OpenProgress = silent,
) -> DropExplained:
    """
    Explain the drop of the quantised ONNX file *model* against *reference*, ONNX or weights.

    Both are evaluated as *job* says, whose ``max_drop`` may remain.  Raises `GraphError`
    for a model without any rounding, and what evaluation and ONNX Runtime raise.
    """
    read = in_float32(load_graph(model))
    if not read.rounded:
        raise GraphError(
            f"{model} holds no quantised node, but a quantised build is wanted; make one with "
            "'effd0 quantize', or find a difference in float with 'effd0 bisect'"
        )
    file = reference if reference.suffix == ".onnx" else fresh_export(reference, spec)
    own = ModelChoice(model, None, "ort", spec)
    with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
        made = Path(folder) / "mixed.onnx"
        mixed = ModelChoice(made, None, "ort", spec, RunnerOptions(graph_optimization="disable"))

        def measured(choice: ModelChoice) -> Evaluation:
            return evaluate(job, LocalEngine(choice), dataset=dataset, open_progress=open_progress)

        def drop_of(names: Sequence[str]) -> tuple[Evaluation, PairedDrop]:
            made.write_bytes(given_back(read, set(names), weights).SerializeToString())
            got = measured(mixed)
            return got, paired_drop(wanted.matches, got.matches)

        def group_effects(advance: Callable[[int], None]) -> list[Group]:
            """What each group does to the heads where it alone is quantised, most first."""
            members: dict[str, list[str]] = defaultdict(list)
            for node in read.model.graph.node:
                if node.name and node.op_type != "Constant":
                    members[of[node.output[0]]].append(node.name)
            every = {node.name for node in read.model.graph.node}
            outputs = [output.name for output in read.model.graph.output]

            def heads(left: set[str]) -> list[Array]:
                parts = _run(given_back(read, left, weights), outputs, images)
                given = [named_heads(dict(zip(outputs, part, strict=True)), spec) for part in parts]
                return [np.concatenate([head[name].ravel() for head in given for name in names])
                        for names in (spec.class_names, spec.box_names)]  # fmt: skip

            right, found = heads(every), []
            worst = {node.group: node for node in reversed(nodes)}  # it comes last, and stays
            for group, node in worst.items():
                far = map(distance, heads(every - set(members[group])), right)
                found.append(Group(group, tuple(members[group]), node, *far))
                advance(1)
            return sorted(found, key=lambda group: -max(group.classes, group.boxes))

        with loaded(job, LocalEngine(own)) as dataset:
            tensors = [preprocess(s.path, spec).tensor for s in dataset.samples[:IMAGES]]
            images = np.stack(tensors).astype(np.float32)
            weights, of, unpaired = _partners(read, Network(load_graph(file)), images)
            nodes = node_errors(read, weights, of, images)
            with open_progress("groups", len({node.group for node in nodes})) as advance:
                groups = group_effects(advance)
            wanted = measured(reference_choice(reference, own))
            built = measured(own)
            runtime = paired_drop(wanted.matches, built.matches)
            plain, graph = drop_of(())
            trials: dict[int, PairedDrop] = {}
            limit = MAX_DROP_INT8.limit if job.max_drop is None else job.max_drop
            count, explained = 1, graph.high <= limit
            while not explained and count // 2 < len(groups):
                some = groups[:count]
                left = drop_of([name for group in some for name in group.nodes])[1]
                trials[len(some)] = left
                explained = left.high <= limit or left.points <= (1 - REGAINED) * graph.points
                count *= 2
            rows = _costs(wanted, plain)
    run = run_of(built, LocalEngine(own))
    return DropExplained(runtime, graph, rows, nodes, groups, trials, explained, unpaired, run)


def _partners(
    read: InFloat32, reference: Network, images: Tensor
) -> tuple[dict[Place, Array], dict[str, str], int]:
    """
    The reference's weights by place, the group of each node by output, and how many lack a partner.

    Nodes of both graphs are partners by name where all of one graph are, else as `Pairs` finds.
    """
    build = Network(read.model)
    named = {(node.name, node.op): node for node in reference.nodes}
    pairs = {n.index: named[n.name, n.op] for n in build.nodes if (n.name, n.op) in named}
    if len(pairs) < len(build.nodes):
        for network in (build, reference):
            network.observe(images[: build.inputs[0].shape[0] or len(images)])
        pairs = Pairs(build, reference).nodes
    weights: dict[Place, Array] = {}
    for node, other in ((n, pairs[n.index]) for n in build.nodes if n.index in pairs):
        for at, name in node.constants.items():
            theirs = reference.values.get(other.constants.get(at, ""), np.empty(0))
            if name in read.steps and theirs.shape == build.values[name].shape:
                weights[node.output, at] = theirs.astype(np.float32)
    of = {node.output[0]: group_of(node.name) for node in read.model.graph.node}
    of |= {node.output: group_of(pairs.get(node.index, node).name) for node in build.nodes}
    return weights, of, len(build.nodes) - len(pairs)


def group_of(name: str) -> str:
    """The group of the node *name*: a block of the backbone, a cell, a head's net, the rest."""
    found = _GROUP.search(name)
    return found[0] if found else next(rest for part, rest in _REST.items() if part in name)


def node_errors(
    read: InFloat32, weights: Mapping[Place, Array], of: Mapping[str, str], images: Tensor
) -> list[NodeError]:
    """
    The error that each quantised node makes by itself, on *images* (N, 3, S, S), largest first.

    It is that of its rounded inputs, weights and output, given the inputs in float.  *of* is the
    group of a node by its first output.
    """
    model, sums = with_errors(read, weights)
    scalars = [name for both in sums.values() for name in both]
    totals = np.array(_run(model, scalars, images), np.float64).sum(axis=0).reshape(-1, 2)
    errors = {name: float(np.sqrt(error / (size or np.inf)))
              for name, (error, size) in zip(sums, totals, strict=True)}  # fmt: skip
    found = [NodeError(node.name or name, node.op_type, of[name], errors[name])
             for node in read.model.graph.node if (name := node.output[0]) in errors]  # fmt: skip
    return sorted(found, key=lambda one: -one.error)


def _run(model: Any, names: Sequence[str], images: Tensor) -> list[list[Array]]:
    """Values of the tensors *names* of *model* for each batch of *images*."""
    network = Network(model)
    size = network.inputs[0].shape[0] or len(images)
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return [network.run(names, np.resize(b, (size, *b.shape[1:]))) for b in batches]


def _costs(reference: Evaluation, build: Evaluation) -> list[tuple[str, float, float]]:
    """COCO's AP by size, AP of the classes that lose most, AP50 that each kind of error costs."""
    one, other = reference.metrics, build.metrics
    numbers, classes = (
        [(name, 100 * ap, 100 * now) for name, ap in of.items()
         if ap is not None and (now := its.get(name)) is not None]
        for of, its in ((one.values, other.values), (one.per_class, other.per_class))
    )  # fmt: skip
    rows = [row for row in numbers if row[0].startswith("AP")]
    rows += sorted(classes, key=lambda row: row[2] - row[1])[:CLASSES]
    before, now_lost = (find_errors(side.matches) for side in (reference, build))
    lost = ((kind, before.delta_ap(kind), now_lost.delta_ap(kind)) for kind in KINDS)
    return [*rows, *((f"AP50 lost: {kind}", a or 0.0, b or 0.0) for kind, a, b in lost)]
