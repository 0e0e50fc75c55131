"""
Emulated pyACL, stricter than the hardware: ``with installed() as emulator: ...``.

What hardware answers, this answers: argument classes, shapes of what comes back, error codes.
What hardware lets pass, leaves undefined or only logs is noted in a ledger, under one of
`host.RULES`, and fails the test in `Emulator.assert_clean`.  The functions that a runner needs are
there, and ``app_log``, which Ascend's own helpers call; any other one is an `AttributeError`.

Not emulated: all of ``util`` (host addresses are those of ``malloc_host`` only; that the array of
``ptr_to_numpy`` takes its memory over, is known from a single board's log); tensor descriptions
(``create_tensor_desc``, ``destroy_tensor_desc``, ``get_tensor_desc_size``, ``set_tensor_const``)
and ``data_type_size``; dynamic sizes of images (``mdl.get_dynamic_hw``,
``mdl.set_dynamic_hw_size``); ``rt.memset`` and ``rt.memset_async``; callbacks; operators, media.

Options (see `Profile`): ``cann`` old or current; ``run_mode`` host (a card) or device (the board
itself); ``devices``; ``memory_bytes`` of the device; ``seed`` of handles and addresses;
``output_order`` and ``output_names`` of models; ``times``, how long work takes in virtual time;
``inits``, how often other components have initialised the runtime; ``stub_lib`` for libraries that
only compile (100039).

Where it differs from hardware, knowingly:

- On a card, a copy's ``kind`` that contradicts its addresses is a violation; hardware decides by
  addresses.  On the board itself every kind is taken, as documented: all copies are within it.
- Buffers larger than the model's are a violation; hardware warns in its log.
- Empty output buffers are refused; hardware allocates them.
- Use after destroy, double destroy and handles of the wrong kind give 100000 (streams and events
  107017) and a violation; hardware may crash.
- Addresses of freed memory or of nothing give 107000 and a violation, nothing is copied; hardware
  may copy, fail later, or crash.
- ``synchronize_stream`` of another context's stream is refused (107003); hardware switches.
- ``init`` after ``finalize`` fails with ``cann="old"`` (500000; the code is not verified).
- ``reset_device`` closes the device at once; current versions wait until each thread that has set
  it has reset it.
- Negative sizes and addresses are an `OverflowError`; hardware takes them for large ones.
- There are no default streams.
- Which functions let other Python threads run is not emulated; calls take turns.
- Queued work touches memory when somebody waits for it, never before.  When it takes place in
  virtual time is settled when it is queued: copies to and from the device and computing overlap,
  two of a kind do not.
- A time between two events can be had (not 107006) only once somebody has waited for both.
- A failed wait that was injected drops all pending work.
- What an injected fault kept from being given back is no leak.
- Handles and model ids are random and large; real ids count from 1.
- The input that sets a gear is one int64; codes 145000 for a wrong number of buffers and 100000
  for a gear on a static model are not verified.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

from .host import Host, Profile


class Emulator(Host):
    """One emulated host; nothing is shared between two of them but compiled models."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Profile(**options))

    def rules_broken(self) -> set[str]:
        """Names of the rules that were broken."""
        return {violation.rule for violation in self.violations}

    def leaks(self) -> list[str]:
        """All that is not given back, with the lines that took it."""
        mine = self.process.count and not self.profile.inits and not self.process.lost
        return [*self.process.debts(), *(["a process that is not finalized"] if mine else [])]

    def assert_clean(self) -> None:
        """Raise `AssertionError` with every broken rule and everything not given back."""
        found = [str(violation) for violation in self.violations]
        found += [f"not given back: {leak}" for leak in self.leaks()]
        found += [f"nobody waited for {op}" for op in self.streams.pending[:1]]
        if found:
            raise AssertionError(f"{len(found)} faults:\n" + "\n".join(found))

    # Faults

    def fail_call(self, number: int) -> None:
        """Let the *number*-th call that can fail (from 1) fail, undone."""
        self.faults.at = number

    def fail_from(self, number: int) -> None:
        """Lose the device: every call that can fail does, from the *number*-th on."""
        self.faults.since = number

    def fail_next(self, name: str, code: int | None = None) -> None:
        """Let the next call of *name* (``rt.malloc``) fail."""
        if name not in self.api:
            raise ValueError(f"{name} is no function of this pyACL")
        self.faults.next[name] = code


@contextmanager
def installed(**options: Any) -> Iterator[Emulator]:
    """Put an emulated ``acl`` in the place of the real one for the time of the block."""
    emulator = Emulator(**options)
    # As any module that was found; who looks for pyACL, as `effd0 doctor` does, asks for it.
    emulator.module().__spec__ = ModuleSpec("acl", None)
    # Not mock.patch.dict: at its end, it forgets all modules that were imported meanwhile.
    before = sys.modules.get("acl")
    sys.modules["acl"] = emulator.module()
    try:
        yield emulator
    finally:
        del sys.modules["acl"]
        if before is not None:
            sys.modules["acl"] = before
