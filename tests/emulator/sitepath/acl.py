"""
``import acl`` for a subprocess: this folder on PYTHONPATH gives it an emulator.

``EFFD0_FAKE_ACL`` is the emulator's options as JSON; ``EFFD0_FAKE_ACL_REPORT`` names a file that
gets the violations, the leaks and the number of calls at the process's end.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.emulator.acl import Emulator  # found by the line above


def _report(emulator: Emulator, path: Path) -> None:
    content = {
        "violations": [str(violation) for violation in emulator.violations],
        "leaks": emulator.leaks(),
        "calls": len(emulator.calls),
    }
    path.write_text(json.dumps(content))


#: No figure of a process that runs here shall be taken for one of a board.
_DEFAULTS = {"soc": "emulated Ascend310P3"}
_EMULATOR = Emulator(**_DEFAULTS | json.loads(os.environ.get("EFFD0_FAKE_ACL", "{}")))
if "EFFD0_FAKE_ACL_REPORT" in os.environ:
    # Registered before the program registers anything, so that it runs last.
    atexit.register(_report, _EMULATOR, Path(os.environ["EFFD0_FAKE_ACL_REPORT"]))
_MODULE = _EMULATOR.module()
_MODULE.__spec__ = __spec__  # without one, whoever looks whether there is an acl is told off
sys.modules[__name__] = _MODULE
