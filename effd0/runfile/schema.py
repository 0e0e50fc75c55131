"""The form of a run: `run.schema.json`, and what is told of a run that has another."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import RunFileError

#: A run as plain values, as `run.schema.json` says.
Run: TypeAlias = dict[str, Any]

FORMAT = "effd0 run"
#: Raised by one when a reader would have to change.
SCHEMA = 2
PATH = Path(__file__).with_name("run.schema.json")
#: Characters of a value that a message shows.
_SHOWN = 60


def check_run(run: Any, name: str = "the run") -> None:
    """
    Raise `RunFileError` unless *run*, called *name* in messages, is valid.

    The first offending key is told: its path, what is there, and what was wanted.
    """
    for path, number in _numbers(run):
        if not math.isfinite(number):
            raise RunFileError(
                f"{name} is invalid: {_key(path)} is {number}, but a finite number, or null where "
                "there is none, was wanted; write it again"
            )
    error = _first(_validator().iter_errors(run))
    if error is not None:
        raise RunFileError(
            f"{name} is invalid: {_key(error.absolute_path)} is {_shown(error.instance)}, but "
            f"{_wanted(error)}; write it again with --report-json (docs/run-json.md has each key)"
        )


@functools.cache
def _validator() -> Any:
    # Takes a tenth of a second, which commands that touch no run need not wait for.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(PATH.read_text()))


def _first(errors: Iterable[Any]) -> Any:
    """The most telling of *errors*; None without any."""
    from jsonschema.exceptions import best_match

    return best_match(errors)


def _numbers(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, float]]:
    """Every floating-point number in *value*, and where it is."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(inner, (*path, index))


def _key(path: Iterable[str | int]) -> str:
    """A path as in ``accuracy[0].metrics.AP``."""
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shown.removeprefix(".") or "the whole"


def _wanted(error: Any) -> str:
    """What the schema wanted, in words."""
    kind, wanted = error.validator, error.validator_value
    if kind == "required":
        missing = [key for key in wanted if key not in error.instance]
        return f"it lacks {', '.join(missing)}"
    if kind == "additionalProperties" and wanted is False:
        known = error.schema["properties"]
        foreign = [key for key in error.instance if key not in known]
        return f"{', '.join(foreign)} is not known there; {', '.join(known)} are"
    words = {
        "type": lambda: f"{_either(wanted)} was wanted",
        "enum": lambda: f"one of {', '.join(map(str, wanted))} was wanted",
        "const": lambda: f"{wanted!r} was wanted",
        "pattern": lambda: f"text like {wanted} was wanted",
        "minimum": lambda: f"at least {wanted} was wanted",
        "exclusiveMinimum": lambda: f"more than {wanted} was wanted",
        "maximum": lambda: f"at most {wanted} was wanted",
    }
    return words[kind]() if kind in words else str(error.message)


def _either(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
