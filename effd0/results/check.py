"""
A check: what was measured at a stage of the pipeline, what was allowed, and what came of it.

Checks become a verdict, and an accuracy gives rise to checks.

The stages are in their order. What a stage gets from a broken one before it cannot be right, so the
first failure is the one to look at.
"""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from ..graph.onnx_info import stored_precision
from ..metrics.bootstrap import MIN_IMAGES, PairedDrop
from ..metrics.detection_diff import DetectionParity
from ..metrics.summary import CocoMetrics
from ..tolerances import AP_ARITHMETIC

Stage: TypeAlias = Literal[
    "dataset", "preprocess", "checkpoint", "export", "graph", "runner", "decode", "nms",
    "evaluate", "gate",
]  # fmt: skip
#: From the images on disk to the gate.
STAGES: tuple[Stage, ...] = get_args(Stage)
#: Option -> the file that it names, or another value as it is typed; of a switch, nothing.
Given: TypeAlias = Mapping[str, Path | str | None]
#: ``undecided``: it was measured, but that says neither; ``skipped``: nothing is compared.
Status: TypeAlias = Literal["passed", "failed", "undecided", "skipped"]
#: How a test that is skipped says that its check is undecided.
UNDECIDED = "undecided: "
#: How a diagnosis begins that names a precision, which is no fault in itself.
COMPUTED_IN = "computed in "
EVIDENCE_LENGTH = 300
#: A diagnosis may name a node of a graph, whose name is a path.
DIAGNOSIS_LENGTH = 600

NOTHING_TESTED = "nothing was tested, so nothing is known"
#: How the evidence begins of a check that the suite's own error kept from being made.
COULD_NOT_RUN = "the suite could not run: "
#: How a check says that more images decide.
LIMITED = "run without --image-limit"
#: What stands in a command for an option that was not given.
USUAL = {
    "--model": "model.onnx", "--checkpoint": "d0.pth", "--coco": "coco_data", "--bins": "inputs",
}  # fmt: skip
#: Broken stages, or what the verdict is; the option, or suffix or precision of --model, that a row
#: is for; the command that helps: ``again`` is this one, resumed; ``given`` is all that was given,
#: ``whole`` with what a release takes, ``larger`` with other images; ``root`` is --coco where it
#: is given.
NEXT_STEPS = (
    # Images of classes of one's own can be had nowhere else.
    ("dataset", "--num-classes",
     "effd0 evaluate --checkpoint {checkpoint}{root}{network} --runner torch --per-class"),
    ("dataset", "", "effd0 fetch coco --root coco_data"),
    ("preprocess", "--bins", "effd0 preprocess{root}{fed} --bin-save inputs"),
    ("preprocess", "--results", "effd0 preprocess{root}{fed} --bin-save inputs"),
    ("checkpoint", "", "effd0 fetch checkpoint{arch} --out published.pth"),
    ("export graph", "", "effd0 bisect --model {onnx} --reference {checkpoint}{network}"),
    ("runner", "--results", "effd0 infer --model {model}{network} --input {bins} --output again"),
    ("runner", ".om", "effd0 check {onnx} --checkpoint {checkpoint}"),
    ("runner", "", "effd0 check{given} --runner ort --graph-optimization disable"),
    ("decode nms evaluate gate", "--detections",
     "effd0 evaluate --checkpoint {checkpoint}{root}{network}"),
    ("gate undecided incomplete", "--score",
     "effd0 check --detections {score} --checkpoint {checkpoint} --coco {coco}"),
    # Where these break without an artefact, effd0 itself is broken on this host.
    ("preprocess decode nms evaluate", "", "effd0 check"),
    ("gate", "--results", "effd0 postprocess --omfile {results}{root}{network} {page}"),
    ("gate", "int8", "effd0 explain-drop {model} --reference {checkpoint}{root}{network}"),
    ("gate", "--model",
     "effd0 evaluate --model {model} --reference {checkpoint}{root}{network} {page}"),
    ("gate", "", "effd0 evaluate --checkpoint {checkpoint}{root}{network} --runner torch"),
    ("cut-off", "", "{again}"),
    ("limited", "", "effd0 check{given}"),
    ("incomplete", "--coco", "effd0 check{whole} --release-set"),
    ("undecided incomplete", "--num-classes", "effd0 check{larger} --release-set"),
    # Those of more images have to be made first.
    ("undecided", "--detections", "{fetch}"),
    ("undecided", "--results", "{fetch} && effd0 preprocess --root coco_data --bin-save inputs"),
    ("undecided incomplete demo", "", "{fetch} && effd0 check{larger}"),
)  # fmt: skip
#: What the command that resumes a run leaves out, or has in its place.
RESUMED = ("--overwrite", "--resume")
#: Options that hold for the images of --coco alone.
OF_THE_IMAGES = ("--coco", "--split", "--release-set", "--min-map")
#: Options that name the network.
NETWORK = ("--arch", "--num-classes", "--image-size")
#: State of a verdict -> what it says of a release, and why.
MEANINGS = {
    "pass": ("MAY SHIP", "Every stage passed, on the release set."),
    "fail": ("MUST NOT SHIP", "The first broken stage is {stage}."),
    "undecided": ("UNDECIDED", "No check failed, but what was measured does not decide."),
    "incomplete": ("INCOMPLETE", "What was tested passed, but not all was that a release needs."),
    "demo": (
        "DEMO",
        "The bundled model passed; yours, a model.onnx and its d0.pth, is still to be tested.",
    ),
    "not gated": ("NOT GATED", "No threshold was set; this run does not decide a release."),
}


