"""
Heads under test compared with reference heads: within tolerance, or broken, with the reasons.

Heads that differ are explained further than the heads alone do: by the node of the graph that does
it, by the batch, by the input that they are right for, or by another precision.
"""

import contextlib
import functools
import io
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..data.coco import Sample
from ..detection.postprocess import Detections
from ..errors import CheckpointError, Effd0Error
from ..export.to_onnx import ExportSettings, write_onnx, write_simplified
from ..graph.onnx_info import ModelFile, load_graph
from ..graph.rewrites import save_graph
from ..io import sha256
from ..metrics.detection_diff import match_detections
from ..progress import OpenProgress, silent
from ..results.check import COMPUTED_IN, Broken, finite
from ..results.run import Head, Parity
from ..runners.base import NamedRunner
from ..runners.checkpoint import weight_sets
from ..runners.registry import RunnerOptions, open_runner
from ..spec import SPECS, ModelSpec
from ..tensors.diff import check_pair, compare_tensors
from ..tolerances import HEADS, INT8_L2, KERNELS, RECORDED, ROUNDED_L2, same_float32
from ..types import Floats, Tensor, Tensors
from .bisect import BATCH, Finding, batch_suspect, bisect_networks, bisect_restored, one_among
from .graph_pairing import Network
from .heads import EXPLAINED, GRIDS, ON_GRID, diagnose_heads
from .hypothesis import Diagnosis
from .images import differing, misplaced
from .inputs import ImageFile, Infer, diagnose_input_of, model_expects
from .rounding import Restored, check_quantisers, restored

#: Precision of a model but float32 -> the relative L2 that a head may differ by.
LIMITS = {
    "fp16": ROUNDED_L2.limit,
    "bf16": HEADS["torch", "bf16"].limit,
    "int8": INT8_L2.limit,
}
_FIGURES = ("max_abs", "relative_l2", "cosine", "q999", "required")
#: Up to here an error is named after int8: weights alone made 1.6e-2 at most (2026-11-23).  Whole
#: int8 errs by as much as many a fault.
INT8_WEIGHTS = 2e-2
#: Points of mAP that another architecture has to reach more, to be named.  On the first 24 images
#: the right one was 28 (scenes) and 58 (photographs) above AdvProp's sibling, 2026-11-25.
CLEARLY = 0.5
#: Images of the heads compared; one tells where a node errs.
COMPARED = 2
#: IoU from which two boxes are one where detections of recorded heads are compared.
SAME_BOX = 0.9
#: Every so many values of heads tell which image they are of.
PRINT = 997
#: Heads of the first images -> the fault in preprocessing that they are right for.
DiagnoseInput = Callable[[Tensors], Diagnosis | None]
#: How large a difference is, what is allowed, and the unit.
Figure = tuple[float | None, float | None, str]

#: Precision, grid of 16 bits on which outputs lie, and between what the error, as `estimate` takes
#: it, lies.  Measured 2026-11-23 on the embedded checkpoint, 20 scenes one by one, against torch
#: float32 on the CPU; widened where there is room, since other weights err otherwise.  TF32 was
#: emulated: inputs and weights of convolutions rounded to 10 bits of mantissa.  It shares the upper
#: half of its band with float16 that gives float32, and there is unclear.
BANDS = (
    ("fp32", None, 0, 2e-5),  # ONNX Runtime, another memory layout: 2.4e-7 to 4.1e-6
    ("fp32", "fp16", 2e-4, 6e-4),  # outputs alone rounded to float16: 4.4e-4 to 5.2e-4
    ("tf32", None, 2e-4, 1e-3),  # 3.7e-4 to 6.7e-4
    ("fp16", None, 5.5e-4, 2.5e-3),  # with float32 in the last layers: 5.8e-4 to 1.1e-3
    ("fp16", "fp16", 7e-4, 2.5e-3),  # all of it: 9.8e-4 to 1.7e-3
    ("bf16", None, 4e-3, 1.2e-2),  # weights alone: 6.2e-3 to 8.2e-3
    ("bf16", "bf16", 5e-3, 2.5e-2),  # all of it: 9.5e-3 to 1.3e-2
    ("int8", None, 9e-3, 0.6),  # weights alone 1.1e-2 to 1.6e-2, all 6.9e-2 to 0.34
)


