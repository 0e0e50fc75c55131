"""What a session of the test suite found, for its summary and its run file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from ..data import fixture
from ..data.coco import Dataset
from ..errors import AtcError, Effd0Error, FetchError, MissingExtra, OptionError, OutputError
from ..io import sha256
from ..spec import ModelSpec
from . import check
from . import run as runs
from .check import COULD_NOT_RUN, STAGES, UNDECIDED, Broken, Check, Given, Stage, Status, Verdict

if TYPE_CHECKING:
    import pytest

#: Makes the insight of an evaluation.
Draw: TypeAlias = Callable[[], runs.Insight]
#: What a process of several has found.
Packed: TypeAlias = tuple[
    list[runs.Parity], list[str], runs.DatasetUsed | None, list[runs.Accuracy]
]
#: Names of a test's properties that its check has too.
FIGURES = ("figure", "tolerance", "unit")
#: Errors of what the suite makes or needs for itself: no artefact is at fault.
OF_THE_SUITE = (AtcError, FetchError, MissingExtra, OptionError, OutputError)
#: How pytest-timeout says that it stopped a test.
TIMED_OUT = "Timeout "
#: Options that name an artefact, the one that a run is called by first.
NAMING = ("--model", "--detections", "--results", "--bins", "--checkpoint")
#: What a skipped test needs, where its reason has the name of a marker -> in words.
LIFTED_BY = {
    "slow": "--slow", "coco": "--coco", "npu": "an NPU", "torch_npu": "an NPU in torch",
    "gpu": "a GPU", "browser": "a browser",
}  # fmt: skip
#: Groups of skipped tests that are named.
GROUPS = 5
#: Exit statuses of pytest after which nobody knows what the checks that did not run would say.
CUT_OFF = {
    2: "the run was interrupted, or files could not be collected: not all checks were run",
    3: "pytest failed by itself: not all checks were run",
    4: "pytest was called wrongly: not all checks were run",
}


def check_of(
    stage: Stage,
    name: str,
    error: BaseException | None,
    report: pytest.TestReport,
    properties: Iterable[tuple[str, object]] = (),
    docstring: str | None = None,
) -> Check:
    """
    The check that a test of *stage* is, with the last figures and evidence of its *properties*.

    The first sentence of the test's *docstring* says what it checks.
    An error of the suite itself leaves it undecided: no stage is broken by that.
    """
    status: Status = "passed" if report.passed else "failed"
    noted, diagnosis = dict(properties), ""
    evidence = str(noted.get("evidence", ""))
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        reason = str(reason).removeprefix("Skipped: ")
        status = "undecided" if reason.startswith(UNDECIDED) else "skipped"
        evidence = reason.removeprefix(UNDECIDED)
    elif (told := str(error)).startswith(TIMED_OUT):
        status, evidence = "undecided", f"the test ran out of its time, {told}"
    elif _is_of_the_suite(error, report.when):
        status = "undecided"
        evidence = f"{COULD_NOT_RUN}{type(error).__name__}: {' '.join(str(error).split())}"
    elif isinstance(error, Broken):
        evidence, diagnosis = error.evidence, error.diagnosis
        stage = cast(Stage, error.stage or stage)
    elif isinstance(error, Effd0Error):
        # Its message names one fault, over as many lines as that takes.
        evidence = " ".join(str(error).split())
    elif not report.passed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = report.longreprtext if crash is None else crash.message
        evidence = message.removeprefix("Failed: ")
    figure, tolerance, unit = (cast(Any, noted.get(key)) for key in FIGURES)
    limits = check.finite(figure), check.finite(tolerance)
    measured = (*limits, unit or "", round(report.duration, 6))
    sentence = " ".join((docstring or "").split()).partition(". ")[0].removesuffix(".")
    return Check(stage, name, status, check.first_line(evidence), diagnosis, *measured, sentence)


def _is_of_the_suite(error: BaseException | None, when: str | None) -> bool:
    """Whether *error*, raised *when*, says nothing of the artefact; an assertion does in a call."""
    judging = (Broken, Effd0Error, AssertionError) if when == "call" else (Broken, Effd0Error)
    # What pytest.fail raises is no `Exception`, and was meant.
    unforeseen = isinstance(error, Exception) and not isinstance(error, judging)
    return unforeseen or isinstance(error, OF_THE_SUITE)


def properties_of(found: Check) -> list[tuple[str, object]]:
    """What JUnit's XML tells of a check beside the figures that its test noted itself."""
    return [(k, v) for k in ("stage", "evidence", "diagnosis") if (v := getattr(found, k))]


def skipped_line(reasons: Sequence[str]) -> str:
    """One line of how many tests were skipped for these *reasons*, by what would lift them."""
    found = [re.match(r"(?:Skipped: )?needs ([^:]+):", reason) for reason in reasons]
    needs = Counter(LIFTED_BY.get(one[1], one[1]) for one in found if one).most_common(GROUPS)
    parts = [f"{count} {what}" for what, count in needs]
    parts[:1] = [part.replace(" ", " need ", 1) for part in parts[:1]]
    if others := len(reasons) - sum(count for _, count in needs):
        parts.append(f"{others} for other reasons")
    return f"{len(reasons)} skipped: {', '.join(parts)} (-rs lists them)"


