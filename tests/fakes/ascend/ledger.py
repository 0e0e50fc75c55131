"""The ledger: each call, whether its return code was looked at, and which rules were broken."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

_FAKES = str(Path(__file__).parents[1])

Stack = tuple[str, ...]


def caller(depth: int = 5) -> Stack:
    """Return the innermost *depth* lines outside the fakes, ``file:line function``."""
    frame: FrameType | None = sys._getframe(1)
    found: list[str] = []
    while frame is not None and len(found) < depth:
        code = frame.f_code
        if not code.co_filename.startswith(_FAKES):
            name = code.co_filename.rpartition("/")[2]
            found.append(f"{name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return tuple(found)


class Fail(Exception):
    """What the library answers with an error code; *text* is what it tells its log."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


class Violated(AssertionError):
    """A rule was broken, and the emulator was told to be strict at once."""


@dataclass
class Call:
    """One call as it was made, and what it answered."""

    name: str
    args: tuple[Any, ...]
    stack: Stack
    thread: int
    ret: int | None = None
    looked_at: bool = True

    def __str__(self) -> str:
        return f"acl.{self.name}{self.args!r}"


@dataclass(frozen=True)
class Violation:
    """Something that hardware lets pass, or that it leaves undefined; *rule* numbers section 7."""

    rule: int
    text: str
    call: str
    stack: Stack

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.text}\n    by {self.call}\n    at " + " < ".join(
            self.stack
        )


class Ret(int):
    """A return code that knows whether anybody compared it (or turned it into a plain number)."""

    call: Call

    def __new__(cls, code: int, call: Call) -> Ret:
        """Make the answer of *call*."""
        self = super().__new__(cls, code)
        self.call = call
        call.ret, call.looked_at = code, False
        return self


def _looking(name: str) -> Any:
    plain = getattr(int, name)

    def look(self: Ret, *other: object) -> Any:
        self.call.looked_at = True
        return plain(self, *other)

    look.__name__ = name
    return look


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "index", "hash"):
    setattr(Ret, f"__{_name}__", _looking(f"__{_name}__"))


@dataclass
class Ledger:
    """All calls and all violations of one emulated host, in order."""

    strict: bool = False
    calls: list[Call] = field(default_factory=list)
    reported: list[Violation] = field(default_factory=list)
    #: Values that came with a non-zero return code, and the call that gave them.
    poisons: dict[int, str] = field(default_factory=dict)
    #: Handles left in doubt by a call that failed, and the name of that call.
    doubtful: dict[int, str] = field(default_factory=dict)

    def report(self, rule: int, text: str) -> None:
        """Note a violation of *rule* by the last call; raise it if strict."""
        call = str(self.calls[-1]) if self.calls else "no call"
        violation = Violation(rule, text, call, caller())
        self.reported.append(violation)
        if self.strict:
            raise Violated(str(violation))

    def violations(self) -> list[Violation]:
        """What was reported, and each return code that nobody has looked at (rule 5)."""
        ignored = [
            Violation(5, f"its return code {call.ret} was not looked at", str(call), call.stack)
            for call in self.calls
            if not call.looked_at
        ]
        return [*self.reported, *ignored]