def check_heads(reference: Tensors, got: Tensors, spec: ModelSpec, precision: str = "fp32") -> None:
    """
    Raise `Broken` unless heads *got*, computed in *precision*, are those of *reference*.

    Both are (N, channels, rows, columns) by the spec's names, *reference* in float32.
    """
    if not (said := excess(reference, got, precision)):
        return
    table = [
        f"{d.name:<9} max abs {d.max_abs:.2g}, 99.9 % within {d.q999:.2g}, relative L2 "
        f"{d.relative_l2:.2g}, cosine {d.cosine:.7f}, would need a tolerance of {d.required:g}"
        for d in compare_tensors(reference, got)
    ]
    raise Broken(said, diagnose_heads(reference, got, spec), details=table)


def _limit(precision: str, heads: Tensors) -> tuple[Literal["max_abs", "relative_l2"], float]:
    """The figure of `TensorDiff` that decides in *precision*, and how large it may be."""
    if precision != "fp32":
        return "relative_l2", LIMITS[precision]
    # A cell of P3 is 8 x 8 pixels.
    return "max_abs", same_float32(64 * max(math.prod(head.shape[2:]) for head in heads.values()))


def excess(reference: Tensors, got: Tensors, precision: str) -> str:
    """Say by how much a head of *got* differs more than *precision* allows; empty if none does."""
    measure, limit = _limit(precision, reference)
    diffs = compare_tensors(reference, got)
    # Not the other way round: NaN is not within any tolerance.
    worst = next((diff for diff in diffs if not getattr(diff, measure) <= limit), None)
    allowed = f"a relative L2 of at most {limit} is allowed in {precision}"
    if precision == "fp32":
        allowed = f"at most {limit:g} is allowed in float32"
    return "" if worst is None else f"{worst}, but {allowed}"


def record(runner: str, reference: Tensors, got: Tensors, precision: str = "fp32") -> Parity:
    """
    How far the heads of *runner* are from torch's *reference*, fit for a run file.

    The worst head comes first.  *precision* is what it claims, and says what is allowed; how
    exactly it seems to compute is in the record.
    """
    found = estimate(reference, got)
    measure, allowed = _limit(precision, reference)
    return Parity(
        runner=runner,
        reference="torch",
        batch=len(next(iter(got.values()))),
        precision=None if found.name == "unclear" else found.name,
        heads=[
            Head(
                head="class" if diff.name.startswith("class") else "box",
                level=f"P{diff.name[-1]}",
                allowed=allowed,
                measure=measure,
                **{name: finite(getattr(diff, name)) for name in _FIGURES},
            )
            for diff in compare_tensors(reference, got)
        ],
    )


class Precision(NamedTuple):
    """
    An estimate of the precision that heads were computed in.

    *error* is that of the worst image: the median over its heads of the root mean square
    difference, in standard deviations of the reference head; *grid* is fp16, bf16 or None;
    *possible* are the precisions whose bands contain the error: fp32, tf32, fp16, bf16, int8.
    """

    error: float
    grid: str | None
    possible: tuple[str, ...]

    @property
    def name(self) -> str:
        """The one possible precision, or ``unclear``."""
        return self.possible[0] if len(self.possible) == 1 else "unclear"

    def __str__(self) -> str:
        why = f": {' or '.join(self.possible) or 'like no known precision'}"
        outputs = "" if self.grid is None else f", outputs on the {self.grid} grid"
        return (
            f"{self.name}{why if self.name == 'unclear' else ''} "
            f"(relative error {self.error:.2g}{outputs})"
        )


def estimate(reference: Tensors, candidate: Tensors) -> Precision:
    """
    Name the precision of *candidate*, heads of trained weights for the same images, (N, ...).

    Two things tell: how large the error is, and whether the outputs lie on a grid of 16 bits.
    *reference* was computed in float32.  Raises `HeadError` where names or shapes differ.  An
    error of another cause, a wrong weight say, may look like a precision; one that is larger
    than that of all is ``unclear``.
    """
    check_pair(reference, candidate)
    errors = []
    for name, wanted in reference.items():
        flat = wanted.reshape(len(wanted), -1).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            delta = candidate[name].reshape(len(wanted), -1) - flat
            error = np.sqrt((delta**2).mean(axis=1)) / flat.std(axis=1)
        # What is not finite, or of equal values, is infinitely far.
        errors.append(np.where(np.isfinite(error), error, np.inf))
    error = float(np.median(errors, axis=0).max())
    heads = [np.asarray(head, np.float32) for head in candidate.values()]
    least = ON_GRID * sum(head.size for head in heads)
    on = (name for name, lies in GRIDS.items() if sum(lies(h).sum() for h in heads) >= least)
    grid = next(on, None)
    possible = [name for name, its, low, high in BANDS if its == grid and low <= error <= high]
    return Precision(error, grid, tuple(dict.fromkeys(possible)))


