"""
The command check: the suite on a build, its verdict, and what it writes.

Its options are those of the suite in pytest too, which is imported once it is to run.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import typer

from ..distributed.pool import PoolOptions
from ..errors import MissingExtra
from ..evaluation.evaluate import DirectoryOptions, ImageOptions
from ..evaluation.model import ModelChoice
from ..report.markdown import write_markdown
from ..report.view import write_page
from ..results.run import read_run
from ..runners.registry import RUNNERS, RunnerOptions
from ..tolerances import MAX_DROP, MAX_DROP_INT8
from ..types import BACKEND, GATE, OUTPUT, OVERWRITE, PANELS, TESTED, option
from . import command as cli
from .pytest_plugin import INSTALLED
from .settings import read_settings
from .show import show_lines

#: What `check` writes into --out.
RUN, SUMMARY, PAGE, DETECTIONS = "run.json", "summary.md", "report.html", "detections"
#: Attribute of a report that carries the check of its test.
CHECK = "effd0_check"
#: Marker -> the kind of torch device that it needs.
TORCH_DEVICES = {"gpu": "cuda", "torch_npu": "npu"}
HARDWARE = ("npu", *TORCH_DEVICES)
#: Title of the options of the benchmarks alone.
BENCHMARKS = "Benchmarks"
#: The runners that tests are run with; where there is no NPU, ACL is emulated.
TEST_RUNNERS = (*RUNNERS, "emulated")


@dataclass(frozen=True)
class SuiteOptions:
    """What pytest alone takes of an artefact and of what it has to reach."""

    panel: ClassVar = TESTED
    arch: str = cli.ARCH
    runner: tuple[str, ...] = option(
        f"Only this runner: {', '.join(TEST_RUNNERS)}. Repeatable.",
        "NAME",
        (),
        choices=TEST_RUNNERS,
        panel=BACKEND,
    )
    results: Path | None = option(
        "Recorded head outputs; implies --runner=recorded.", "DIR", takes="results"
    )
    bins: Path | None = option("Recorded inputs; those of --results.", "DIR", takes="inputs")
    detections: Path | None = option("Recorded detections, as COCO's JSON.", takes="json")
    onnx: Path | None = option("ONNX file that a compiled --model was made of.", takes="onnx")
    coco: Path | None = option(
        "Folder in COCO's layout.", "ROOT", shown="embedded scenes", takes="images"
    )
    release_set: bool = option(
        "--coco is the set that decides a release, as val2017 is.", default=False, panel=GATE
    )
    slow: bool = option("Run the slow tests too.", default=False)
    device_id: int = option("The NPU of --runner acl.", default=0, min=0, panel=BACKEND)
    batch_size: tuple[int, ...] = option(
        "Images per batch of -m accuracy and of benchmarks. Repeatable.", default=(), panel=BACKEND
    )
    min_map: float = option(
        "Threshold of mAP on --coco, in percent.", default=33.4, takes="percent", **cli.PERCENT
    )
    expected_map: float | None = option(
        "mAP that --checkpoint reaches on --coco, in percent: below it, the data are wrong.",
        takes="percent",
        **cli.PERCENT,
    )
    max_drop: float | None = option(
        "Threshold: the 95 % interval of the mAP drop against PyTorch ends at or below this.",
        shown=f"{MAX_DROP.limit}, of int8 {MAX_DROP_INT8.limit}",
        **cli.POINTS,
    )
    max_class_drop: float | None = cli.MAX_CLASS_DROP
    declared_precision: str | None = option(
        "What an .om or recorded results were computed in; an ONNX file says it itself.",
        choices=("fp32", "fp16", "int8"),
        shown="fp16",
    )
    require: tuple[str, ...] = option(
        "End at once where this is absent, in place of skips; with complete, exit 1 where a stage "
        "was not tested. Repeatable.",
        default=(),
        choices=("complete", "browser", "coco", *HARDWARE),
        panel=GATE,
    )
    keep_going: bool = option("Go on behind the first broken stage.", default=False, panel=GATE)


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the pytest benchmarks take."""

    panel: ClassVar = BENCHMARKS
    quick: bool = option("Two minutes: fewer rows and calls.", default=False)
    # The first run of a board has none yet: that is said, and is no error.
    baseline: Path | None = option("Run file of an earlier session to compare times with.")
    max_slowdown: float = cli.max_slowdown("against --baseline")
    accuracy_report: Path | None = cli.ACCURACY_REPORT


