"""
Declared options as those of Typer, and those that several commands take.

A declaration is ``name: type = option(help, metavar, default)``, a field of a dataclass or a
parameter of a command; docs/options.md is made of it too.
"""

import contextlib
import functools
import inspect
import itertools
import math
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer

from ..errors import OptionError, OutputError
from ..io import check_writable, is_stdout, writing_to
from ..results.compare import MAX_SLOWDOWN
from ..tensors.results import SUFFIXES
from ..types import BACKEND, GATE, OUTPUT, OVERWRITE, PANELS, TESTED, option

Command = Callable[..., None]
REQUIRED = MISSING
#: Types whose values are called otherwise than they are.
_CALLED: dict[type, str] = {bool: "", int: "N", Path: "FILE"}


@dataclass(frozen=True)
class Option:
    """
    An option with the type of one value; *many* values may be given where it repeats.

    *shown* is the default in words, where the value says nothing.  A number is at least *min*, for
    a whole one 1 unless said otherwise, and at most *max*.  A shell completes *known* values as it
    does *choices*; whoever takes one checks it.  *takes* is ``percent``, one of
    `KINDS`, ``folder``, or for what is written ``new file`` or ``new folder``.  *stop* is called
    before all others are read; it ends the command where the option is given.  *panel* is one of
    `PANELS`.
    """

    name: str
    kind: type
    many: bool
    default: Any
    help: str
    metavar: str | None
    shown: str | None = None
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    positional: bool = False
    takes: str | None = None
    stop: Callable[[bool], None] | None = None
    panel: str | None = None

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def value(self) -> str:
        """What its value is called; empty for a switch."""
        called = _CALLED.get(self.kind, self.kind.__name__.upper())
        return self.metavar or "|".join(self.choices) or called


def declared(holder: Any, left_out: Container[str] = ()) -> Iterator[Option]:
    """The options of *holder*, a dataclass or a command, whose dataclasses are spread."""
    hints = get_type_hints(holder)
    own = fields(holder) if is_dataclass(holder) else inspect.signature(holder).parameters.values()
    for one in own:
        hint, declaration = hints[one.name], one if isinstance(one, Field) else one.default
        if is_dataclass(hint) and declaration is inspect.Parameter.empty:
            yield from declared(hint, left_out)
        elif one.name not in left_out and getattr(declaration, "metadata", None):
            kinds = [kind for kind in get_args(hint) if kind not in (type(None), Ellipsis)]
            kind, many = (kinds or [hint])[0], get_origin(hint) is tuple
            takes = declaration.metadata.get("takes")
            panel = TESTED if takes in KINDS else OUTPUT if takes in NEW else None
            panel = getattr(holder, "panel", panel)
            more = {"min": 1 if kind is int else None, "panel": panel, **declaration.metadata}
            yield Option(one.name, kind, many, declaration.default, **more)


def command(*left_out: str) -> Callable[[Command], Command]:
    """
    Make a function's declared options those of Typer, and its dataclasses of what is given.

    Fields of the names *left_out* are no options of this command; they keep their defaults.  One
    that writes has ``--overwrite``, which is given to the function if that declares it.
    """

    def spread(function: Command) -> Command:
        options = list(declared(function, left_out))
        writes = any(one.takes in NEW for one in options)
        added = writes and all(one.name != "overwrite" for one in options)
        if added:
            options.append(Option("overwrite", bool, False, False, **OVERWRITE.metadata))
        options.sort(key=lambda one: PANELS.index(one.panel) if one.panel else -1)
        hints = get_type_hints(function)

        @functools.wraps(function)
        def call(**given: Any) -> None:
            for one in options:
                if one.many:
                    given[one.name] = tuple(map(one.kind, given[one.name] or one.default))
            check_values(options, given)
            if added:
                del given["overwrite"]
            paths = [value for value in given.values() if isinstance(value, Path)]
            for name, kind in hints.items():
                if is_dataclass(kind):
                    own = [one.name for one in declared(kind, left_out)]
                    given[name] = kind(**{key: given.pop(key) for key in own})  # type: ignore[operator]  # a class
            # Whoever pipes a file into another program gets nothing else there.
            piped = any(map(is_stdout, paths))
            with contextlib.redirect_stdout(sys.stderr if piped else sys.stdout):
                function(**given)

        parameters = [_typer_parameter(one) for one in options]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.options = options  # type: ignore[attr-defined]
        return call

    return spread