def diagnose_precision(reference: Tensors, got: Tensors, precision: str) -> str | None:
    """Return what the error looks like, if that is a coarser precision than was asked for."""
    found, finest_first = estimate(reference, got), [*dict.fromkeys(band[0] for band in BANDS)]
    allowed = finest_first[: finest_first.index(precision) + 1]
    if found.name in ("unclear", *allowed) or not found.error <= INT8_WEIGHTS:
        return None
    return f"{COMPUTED_IN}{found.name}, not in {precision}: {found}"


def diagnose_architecture(
    points_of: Callable[[ModelSpec], float | None], spec: ModelSpec
) -> str | None:
    """
    Name the architecture that the weights are of, if they do better in it than in *spec*.

    *points_of* gives the mAP, in percent, of the same weights and images in an architecture; None
    where they do not fit it.
    """
    siblings = [
        replace(
            SPECS[arch],
            image_size=spec.image_size,
            num_classes=spec.num_classes,
            category_ids=spec.category_ids,
        )
        for arch in spec.siblings
    ]
    points = {other.arch: points_of(other) for other in siblings}
    reached = {arch: value for arch, value in points.items() if value is not None}
    best = max(reached, key=reached.__getitem__)
    if reached[best] < reached[spec.arch] + CLEARLY:
        return None
    return (
        f"weights of {best}: with --arch={best} the same images reach "
        f"{reached[best]:.2f} %, with {spec.arch} {reached[spec.arch]:.2f} %"
    )


def compare_plain(
    model: ModelFile,
    checkpoint: Path,
    images: Tensor,
    reference: Tensors,
    spec: ModelSpec,
    diagnose_input: DiagnoseInput,
    weights: str | None = None,
) -> tuple[Broken | None, Figure]:
    """
    Compare the heads of the ONNX file *model*, unoptimised, with torch's *reference*.

    Gives how they differ, with the stage that made them, or None; and how far they are off, what
    is allowed, and the unit.  Where they differ, bisection against a fresh export of *checkpoint*
    (of its set called *weights*) says which node does it, and so whether weights (export) or the
    computation (graph) are at fault.  *images* are (N, 3, S, S) and those of *reference*.
    """
    rows = min(COMPARED, len(images), model.batch or COMPARED)
    images, reference = images[:rows], {name: head[:rows] for name, head in reference.items()}
    (heads,) = _unoptimised(model.path, spec, images)
    figure = record("ort", reference, heads, model.precision).worst
    mine, rows = None, model.batch or 1
    fed = np.concatenate([images] * rows)[:rows]
    try:
        if model.precision != "fp32":
            with contextlib.suppress(Effd0Error):  # what cannot be undone is compared as it is
                good = Network(load_graph(fresh_export(checkpoint, spec, weights)), spec)
                mine = restored(load_graph(model.path), good, fed)
        if mine is not None:
            _check_restored(mine, images, reference, spec)
            check_quantisers(mine, images)
        check_heads(reference, heads, spec, model.precision)
    except Broken as broken:
        if (of_the_batch := compare_batch(model, images, spec)) is not None:
            return of_the_batch, figure
        sets = weight_sets(checkpoint)
        used = weights or sets[0]
        for other in [one for one in sets if one != used and model.precision != "int8"]:
            with (
                contextlib.suppress(Broken, CheckpointError),  # a set may lack tensors
                # Which set was taken is said of the one under test alone.
                contextlib.redirect_stderr(io.StringIO()),
                open_runner("torch", checkpoint, spec, RunnerOptions(weights=other)) as runner,
            ):
                theirs = runner.infer({spec.input_name: images})
                check_heads(theirs, heads, spec, model.precision)
                said = f"another set of weights: these are its {other}, not its {used}"
                return Broken(broken.evidence, said, "export", broken.details), figure
        try:
            if mine is None:
                bad = Network(load_graph(model.path), spec)
                good = Network(load_graph(fresh_export(checkpoint, spec, weights)), spec)
            found = bisect_restored(mine, fed) if mine else bisect_networks(bad, good, fed)
            first, explanation = found.culprit, found.explanation
        except Effd0Error:
            first, explanation = None, ""  # the heads alone explain what cannot be bisected
        # That a fault is confined to some heads says less than the node does.
        causes = [broken.diagnosis] if first is None or not _confined(broken.diagnosis) else []
        stage = "graph" if first is None else first.stage
        if first is None or any(s[1:2] == spec.input_shape[:1] for s in first.input_shapes):
            # The graph may do to its input, padded or not, what preprocessing has done already.
            cause = diagnose_input(heads)
            causes.append("" if cause is None else model_expects(cause))
        diagnosis = "; ".join(filter(None, [*causes, explanation]))
        return Broken(broken.evidence, diagnosis, stage, broken.details), figure
    return None, figure


