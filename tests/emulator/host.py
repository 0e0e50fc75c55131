"""
The emulated host: its profile, the way of every call, and the ledger of broken rules.

Functions of pyACL are methods marked by `api` in the parts of a host.  What hardware answers, they
answer; what it lets pass, leaves undefined or only logs is reported under one of `RULES`.
"""

from __future__ import annotations

import functools
import operator
import random
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

#: What a caller must keep to, by the name under which breaking it is reported.
RULES = {
    "poison": "a value that came with a failure is not used",
    "init": "init first, finalize last, each in its place",
    "leak": "everything is given back before finalize",
    "context": "contexts, streams and models are used where they were made",
    "reset": "a device or context ends after what depends on it",
    "fork": "no forked process calls the runtime",
    "free": "what was allocated is freed, once, by its own function",
    "copy": "copies stay inside their blocks, are aligned and say their kind",
    "host": "host addresses come from malloc_host",
    "unload": "a model is unloaded once, and not while it works",
    "execute": "execution reads what was written, in buffers of the exact size",
    "handle": "a handle is used while its object lives, and for its kind",
    "gear": "the batch size is set before each execution",
    "order": "work is ordered and waited for",
}
SUBMODULES = ("rt", "mdl", "op", "util", "media", "blas", "prof", "himpi", "fv")
#: Values that come with a failure.  An id has 32 bits, a pointer 64; both say what they are.
POISON_ID, POISON_POINTER = 0x0BAD_0000, 0x0BAD_0000_0000_0000
#: Addresses that no processor maps for a program: a reader crashes.
UNMAPPED = 0x00A5_0000_0000_0000
#: Calls that make sense before init and after finalize.
ANY_TIME = {"init", "finalize", "get_recent_err_msg", "app_log"}
#: What comes beside a return code on failure; None is poison.  Bare answers have no code.
BESIDE: dict[str, tuple[Any, ...]] = {
    "ret": (),
    "pointer": (None,),
    "id": (None,),
    "count": (None,),
    "float": (float("nan"),),
    "dict": ({},),
    "version": (0, 0, 0),
}
BARE = {"handle": 0, "number": 0, "text": "", "nothing": None}
_HERE = str(Path(__file__).parent)

Stack = tuple[str, ...]
Handler = TypeVar("Handler", bound=Callable[..., Any])


def caller(depth: int = 5) -> Stack:
    """Return the innermost *depth* lines outside the emulator, ``file:line function``."""
    frame: FrameType | None = sys._getframe(1)
    found: list[str] = []
    while frame is not None and len(found) < depth:
        folder, _, name = frame.f_code.co_filename.rpartition("/")
        if folder != _HERE or name.startswith("test_"):
            found.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)


class Fail(Exception):
    """What the library answers with an error code; *text* is what it writes to its log."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


@dataclass(frozen=True)
class Times:
    """How long a device takes, in virtual time; *compute_ms* is one execution of the model."""

    h2d_gbps: float = 10.0
    d2h_gbps: float = 10.0
    compute_ms: float = 1.0

    def copy_ms(self, engine: str, size: int) -> float:
        """Milliseconds that copying *size* bytes takes on *engine*."""
        return size / ((self.d2h_gbps if engine == "d2h" else self.h2d_gbps) * 1e6)


@dataclass(frozen=True)
class Profile:
    """Which host is emulated; see `tests.emulator.acl`."""

    cann: str = "current"
    run_mode: str = "host"
    devices: int = 2
    memory_bytes: int = 8 << 30
    soc: str = "Ascend310P3"
    seed: int = 0
    output_order: str = "model"
    output_names: str = "node"
    times: Times = field(default_factory=Times)
    inits: int = 0
    stub_lib: bool = False


# Functions


@dataclass(frozen=True)
class Api:
    """One function: the format of its arguments, what it gives, and whether it *releases*."""

    name: str
    format: str
    gives: str = "ret"
    releases: bool = False

    @property
    def fallible(self) -> bool:
        """Whether a caller can see that it failed."""
        return self.gives in BESIDE or self.gives == "handle"

    def parse(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return *args* as C sees them; raise `TypeError`, `OverflowError` as CPython 3.11 does."""
        required, _, optional = self.format.partition("|")
        if not len(required) <= len(args) <= len(required) + len(optional):
            raise TypeError(f"acl.{self.name} args parse failed: {len(args)} arguments given")
        kinds = zip(required + optional, args, strict=False)
        try:
            return tuple(_parsed(kind, arg) for kind, arg in kinds)
        except TypeError as error:
            raise TypeError(f"acl.{self.name} args parse failed: {error}") from error


