"""Emulated hardware for tests that know nothing of it: a compiled model and its runner."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from effd0.ascend.acl_runner import AclRunner
from effd0.ascend.atc import atc_command, run_atc
from effd0.ascend.atc_options import AtcOptions
from effd0.spec import D0

from .acl import installed

#: Emulated ``atc`` and ``npu-smi``.
BIN = Path(__file__).parent / "bin"
#: As precise as the emulator can be: nothing is rounded.
FLOAT32 = "must_keep_origin_dtype"


@contextmanager
def emulated_path() -> Iterator[None]:
    """Have the shell's ``atc`` and ``npu-smi`` be the emulated ones, run by this Python."""
    folders = [str(BIN), str(Path(sys.executable).parent), os.environ["PATH"]]
    with mock.patch.dict(os.environ, PATH=os.pathsep.join(folders)):
        yield


def compile_emulated(model: Path, out: Path, **options: Any) -> Path:
    """Compile the ONNX file *model* to *out* with the emulated ATC, in float32 unless said."""
    asked = AtcOptions(**{"soc_version": "Ascend310P3", "precision_mode": FLOAT32} | options)
    with emulated_path():
        return run_atc(atc_command(model, out, D0, asked)).path


class EmulatedRunner(AclRunner):
    """An `AclRunner` on an emulated host of its own, which must be left clean."""

    def __init__(self, model: Path, *, overlap: bool = True, **host: Any) -> None:
        super().__init__(model, overlap=overlap)
        self._host = host
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.emulator = stack.enter_context(installed(**self._host))
            super().__enter__()
            # No report shall take these figures for those of a board.
            self.description = f"emulated {self.description}"
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            super().__exit__(kind, error, trace)
            if error is None:
                self.emulator.assert_clean()
