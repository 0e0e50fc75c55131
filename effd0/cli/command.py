"""Declared options as those of Typer and of pytest."""

from __future__ import annotations

import argparse
import enum
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .options import REQUIRED, Option, declared

if TYPE_CHECKING:
    import pytest

Command = Callable[..., None]


def command(*left_out: str) -> Callable[[Command], Command]:
    """
    Make a function's declared options those of Typer, and its dataclasses of what is given.

    Fields of the names *left_out* are no options of this command; they keep their defaults.
    """

    def spread(function: Command) -> Command:
        options = list(declared(function, left_out))
        hints: dict[str, Any] = get_type_hints(function)

        @functools.wraps(function)
        def call(**given: Any) -> None:
            for one in options:
                if one.many:
                    given[one.name] = tuple(given[one.name] or one.default)
                elif one.choices:
                    given[one.name] = str(given[one.name])  # no member of an Enum made below
            for name, kind in hints.items():
                if is_dataclass(kind):
                    own = [one.name for one in declared(kind, left_out)]
                    given[name] = kind(**{key: given.pop(key) for key in own})  # type: ignore[operator]  # a class
            function(**given)

        parameters = [_typer_parameter(one) for one in options]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.options = options  # type: ignore[attr-defined]
        return call

    return spread


def _typer_parameter(one: Option) -> inspect.Parameter:
    """The parameter that Typer reads."""
    kind: Any = one.kind
    if one.choices:
        make: Any = enum.StrEnum  # members that are known at run time have no types
        kind = make("Choice", [(choice, choice) for choice in one.choices])
    kind = list[kind] if one.many else kind
    default = inspect.Parameter.empty if one.default is REQUIRED else one.default
    if default is None or default == ():
        kind, default = kind | None, None
    described: dict[str, Any] = {
        "help": one.help,
        "metavar": one.metavar,
        "show_default": one.shown or not any(default is no for no in (None, False, REQUIRED)),
        "min": one.min,
        "max": one.max,
    }
    if one.stop is not None:
        described |= {"is_eager": True, "callback": _stopping(one.stop)}
    # A switch that is on can be turned off: Typer adds --no-NAME.
    names = [one.flag] if default is False else []
    info = typer.Argument(**described) if one.positional else typer.Option(*names, **described)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _stopping(stop: Callable[[], None]) -> Callable[[bool], None]:
    def callback(wanted: bool) -> None:
        if wanted:
            stop()
            raise typer.Exit

    return callback


def add_pytest_options(group: pytest.OptionGroup, options: Iterable[Option]) -> None:
    """Add *options* to a *group* of pytest's; what is repeatable is a list, empty by default."""
    for one in options:
        how: dict[str, Any] = {"action": "store_true"}
        if one.kind is not bool:
            how = {
                "action": "append" if one.many else "store",
                "type": functools.partial(_read, one),
                "default": list(one.default) if one.many else one.default,
                "metavar": one.value,
                "choices": one.choices or None,
            }
        group.addoption(one.flag, help=one.help.replace("%", "%%"), **how)


def _read(one: Option, text: str) -> Any:
    """The value in *text*; raise what argparse reports to the user."""
    try:
        value = one.kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(one.kind, one.kind.__name__)
        raise argparse.ArgumentTypeError(f"{text!r} is given, but {wanted} is wanted") from None
    if (one.min is not None and value < one.min) or (one.max is not None and value > one.max):
        limits = f"at least {one.min}" if one.max is None else f"{one.min} to {one.max}"
        raise argparse.ArgumentTypeError(f"{text} is given, but {limits} is wanted")
    return value