def _parsed(kind: str, arg: Any) -> Any:
    wanted = str if kind == "s" else int
    # Not operator.index: sizes and addresses (k, K) take no numpy integer.
    if kind in "skK" and not isinstance(arg, wanted):
        raise TypeError(f"must be {wanted.__name__}, not {type(arg).__name__}")
    if kind == "s":
        return arg
    value = operator.index(arg)
    # C takes negative sizes, addresses and ids for large ones.
    if (kind == "i" and not -(2**31) <= value < 2**31) or (kind != "i" and value < 0):
        raise OverflowError(f"{value} is out of range")
    return value


def api(
    name: str, fmt: str = "", gives: str = "ret", **options: Any
) -> Callable[[Handler], Handler]:
    """
    Mark a method as the emulation of ``acl.<name>``; see `Api`.

    ``{}`` in *name* makes two functions, for inputs and for outputs; the method takes the side.
    """

    def mark(handler: Handler) -> Handler:
        sides = ("input", "output") if "{}" in name else ("",)
        entries = [(Api(name.format(side), fmt, gives, **options), side) for side in sides]
        handler.__acl__ = entries  # type: ignore[attr-defined]
        return handler

    return mark


# Things, calls and the ledger


@dataclass(eq=False)
class Thing:
    """Something that a caller holds by a handle (or address) and has to give back."""

    kind: str
    handle: int
    stack: Stack
    device: int | None
    context: Any = None
    alive: bool = True
    #: Giving it back was tried and failed by an injected fault: no leak of the caller's.
    lost: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.handle:#x} made at {' < '.join(self.stack)}"


@dataclass
class Call:
    """One call as it was made, and what it answered."""

    name: str
    args: tuple[Any, ...]
    stack: Stack
    ret: int | None = None

    def __str__(self) -> str:
        return f"acl.{self.name}{self.args!r}"


@dataclass(frozen=True)
class Violation:
    """Something that hardware lets pass, or leaves undefined; *rule* is one of `RULES`."""

    rule: str
    text: str
    call: str
    stack: Stack

    def __str__(self) -> str:
        place = " < ".join(self.stack)
        return f"rule {self.rule}: {self.text}\n    by {self.call}\n    at {place}"


@dataclass
class Faults:
    """Which of the calls that can fail shall fail; they are counted from 1."""

    count: int = 0
    at: int | None = None
    since: int | None = None
    next: dict[str, int | None] = field(default_factory=dict)
    #: The failures so far: the function's name and the code.
    hits: list[tuple[str, int]] = field(default_factory=list)

    def due(self, name: str) -> int | None:
        """Count a call of *name*; return the code with which it shall fail, or None."""
        self.count += 1
        lost = self.since is not None and self.count >= self.since
        if not lost and self.count != self.at and name not in self.next:
            return None
        code = self.next.pop(name, None) or (500002 if name.startswith("mdl.") else 507000)
        self.hits.append((name, code))
        return code


Kind = TypeVar("Kind", bound=Thing)


