"""`Emulator`: one emulated Ascend host, and what a test asks of it."""

from __future__ import annotations

import types
from typing import Any

from .host import Host, Profile
from .ledger import Call, Violation
from .surface import module_of
from .times import Clock, Times

__all__ = ["Emulator", "Profile", "Times"]


class Emulator:
    """
    One emulated host; see `tests.fakes.acl` for its options and for where hardware differs.

    Nothing is shared between two of them but compiled models.
    """

    def __init__(self, **options: Any) -> None:
        times = options.get("times")
        if isinstance(times, dict):
            options = {**options, "times": Times(**times)}
        self.host = Host(Profile(**options))
        self._module = module_of(self.host.api, self.host.call)

    def module(self) -> types.ModuleType:
        """What ``import acl`` shall give."""
        return self._module

    @property
    def clock(self) -> Clock:
        """Virtual time, in milliseconds."""
        return self.host.clock

    @property
    def calls(self) -> list[Call]:
        """Every call so far."""
        return self.host.ledger.calls

    @property
    def messages(self) -> list[str]:
        """What the runtime told its log, of all threads."""
        return self.host.messages

    @property
    def violations(self) -> list[Violation]:
        """Broken rules so far; return codes that nobody has looked at yet count too."""
        return self.host.ledger.violations()

    def rules_broken(self) -> set[int]:
        """Numbers of the rules that were broken."""
        return {violation.rule for violation in self.violations}

    def leaks(self) -> list[str]:
        """All that is not given back, with the lines that took it."""
        process = self.host.process
        mine = process.count > self.host.profile.inits and not process.lost
        opened = ["a process that is not finalized"] if mine and not self.host.profile.inits else []
        return [*process.debts(), *opened]

    def assert_clean(self) -> None:
        """Raise `AssertionError` with every broken rule and everything not given back."""
        self.host.memory.check_graves()
        found = [str(violation) for violation in self.violations]
        found += [f"not given back: {leak}" for leak in self.leaks()]
        if self.host.streams.queue.pending:
            found.append(f"nobody waited for {self.host.streams.queue.pending[0]}")
        if found:
            raise AssertionError(f"{len(found)} faults:\n" + "\n".join(found))

    # Faults

    @property
    def fallible_calls(self) -> int:
        """How many calls so far could have failed: the length of a fault sweep."""
        return self.host.faults.count

    @property
    def failures(self) -> list[tuple[str, int]]:
        """The failures that were injected so far: name and code."""
        return self.host.faults.hits

    def fail_call(self, number: int, code: int | None = None) -> None:
        """Let the *number*-th call that can fail (from 1) fail, undone, with a likely code."""
        self.host.faults.at[number] = code

    def fail_from(self, number: int) -> None:
        """Lose the device: every call that can fail does, from the *number*-th on."""
        self.host.faults.since = number

    def fail_next(self, name: str, code: int | None = None) -> None:
        """Let the next call of *name* (``rt.malloc``) fail."""
        if name not in self.host.api:
            raise ValueError(f"{name} is no function of this pyACL")
        self.host.faults.next.setdefault(name, []).append(code)