def compare_batch(model: ModelFile, images: Tensor, spec: ModelSpec) -> Broken | None:
    """
    How the ONNX file *model* gives an image other heads in a batch than alone, of stage graph.

    It is run unoptimised, in its own batch or in `BATCH` rows.  *images* are (N, 3, S, S).
    """
    batch = one_among(images, model.batch or BATCH)
    alone, heads = _unoptimised(model.path, spec, batch[:1], batch)
    if not all(np.isfinite(head).all() for head in alone.values()):
        return None  # infinitely far from any
    off = [np.abs(head - alone[name]).max(axis=(1, 2, 3)) for name, head in heads.items()]
    row = int(np.where(np.arange(len(batch)) == 1, 0, np.max(off, axis=0)).argmax())
    worst = {name: head[row : row + 1] for name, head in heads.items()}
    try:
        check_heads(alone, worst, spec, model.precision)
    except Broken as broken:
        named = "heads depend on the batch: alone, the same image has others"
        with contextlib.suppress(Effd0Error):
            if first := batch_suspect(Network(load_graph(model.path), spec), batch):
                named += f"; {Finding('differs', (first,)).explanation}"
        where = f"in row {row} of a batch of {len(batch)}"
        evidence = f"{where}, {broken.evidence} (reference: the image alone)"
        return Broken(evidence, named, "graph", broken.details)
    return None


def _unoptimised(path: Path, spec: ModelSpec, *batches: Tensor) -> list[Tensors]:
    """Heads of the ONNX file *path* in ONNX Runtime, its graph as it stands, of each batch."""
    options = RunnerOptions(graph_optimization="disable")
    with NamedRunner(open_runner("ort", path, spec, options), spec) as runner:
        return [runner.infer({spec.input_name: images}) for images in batches]


def _check_restored(mine: Restored, images: Tensor, reference: Tensors, spec: ModelSpec) -> None:
    """Raise `Broken` unless a model without its rounding computes *reference*, as float32 does."""
    with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
        save_graph(mine.network.model, path := Path(folder, "float32.onnx"))
        (heads,) = _unoptimised(path, spec, images)
    try:
        check_heads(reference, heads, spec)
    except Broken as broken:
        evidence = f"its rounding undone, {broken.evidence}"
        details = [*mine.notes, *broken.details]
        raise Broken(evidence, broken.diagnosis, broken.stage, details) from broken


def check_kernels(
    path: Path, images: Tensor, reference: Tensors, got: Tensors, spec: ModelSpec
) -> None:
    """
    Raise `Broken` where heads *got* of an int8 model by ONNX Runtime's optimised kernels err more
    than the graph itself does.

    *images* are those of *got* and of torch's *reference*, all (N, ...).
    """
    (plain,) = _unoptimised(path, spec, images)
    errors = [max(d.relative_l2 for d in compare_tensors(reference, one)) for one in (got, plain)]
    if errors[0] > KERNELS.limit * errors[1]:
        raise Broken(
            f"optimised, the heads are off by {errors[0]:.2g} (relative L2), but as the graph "
            f"stands by {errors[1]:.2g}; at most {KERNELS.limit:g} times as much is allowed",
            "ONNX Runtime's integer kernels on this CPU compute otherwise than the graph; without "
            "VNNI their sums of 8 bits saturate: run with --graph-optimization=disable, or "
            "quantise with reduce_range or int8 activations",
            "runner",
        )


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
    *,
    recorded: bool,
    explained: bool,
) -> Broken:
    """
    Explain a runner's wrong heads *got*, of which `check_heads` said *broken*, further.

    *alone* are its heads of the same images one by one, *reference* torch's.  Asked in turn:
    whether images alone are right, so that the batch is at fault; whether they have each other's
    heads; whether these are right for a wrongly prepared input, which only *recorded* heads can be
    of: effd0 feeds the others, so the model expects another; whether they were computed in another
    *precision*, where no fault has *explained* them already.
    """
    named, stage, several = broken.diagnosis, None, len(next(iter(alone.values()))) > 1
    measure, limit = _limit(precision, reference)
    diffs = compare_tensors(reference, alone)
    if several and all(getattr(diff, measure) <= limit for diff in diffs):
        named = f"heads depend on the batch: alone, images have the right ones; {named}"
    elif not named or _confined(named):
        order = diagnose_heads(reference, alone, spec) if several else None
        if order is not None and order.name.startswith("batch rows"):
            named = str(order).replace("batch rows", "images")
        elif (wrong_input := diagnose_input(got)) is not None:
            named, stage = str(wrong_input), "preprocess"
            if not recorded:
                named, stage = model_expects(wrong_input), "export"
        elif not named and not explained:
            wanted = {name: head[: len(got[name])] for name, head in reference.items()}
            named = diagnose_precision(wanted, got, precision) or ""
    return Broken(broken.evidence, named, stage, broken.details)


