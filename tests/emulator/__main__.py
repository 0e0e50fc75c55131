"""``python -m tests.emulator COMMAND ...``: an effd0 command on an emulated board, named so."""

from __future__ import annotations

import os

from effd0.cli.main import main

from .acl import installed
from .tools import emulated_path

if __name__ == "__main__":
    os.environ["EFFD0_FAKE_NPU_NAME"] = "310P3-emulated"
    with emulated_path(), installed(soc="Ascend310P3-emulated"):
        main()
