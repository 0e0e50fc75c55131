"""
An ONNX file is made, run beside its source on real images, and only then named.

Every step gives the differences it measured, the worst first.
"""

import contextlib
import math
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.fixture import sample_inputs
from ..errors import Effd0Error, ExportError, GraphError, require_all
from ..graph.onnx_info import load_graph
from ..graph.rewrites import GraphEdit, named_edits, save_graph
from ..io import written_whole
from ..runners.base import Runner, batch_size_of
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from ..tensors.diff import TensorDiff, compare_tensors
from ..timing import children_peak_rss_mb
from ..tolerances import SAME_FLOAT32, same_float32
from ..types import Tensor, Tensors
from . import cache
from .to_onnx import ExportSettings, write_onnx, write_simplified

#: Modules that a step imports -> the extra that brings them.
SIMPLIFYING = dict.fromkeys(("onnx", "onnxruntime", "onnxsim"), "onnx")
EXPORTING = dict.fromkeys(("torch", "effdet"), "torch") | dict.fromkeys(
    ("onnx", "onnxruntime", "onnxscript"), "onnx"
)
#: The most memory, in MB, that each conversion for this process took in its own.
CONVERTING_MB: list[float] = []


@dataclass(frozen=True)
class MeasuredChange:
    """What an edit did to a graph, and the most it moved a head of the graph before it."""

    edit: GraphEdit
    matches: int
    worst: TensorDiff

    def __str__(self) -> str:
        found = f"{self.matches} matches" if self.matches else "nothing to do"
        return f"{self.edit.name}: {found}"


@dataclass(frozen=True)
class Built:
    """A file that was made: what changed, and how far its heads are from its source's."""

    path: Path
    diffs: list[TensorDiff]
    changes: tuple[MeasuredChange, ...] = ()


def export_onnx(checkpoint: Path, out: Path, spec: ModelSpec, settings: ExportSettings) -> Built:
    """Export *checkpoint* to ONNX as *out*, equal to the checkpoint in torch, or not at all."""
    require_all(EXPORTING)
    with written_whole(out) as temporary:
        write_onnx(checkpoint, temporary, spec, settings)
        return _proved(_in_torch(checkpoint, spec, settings), temporary, out, spec)


def _in_torch(checkpoint: Path, spec: ModelSpec, settings: ExportSettings) -> Runner:
    return open_runner("torch", checkpoint, spec, RunnerOptions(weights=settings.weights))


def simplify_onnx(model: Path, out: Path, spec: ModelSpec, edits: Sequence[str] = ()) -> Built:
    """Write the simplification of *model*, with *edits*, as *out*, equal to *model*, or not."""
    require_all(SIMPLIFYING)
    with written_whole(out) as temporary:
        write_simplified(model, temporary, edits)
        source = open_runner("ort", model, spec, RunnerOptions())
        return _proved(source, temporary, out, spec)


def modify_onnx(model: Path, out: Path, spec: ModelSpec, edits: Sequence[str]) -> Built:
    """
    Write *model* with *edits* applied as *out*, each measured against the graph before it.

    Raises `GraphError` where an exact edit did not leave the heads as they were.
    """
    graph, chosen = load_graph(model), named_edits(edits)
    with open_runner("ort", model, spec, RunnerOptions()) as runner:
        images = _sample_images(runner, spec)
        source = heads = _heads(runner, images)
    changes = []
    with written_whole(out) as temporary:
        save_graph(graph, temporary)
        for edit in chosen:
            matches, before = edit.run(graph), heads
            if matches:
                save_graph(graph, temporary)
                with open_runner("ort", temporary, spec, RunnerOptions()) as runner:
                    heads = _heads(runner, images)
            diffs = compare_tensors(before, heads)
            if edit.exact:
                _require_same(out, f"{model} before {edit.name}", diffs, spec, GraphError)
            changes.append(MeasuredChange(edit, matches, diffs[0]))
    return Built(out, compare_tensors(source, heads), tuple(changes))