class Broken(AssertionError):
    """
    A check that failed: *evidence* says what was measured and what was allowed, in one line.

    *diagnosis* is what explains it, tested by planting that fault; *stage* is where the diagnosis
    lies, if that is another stage than the check's own. *details* are further lines for a reader.
    """

    def __init__(
        self,
        evidence: str,
        diagnosis: object = None,
        stage: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        self.evidence, self.stage, self.details = evidence, stage, tuple(details)
        explained = "" if diagnosis is None else str(diagnosis)
        self.diagnosis = first_line(explained, DIAGNOSIS_LENGTH)
        named = [f"diagnosis: {explained}"] if explained else []
        super().__init__("\n".join([evidence, *named, *details]))


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A check of a *stage* and its *status*; the only carrier of a verdict.

    *sentence* says in words what the test *name* holds; it is empty where the name says it.
    *evidence* says what was measured and what was allowed, or why the check was skipped.
    *diagnosis* is empty where no tested cause explains a failure. *figure* is what was measured and
    *tolerance* what was allowed, in *unit*, where one number decides; *seconds* is the run time.
    """

    stage: Stage
    name: str
    status: Status
    evidence: str = ""
    diagnosis: str = ""
    figure: float | None = None
    tolerance: float | None = None
    unit: str = ""
    seconds: float | None = None
    sentence: str = ""


def first_line(message: str, length: int = EVIDENCE_LENGTH) -> str:
    """The first line of what a failure says, at most *length* characters of it."""
    line = message.removeprefix("AssertionError: ").strip().partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 3]}..."


def finite(value: float | None) -> float | None:
    """The *value*, or None where it is not finite: JSON knows no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What all checks together say; *stage* is the first broken one, *check* its first failure.

    *evidence* and *diagnosis* are those of that failure; without one, *evidence* joins what the
    decisive checks say. *passed* are the stages before the broken one whose checks passed;
    *later* counts the other failures. *lacks* is what a release needs beside all stages and is not
    there. *next_step* is the command that helps, where one is known.
    """

    status: Literal["fail", "undecided", "incomplete", "demo", "pass", "not gated"]
    stage: Stage | None = None
    check: str = ""
    evidence: str = ""
    diagnosis: str = ""
    passed: tuple[Stage, ...] = ()
    untested: tuple[Stage, ...] = ()
    later: int = 0
    lacks: tuple[str, ...] = ()
    next_step: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything that was tested passed."""
        return self.status not in ("fail", "undecided")

    @property
    def headline(self) -> str:
        """What it says of a release, in capitals."""
        return MEANINGS[self.status][0]

    @property
    def meaning(self) -> str:
        """Why it says so, in one sentence."""
        return MEANINGS[self.status][1].format(stage=self.stage)

    def lines(self) -> list[str]:
        """The verdict in words; what is empty has no line."""
        passed = ", ".join(self.passed) or "nothing"
        if self.status == "not gated":
            return [f"NONE  {NOTHING_TESTED}: no check of a stage was run"]
        first = {
            "fail": f"FAIL  {self.headline}: the first broken stage is {self.stage}",
            "pass": f"PASS  {self.headline}: every stage passed, on the release set",
            "undecided": f"UNDECIDED  {self.evidence}",
        }.get(self.status, f"{self.headline}  {self.meaning}")
        more = f"{self.later} more failed, which may follow from it"
        named = {
            "check": self.check,
            "evidence": "" if self.status == "undecided" else self.evidence,
            "diagnosis": self.diagnosis,
            "passed": "" if self.status in ("fail", "pass") else passed,
            "before it": self.status == "fail"
            and f"{passed} passed; {more if self.later else 'no other check failed'}",
            "not tested": ", ".join(self.untested),
            "lacks": "; ".join(self.lacks),
            "next step": self.next_step,
        }
        return [first, *(f"{name:<10} {said}" for name, said in named.items() if said)]


def next_step(wrong: str, given: Given) -> str:
    """
    The command that helps where a stage is *wrong*, or ``undecided``, or the run was ``cut-off``.

    *given* are files and other values by option; what was written is written once more only where
    the run goes on.
    """
    paths = {
        option: shlex.quote(str(value)) if isinstance(value, Path) else value
        for option, value in given.items()
        if value is not None
    }
    model = given.get("--model")
    suffix = Path(str(model or "")).suffix
    # --coco is taken with a checkpoint only.
    weights = {"--checkpoint": USUAL["--checkpoint"]}
    again = (weights if "--coco" in paths else {}) | paths
    whole = {option: USUAL[option] for option in ("--model", "--checkpoint", "--coco")} | paths
    if suffix == ".om":
        # Where another runner stood in for the board, the board is wanted.
        whole = {**whole, "--onnx": paths.get("--onnx", USUAL["--model"])}
        whole.pop("--runner", None)
    has = {"", *paths, suffix}
    if wrong == "gate" and isinstance(model, Path):  # reading it takes a moment
        has.add(str(stored_precision(model)))
    command = next((said for of, needs, said in NEXT_STEPS if wrong in of.split() and needs in has))
    # What the command names by itself, and what check does not take.
    files, words = USUAL | paths, [*command.split(), "--score"]
    again, whole = ({o: v for o, v in of.items() if o not in words} for of in (again, whole))
    larger = {option: value for option, value in whole.items() if option not in OF_THE_IMAGES}
    images = "own_data" if "--num-classes" in paths else USUAL["--coco"]
    typed = [word for word in as_typed() if word not in RESUMED]
    network = {o: f" {o} {v}" for o, v in paths.items() if o in NETWORK}
    # Nothing else is kept.
    kept = "--coco" in paths or any(word.startswith("--out") for word in typed)
    return command.format(
        again=shlex.join([*typed, *(["--resume"] if kept else [])]),
        given=_typed(again),
        whole=_typed(whole),
        larger=_typed({**larger, "--coco": images}),
        root=f" --root {paths['--coco']}" if "--coco" in paths else "",
        arch=network.get("--arch", ""),
        fed="".join(text for option, text in network.items() if option != "--num-classes"),
        network="".join(network.values()),
        fetch="effd0 fetch coco --root coco_data",
        page="--report-json gate.json; effd0 report gate.json --html gate.html",
        onnx=paths.get("--onnx", (USUAL if suffix == ".om" else files)["--model"]),
        **{o[2:]: path for o, path in files.items() if o not in ("--onnx", *NETWORK)},
    )


def as_typed() -> list[str]:
    """The words of this command: ``pytest`` for ``python -m pytest`` too."""
    path = Path(sys.argv[0])
    return [path.parent.name if path.name == "__main__.py" else path.name, *sys.argv[1:]]


def _typed(given: Mapping[str, str]) -> str:
    """What is *given* as it is typed behind ``effd0 check``: the model comes first, by itself."""
    words = [given["--model"]] if "--model" in given else []
    words += [f"{option} {value}" for option, value in given.items() if option != "--model"]
    return "".join(f" {word.strip()}" for word in words)


def verdict_of(
    checks: Sequence[Check],
    otherwise: str = "",
    cut_off: str = "",
    given: Given | None = None,
    *,
    demo: bool = False,
    lacks: Sequence[str] = (),
) -> Verdict:
    """
    The verdict on *checks*: a failure decides, then what is undecided, then what passed.

    A skipped check says nothing, but what it measured is the evidence where no check decides;
    *otherwise*, or that nothing is known, is the evidence where none measured anything.
    *cut_off* says why not all checks were run: then nothing passes. The next step is made of
    what was *given*. Where all was of the bundled *demo*, or a stage was not tested, or anything
    *lacks* that a release needs, no build may ship.
    """
    of = {kind: [one for one in checks if one.status == kind] for kind in get_args(Status)}
    open_ = {one.stage for one in of["undecided"]}
    tested = {one.stage for kind in ("passed", "failed") for one in of[kind]}
    passed = [stage for stage in STAGES if stage in tested - open_]
    passed = passed[:-1] if cut_off else passed  # in the midst of the last stage
    untested = tuple(stage for stage in STAGES if stage not in tested | open_)
    if of["failed"]:
        first = min(of["failed"], key=lambda one: STAGES.index(one.stage))
        before = tuple(one for one in passed if STAGES.index(one) < STAGES.index(first.stage))
        said = (first.stage, first.name, first_line(first.evidence), first.diagnosis)
        step = "" if given is None else next_step(first.stage, given)
        return Verdict("fail", *said, before, untested, len(of["failed"]) - 1, next_step=step)
    reason = cut_off or reason_of(checks) or ("" if tested else otherwise or NOTHING_TESTED)
    status: Literal["undecided", "incomplete", "demo", "pass", "not gated"] = "not gated"
    if cut_off or open_:
        status = "undecided"
    elif tested:
        status = "demo" if demo else "incomplete" if untested or lacks else "pass"
    again = open_ and (LIMITED in reason or COULD_NOT_RUN in reason)
    wrong = "cut-off" if cut_off else "limited" if again else status
    done = given is None or status in ("pass", "not gated")
    return Verdict(
        status,
        evidence=first_line(reason),
        passed=tuple(passed),
        untested=untested,
        lacks=tuple(lacks) if status == "incomplete" else (),
        next_step="" if done else next_step(wrong, given or {}),
    )


def reason_of(checks: Sequence[Check]) -> str:
    """What *checks* say, the gravest first; of the skipped only what was measured."""
    order: tuple[Status, ...] = ("failed", "undecided", "passed", "skipped")
    telling = [check for check in checks if check.status != "skipped" or check.figure is not None]
    # What a stage that passed has to note decides nothing; the gate's figures do.
    telling = [check for check in telling if check.status != "passed" or check.stage == "gate"]
    telling.sort(key=lambda check: order.index(check.status))
    return "; ".join(dict.fromkeys(check.evidence for check in telling if check.evidence))


def threshold(
    metrics: CocoMetrics, total: int, min_map: float | None, reachable: float | None = None
) -> Check:
    """
    Check that AP is at least *min_map*, in percent; without a threshold it is skipped.

    A limited run, of fewer than *total* images, never passes; it fails where *reachable*, the most
    that AP of all images can still be, is below the threshold.
    """
    limited = metrics.images < total
    ap = None if metrics.ap is None else 100 * metrics.ap
    part = f" on the first {metrics.images} of {total} images by id" if limited else ""
    said = f"mAP is {metrics.undefined['AP'] if ap is None else f'{ap:.2f} %{part}'}"
    status: Status = "failed"
    if ap is None:
        pass
    elif min_map is None:
        status, said = "skipped", f"{said}; no threshold was set (--min-map)"
    elif limited and reachable is not None and 100 * reachable < min_map - AP_ARITHMETIC.limit:
        best = f"if all others were perfect, it would be {100 * reachable:.2f} %"
        said = f"{said} and cannot reach {min_map:.2f} %: {best}"
    elif limited:
        wanted = f"the threshold of {min_map:.2f} % is for all of them; {LIMITED}"
        status, said = "undecided", f"{said}, but {wanted}"
    # No rounding lifts a figure over the threshold: the full figure is compared.
    elif ap >= min_map:
        status, said = "passed", f"{said}, at least {min_map:.2f} % was wanted"
    else:
        said = f"{said}, but at least {min_map:.2f} % was wanted"
    name = "mAP reaches --min-map"
    return Check("gate", name, status, said, figure=ap, tolerance=min_map, unit="%")


def drop(
    found: PairedDrop, max_drop: float, parity: DetectionParity | None = None, *, limited: bool
) -> Check:
    """
    Check that the 95 % interval of the mAP drop against a reference is within *max_drop* points.

    A *limited* run, of not all images, can fail, but never pass. The figure is the upper end, which
    decides. Where the interval says neither, *parity* decides if the detections are the same but
    for rounding.
    """
    allowed, decided = f"{max_drop:.2f} points", found.status(max_drop)
    status: Status = "undecided"
    if decided == "fail":
        status, said = "failed", f"but at most {allowed} were allowed"
    elif limited:
        said = f"but {allowed} are for all images; {LIMITED}"
    elif decided == "pass":
        status, said = "passed", f"at most {allowed} were allowed"
    elif found.images < MIN_IMAGES:
        said = f"but fewer than {MIN_IMAGES} images decide nothing; run on more images"
    elif found.points <= max_drop and parity is not None and parity.same_but_for_rounding:
        said = (
            f"the {allowed} allowed lie within the interval, but the detections are the same but "
            f"for rounding: {parity.matched} matched, {parity.missing} missing, which decides"
        )
        status = "passed"
    else:
        said = f"but the {allowed} allowed lie within the interval; run on more images"
    name, evidence = "mAP does not drop against --reference", f"{found}, {said}"
    return Check("gate", name, status, evidence, "", found.high, max_drop, "points")


def class_drops(found: PairedDrop, max_drop: float) -> Check:
    """Check that no class surely loses more than *max_drop* points: by the interval's lower end."""
    lost, limit = [one for one in found.classes if one.low > max_drop], f"{max_drop:.2f} points"
    most = f"; those that lose most are {found.worst_classes}" if found.worst_classes else ""
    status: Status = "passed"
    said = f"no class surely loses more than {limit}{most}"
    if lost:
        status = "failed"
        said = f"{len(lost)} classes surely lose more than {limit}: {', '.join(map(str, lost))}"
    worst = max((one.low for one in found.classes), default=None)
    name = "no class drops against --reference"
    return Check("gate", name, status, first_line(said), "", worst, max_drop, "points")


def detected(metrics: CocoMetrics) -> Check:
    """Check that there is a detection at all: a model without one recognised nothing."""
    evidence = (
        f"not one detection in {metrics.images} images; the model gave nothing: "
        "look at its heads, its precision and the inputs that it was fed"
    )
    name, found = "something is detected", metrics.detections
    told: tuple[Status, str] = ("passed", "") if found else ("failed", evidence)
    return Check("gate", name, *told, figure=found, tolerance=1, unit="detections")