class Part:
    """The functions of one area of a *host*, and their state."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.begin()

    def begin(self) -> None:
        """Be as a process finds it."""


class Host:
    """One emulated host.  Each part of it has the functions of one area; see `api`."""

    def __init__(self, profile: Profile) -> None:
        from .memory import Memory
        from .models import Models
        from .process import Process
        from .streams import Streams

        self.profile = profile
        self.faults = Faults()
        self.random = random.Random(profile.seed)  # noqa: S311  # reproducible, nothing secret
        #: Its time in milliseconds; only work, and tests, move it.
        self.now = 0.0
        self.calls: list[Call] = []
        #: What was broken so far.
        self.violations: list[Violation] = []
        self.local = threading.local()
        self.lock = threading.RLock()
        self.things: dict[int, Thing] = {}
        #: Values that came with a failure -> the call.
        self.poisons: dict[int, str] = {}
        self.process = Process(self)
        self.memory = Memory(self)
        self.streams = Streams(self)
        self.models = Models(self)
        self.api: dict[str, tuple[Api, Callable[..., Any]]] = {}
        for part in (self.process, self.memory, self.streams, self.models):
            for attribute in dir(type(part)):
                for entry, side in getattr(getattr(type(part), attribute), "__acl__", ()):
                    method = getattr(part, attribute)
                    handler = functools.partial(method, side=side) if side else method
                    self.api[entry.name] = entry, handler
        self._module = self._make_module()

    def _make_module(self) -> types.ModuleType:
        top = types.ModuleType("acl")
        places = {"": top} | {name: types.ModuleType(f"acl.{name}") for name in SUBMODULES}
        vars(top).update({name: place for name, place in places.items() if name})
        for name in self.api:

            def function(*args: Any, _name: str = name, **named: Any) -> Any:
                if named:
                    raise TypeError(f"acl.{_name}() takes no keyword arguments")
                return self.call(_name, args)

            place, _, last = name.rpartition(".")
            function.__name__ = function.__qualname__ = last
            setattr(places[place], last, function)
        return top

    # The ledger

    def module(self) -> types.ModuleType:
        """What ``import acl`` shall give: the emulated functions, and nothing else."""
        return self._module

    def report(self, rule: str, text: str) -> None:
        """Note that the last call broke *rule*."""
        assert rule in RULES, rule
        call = str(self.calls[-1]) if self.calls else "no call"
        self.violations.append(Violation(rule, text, call, caller()))

    # Things

    def new_handle(self, bits: int = 40) -> int:
        """Return a handle that is new, random, and never small."""
        while True:
            low = self.random.getrandbits(bits - 4) << 4
            value = low | 1 << (bits - 2) if bits <= 32 else UNMAPPED | 1 << 47 | low
            if value not in self.things:
                return value

    def add(self, make: type[Kind], name: str, bits: int = 40, **more: Any) -> Kind:
        """Make a thing of the current device and context, and hand out its handle."""
        context = self.process.context_or_none()
        device = context.device if context is not None else None
        thing = make(name, self.new_handle(bits), caller(), device, context, **more)
        self.things[thing.handle] = thing
        return thing

    def get(self, handle: int, kind: type[Kind], name: str, *, code: int = 100000) -> Kind:
        """Return the living *name* behind *handle*; report what else it is and fail with *code*."""
        if handle == 0:
            raise Fail(100000, f"the {name} is null")
        thing = self.things.get(handle)
        if thing is None:
            self.report("handle", f"{handle:#x} was never the handle of a {name}")
        elif not isinstance(thing, kind):
            self.report("handle", f"a {name} is wanted, but {handle:#x} is a {thing.kind}")
        elif not thing.alive:
            self.report("handle", f"{thing} is used after it was destroyed")
        else:
            return thing
        raise Fail(code, f"{handle:#x} is no {name}")

    def owed(self) -> list[Thing]:
        """All that the caller has not given back, oldest first."""
        every = (*self.things.values(), *self.memory.blocks.values())
        return [t for t in every if t.alive and not t.lost and t.kind != "default context"]

    # Calls

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Emulate ``acl.<name>(*args)`` under the lock that stands for Python's."""
        entry, handler = self.api[name]
        with self.lock:
            # The log must keep no object alive.
            shown = (a if type(a) in (int, str, bool) else f"<{type(a).__name__}>" for a in args)
            call = Call(name, tuple(shown), caller())
            self.calls.append(call)
            values = entry.parse(args)
            self.process.check_call(name)
            try:
                self._refuse(entry, values)
                given = handler(*values)
            except Fail as failure:
                return self._failed(entry, call, failure)
            if entry.gives in BARE:
                return given
            call.ret = 0
            if entry.gives == "ret":
                return 0
            return (*given, 0) if isinstance(given, tuple) else (given, 0)

    def _refuse(self, entry: Api, values: tuple[Any, ...]) -> None:
        """Fail a call that gets an injected fault, or a value that came with a failure."""
        code = self.faults.due(entry.name) if entry.fallible else None
        if code is not None:
            self._forgive(entry, values)
            raise Fail(code, f"injected into call {self.faults.count}, acl.{entry.name}")
        if self.profile.stub_lib and entry.fallible:
            raise Fail(100039)
        for value in values:
            if value in self.poisons:
                self.report("poison", f"{value:#x} came with the failure of {self.poisons[value]}")
                raise Fail(145003 if entry.name.startswith("mdl.") else 107000, "poison")

    def _forgive(self, entry: Api, values: tuple[Any, ...]) -> None:
        """Forgive the debt of what could not be given back; a wait that fails drops its work."""
        if entry.name == "rt.reset_device":
            self.process.devices[values[0]].lost = True
        elif entry.name == "finalize":
            self.process.lost = True
        elif entry.releases:
            thing = self.things.get(values[0]) or self.memory.blocks.get(values[0])
            if thing is not None:
                thing.lost = True
        elif entry.name.startswith("rt.synchronize"):
            self.streams.abandon()

    def _failed(self, entry: Api, call: Call, failure: Fail) -> Any:
        self.local.message = f"EE{failure.code // 100000}001: {failure.text}"
        if entry.gives in BARE:
            return BARE[entry.gives]
        beside = list(BESIDE[entry.gives])
        for place in [n for n, value in enumerate(beside) if value is None]:
            base = POISON_ID if entry.gives == "id" else POISON_POINTER
            beside[place] = base | len(self.poisons) + 1
            self.poisons[beside[place]] = str(call)
        call.ret = failure.code
        return (*beside, failure.code) if beside else failure.code