def _proved(source: Runner, made: Path, out: Path, spec: ModelSpec) -> Built:
    """Run *source* and *made*, which is to be *out*, on embedded images."""
    with open_runner("ort", made, spec, RunnerOptions()) as candidate:
        images = _sample_images(candidate, spec)
        got = _heads(candidate, images)
    with source as reference:
        # One by one: the source may take another batch size.
        rows = [_heads(reference, images[i : i + 1]) for i in range(len(images))]
    wanted = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    diffs = compare_tensors(wanted, got)
    _require_same(out, source.model, diffs, spec, ExportError)
    return Built(out, diffs)


def _sample_images(runner: Runner, spec: ModelSpec) -> Tensor:
    """Embedded images for *runner*, (N, 3, S, S) float32: two, or one where it takes no more."""
    fixed = batch_size_of(runner.inputs)
    # A free batch is tried with another number of rows than `export` traced it with.
    return sample_inputs(min(2, fixed) if fixed is not None else 2, spec)


def _heads(runner: Runner, images: Tensor) -> Tensors:
    info = runner.inputs[0]
    return runner.infer({info.name: images.astype(info.dtype, copy=False)})


def _require_same(
    out: Path,
    source: Path | str,
    diffs: list[TensorDiff],
    spec: ModelSpec,
    error: type[Effd0Error],
) -> None:
    worst, limit = diffs[0], same_float32(math.prod(spec.image_size))
    if worst.max_abs > limit:
        raise error(
            f"{out} was not written, since it does not compute what {source} does: {worst}, "
            f"but at most {limit:g} is allowed ({SAME_FLOAT32.name})"
        )


@contextlib.contextmanager
def exported(
    checkpoint: Path,
    spec: ModelSpec,
    batch_size: int | None = None,
    edits: Sequence[str] = (),
    weights: str | None = None,
    *,
    cached: bool = False,
) -> Iterator[Path]:
    """
    Export and simplify *checkpoint* for the time of a ``with`` block; yield the ONNX file.

    A *batch_size* of None leaves it free; *edits* are made too.  A process of its own does it:
    torch takes 1 GB, which is given back before anything runs.  Where *cached*, what was made
    before is taken, and what is made is kept.
    """
    with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
        out = Path(folder) / f"{checkpoint.stem}.onnx"
        settings = ExportSettings(batch_size=batch_size, weights=weights)
        key = cache.key_of(checkpoint, spec, settings, tuple(edits)) if cached else None
        if key is None or not cache.read(key, checkpoint, out):
            told = _convert_in_child(checkpoint, out, spec, settings, edits)
            CONVERTING_MB.append(children_peak_rss_mb())
            if key is not None:
                cache.write(key, checkpoint, out, told)
        yield out


def _convert(
    checkpoint: Path, out: Path, spec: ModelSpec, settings: ExportSettings, edits: Sequence[str]
) -> None:
    """Make *out* of *checkpoint*, equal to it in torch; what lies between is not run."""
    require_all(EXPORTING | SIMPLIFYING)
    raw = out.with_suffix(".raw.onnx")
    write_onnx(checkpoint, raw, spec, settings)
    write_simplified(raw, out, edits)
    _proved(_in_torch(checkpoint, spec, settings), out, out, spec)


def _convert_in_child(checkpoint: Path, out: Path, *how: Any) -> str:
    """
    Run `_convert` in a Python process that never imports the caller's script.

    Returns what it said, which was printed.  Raises what it raises, and `ExportError` if the
    process ends without a word.
    """
    failed = out.with_suffix(".error")
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],  # -P: a file in the working directory is no module
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)},
        input=pickle.dumps((failed, (checkpoint, out, *how))),
        capture_output=True,
        check=False,
    )
    told = done.stderr.decode(errors="replace")
    if failed.exists():
        raise pickle.loads(failed.read_bytes())  # noqa: S301  # the child wrote it just now
    if done.returncode:
        said = told.strip().splitlines() or ["it said nothing"]
        raise ExportError(
            f"the process that had to export {checkpoint} ended with status {done.returncode}: "
            f"{said[-1]}; run 'effd0 export' to see more"
        )
    sys.stderr.write(told)
    return told


if __name__ == "__main__":
    _failed, _given = pickle.load(sys.stdin.buffer)  # noqa: S301  # from `_convert_in_child`
    try:
        _convert(*_given)
    except Effd0Error as error:
        _failed.write_bytes(pickle.dumps(error))