#: The options of pytest; those that the command line has too are declared there.
OPTIONS = [
    # What is under test is made anew.
    *cli.declared(ModelChoice, ("runner", "cache")),
    *cli.declared(SuiteOptions),
    *cli.declared(ImageOptions, ("root", "host_threads")),
    *cli.declared(RunnerOptions, ("device", "precision", "overlap", "launch")),
    *cli.declared(DirectoryOptions),
    *cli.declared(PoolOptions, ("verbose",)),
    *cli.declared(cli.ReportOptions, ("json",)),
    *cli.declared(BenchmarkOptions),
]
#: Title -> its options.
OPTION_GROUPS = {
    f"effd0: {panel}": [one for one in OPTIONS if one.panel == panel]
    for panel in (*PANELS, BENCHMARKS)
}


@cli.command("root", "host_threads", "device", "precision", "overlap", "launch", "verbose")
def check(
    *,
    model: Path | None = option(
        "ONNX or .om file.", "[MODEL]", None, shown="the bundled D0", takes="model", positional=True
    ),
    checkpoint: Path | None = option("Weights that it was made of.", takes="weights"),
    suite: SuiteOptions,
    images: ImageOptions,
    out: Path | None = option(
        f"Folder for {RUN}, {PAGE}, {SUMMARY} and the detections.", "DIR", takes="new folder"
    ),
    resume: bool = option("Continue a run that was stopped.", default=False, panel=OUTPUT),
    overwrite: bool = OVERWRITE,
    compute: RunnerOptions,
    pool: PoolOptions,
) -> None:
    """Check a build stage by stage, from the images to the gate, and end with the verdict."""
    import pytest

    from .pytest_suite import StageLines

    # Of these pytest takes itself what is not typed, except for the place of all files.
    if (settings := read_settings(OPTIONS, model)) is not None:
        show_lines(f"settings    {settings}")
        out = settings.values.get("out") if out is None else out
    given = {"model": model, "checkpoint": checkpoint, "resume": resume, "overwrite": overwrite}
    # A runner has fields that are no options, such as bins: the suite's options come last.
    given |= {**vars(images), **vars(compute), **vars(pool), **vars(suite)}
    words = list(_typed(given))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in (RUN, SUMMARY, PAGE):  # of the run that is resumed or replaced
            (out / name).unlink(missing_ok=True)
        words += [f"--report-json={out / RUN}", f"--out={out / DETECTIONS}"]
    # Whoever ends a job ends it as Ctrl-C does: with the verdict so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = pytest.main([*_suite(), *words], plugins=[StageLines()])
    if out is not None and (out / RUN).exists():
        run, written = read_run(out / RUN), f"{RUN}, {SUMMARY}"
        write_markdown(out / SUMMARY, run)
        try:
            write_page(out / PAGE, run)
            written += f", {PAGE}"
        except MissingExtra as error:
            show_lines(f"no {PAGE}: {error}")
        show_lines(f"wrote {written} to {out}")
    # Whatever pytest could not do is no verdict, and a fault of its hooks is no bad input.
    if code:
        faults = {pytest.ExitCode.TESTS_FAILED: 1, pytest.ExitCode.INTERNAL_ERROR: 70}
        raise typer.Exit(faults.get(pytest.ExitCode(code), 2))


def _typed(given: Mapping[str, Any]) -> Iterator[str]:
    """The values *given* by name as options of pytest."""
    flags = {word.partition("=")[0] for word in sys.argv}
    for one in OPTIONS:
        value = given.get(one.name)
        if one.kind is bool:
            yield from [one.flag] if value else []
        # A default that is typed replaces what a file gives.
        elif value is not None and (value != one.default or one.flag in flags):
            yield from (f"{one.flag}={each}" for each in (value if one.many else (value,)))


def _suite() -> list[str]:
    """Where the suite is, in an installed effd0 or in the clone, and how pytest runs it."""
    # Nothing of the folder that the command is typed in decides how the checks are made.
    words = ["-c", os.devnull, "-o", f"cache_dir={Path.cwd() / '.pytest_cache'}", "-q", "-rN",
             "--no-header", "--disable-warnings", "--import-mode=importlib"]  # fmt: skip
    name = INSTALLED if importlib.util.find_spec(INSTALLED) else "tests.suite"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    words += [f"--rootdir={Path(spec.origin).parent}", "-p", "effd0"]
    return [*words, "-p", f"{name}.fixtures", "--pyargs", name]
