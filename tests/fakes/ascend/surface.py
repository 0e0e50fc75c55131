"""The Python surface of pyACL: positional only, argument classes, shapes of what comes back."""

from __future__ import annotations

import operator
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from .ledger import Ledger

CANNS = ("old", "current", "future")
SUBMODULES = ("rt", "mdl", "op", "util", "media", "blas", "prof", "himpi", "fv")
#: What comes with the return code (or alone), and what it is on failure.
#: None: a poison is made for the call.
ALONE = {"handle": 0, "number": 0, "text": ""}
BESIDE: dict[str, tuple[Any, ...]] = {
    "ret": (),
    "pointer": (None,),
    "id": (None,),
    "count": (None,),
    "float": (float("nan"),),
    "dict": ({},),
    "counts": (None, None),
    "version": (0, 0, 0),
}

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Api:
    """One function: how it takes its arguments, what it gives, and how it may be used."""

    name: str
    format: str
    gives: str = "ret"
    #: It gives something back: it may be tried on what is in doubt.
    releases: bool = False
    #: It waits, and lets other Python threads run meanwhile.
    waits: bool = False
    #: Arguments whose state nobody knows once it has failed.
    doubts: tuple[int, ...] = ()
    canns: tuple[str, ...] = CANNS
    deprecated: bool = False

    @property
    def fallible(self) -> bool:
        """Whether a caller can tell that it failed."""
        return self.gives in BESIDE or self.gives == "handle"


def api(
    name: str, fmt: str = "", gives: str = "ret", **options: Any
) -> Callable[[Handler], Handler]:
    """Mark a method as the emulation of ``acl.<name>``; see `Api`."""

    def mark(handler: Handler) -> Handler:
        handler.__acl__ = Api(name, fmt, gives, **options)  # type: ignore[attr-defined]
        return handler

    return mark


def handlers(parts: Iterable[object], cann: str) -> dict[str, tuple[Api, Callable[..., Any]]]:
    """The functions that *parts* emulate and that version *cann* has, by name."""
    found = {}
    for part in parts:
        for attribute in dir(type(part)):
            entry: Api | None = getattr(getattr(type(part), attribute), "__acl__", None)
            if entry is None or cann not in entry.canns:
                continue
            if entry.deprecated and cann == "future":
                continue
            found[entry.name] = (entry, getattr(part, attribute))
    return found


def module_of(
    names: Iterable[str], call: Callable[[str, tuple[Any, ...]], Any]
) -> types.ModuleType:
    """Return a module ``acl`` with a function for each of *names*, and nothing else."""
    top = types.ModuleType("acl")
    places = {"": top}
    for place in SUBMODULES:
        places[place] = types.ModuleType(f"acl.{place}")
        setattr(top, place, places[place])
    for name in names:
        place, _, last = name.rpartition(".")
        setattr(places[place], last, _function(name, last, call))
    return top


def _function(name: str, last: str, call: Callable[[str, tuple[Any, ...]], Any]) -> Any:
    def function(*args: Any, **named: Any) -> Any:
        if named:
            raise TypeError(f"acl.{name}() takes no keyword arguments")
        return call(name, args)

    function.__name__ = function.__qualname__ = last
    return function


def parse(entry: Api, args: tuple[Any, ...], ledger: Ledger) -> tuple[Any, ...]:
    """Return *args* as C sees them; raise `TypeError` or `OverflowError` as CPython 3.11 does."""
    required, _, optional = entry.format.partition("|")
    if not len(required) <= len(args) <= len(required) + len(optional):
        raise TypeError(f"acl.{entry.name} args parse failed: {len(args)} arguments given")
    try:
        return tuple(
            _PARSERS[kind](arg, ledger)
            for kind, arg in zip(required + optional, args, strict=False)
        )
    except TypeError as error:
        raise TypeError(f"acl.{entry.name} args parse failed: {error}") from error


def _wide(arg: object, ledger: Ledger) -> int:
    # Not operator.index: the formats k and K take no numpy integer.
    if not isinstance(arg, int):
        raise TypeError(f"must be int, not {type(arg).__name__}")
    value = int.__index__(arg)
    if not 0 <= value < 2**63:
        ledger.report(4, f"{value} is passed as a size, address or handle; C sees {value % 2**64}")
    return value % 2**64


def _signed(arg: Any, _: Ledger) -> int:
    value = operator.index(arg)
    if not -(2**31) <= value < 2**31:
        raise OverflowError("signed integer is out of the range of int")
    return value


def _unsigned(arg: Any, ledger: Ledger) -> int:
    value = operator.index(arg)
    if not 0 <= value < 2**32:
        ledger.report(4, f"{value} is passed as a 32-bit id; C sees {value % 2**32}")
    return value % 2**32


def _text(arg: object, _: Ledger) -> str:
    if not isinstance(arg, str):
        raise TypeError(f"must be str, not {type(arg).__name__}")
    if "\0" in arg:
        raise ValueError("embedded null character")
    return arg


_PARSERS: dict[str, Callable[[Any, Ledger], Any]] = {
    "k": _wide,
    "K": _wide,
    "i": _signed,
    "I": _unsigned,
    "s": _text,
    "O": lambda arg, _: arg,
}


def warn_deprecated(entry: Api, cann: str) -> None:
    """Warn as a current version does; older ones say nothing."""
    if entry.deprecated and cann == "current":
        warnings.warn(f"acl.{entry.name} is deprecated", DeprecationWarning, stacklevel=5)
