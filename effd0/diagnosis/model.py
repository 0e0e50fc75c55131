"""
A model compared with its checkpoint: as its file says it computes, and as a backend runs it.

Heads that differ are explained further than the heads alone do: by the node of the graph that does
it, by the batch, by the input that they are right for, or by another precision.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import Effd0Error
from ..export.to_onnx import ExportSettings, write_onnx, write_simplified
from ..graph.onnx_info import ModelFile, load_graph
from ..io import sha256
from ..results.check import Broken
from ..runners.base import NamedRunner
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from ..types import Tensor, Tensors
from .bisect import Finding, bisect_networks
from .graph_pairing import network_of
from .heads import diagnose_heads
from .hypothesis import Diagnosis
from .parity import check_heads, diagnose_precision, heads_agree, record

#: Images of the heads compared; one tells where a node errs.
COMPARED = 2
#: Heads of the first images -> the fault in preprocessing that they are right for.
DiagnoseInput = Callable[[Tensors], Diagnosis | None]


class PlainModel:
    """
    The heads of the ONNX file *model*, unoptimised, beside torch's *reference* of the same images.

    Where they differ, bisection against a fresh export says which node does it, and so whether
    weights (export) or the computation (graph) are at fault.
    """

    def __init__(
        self,
        model: ModelFile,
        checkpoint: Path,
        images: Tensor,
        reference: Tensors,
        spec: ModelSpec,
        diagnose_input: DiagnoseInput,
    ) -> None:
        self.model, self.checkpoint, self.spec = model, checkpoint, spec
        self._diagnose_input = diagnose_input
        rows = min(COMPARED, len(images), model.batch or COMPARED)
        self.images = images[:rows]
        self.reference = {name: head[:rows] for name, head in reference.items()}

    def check(self, stage: str) -> None:
        """Raise `Broken` where the heads differ and the fault is one of *stage*."""
        if self._difference is not None and self._difference.stage == stage:
            raise self._difference

    def figure_of(self, stage: str) -> tuple[float | None, float | None, str]:
        """
        How far the heads are from the reference, what is allowed, and the unit.

        Where the fault is one of another stage, *stage* has no figure.
        """
        if self._difference is not None and self._difference.stage != stage:
            return None, None, ""
        return record("ort", self.reference, self._heads, self.model.precision).worst

    @functools.cached_property
    def _heads(self) -> Tensors:
        """What the file gives as it stands."""
        options = RunnerOptions(graph_optimization="disable")
        runner = open_runner("ort", self.model.path, self.spec, options)
        with NamedRunner(runner, self.spec) as named:
            return named.infer({self.spec.input_name: self.images})

    @functools.cached_property
    def _difference(self) -> Broken | None:
        """How the heads differ, with the stage that made them; None where they do not."""
        try:
            check_heads(self.reference, self._heads, self.spec, self.model.precision)
        except Broken as broken:
            found = self._bisected()
            first = None if found is None else found.culprit
            # That a fault is confined to some heads says less than the node does.
            vague = first is not None and _confined(broken.diagnosis)
            named = ["" if vague else broken.diagnosis]
            if first is None or any(s[1:] == self.spec.input_shape for s in first.input_shapes):
                # The graph may do to its input what preprocessing has done already.
                named.append(str(self._diagnose_input(self._heads) or ""))
            named.append("" if found is None else found.explanation)
            return Broken(
                broken.evidence,
                "; ".join(filter(None, named)),
                "graph" if first is None else first.stage,
                broken.details,
            )
        return None

    def _bisected(self) -> Finding | None:
        bad = network_of(load_graph(self.model.path))
        good = network_of(load_graph(fresh_export(self.checkpoint, self.spec)))
        rows = 1 if self.model.batch is None else self.model.batch
        filled = np.concatenate([self.images] * rows)[:rows]
        try:
            return bisect_networks(bad, good, filled)
        except Effd0Error:
            return None  # what cannot be bisected is explained by its heads alone


def _confined(diagnosis: str) -> bool:
    """Whether it only says which heads have a fault, which is no name for it."""
    return diagnosis.startswith("a fault in")


def diagnose_runner(
    broken: Broken,
    got: Tensors,
    alone: Tensors,
    reference: Tensors,
    spec: ModelSpec,
    precision: str,
    diagnose_input: DiagnoseInput,
) -> Broken:
    """
    Explain a runner's wrong heads *got*, of which `check_heads` said *broken*, further.

    *alone* are its heads of the same images one by one, *reference* torch's.  Asked in turn:
    whether images alone are right, so that the batch is at fault; whether they have each other's
    heads; whether these are right for a wrongly prepared input; whether they were computed in
    another *precision*.
    """
    named, stage, several = broken.diagnosis, None, len(next(iter(alone.values()))) > 1
    if several and heads_agree(reference, alone, precision):
        named = f"heads depend on the batch: alone, images have the right ones; {named}"
    elif not named or _confined(named):
        order = diagnose_heads(reference, alone, spec) if several else None
        if order is not None and order.name.startswith("batch rows"):
            named = str(order).replace("batch rows", "images")
        elif (wrong_input := diagnose_input(got)) is not None:
            named, stage = str(wrong_input), "preprocess"
        elif not named:
            wanted = {name: head[: len(got[name])] for name, head in reference.items()}
            named = diagnose_precision(wanted, got, precision) or ""
    return Broken(broken.evidence, named, stage, broken.details)


def fresh_export(checkpoint: Path, spec: ModelSpec) -> Path:
    """Export *checkpoint*, simplified, with a free batch; once for each content in a process."""
    return _fresh_export(sha256(checkpoint), checkpoint, spec)


@functools.cache
def _fresh_export(digest: str, checkpoint: Path, spec: ModelSpec) -> Path:
    folder = Path(_FOLDER.name)
    raw, out = folder / f"{digest}_raw.onnx", folder / f"{digest}.onnx"
    write_onnx(checkpoint, raw, spec, ExportSettings(batch_size=None))
    write_simplified(raw, out)
    return out


_FOLDER = tempfile.TemporaryDirectory(prefix="effd0-")