def compare_recorded(
    found: Mapping[Sample, Detections],
    reference: Mapping[Sample, Detections],
    given: Callable[[Sample], Tensors],
    infer: Infer,
    spec: ModelSpec,
    precision: str,
    files: Mapping[str, Path],
    open_progress: OpenProgress = silent,
) -> Broken | None:
    """
    Compare what recorded results of every image give with what the *reference* network gives.

    *found* and *reference* are the detections of both.  Where those of an image differ by more than
    `RECORDED`, its heads decide: *given* are the recorded ones, (1, ...) each, *infer* computes the
    reference's of an input.  *files* are the results by the images' stems.  Asked in turn, where
    heads differ by more than *precision* allows: whether nothing was written, whether images have
    each other's heads, which fault the heads have, which one the input.
    """
    suspects = [
        sample
        for sample, wanted in reference.items()
        # Boxes without an area overlap nothing, not even themselves.
        if not all(map(np.array_equal, vars(wanted).values(), vars(found[sample]).values()))
        and match_detections(wanted, found[sample], SAME_BOX).worst > RECORDED.limit
    ]
    wrong: dict[Sample, str] = {}
    prints: dict[Sample, list[Floats]] = {}
    heads_of_first: tuple[Tensors, Tensors] = {}, {}
    with open_progress("heads of results", len(suspects)) as advance:
        for sample in suspects:
            pair = infer(ImageFile(sample.path, spec).tensor[None]), given(sample)
            if said := excess(*pair, precision):
                heads_of_first = heads_of_first if wrong else pair
                wrong[sample] = said
                prints[sample] = [
                    np.concatenate([head.ravel()[::PRINT] for head in heads.values()])
                    for heads in pair
                ]
            advance(1)
    if not wrong:
        return None

    def error(one: Sample, other: Sample) -> float:
        if other not in prints:
            return np.inf
        wanted, got = prints[other][0], prints[one][1]
        return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))

    first, stage = next(iter(wrong)), None
    cause: object = misplaced([*wrong], [*reference], error, EXPLAINED)
    if not any(got.any() for _, got in prints.values()):
        cause = "nothing was written: every value of their heads is 0"
    elif cause is None:
        cause = diagnose_heads(*heads_of_first, spec)
        if cause is None or _confined(str(cause)):
            of_input = diagnose_input_of(first.path, heads_of_first[1], infer, spec)
            cause, stage = (of_input, "preprocess") if of_input else (cause, None)
    evidence = f"{differing([*wrong], [*reference], 'heads', files)}; {wrong[first]}"
    details = [f"{sample.path.name}: {said}" for sample, said in wrong.items()]
    return Broken(evidence, cause, stage, details)


def fresh_export(checkpoint: Path, spec: ModelSpec, weights: str | None = None) -> Path:
    """Export *checkpoint*, simplified, with a free batch; once for each content in a process."""
    return _fresh_export(sha256(checkpoint), checkpoint, spec, weights)


@functools.cache
def _fresh_export(digest: str, checkpoint: Path, spec: ModelSpec, weights: str | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=digest, dir=_FOLDER.name))
    raw, out = folder / "raw.onnx", folder / "d0.onnx"
    write_onnx(checkpoint, raw, spec, ExportSettings(batch_size=None, weights=weights))
    write_simplified(raw, out)
    return out


_FOLDER = tempfile.TemporaryDirectory(prefix="effd0-")
