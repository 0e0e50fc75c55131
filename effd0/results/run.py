"""
A run as data: one JSON file that says what was run on what, and what came of it.

The types are the form of the file; `json_schema` writes them as JSON Schema for other languages.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from ..data import fixture
from ..errors import RunFileError
from ..graph.onnx_info import stored_precision
from ..io import decoded, model_sha256, write_text
from ..metrics.bootstrap import ReferenceComparison
from ..metrics.operating_point import OperatingPoint
from ..metrics.summary import METRICS
from ..spec import ModelSpec
from ..timing import Latency
from .check import Check, Given, Verdict, as_typed, verdict_of
from .environment import Fingerprint, machine_record

FORMAT = "effd0 run"
#: Raised by one when a reader would have to change.
SCHEMA = 3
#: What the bundled test set is called in a run.
EMBEDDED = "embedded"
#: Stands for the hash of a model that the results do not name.
UNKNOWN_MODEL = "unknown"

#: From 0 to 1; None where it is undefined.
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)] | None
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Size: TypeAlias = Annotated[int, Meta(ge=1)]
#: x, y, width, height in pixels of the original.
Box: TypeAlias = tuple[float, float, float, float]
Side = TypeVar("Side")
#: The next step for whoever changed a run by hand.
_KEYS = "write it again with --report-json (docs/run-json.md has each key)"


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a run file, all of whose keys are known."""


class DatasetUsed(Part):
    """
    The images that accuracy was measured on, and the hash of their annotations.

    A *release_set* decides releases: it is val2017, or the user said so.
    """

    name: str
    images: Count
    sha256: Sha256 | None
    release_set: bool = False

    def __str__(self) -> str:
        digest = "unknown" if self.sha256 is None else self.sha256[:12]
        return f"{self.images} images of {self.name} (annotations {digest})"


class Network(Part):
    """The EfficientDet that was under test: its architecture, its classes, (rows, columns)."""

    arch: str
    num_classes: Size
    image_size: tuple[Size, Size]

    @classmethod
    def of(cls, spec: ModelSpec) -> Network:
        """That of *spec*."""
        return cls(spec.arch, spec.num_classes, spec.image_size)

    def __str__(self) -> str:
        rows, columns = self.image_size
        of = "1 class" if self.num_classes == 1 else f"{self.num_classes} classes"
        return f"{self.arch}, {of}, {rows}x{columns}"


class Artefact(Part):
    """
    What was under test; a hash is None where no such file was given.

    *precision* is that of the model: as its ONNX file says, else as declared; None if unknown.
    *network* is None where detections alone were given, or in a file of before.
    """

    name: str
    model_sha256: Sha256 | None
    checkpoint_sha256: Sha256 | None
    dataset: DatasetUsed | None
    precision: str | None = None
    network: Network | None = None


class Environment(Part):
    """A machine, and the version of each package, None where it is not installed."""

    machine: dict[str, Any]
    packages: dict[str, str | None]


class Head(Part):
    """How far a head is from the reference's; a figure that is not finite is None."""

    head: Literal["class", "box"]
    level: Annotated[str, Meta(pattern=r"^P\d$")]
    max_abs: float | None
    relative_l2: float | None
    cosine: float | None
    q999: float | None
    allowed: float | None
    required: float | None
    #: The figure that *allowed* bounds.
    measure: Literal["max_abs", "relative_l2"] = "max_abs"

    @property
    def share(self) -> float | None:
        """The judged error as a share of what is allowed; None without a limit."""
        error: float | None = getattr(self, self.measure)
        # What is not finite is None in a run file, and beyond every limit.
        if error is None:
            return math.inf
        return error / self.allowed if self.allowed else None


class Parity(Part):
    """The heads of a runner beside the reference's, the worst first."""

    runner: str
    reference: str
    batch: Size
    precision: str | None
    heads: list[Head]

    @property
    def share(self) -> float:
        """The largest share of what is allowed that a head takes; 0 without a limit."""
        return max(head.share or 0.0 for head in self.heads)

    @property
    def worst(self) -> tuple[float, float | None, str]:
        """The figure furthest from its reference, what is allowed, and its unit."""
        measure = self.heads[0].measure
        figures = [getattr(head, measure) for head in self.heads]
        worst = math.inf if None in figures else max(figures)
        return worst, self.heads[0].allowed, measure.replace("_", " ")


