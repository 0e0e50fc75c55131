"""
Options of the suite, and what gives them: effd0.toml, or ``[tool.effd0]`` in pyproject.toml.

A key is the name of an option of pytest, with ``-`` or ``_``; a relative path is relative to the
file.
"""

import contextlib
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..distributed.pool import PoolOptions
from ..errors import OptionError
from ..evaluation.evaluate import DirectoryOptions, ImageOptions
from ..evaluation.model import ArchOptions, ModelChoice
from ..runners.registry import RUNNERS, RunnerOptions
from ..spec import D0_MAP
from ..tolerances import MAX_DROP, MAX_DROP_INT8
from ..types import BACKEND, GATE, PANELS, TESTED, option
from . import command
from .command import Option, kinds_of

NAME = "effd0.toml"
#: Type of an option -> the types of TOML that it takes, and what they are called.
_TAKEN: dict[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    Path: (str, "a path in quotes"),
    str: (str, "text in quotes"),
}
#: What `template` looks for: words of `Option.takes`.
_LOOKED_FOR = ("model", "weights", "images")
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
    min_map: float | None = option(
        "Threshold of mAP on --coco, in percent.",
        shown=f"{D0_MAP} of D0 with COCO's classes, else none",
        takes="percent",
        **command.PERCENT,
    )
    expected_map: float | None = option(
        "mAP that --checkpoint reaches on --coco, in percent: below it, the data are wrong.",
        takes="percent",
        **command.PERCENT,
    )
    max_drop: float | None = option(
        "Threshold: the 95 % interval of the mAP drop against PyTorch ends at or below this.",
        shown=f"{MAX_DROP.limit}, of int8 {MAX_DROP_INT8.limit}",
        **command.POINTS,
    )
    max_class_drop: float | None = command.MAX_CLASS_DROP
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
    max_slowdown: float = command.max_slowdown("against --baseline")
    accuracy_report: Path | None = command.ACCURACY_REPORT


#: The options of pytest; those that the command line has too are declared there.
OPTIONS = [
    # What is under test is made anew.
    *command.declared(ModelChoice, ("runner", "cache")),
    *command.declared(ArchOptions),
    *command.declared(SuiteOptions),
    *command.declared(ImageOptions, ("root", "host_threads")),
    *command.declared(RunnerOptions, ("device", "precision", "overlap", "launch")),
    *command.declared(DirectoryOptions),
    *command.declared(PoolOptions, ("verbose",)),
    *command.declared(command.ReportOptions, ("json",)),
    *command.declared(BenchmarkOptions),
]
#: Title -> its options.
OPTION_GROUPS = {
    f"effd0: {panel}": [one for one in OPTIONS if one.panel == panel]
    for panel in (*PANELS, BENCHMARKS)
}


class Settings(NamedTuple):
    """The *file* that was read, and its values by the names of options."""

    file: Path
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file} ({', '.join(self.values)})"

    def blamed(self, message: str, given: Mapping[str, Any]) -> str:
        """Put file and key before a *message* about an option, if its value in *given* is ours."""
        flags = set(re.findall(r"--[a-z-]+[a-z]", message))
        told = {k: f"--{k.replace('_', '-')}" in flags for k in self.values}
        keys = [k for k, value in self.values.items() if told[k] and given[k] == value]
        return f"{self.file} ({', '.join(keys)}): {message}" if keys else message


def read_settings(options: Iterable[Option], model: Path | None = None) -> Settings | None:
    """
    Read the settings in the working directory, or else those beside *model*; None without any.

    Values have the types of *options*, in a list where one repeats; `command.check_values` looks at
    their ranges and files once the command line has replaced what it gives itself.  Raises
    `OptionError` if the file cannot be read, for an unknown key, and for a value of another type.
    """
    known = {one.name: one for one in options}
    folders = [Path()] if model is None else [Path(), model.parent]
    for file in (folder / name for folder in folders for name in (NAME, "pyproject.toml")):
        if table := _table_of(file):
            return Settings(file, _typed(file, table, known))
    return None


def _table_of(file: Path) -> dict[str, Any]:
    """The keys and values of *file*; empty if there is no such file or table."""
    text = ""
    try:
        text = file.read_text("utf-8-sig")
        content: Any = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}; check it") from error
    except (ValueError, RecursionError) as error:
        lines, found = text.rstrip("\n").split("\n"), re.search(r"at line (\d+)", str(error))
        number = min(int(found[1]) if found else len(lines), len(lines))
        shown = f", line {number}, is {lines[number - 1][:60]!r}" if text else " is something else"
        raise OptionError(
            f"{file}{shown}, but TOML in UTF-8 is wanted; write each key once, as KEY = VALUE"
        ) from error
    if file.name == NAME:
        return dict(content)
    for key in ("tool", "effd0"):
        content = content.get(key, {}) if isinstance(content, dict) else {}
    # What `pytest_plugin` looks for is no option.
    return {k: v for k, v in content.items() if k != "suite"} if isinstance(content, dict) else {}


def _typed(file: Path, table: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The values of *table* by the names of options, each of its option's type."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or ["a key that 'effd0 init' writes"]
            raise OptionError(f"{file}: {key} is no option; {near[0]} was probably meant")
        if name in values:
            raise OptionError(f"{file}: {key} is given with - and with _; leave one out")
        one = known[name]
        several = value if one.many and isinstance(value, list) else [value]
        try:
            typed = [_of_type(one, each, file.parent) for each in several]
        except (TypeError, OverflowError):
            wanted = f"{_TAKEN[one.kind][1]}{', or a list of such,' if one.many else ''}"
            shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
            raise OptionError(f"{file}: {key} is {shown}, but {wanted} is wanted") from None
        values[name] = typed if one.many else typed[0]
    return values


def _of_type(one: Option, value: Any, folder: Path) -> Any:
    """*value* as *one* takes it; raise TypeError, or OverflowError if it cannot be that."""
    right = isinstance(value, _TAKEN[one.kind][0]) and isinstance(value, bool) == (one.kind is bool)
    if not right or (isinstance(value, str) and not value.isprintable()):
        raise TypeError
    # The standard output is in no folder.
    return folder / value if one.kind is Path and value != "-" else one.kind(value)


def template(groups: Mapping[str, Iterable[Option]], folder: Path) -> str:
    """
    A file of settings with every option of *groups*, title -> options, as a comment.

    A model, weights and data set are filled in if *folder* has one such file or folder; of several
    the comment has the names.
    """
    there = {kind: [path.name for path in _of_kind(folder, kind)] for kind in _LOOKED_FOR}
    lines = [
        "# Options of 'effd0 check' and of pytest with effd0's suite; the command line's win.",
        "# A relative path is relative to this file.",
    ]
    for title, options in groups.items():
        lines.append(f"\n## {title}")
        for one in options:
            found, value = there.get(str(one.takes), []), one.default
            if value in (None, ()):
                value = one.min if one.kind is int else (*one.choices, one.value)[0]
            value = " or ".join(found) or ([value] if one.many else value)
            shown = json.dumps(value, ensure_ascii=False)
            text = f"{one.help} Default: {one.shown}." if one.shown else one.help
            lines += ["", *textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"{'' if len(found) == 1 else '# '}{one.name} = {shown}")
    return "\n".join(lines) + "\n"


def _of_kind(folder: Path, kind: str) -> Iterator[Path]:
    """What lies in *folder* and is of *kind*, by name; nothing of what cannot be read."""
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if kind in kinds_of(path):
                yield path
