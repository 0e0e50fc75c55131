"""An ONNX file run as it stands, unoptimised: what export and edits made of the weights."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from effd0.diagnosis.bisect import Finding, bisect_networks
from effd0.diagnosis.graph_pairing import network_of
from effd0.errors import Effd0Error
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.graph.onnx_info import ModelFile, load_graph
from effd0.io import sha256
from effd0.parity import hold_heads, record
from effd0.results.check import Broken
from effd0.runners.base import NamedRunner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.suspicions.base import Suspicion
from effd0.types import Tensor, Tensors

#: Images of the heads compared; one tells where a node errs.
COMPARED = 2


class PlainHeads:
    """
    The heads of *model*, unoptimised, beside torch's *reference* of the same images.

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
        suspect_fed: Callable[[Tensors], Suspicion | None],
    ) -> None:
        self.model, self.checkpoint, self.spec = model, checkpoint, spec
        self._suspect_fed = suspect_fed
        rows = min(COMPARED, len(images), model.batch or COMPARED)
        self.images = images[:rows]
        self.reference = {name: head[:rows] for name, head in reference.items()}

    def hold(self, stage: str) -> None:
        """Raise `Broken` where the heads differ and the fault is one of *stage*."""
        broken = self._difference
        if broken is not None and broken.stage == stage:
            raise broken

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
        with NamedRunner(
            open_runner("ort", self.model.path, self.spec, options), self.spec
        ) as runner:
            return runner.infer({self.spec.input_name: self.images})

    @functools.cached_property
    def _difference(self) -> Broken | None:
        """How the heads differ, with the stage that made them; None where they do not."""
        heads = self._heads
        try:
            hold_heads(self.reference, heads, self.spec, self.model.precision)
        except Broken as broken:
            found = self._bisection
            first = found.culprit if found else None
            # That a fault is confined to some heads says less than the node does.
            vague = first is not None and broken.suspicion.startswith("a fault in")
            told = ["" if vague else broken.suspicion]
            if first is None or any(s[1:] == self.spec.input_shape for s in first.input_shapes):
                # The graph may do to its input what preprocessing has done already.
                told.append(str(self._suspect_fed(heads) or ""))
            told.append(found.explanation if found else "")
            return Broken(
                broken.evidence,
                "; ".join(filter(None, told)),
                "graph" if first is None else first.stage,
                broken.details,
            )
        return None

    @functools.cached_property
    def _bisection(self) -> Finding | None:
        bad = network_of(load_graph(self.model.path))
        good = network_of(load_graph(fresh_export(self.checkpoint, self.spec)))
        rows = 1 if self.model.batch is None else self.model.batch
        filled = np.concatenate([self.images] * rows)[:rows]
        try:
            return bisect_networks(bad, good, filled)
        except Effd0Error:
            return None  # what cannot be bisected is told by its heads alone


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