class Times(Part):
    """The times of a stage of an evaluation in ms, and how many there are."""

    mean: float
    p50: float
    p90: float
    p99: float
    count: Count

    @classmethod
    def of(cls, times: Latency) -> Times:
        """The figures of *times*."""
        figures = (times.mean_ms, times.p50_ms, times.p90_ms, times.p99_ms)
        return cls(*figures, count=len(times.samples_ms))


class Sides(Part, Generic[Side]):
    """The same of candidate and reference; None without a reference."""

    candidate: Side
    reference: Side | None


class Scores(Part):
    """How many scores are in each bin between *edges*."""

    edges: list[float]
    candidate: list[Count]
    reference: list[Count] | None


class ErrorKind(Part):
    """How many errors of a kind there are, and the points of AP50 that they cost."""

    count: Count
    delta_ap: float | None


class Truth(Part):
    """An annotated object of an image."""

    box: Box
    category: str = msgspec.field(name="class")
    crowd: bool


class Detection(Part):
    """A detection in an image."""

    box: Box
    category: str = msgspec.field(name="class")
    score: float


class Picture(Part):
    """An image to look at: a small JPEG in base64, what is there and what was found."""

    image_id: int
    file_name: str
    width: Size
    height: Size
    jpeg: str | None
    difference: float
    truth: list[Truth]
    candidate: list[Detection]
    reference: list[Detection] | None


class Insight(Part):
    """What pictures of an evaluation need: curves, scores, TIDE's kinds of error, images."""

    recall: list[float]
    curves: Sides[dict[str, list[float | None]]]
    scores: Scores
    errors: Sides[dict[str, ErrorKind]]
    gallery: Annotated[list[Picture], Meta(max_length=80)]


class Accuracy(Part):
    """
    An evaluation: COCO's twelve *metrics* as fractions, AP *per_class*, and how it came about.

    *runner* is a name and *backend* the runner in words; *batch* is None for recorded results;
    *undefined* says why a metric is None; *min_map* is the threshold in percent.  *peak_rss_mb* is
    of the process that ran, *converting_rss_mb* of those that converted a checkpoint for it.
    *operating_point* is None in a file of before.
    """

    runner: str
    backend: str
    batch: Size | None
    images: Count
    images_total: Count
    detections: Count
    metrics: dict[str, Fraction]
    undefined: dict[str, str]
    per_class: dict[str, Fraction]
    min_map: float | None
    against: ReferenceComparison | None
    images_per_second: float | None
    peak_rss_mb: float | None
    stages_ms: dict[str, Times]
    model_sha256: str
    settings: dict[str, Any]
    insight: Insight | None = None
    converting_rss_mb: float | None = None
    operating_point: Sides[OperatingPoint] | None = None

    def __post_init__(self) -> None:
        sides = [self.metrics, *([] if self.against is None else [self.against.metrics.values])]
        if missing := [name for name in METRICS for side in sides if name not in side]:
            raise ValueError(f"metrics lack {', '.join(missing)}")

    @property
    def title(self) -> str:
        """The runner, and its batch where that is known."""
        return self.runner if self.batch is None else f"{self.runner}, batch {self.batch}"

    @property
    def peak_memory(self) -> str:
        """The peak of the run and, where there was one, that of the conversion before it."""
        run, more = self.peak_rss_mb, self.converting_rss_mb
        after = "" if more is None else f" ({more:.0f} MB while the checkpoint was converted)"
        return "" if run is None else f"peak memory {run:.0f} MB{after}"


class TimedRival(Part):
    """Another implementation of the same work, timed in turn with a row, call by call."""

    name: str
    samples_ms: list[float]


class TimedRow(Part):
    """
    A row of a benchmark: *samples_ms* of calls of *images* images each, on a machine.

    *timed* is what lies between the clock's start and its end; *runner* is empty for a library;
    *map* is the mAP of the same file, a fraction, where it was measured; *steps* are the times of
    parts of a call in ms, such as uploads.
    """

    name: str
    runner: str
    precision: str
    batch: Size | None
    dataset: str
    timed: str
    images: Count
    model_sha256: str | None
    fingerprint: Fingerprint
    images_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples_ms: Annotated[list[Annotated[float, Meta(gt=0)]], Meta(min_length=1)]
    map: Fraction = None
    notes: list[str] = []
    steps: dict[str, list[float]] = {}
    rival: TimedRival | None = None


