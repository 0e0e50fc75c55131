"""The command check: the suite on a build, its verdict, and what it writes."""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from ..distributed.pool import PoolOptions
from ..errors import MissingExtra
from ..evaluation.evaluate import ImageOptions
from ..evaluation.model import ArchOptions
from ..report.markdown import write_markdown
from ..report.view import write_page
from ..results.run import read_run
from ..runners.registry import RunnerOptions
from ..types import OUTPUT, OVERWRITE, option
from . import command as cli
from .pytest_plugin import INSTALLED
from .settings import OPTIONS, SuiteOptions, read_settings
from .show import show_lines

#: What `check` writes into --out.
RUN, SUMMARY, PAGE, DETECTIONS = "run.json", "summary.md", "report.html", "detections"


@cli.command("root", "host_threads", "device", "precision", "overlap", "launch", "verbose")
def check(
    *,
    model: Path | None = option(
        "ONNX or .om file.", "[MODEL]", None, shown="the bundled D0", takes="model", positional=True
    ),
    checkpoint: Path | None = option("Weights that it was made of.", takes="weights"),
    arch: ArchOptions,
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
    import pytest  # which no other command needs

    from .pytest_suite import StageLines

    # Of these pytest takes itself what is not typed, except for the place of all files.
    if (settings := read_settings(OPTIONS, model)) is not None:
        show_lines(f"settings    {settings}")
        out = settings.values.get("out") if out is None else out
    given = {"model": model, "checkpoint": checkpoint, "resume": resume, "overwrite": overwrite}
    # A runner has fields that are no options, such as bins: the suite's options come last.
    given |= {**vars(arch), **vars(images), **vars(compute), **vars(pool), **vars(suite)}
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
