"""The process as the runtime sees it: init and finalize, devices, contexts, threads, messages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .host import ANY_TIME, Fail, Part, Thing, api


@dataclass(eq=False)
class Context(Thing):
    """A context of `device`; its default context belongs to the runtime."""

    device: int


@dataclass
class Device:
    """A device: whether it is open, and its default context."""

    opened: bool = False
    default: Context | None = None
    lost: bool = False


class Process(Part):
    """Calls that set up and take down the process, and each thread's context."""

    def begin(self) -> None:
        """Begin with nothing."""
        self.pid = os.getpid()
        self.count = self.host.profile.inits
        self.finalized = self.lost = False
        self.devices = [Device() for _ in range(self.host.profile.devices)]

    def check_call(self, name: str) -> None:
        """Report a call from a forked child, before init or after finalize."""
        if os.getpid() != self.pid:
            # The child's ledger dies with it, and on hardware the call may hang.
            raise AssertionError(
                f"rule fork: process {os.getpid()} is a fork of {self.pid}; spawn instead"
            )
        if not self.count and name not in ANY_TIME:
            when = "after finalize" if self.finalized else "before init"
            self.host.report("init", f"acl.{name} is called {when}")

    # Process

    @api("init", "|s")
    def init(self, config: str | None = None) -> None:
        """Count the users of the runtime; the first one starts it."""
        if config is not None and not Path(config).is_file():
            raise Fail(100003, config)
        if self.count:
            self.count += 1
            raise Fail(100002)
        if self.finalized and self.host.profile.cann == "old":
            raise Fail(500000, "initialised again after finalize")
        self.count, self.pid = 1, os.getpid()
        self.finalized = self.lost = False

    @api("finalize", releases=True)
    def finalize(self) -> None:
        """End the runtime; report all that is left, and callers who should not end it."""
        if not self.count:
            raise Fail(100037)
        if self.host.profile.inits:
            self.host.report("init", "finalize ends what another component initialised")
        for debt in self.debts():
            self.host.report("leak", f"at finalize there is {debt}")
        self.count, self.finalized = 0, True

    def debts(self) -> list[str]:
        """What the caller has not given back, with where it came from."""
        return [str(thing) for thing in self.host.owed()] + [
            f"device {number} that is not reset"
            for number, device in enumerate(self.devices)
            if device.opened and not device.lost
        ]

    @api("get_recent_err_msg", "", "text")
    def get_recent_err_msg(self) -> str | None:
        """The calling thread's last message, which is then forgotten."""
        message: str | None = getattr(self.host.local, "message", None)
        self.host.local.message = None
        return message

    @api("app_log", "is", "nothing")
    def app_log(self, _level: int, _message: str) -> None:
        """Write to the runtime's log, which nobody reads here."""

    @api("get_soc_name", "", "text")
    def get_soc_name(self) -> str:
        """The chip's name."""
        return self.host.profile.soc

    @api("get_version", "", "version")
    def get_version(self) -> tuple[int, int, int]:
        """Major, minor, patch."""
        return {"old": (1, 0, 0), "current": (1, 8, 0)}[self.host.profile.cann]

    # Devices

    def _device(self, number: int) -> Device:
        if not 0 <= number < len(self.devices):
            raise Fail(107001, f"device {number} of {len(self.devices)}")
        return self.devices[number]

    @api("rt.get_run_mode", "", "count")
    def get_run_mode(self) -> int:
        """0 on the board itself, 1 on a host with a card."""
        return int(self.host.profile.run_mode == "host")

    @api("rt.set_device", "i")
    def set_device(self, number: int) -> None:
        """Open a device for this thread, in its default context."""
        device = self._device(number)
        if device.default is None:
            handle = self.host.new_handle()
            device.default = Context("default context", handle, (), number)
            self.host.things[handle] = device.default
        device.opened = True
        self.host.local.context = device.default

    @api("rt.reset_device", "i", releases=True)
    def reset_device(self, number: int) -> None:
        """Close a device, for every thread."""
        device = self._device(number)
        if not device.opened:
            self.host.report("reset", f"device {number} is reset, but nobody has set it")
            return
        device.opened = False
        for thing in self.host.owed():
            if thing.device == number:
                self.host.report("reset", f"device {number} is reset while there is {thing}")
        if device.default is not None:
            device.default.alive = False
            device.default = None

    # Contexts

    def context_or_none(self) -> Context | None:
        """The calling thread's context, if it has one that lives."""
        context: Context | None = getattr(self.host.local, "context", None)
        return context if context is not None and context.alive else None

    def context(self) -> Context:
        """The calling thread's context; fails with 107002 if there is none."""
        context = self.context_or_none()
        if context is None:
            raise Fail(107002, "the context is a null pointer")
        return context

    @api("rt.create_context", "i", "pointer")
    def create_context(self, number: int) -> int:
        """Make a context, which becomes the calling thread's."""
        self._device(number)
        context = self.host.add(Context, "context")
        context.device = number
        self.host.local.context = context
        return context.handle

    def _context_of(self, handle: int) -> Context:
        if handle == 0:
            raise Fail(100000, "the context is null")
        context = self.host.things.get(handle)
        if not isinstance(context, Context):
            self.host.report("context", f"{handle:#x} was never a context")
            raise Fail(107002)
        if not context.alive:
            raise Fail(107002, "the context was destroyed")
        return context

    @api("rt.set_context", "k")
    def set_context(self, handle: int) -> None:
        """Make a context the calling thread's."""
        context = self._context_of(handle)
        if context.kind == "default context":
            self.host.report("context", "a default context is set; set_device does that")
        self.host.local.context = context

    @api("rt.destroy_context", "k", releases=True)
    def destroy_context(self, handle: int) -> None:
        """End a context; a thread in it has none afterwards."""
        context = self._context_of(handle)
        if context.kind == "default context":
            raise Fail(107002, "default contexts go with their device")
        for thing in self.host.owed():
            if thing.context is context and thing.kind in ("stream", "event", "model"):
                self.host.report("reset", f"{context} is destroyed before {thing}")
        context.alive = False