class Run(Part, kw_only=True):
    """One run of effd0 on one artefact, or several merged; docs/run-json.md explains each key."""

    format: Literal["effd0 run"] = "effd0 run"
    schema: Literal[3] = 3
    created: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*(Z|[+-]\d\d:\d\d)$")]
    commands: Annotated[list[str], Meta(min_length=1)]
    artefact: Artefact
    environment: Annotated[list[Environment], Meta(min_length=1)]
    verdict: Verdict
    checks: list[Check]
    parity: list[Parity]
    accuracy: list[Accuracy]
    latency: list[TimedRow]
    exit_status: int


def new_run(
    artefact: Artefact,
    *,
    exit_status: int,
    checks: Sequence[Check] = (),
    otherwise: str = "",
    cut_off: str = "",
    given: Given | None = None,
    parity: Sequence[Parity] = (),
    accuracy: Sequence[Accuracy] = (),
    latency: Sequence[TimedRow] = (),
) -> Run:
    """A run on *artefact* by this process; the texts and *given* as in `verdict_of`."""
    # Merged runs of one machine name it once: nothing in it changes from run to run.
    machine = machine_record()
    return Run(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commands=[shlex.join(as_typed())],
        artefact=artefact,
        environment=[Environment(packages=machine.pop("packages"), machine=machine)],
        verdict=verdict_of(checks, otherwise, cut_off, given, **standing(artefact, accuracy)),
        checks=list(checks),
        parity=list(parity),
        accuracy=list(accuracy),
        latency=list(latency),
        exit_status=exit_status,
    )


def artefact_of(
    model: Path | None,
    checkpoint: Path | None,
    dataset: DatasetUsed | None,
    named: Path | None = None,
    declared: str | None = None,
    spec: ModelSpec | None = None,
) -> Artefact:
    """
    The artefact of the files *model* and *checkpoint*, called by *named* or one of them.

    *declared* is the precision of a model whose file does not say it; *spec* is its network's.
    """
    file = named or model or checkpoint
    weights, graph = (None if p is None else model_sha256(p) for p in (checkpoint, model))
    precision = stored_precision(model) or declared
    network = None if spec is None else Network.of(spec)
    return Artefact("" if file is None else file.name, graph, weights, dataset, precision, network)


def standing(artefact: Artefact, accuracy: Iterable[Accuracy] = ()) -> dict[str, Any]:
    """What `verdict_of` is told of *artefact*, measured so: ``demo``, what a release ``lacks``."""
    bundled = artefact.checkpoint_sha256 == fixture.reference()["checkpoint_sha256"]
    dataset, own, lacks = artefact.dataset, artefact.model_sha256, []
    if dataset is not None and not dataset.release_set:
        other = f"{dataset} are not all of val2017, and were not named one (--release-set)"
        none = "the bundled scenes are none"
        lacks.append(f"a release set: {none if dataset.name == EMBEDDED else other}")
    ran = {one.model_sha256: one.backend for one in accuracy}
    # Of a compiled model only its ONNX file runs where there is no board.
    if own is not None and ran and not ran.keys() & {own, UNKNOWN_MODEL}:
        others = ", ".join(dict.fromkeys(ran.values()))
        lacks.append(f"detections of {artefact.name} itself: {others} ran another file")
    lacks += [f"a board: {one} is emulated" for one in ran.values() if "emulated" in one]
    return {"demo": bundled and own is None, "lacks": lacks}


def dataset_name(root: Path | None, split: str) -> str:
    """The name of the images under *root*, or of the bundled ones."""
    return EMBEDDED if root is None else f"{root.name} {split}"


def flat(run: Run) -> dict[str, Any]:
    """The first accuracy of *run* with its verdict and environment, as ``--json`` prints it."""
    (entry, *_), environment = run.accuracy, run.environment[0]
    content: dict[str, Any] = msgspec.to_builtins(entry)
    del content["insight"]
    return {
        "schema": SCHEMA,
        "verdict": {"status": run.verdict.status, "reason": run.verdict.evidence},
        **content,
        "runner": content.pop("backend"),
        "environment": {**environment.machine, "packages": environment.packages},
    }


def json_schema() -> dict[str, Any]:
    """The form of a run file as JSON Schema, draft 2020-12."""
    return msgspec.json.schema(Run)


def write_run(path: Path, run: Run) -> None:
    """Write *run*, whole or not at all; raise `RunFileError` for an invalid one, `OutputError`."""
    try:
        text = json.dumps(msgspec.to_builtins(run), indent=1, ensure_ascii=False, allow_nan=False)
        msgspec.json.decode(text, type=Run)
    except (ValueError, msgspec.ValidationError) as error:
        raise RunFileError(f"the run for {path} is invalid: {error}; {_KEYS}") from error
    write_text(text + "\n", path)


