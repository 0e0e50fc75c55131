"""A bisection: two models, the same images, one finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import fixture as embedded
from ..data.preprocess import preprocess
from ..export import verify as build
from ..graph.onnx_info import load_graph
from ..spec import ModelSpec
from ..types import Tensor
from .network import Network, network_of
from .pairing import pair, same_outputs
from .pairs import Pairs, Side
from .search import Suspect, noise_of, suspects
from .tensors import measure, observe

_ONNX = ".onnx"
#: Status of a finding -> what it means.
STATUSES = {
    "same": "all that both compute agrees up to float noise",
    "hidden": "the outputs agree on these images, but a node inside does not",
    "differs": "the outputs differ",
    "inputs differ": "the two cannot be fed the same images",
}


@dataclass(frozen=True)
class Finding:
    """
    What a bisection found: *status* is one of `STATUSES`.

    *suspects* are in topological order, the culprit first; *worst* is the largest relative L2 of
    an output, *noise* what is allowed; *pairs* counts the pairs by rule; *nodes* are those of the
    bad model on data, *notes* are sentences on what else differs.
    """

    status: str
    suspects: tuple[Suspect, ...] = ()
    worst: float = 0.0
    noise: float = 0.0
    nodes: int = 0
    pairs: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def culprit(self) -> Suspect | None:
        """The first node that leaves the reference."""
        return self.suspects[0] if self.suspects else None

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values; an error that is infinite is the word ``inf``."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return "inf" if isinstance(value, float) and not np.isfinite(value) else value


def bisect(model: Path, reference: Path, spec: ModelSpec, image: Path | None = None) -> Finding:
    """
    Find where the ONNX file *model* leaves *reference*, an ONNX file or a checkpoint.

    Both are run on *image*, or on embedded ones.  Raises `GraphError`, `RunnerError`,
    `CheckpointError`, `ImageError`.
    """
    bad = network_of(load_graph(model))
    if reference.suffix != _ONNX:
        with build.exported(reference, spec) as made:
            good = network_of(load_graph(made))
    else:
        good = network_of(load_graph(reference))
    rows = bad.inputs[0].shape[0] if bad.inputs[0].shape else None
    if rows is None:
        rows = good.inputs[0].shape[0] if good.inputs[0].shape else None
    return bisect_networks(bad, good, _images(1 if rows is None else rows, spec, image))


def _images(rows: int, spec: ModelSpec, image: Path | None) -> Tensor:
    if image is None:
        return embedded.sample_inputs(rows, spec)
    return np.stack([preprocess(image, spec).tensor] * rows).astype(np.float32)


def bisect_networks(bad: Network, good: Network, images: Tensor) -> Finding:
    """Find where *bad* leaves *good* on *images*, (N, 3, S, S); raise `RunnerError`."""
    notes, fatal = _input_notes(bad, good)
    if fatal:
        return Finding("inputs differ", notes=notes)
    pairs = pair(Side(bad, observe(bad, images)), Side(good, observe(good, images)))
    # An output is compared whatever gives it: a Cast, which the other model does not have.
    names = dict(same_outputs(pairs)) | {
        node.output: pairs.nodes[node.index].output
        for node in bad.nodes
        if node.index in pairs.nodes
    }
    errors = measure(bad, good, list(names.items()), images)
    noise = noise_of(pairs)
    found = suspects(pairs, errors, noise)
    worst = max((errors.get(name, float("inf")) for name in bad.outputs), default=0.0)
    return Finding(
        "differs" if worst > noise else "hidden" if found else "same",
        tuple(found),
        worst,
        noise,
        len(bad.nodes),
        dict(Counter(pairs.rules.values())),
        (*notes, *_output_notes(pairs)),
    )


def _input_notes(bad: Network, good: Network) -> tuple[tuple[str, ...], bool]:
    """Sentences on inputs that differ, and whether the two cannot be fed the same."""
    if len(bad.inputs) != 1 or len(good.inputs) != 1:
        counts = f"{len(bad.inputs)} inputs, the reference {len(good.inputs)}"
        return (f"the model has {counts}, but one is wanted of each",), True
    mine, theirs = bad.inputs[0], good.inputs[0]
    notes = []
    if mine.name != theirs.name:
        notes.append(f"the input is called {mine.name}, but {theirs.name} in the reference")
    floats = all(np.issubdtype(info.dtype, np.floating) for info in (mine, theirs))
    sides = zip(mine.shape, theirs.shape, strict=False)
    fits = len(mine.shape) == len(theirs.shape) and all(
        one == other or None in (one, other) for one, other in sides
    )
    if mine.dtype != theirs.dtype or not fits:
        notes.append(f"the input is {mine}, but {theirs} in the reference")
    return tuple(notes), not (floats and fits)


def _output_notes(pairs: Pairs) -> tuple[str, ...]:
    """Outputs that show something else than the reference's output of that name."""
    theirs = set(pairs.good.network.outputs)
    return tuple(
        f"output {name} is {pairs.tensors[name]} in the reference"
        for name in pairs.bad.network.outputs
        if name in theirs and pairs.tensors.get(name, name) != name
    )
