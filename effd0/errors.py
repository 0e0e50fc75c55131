"""
Every failure this package knows, and who has to act on it.

::

    Effd0Error                  caught by the command line: one message, exit code 2
    |- SpecError                an architecture or a setting that does not exist
    |- DatasetError             the COCO folder or its annotation file
    |  `- ImageError            one image file
    |- FeedError                tensors handed to a runner that its model does not take
    |- HeadError                head outputs that are not those of an EfficientDet
    |- RunnerError              a backend that cannot be opened or that failed
    |  `- AclError              a pyACL call that failed, with its name and code
    |- ResultError              recorded tensors that are incomplete, stale or foreign
    |- CheckpointError          weights that are missing, wrong or untrained
    |- ExportError              an ONNX file that does not compute what the checkpoint does
    |- GraphError               an ONNX graph that is broken or that an edit cannot take
    |- AtcError                 a compilation to .om that cannot be asked for or that failed
    |- OptionError              a value that its option does not take
    |- EvaluationError          detections that cannot be scored
    |- BenchmarkError           times, figures or baselines that cannot be compared
    |- FetchError               a download that failed or is not what it should be
    |- RunFileError             a run file that cannot be read, merged or compared
    |- OutputError              a result that cannot be written
    `- MissingExtra             an optional dependency that is not installed

Each message says what came, what was wanted and what to do next.
"""

import importlib
import importlib.util
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType

#: How many of many names a message shows.
_SHOWN = 10


class Effd0Error(Exception):
    """Root of all errors that a user can act on."""


class SpecError(Effd0Error):
    """An architecture or a setting that does not exist."""


class DatasetError(Effd0Error):
    """The COCO folder or its annotation file is not usable."""


class ImageError(DatasetError):
    """One image file is missing, broken or not the annotated one."""


class FeedError(Effd0Error):
    """The tensors handed to a runner are not those that its model takes."""


class HeadError(Effd0Error):
    """The head outputs are not those of an EfficientDet, or are not finite."""


class RunnerError(Effd0Error):
    """A backend cannot be opened, is not the one asked for, or failed."""


class AclError(RunnerError):
    """A pyACL call failed: *call* is its name, *code* what it returned."""

    def __init__(self, message: str, *, call: str = "", code: int = 0) -> None:
        super().__init__(message)
        self.call, self.code = call, code


class ResultError(Effd0Error):
    """A folder of recorded tensors is incomplete, stale, or not of these images."""


class CheckpointError(Effd0Error):
    """The weights are missing, do not fit the architecture, or are untrained."""


class ExportError(Effd0Error):
    """An exported model does not compute what its checkpoint does."""


class GraphError(Effd0Error):
    """An ONNX graph is broken, or an edit cannot be applied to it."""


class AtcError(Effd0Error):
    """A compilation to .om cannot be asked for, or ATC failed."""


class OptionError(Effd0Error):
    """A value is not what its option takes."""


class EvaluationError(Effd0Error):
    """The detections cannot be scored against the annotations."""


class BenchmarkError(Effd0Error):
    """Times, published figures or baselines cannot be read or compared."""


class FetchError(Effd0Error):
    """A download failed, or what came is not what was published."""


class RunFileError(Effd0Error):
    """A run file is missing, foreign or invalid, or cannot be merged or compared."""


class OutputError(Effd0Error):
    """A result cannot be written where it was asked for."""


class MissingExtra(Effd0Error):
    """An optional dependency is not installed."""


def refuse(found: Mapping[str, object], kind: type[Exception]) -> None:
    """Raise the first message of *found* that holds, as an error of *kind*."""
    for message, holds in found.items():
        if holds:
            raise kind(message)


def require(module: str, *, extra: str) -> ModuleType:
    """
    Import *module*, which the optional dependency group *extra* brings.

    Raises `MissingExtra` with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing([str(error.name)], [extra]) from error


def require_all(modules: Mapping[str, str]) -> None:
    """
    See, importing nothing, that *modules* are there, each given with the extra that brings it.

    Raises one `MissingExtra` for all that are not.
    """
    absent = {name: extra for name, extra in modules.items() if not importlib.util.find_spec(name)}
    if absent:
        raise _missing(absent, absent.values())


def _missing(modules: Collection[str], extras: Iterable[str]) -> MissingExtra:
    are, them = ("is", "it") if len(modules) == 1 else ("are", "them")
    return MissingExtra(
        f"{listed(modules)} {are} not installed, but this needs {them}; "
        f"install {them} with: {pip_install(extras)}"
    )


def pip_install(extras: Iterable[str]) -> str:
    """The command that adds *extras* to an installed effd0."""
    return f"pip install 'effd0[{','.join(sorted(set(extras)))}]'"


def listed(names: Iterable[object]) -> str:
    """The first ten of *names*, and how many more there are."""
    every = [str(name) for name in names]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
