"""Declared options as those of Typer and of pytest."""

from __future__ import annotations

import argparse
import enum
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from typing import Annotated, Any, get_type_hints

import pytest
import typer

from .options import Declared, declared

Command = Callable[..., None]


def command(*left_out: str) -> Callable[[Command], Command]:
    """
    Make a function's declared options those of Typer, and its dataclasses of what is given.

    Fields of the names *left_out* are no options of this command; they keep their defaults.
    """

    def spread(function: Command) -> Command:
        options = list(declared(function, left_out))
        hints: dict[str, Any] = get_type_hints(function)
        groups: dict[str, Any] = {n: hint for n, hint in hints.items() if is_dataclass(hint)}

        @functools.wraps(function)
        def call(**given: Any) -> None:
            values = {one.name: _value(one, given[one.name]) for one in options}
            arguments = {}
            for name, kind in groups.items():
                own = [one.name for one in declared(kind, left_out)]
                arguments[name] = kind(**{option: values.pop(option) for option in own})
            function(**arguments, **values)

        parameters = [_typer_parameter(one) for one in options]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.left_out = left_out  # type: ignore[attr-defined]
        return call

    return spread


def _value(one: Declared, given: Any) -> Any:
    """What Typer *given* as the field's type."""
    if one.many:
        return one.default if given is None else tuple(given)
    return str(given) if isinstance(given, enum.Enum) else given


def _typer_parameter(one: Declared) -> inspect.Parameter:
    """The parameter that Typer reads."""
    option, default = one.option, one.default
    kind: Any = one.kind
    if option.choices:
        make: Any = enum.StrEnum  # members that are known at run time have no types
        kind = make("Choice", [(choice, choice) for choice in option.choices])
    kind = list[kind] if one.many else kind
    if default is None or default == ():
        kind, default = kind | None, None
    nothing = any(default is one for one in (None, False, inspect.Parameter.empty))
    described: dict[str, Any] = {
        "help": option.help,
        "metavar": option.metavar,
        "show_default": option.shown or not nothing,
        "min": option.min,
        "max": option.max,
    }
    if option.positional:
        info = typer.Argument(**described)
    else:
        if option.stop is not None:
            described |= {"is_eager": True, "callback": _callback(option.stop)}
        # A switch that is on can be turned off: Typer adds --no-NAME.
        info = typer.Option(*([one.flag] if one.default is False else []), **described)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _callback(stop: Callable[[], None]) -> Callable[[bool], None]:
    def callback(wanted: bool) -> None:
        if wanted:
            stop()
            raise typer.Exit

    return callback


def add_pytest_options(group: pytest.OptionGroup, options: Iterable[Declared]) -> None:
    """Add *options* to a *group* of pytest's; what is repeatable is a list, empty by default."""
    for one in options:
        text = one.option.help.replace("%", "%%")
        if one.kind is bool:
            group.addoption(one.flag, action="store_true", help=text)
            continue
        more: dict[str, Any] = {"choices": one.option.choices} if one.option.choices else {}
        group.addoption(
            one.flag,
            action="append" if one.many else "store",
            type=functools.partial(_read, one),
            default=list(one.default) if one.many else one.default,
            metavar=one.metavar,
            help=text,
            **more,
        )


def _read(one: Declared, text: str) -> Any:
    """The value in *text*; raise what argparse tells the user."""
    try:
        value = one.kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(one.kind, one.kind.__name__)
        raise argparse.ArgumentTypeError(f"{text!r} is given, but {wanted} is wanted") from None
    low, high = one.option.min, one.option.max
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise argparse.ArgumentTypeError(f"{text} is given, but {limits} is wanted")
    return value