def _typer_parameter(one: Option) -> inspect.Parameter:
    """The parameter that Typer reads."""
    kind: Any = Literal[one.choices] if one.choices else one.kind
    if one.many and one.choices:  # Typer knows no list of literals
        kind = StrEnum(one.name, [(name, name) for name in one.choices])  # type: ignore[misc, no-redef]  # made here
    kind = list[kind] if one.many else kind
    default = inspect.Parameter.empty if one.default is REQUIRED else one.default
    if default is None or default == ():
        kind, default = kind | None, None
    described: dict[str, Any] = {
        "help": one.help,
        "metavar": one.value or None,
        "show_default": one.shown or not any(default is no for no in (None, False, REQUIRED)),
        "min": one.min,
        "max": one.max,
        "callback": one.stop,
        "is_eager": one.stop is not None,
        "rich_help_panel": None if one.positional else one.panel,
    }
    if one.known:
        described["autocompletion"] = lambda incomplete: [
            value for value in one.known if value.startswith(incomplete)
        ]
    # A switch that is on can be turned off: Typer adds --no-NAME.
    names = [one.flag] if default is False else []
    info = typer.Argument(**described) if one.positional else typer.Option(*names, **described)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


class Kind(NamedTuple):
    """What a path can be: its name, the suffixes of a file (none of a folder), where to get one."""

    called: str
    suffixes: tuple[str, ...]
    remedy: str


