"""
Emulated pyACL, stricter than the hardware: ``with installed() as emulator: ...``.

What hardware answers, this answers: argument classes, shapes of what comes back, error codes.
What hardware lets pass, leaves undefined or only logs is noted in a ledger, by the numbers of the
rules in section 7 of the reference, and fails the test in `Emulator.assert_clean`.

Options (see `Profile`): ``cann`` old, current or future; ``run_mode`` host (a card) or device (the
board itself); ``devices``; ``memory_bytes`` of the device; ``strict`` to raise at the first broken
rule; ``seed`` of handles, addresses and orders; ``output_order`` and ``output_names`` of models;
``times``, how long work takes in virtual time; ``inits``, how often other components have
initialised the runtime; ``stub_lib`` for libraries that only compile (100039); ``oom_code``;
``overflow_from_batch``, the batch size from which the last image's outputs overflow, with
``fp16_overflow`` inf or saturate; ``zero_pads`` for max-pools that pad with 0; ``block_ms`` of
real time that an execution takes.

Where it differs from hardware, knowingly:

- A copy's ``kind`` that contradicts its addresses is a violation; hardware decides by addresses.
- Buffers larger than the model's are a violation; hardware warns in its log.
- Use after destroy, double destroy and handles of the wrong kind give 100000 (streams and events
  107017) and a violation; hardware may crash.
- Addresses of freed memory or of nothing give 107000 and a violation, nothing is copied; hardware
  may copy, fail later, or crash.  Addresses of host objects are known from ``bytes_to_ptr`` and
  its like only.
- ``synchronize_stream`` of another context's stream works, as there, and is a violation.
- ``init`` after ``finalize`` fails with ``cann="old"`` (500000; the code is not verified).
- ``reset_device`` closes the device when each thread that has set it has reset it, with
  ``cann="old"`` at once.
- The lock of Python is held by all functions but those that wait.  ``execute`` computes in ONNX
  Runtime, which lets it go; only ``block_ms`` of real time are spent with the lock held.  Binaries
  from before 2026 cannot be looked into.
- Queued work touches memory when somebody waits for it, never before.  When it takes place in
  virtual time is settled when it is queued: copies to and from the device and computing overlap,
  two of a kind do not.
- A time between two events can be had (not 107006) only once somebody has waited for both.
- A failed wait that was injected drops all pending work.
- What an injected fault kept from being given back is no leak.
- Handles and model ids are random and large; real ids count from 1.
- The input that tells a gear is one int64; codes 145000 for a wrong number of buffers, 100000 for
  a gear on a static model and 107019 for a report that does not come are not verified.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

from .ascend.emulator import Emulator, Profile, Times

__all__ = ["Emulator", "Profile", "Times", "installed"]


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
