"""What all parts of an emulated host share: its profile, its things and the way of every call."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .faults import Faults, text_of
from .ledger import Call, Fail, Ledger, Ret, Stack, caller
from .surface import BESIDE, Api, handlers, parse, warn_deprecated
from .times import Clock, Times

#: Values that come with a failure.  An id has 32 bits, a pointer 64; both say what they are.
POISON_ID, POISON_POINTER = 0x0BAD_0000, 0x0BAD_0000_0000_0000
#: Addresses that no processor maps for a program: a reader crashes.
UNMAPPED = 0x00A5_0000_0000_0000
#: Calls that make sense before init and after finalize.
ANY_TIME = {"init", "finalize", "finalize_reference", "get_recent_err_msg"}


def _shown(arg: Any) -> Any:
    """*arg* for the log, which must keep no object alive."""
    return arg if type(arg) in (int, str, bool) else f"<{type(arg).__name__}>"


@dataclass(frozen=True)
class Profile:
    """Which host is emulated; see `tests.fakes.acl`."""

    cann: str = "current"
    run_mode: str = "host"
    devices: int = 2
    memory_bytes: int = 8 << 30
    soc: str = "Ascend310P3"
    strict: bool = False
    seed: int = 0
    output_order: str = "model"
    output_names: str = "node"
    times: Times = field(default_factory=Times)
    inits: int = 0
    stub_lib: bool = False
    oom_code: int = 207001
    overflow_from_batch: int | None = None
    fp16_overflow: str = "inf"
    zero_pads: bool = False
    block_ms: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "cann": ("old", "current", "future"),
            "run_mode": ("host", "device"),
            "output_order": ("model", "reversed", "shuffled"),
            "output_names": ("node", "bare-index"),
            "fp16_overflow": ("inf", "saturate"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {known}")


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

    @property
    def owed(self) -> bool:
        """Whether the caller still has to give it back."""
        return self.alive and not self.lost


Kind = TypeVar("Kind", bound=Thing)


class Host:
    """One emulated host.  Each part of it holds the functions of one area; see `surface.api`."""

    def __init__(self, profile: Profile) -> None:
        from .callbacks import Callbacks
        from .copies import Copies
        from .datasets import Datasets
        from .descriptions import Descriptions
        from .execution import Execution
        from .memory import Memory
        from .models import Models
        from .pointers import Pointers
        from .process import Process
        from .streams import Streams

        self.profile = profile
        self.ledger = Ledger(strict=profile.strict)
        self.faults = Faults()
        self.random = random.Random(profile.seed)  # noqa: S311  # reproducible, nothing secret
        self.clock = Clock()
        self.messages: list[str] = []
        self.local = threading.local()
        self.lock = threading.RLock()
        self.things: dict[int, Thing] = {}
        self.process = Process(self)
        self.memory = Memory(self)
        self.pointers = Pointers(self)
        self.streams = Streams(self)
        self.copies = Copies(self)
        self.callbacks = Callbacks(self)
        self.models = Models(self)
        self.descriptions = Descriptions(self)
        self.datasets = Datasets(self)
        self.execution = Execution(self)
        parts = (
            self.process, self.memory, self.pointers, self.streams, self.copies, self.callbacks,
            self.models, self.descriptions, self.datasets, self.execution,
        )  # fmt: skip
        self.api = handlers(parts, profile.cann)

    # Things

    def new_handle(self, bits: int = 40) -> int:
        """Return a handle that is new, random, and never small."""
        while True:
            low = self.random.getrandbits(bits - 4) << 4
            value = low | 1 << (bits - 2) if bits <= 32 else UNMAPPED | 1 << 47 | low
            if value not in self.things:
                return value

    def add(self, make: type[Kind], name: str, *args: Any, bits: int = 40, **more: Any) -> Kind:
        """Make a thing of the current device and context, and hand out its handle."""
        context = self.process.context_or_none()
        device = context.device if context is not None else None
        thing = make(name, self.new_handle(bits), caller(), device, context, *args, **more)
        self.things[thing.handle] = thing
        return thing

    def get(self, handle: int, kind: type[Kind], name: str, *, code: int = 100000) -> Kind:
        """Return the living *name* behind *handle*; report what else it is and fail with *code*."""
        if handle == 0:
            raise Fail(100000, f"the {name} is null")
        thing = self.things.get(handle)
        if thing is None:
            self.ledger.report(26, f"{handle:#x} was never the handle of a {name}")
        elif not isinstance(thing, kind):
            self.ledger.report(26, f"a {name} is wanted, but {handle:#x} is a {thing.kind}")
        elif not thing.alive:
            self.ledger.report(26, f"{thing} is used after it was destroyed")
        else:
            return thing
        raise Fail(code, f"{handle:#x} is no {name}")

    def owed(self) -> list[Thing]:
        """All that the caller has not given back, oldest first."""
        every = (*self.things.values(), *self.memory.blocks())
        return [thing for thing in every if thing.owed and thing.kind != "default context"]

    # Calls

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Emulate ``acl.<name>(*args)`` under the lock that stands for Python's."""
        entry, handler = self.api[name]
        with self.lock:
            call = Call(name, tuple(map(_shown, args)), caller(), threading.get_ident())
            self.ledger.calls.append(call)
            values = parse(entry, args, self.ledger)
            warn_deprecated(entry, self.profile.cann)
            self.process.check_call(name)
            try:
                self._refuse(entry, values)
                given = handler(*values)
            except Fail as failure:
                return self._failed(entry, call, values, failure)
            for index in entry.doubts:
                if self.ledger.doubtful.get(values[index]) == name:
                    del self.ledger.doubtful[values[index]]
            return self._given(entry, call, given)

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Let other threads call while this one waits, as functions do that release the GIL."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def wait_real(self, executions: int) -> None:
        """Spend real time for so many *executions*, without the lock."""
        if self.profile.block_ms and executions:
            with self.unlocked():
                time.sleep(self.profile.block_ms * executions / 1e3)

    def _refuse(self, entry: Api, values: tuple[Any, ...]) -> None:
        """Fail a call that gets an injected fault, poison, or what is in doubt."""
        code = self.faults.due(entry.name) if entry.fallible else None
        if code is not None:
            self._lose(entry, values)
            raise Fail(code, f"injected into call {self.faults.count}, acl.{entry.name}")
        if self.profile.stub_lib and entry.fallible:
            raise Fail(100039)
        for value in values:
            origin = self.ledger.poisons.get(value) if isinstance(value, int) else None
            if origin is not None:
                rule = 22 if entry.name == "mdl.unload" else 6
                self.ledger.report(rule, f"{value:#x} came with the failure of {origin}")
                raise Fail(145003 if entry.name.startswith("mdl.") else 107000, "poison")
            failed = self.ledger.doubtful.get(value) if isinstance(value, int) else None
            if failed not in (None, entry.name) and not (entry.releases or entry.waits):
                self.ledger.report(5, f"{value:#x} is used although acl.{failed} failed on it")

    def _lose(self, entry: Api, values: tuple[Any, ...]) -> None:
        """Forgive the debt of what could not be given back; a wait that fails drops its work."""
        if entry.releases:
            if entry.name.startswith("rt.reset_device"):
                self.process.lose_device(values[0])
            elif entry.name.startswith("finalize"):
                self.process.lost = True
            elif values:
                thing = self.things.get(values[0]) or self.memory.block_at(values[0])
                if thing is not None:
                    thing.lost = True
        if entry.name.startswith("rt.synchronize"):
            self.streams.abandon()

    def _failed(self, entry: Api, call: Call, values: tuple[Any, ...], failure: Fail) -> Any:
        self.ledger.doubtful.update({values[i]: entry.name for i in entry.doubts if values[i]})
        self.local.message = text_of(failure.code, failure.text)
        self.messages.append(self.local.message)
        if entry.gives not in BESIDE:
            return self._given(entry, call, {"handle": 0, "number": 0, "text": ""}[entry.gives])
        beside = tuple(
            self._poison(entry, call) if value is None else value for value in BESIDE[entry.gives]
        )
        beside = tuple({} if value == {} else value for value in beside)
        return (*beside, Ret(failure.code, call)) if beside else Ret(failure.code, call)

    def _poison(self, entry: Api, call: Call) -> int:
        base = POISON_ID if entry.gives == "id" else POISON_POINTER
        value = base | len(self.ledger.poisons) + 1
        self.ledger.poisons[value] = str(call)
        return value

    @staticmethod
    def _given(entry: Api, call: Call, given: Any) -> Any:
        if entry.gives not in BESIDE:
            return given
        ret = Ret(0, call)
        if entry.gives == "ret":
            return ret
        return (*given, ret) if isinstance(given, tuple) else (given, ret)