@dataclass(eq=False)
class SuiteRecord:
    """
    Checks, heads beside torch's, evaluations and *lines* of accuracy, in the order they came.

    *dataset* is what the images under test are, once they were loaded; *given* are the session's
    options, *spec* what these say of the network.
    """

    checks: list[Check] = field(default_factory=list)
    parity: list[runs.Parity] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    dataset: runs.DatasetUsed | None = None
    given: Given = field(default_factory=dict)
    spec: ModelSpec | None = None
    _evaluations: dict[tuple[str, object], tuple[runs.Accuracy, Draw]] = field(default_factory=dict)

    def keep(self, accuracy: runs.Accuracy, draw: Draw) -> None:
        """
        Keep *accuracy*; one of the same runner and batch, as before a comparison, goes.

        Its pictures are made by *draw* once a run is written: most are never looked at.
        """
        self._evaluations[accuracy.backend, accuracy.batch] = accuracy, draw

    def note_dataset(
        self, dataset: Dataset, root: Path | None, split: str, *, release_set: bool
    ) -> None:
        """Keep what the images under test are."""
        name, digest = runs.dataset_name(root, split), sha256(dataset.annotation_file)
        self.dataset = runs.DatasetUsed(name, len(dataset.samples), digest, release_set)

    def pack(self, *, drawn: bool) -> bytes:
        """What `unpack` takes: all but the checks; accuracy only where it is *drawn*."""
        every = self._evaluations.values() if drawn else ()
        accuracy = [msgspec.structs.replace(one, insight=draw()) for one, draw in every]
        return msgspec.msgpack.encode((self.parity, self.lines, self.dataset, accuracy))

    def unpack(self, packed: bytes) -> None:
        """Add what another process has packed."""
        parity, lines, dataset, accuracy = msgspec.msgpack.decode(packed, type=Packed)
        self.parity += parity
        self.lines += [line for line in lines if line not in self.lines]
        self.dataset = self.dataset or dataset
        for one in accuracy:
            self.keep(one, partial(getattr, one, "insight"))

    @property
    def could_not_run(self) -> bool:
        """Whether no check failed, but the suite's own errors kept some from being made."""
        undecided = check.verdict_of(self.checks).status == "undecided"
        return undecided and any(one.evidence.startswith(COULD_NOT_RUN) for one in self.checks)

    @property
    def explained(self) -> bool:
        """Whether a fault, up to the runners, explains heads that are off: no precision does."""
        failed = [one for one in self.checks if one.status == "failed"]
        named = (one.diagnosis for one in failed if one.stage == "runner" and one.diagnosis)
        upstream = STAGES[1 : STAGES.index("runner")]  # whatever the images are, heads are of them
        return any(one.stage in upstream for one in failed) or not all(
            diagnosis.startswith(check.COMPUTED_IN) for diagnosis in named
        )

    def sections(self) -> dict[str, list[str]]:
        """Title -> lines of the summary."""
        heads, explained = [], self.explained
        for one in self.parity:
            worst, far = one.heads[0], "infinitely"
            if worst.max_abs is not None:
                far = f"by {worst.max_abs:.2g} (relative L2 {worst.relative_l2:.2g})"
            like = "" if explained else f"; computes like {one.precision or 'none known'}"
            head = f"{one.runner}, {one.batch} images: {worst.head} {worst.level}"
            heads.append(f"{head} differs most from {one.reference}, {far}{like}")
        return {"parity": heads, "accuracy": self.lines}

    def verdict(self, exit_status: int) -> Verdict:
        """The verdict of a session that ended so."""
        of = runs.standing(self.artefact, [accuracy for accuracy, _ in self._evaluations.values()])
        return check.verdict_of(self.checks, "", self._cut_off(exit_status), self._told(), **of)

    def _told(self) -> Given:
        """What is repeated in the next step: what was given, and the network as it was found."""
        return {**self.given, **(self.spec.options if self.spec else {})}

    @cached_property
    def artefact(self) -> runs.Artefact:
        """What was under test, its files read once, when the session ends."""
        files = {option: value for option, value in self.given.items() if isinstance(value, Path)}
        named = next((files[option] for option in NAMING if option in files), None)
        weights = files.get("--checkpoint") or (None if named else fixture.checkpoint())
        declared = str(self.given.get("--declared-precision") or "").strip() or None
        # Of what network detections are, nobody says.
        spec = None if named == files.get("--detections", ...) else self.spec
        return runs.artefact_of(files.get("--model"), weights, self.dataset, named, declared, spec)

    def _cut_off(self, exit_status: int) -> str:
        return "" if self.could_not_run else CUT_OFF.get(exit_status, "")

    def to_run(self, exit_status: int, rows: Sequence[runs.TimedRow] = ()) -> runs.Run:
        """The session as a run; *rows* are those of benchmarks."""
        # What was compared with a reference is what the run is about.
        every = sorted(self._evaluations.values(), key=lambda one: one[0].against is None)
        parity = self.parity
        if self.explained:
            parity = [msgspec.structs.replace(one, precision=None) for one in parity]
        return runs.new_run(
            self.artefact,
            exit_status=exit_status,
            checks=self.checks,
            otherwise="times have no threshold" if rows and not self.checks else "",
            cut_off=self._cut_off(exit_status),
            given=self._told(),
            parity=parity,
            accuracy=[msgspec.structs.replace(one, insight=draw()) for one, draw in every],
            latency=rows,
        )