def read_run(path: Path) -> Run:
    """Read the run in the file *path*; raise `RunFileError` with the reason for any other file."""
    wanted = (
        "but a run file was wanted; write one with --report-json FILE of pytest, 'effd0 evaluate', "
        "'postprocess' or 'benchmark' (docs/run-json.md)"
    )
    try:
        content = decoded(data := path.read_bytes(), dict[str, Any])
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror}, {wanted}") from error
    except ValueError as error:
        raise RunFileError(f"{path} is no JSON object ({error}), {wanted}") from error
    if content.get("format") != FORMAT:
        keys = ", ".join(sorted(content)[:5]) or "no key"
        raise RunFileError(f"{path} holds a JSON object with {keys}, {wanted}")
    if content.get("schema") != SCHEMA:
        raise RunFileError(
            f"{path} is a run in schema {content.get('schema')!r}, but this effd0 reads {SCHEMA}; "
            "run it again with this version"
        )
    try:
        return decoded(data, Run)
    except ValueError as error:
        raise RunFileError(f"{path} is invalid: {error}; {_KEYS}") from error


def merge_runs(runs: Sequence[Run], names: Sequence[str] = ()) -> Run:
    """
    One run with all entries of *runs*, called *names* in messages; each entry is kept once.

    All checks become one verdict. Raises `RunFileError` unless all are of one artefact.
    """
    lists = ("commands", "environment", "checks", "parity", "accuracy", "latency")
    entries: dict[str, Any] = {key: [] for key in lists}
    for run in runs:
        for key, found in entries.items():
            found += [one for one in getattr(run, key) if one not in found]
    artefact = _merged_artefact(runs, names or [f"run {n + 1}" for n in range(len(runs))])
    told, of = [run.verdict for run in runs], standing(artefact, entries["accuracy"])
    # A session that was cut off is undecided, whatever its checks say.
    cut_off = next((one.evidence for one in told if one.status == "undecided"), "")
    verdict = verdict_of(entries["checks"], told[0].evidence, cut_off, **of)
    step = next((one.next_step for one in told if one.evidence == verdict.evidence), "")
    return Run(
        created=max(run.created for run in runs),
        artefact=artefact,
        verdict=msgspec.structs.replace(verdict, next_step=step),
        exit_status=max((run.exit_status for run in runs), key=abs),
        **entries,
    )


def _merged_artefact(runs: Sequence[Run], names: Sequence[str]) -> Artefact:
    """All that *runs* say of their artefact; raise `RunFileError` where that differs."""
    known: dict[str, Any] = {}
    artefacts = [run.artefact for run in runs]
    sets = [one.dataset for one in artefacts]
    # Whoever calls images the release set need not say so in every run.
    if any(one is not None and one.release_set for one in sets):
        sets = [one and msgspec.structs.replace(one, release_set=True) for one in sets]
    for kind, what, values in (
        ("model_sha256", "model", [one.model_sha256 for one in artefacts]),
        ("checkpoint_sha256", "checkpoint", [one.checkpoint_sha256 for one in artefacts]),
        ("dataset", "dataset", sets),
        ("network", "network", [one.network for one in artefacts]),
    ):
        # Weights may be inside the model, and times need no data set: then nothing is said.
        said = [p for p in zip(values, names, strict=True) if p[0] is not None or what == "model"]
        known[kind], first = said[0] if said else (None, "")
        for value, name in said:
            if value != known[kind]:
                raise RunFileError(
                    f"{name} is of the {what} {_described(value)}, but {first} of "
                    f"{_described(known[kind])}; only runs of one artefact can be merged: run both "
                    "on the same files, or compare them with 'effd0 compare'"
                )
    nameless = any(one.checkpoint_sha256 is None for one in artefacts)
    if len(runs) > 1 and known["model_sha256"] is None and nameless:
        raise RunFileError(
            f"{' and '.join(names)} name no model and no checkpoint that all were run on, but "
            "only runs of one artefact can be merged; write all with --report-json on the "
            "same files"
        )
    precision = next((one.precision for one in artefacts if one.precision), None)
    return Artefact(name=runs[0].artefact.name, **known, precision=precision)


def _described(value: str | DatasetUsed | Network | None) -> str:
    return value[:12] if isinstance(value, str) else str(value or "(none given)")