#: Inputs are of one size, unless some are cut off; heads are of one size for each level at least,
#: where class heads are as large as box heads.
_SIZES_OF_HEADS = 5
_WEIGHTS = (".pth", ".safetensors", ".pt", ".ckpt", ".tar", ".bin")
_EXPORT, _FETCH = "make one with 'effd0 export'", "'effd0 fetch checkpoint' gets them"
#: Word of `Option.takes` -> the files or folders that are meant.
KINDS = {
    "model": Kind("an .onnx or .om file", (".onnx", ".om"), _EXPORT),
    "onnx": Kind("an .onnx file", (".onnx",), _EXPORT),
    "weights": Kind("a file of weights (.pth, .safetensors)", _WEIGHTS, _FETCH),
    "source": Kind("an .onnx file or weights (.pth, .safetensors)", (".onnx", *_WEIGHTS), _FETCH),
    "image": Kind(
        "an image file",
        (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"),
        "give a photograph",
    ),
    "json": Kind("a .json file", (".json",), "check the path"),
    "images": Kind("a folder with annotations/ and images", (), "'effd0 fetch coco' gets COCO's"),
    "inputs": Kind("a folder of inputs", (), "make one with 'effd0 preprocess --bin-save'"),
    "results": Kind("a folder of results", (), "make one with 'effd0 infer --output'"),
}


def check_values(options: Iterable[Option], given: Mapping[str, Any]) -> None:
    """
    Raise `OptionError` for a value of *given*, by name, that its option cannot mean.

    What is to be written comes last, as `OutputError`.
    """
    for one in sorted(options, key=lambda one: one.takes in NEW):
        value = given[one.name]
        for each in (value or ()) if one.many else (value,):
            foreign = re.search("[\ud800-\udfff]", str(each)) and "which is no UTF-8; rename it"
            if each is not None and (wrong := foreign or _mistake(one, each, options, given)):
                called = one.value.strip("[]") if one.positional else one.flag
                if one.takes in NEW:
                    raise OutputError(f"{called} is {each}, {wrong}")
                raise OptionError(f"{called} is {each}, {wrong}")


def _mistake(one: Option, value: Any, options: Iterable[Option], given: Mapping[str, Any]) -> str:
    """What is wrong with *value*, and what to do; empty if nothing is."""
    if one.kind is float and not math.isfinite(value):
        return "but a number is wanted"
    if one.takes == "percent" and 0 < value < 1:
        return f"but it is in percent; {100 * value:g} was probably meant"
    if (one.min is not None and value < one.min) or (one.max is not None and value > one.max):
        limits = f"at least {one.min}" if one.max is None else f"{one.min} to {one.max}"
        return f"but {limits} is wanted"
    if one.takes == "new file":
        try:
            check_writable(value)
        except OutputError as error:
            raise OutputError(f"{one.flag}: {error}") from error
    if one.takes in ("folder", "new folder") and value.exists() and not value.is_dir():
        return "which is a file, but a folder is to be written; choose another place"
    resumes = one.takes == "new folder" and "resume" in given
    if one.takes in NEW and not (given["overwrite"] or (resumes and given["resume"])):
        remedy = f"continue it with --resume, {FREE_IT}" if resumes else FREE_IT
        return f"which is there; {remedy}" if taken(value) else ""
    return _wrong_path(one, value, options) if one.takes in KINDS else ""


def taken(place: Path) -> bool:
    """Whether a file or folder made at *place* would replace another; no device or pipe is."""
    if place.is_dir():
        with writing_to(place):
            return any(place.iterdir())
    return place.is_file() and not is_stdout(place)


def _wrong_path(one: Option, path: Path, options: Iterable[Option]) -> str:
    """Why *path* cannot be what *one* takes, and which other option takes it; empty if it can."""
    kind = KINDS[str(one.takes)]
    if not path.exists():
        return f"which does not exist; {kind.remedy}"
    if one.takes in (found := kinds_of(path)):
        return ""
    # A folder without tensors can be anything.
    fits = [o for o in options if o.takes in found] if path.is_file() or len(found) == 1 else []
    remedy = f"give it as {fits[0].flag}" if fits else kind.remedy
    if one.takes == "results" and "json" in found:
        remedy = f"score a list of detections with 'effd0 score {path} --annotations FILE'"
    folder = "a folder, " if path.is_dir() and kind.suffixes else ""
    return f"{folder}but {kind.called} is wanted; {remedy}"


def kinds_of(path: Path) -> set[str]:
    """All that *path* can be, by its suffix, or by what lies in the folder."""
    if not path.is_dir():
        return {name for name, kind in KINDS.items() if path.suffix.lower() in kind.suffixes}
    if (path / "annotations").is_dir():
        return {"images"}
    every = (file for file in path.iterdir() if file.suffix in SUFFIXES)
    tensors = list(itertools.islice(every, 100))
    sizes = {file.stat().st_size for file in tensors}
    if len(sizes) >= _SIZES_OF_HEADS:
        return {"results"}
    # The two tables of all anchors, outputs 0 and 1, have one size where there are 4 classes.
    tables = {file.stem.rpartition("_")[2] for file in tensors} == {"0", "1"}
    return {"inputs"} if len(sizes) == 1 and not tables else {"inputs", "results"}


#: Words of `Option.takes` of what is made: the place is free, or --overwrite is given.
NEW = ("new file", "new folder")
FREE_IT = "give another place, or --overwrite to replace it"
#: What a threshold is given in.
PERCENT: dict[str, Any] = {"metavar": "PERCENT", "min": 0, "max": 100, "panel": GATE}
POINTS: dict[str, Any] = PERCENT | {"metavar": "POINTS"}
#: What no class may lose.
MAX_CLASS_DROP = option(
    "Threshold of each class: none surely loses more AP than this against the reference.",
    shown="none",
    **POINTS,
)
#: What stands behind the command without a name.
ARGUMENT: dict[str, Any] = {"default": REQUIRED, "positional": True}
BATCH_SIZE = option("Images per batch.", shown="the model's, or 1", panel=BACKEND)
ONNX_FILE = option("ONNX file to read.", default=REQUIRED, takes="onnx")
ONNX_OUT = option("ONNX file to write.", default=REQUIRED, takes="new file")
ACCURACY_REPORT = option(
    "'effd0 evaluate --json' of the same model; its mAP is shown.", takes="json"
)


def least_map(shown: str) -> Any:
    """The threshold of mAP; *shown* says what it is by default."""
    text = "Threshold: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017."
    return option(text, shown=shown, takes="percent", **PERCENT)


def max_slowdown(where: str) -> Any:
    """The threshold of times; *where* says what it holds for."""
    text = f"Maximum slowdown allowed {where}, in percent (95 % confidence)."
    return option(text, "PERCENT", 100 * MAX_SLOWDOWN, min=0, panel=GATE)


JSON = option("Write the figures as JSON; - is the standard output.", takes="new file")


@dataclass(frozen=True)
class ReportOptions:
    """Files that a command writes about itself."""

    json: Path | None = JSON
    report_json: Path | None = option(
        "Run file, for 'effd0 merge', 'compare', 'report'; as --json.", takes="new file"
    )


@dataclass(frozen=True)
class AccuracyReportOptions(ReportOptions):
    """What a command that measures accuracy shows of each class, too."""

    per_class: bool = option(
        "Print AP, precision, recall, F1, objects and detections of each class.", default=False
    )
    csv: Path | None = option(
        "Write that table as CSV, in fractions, the reference's too; - as --json.", takes="new file"
    )
