"""Ray kept off the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from unittest import mock

#: Read by Ray when it is imported or starts a process; what the user has set stays.
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_usage_stats_enabled": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
#: What the outermost block has heard so far.
_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)


@contextlib.contextmanager
def quiet(*, verbose: bool) -> Iterator[list[str]]:
    """
    Keep Ray off the terminal, unless *verbose*; yield what it says of processes that died.

    Within such a block another is the same.  It must begin before a progress display does, which
    puts something of its own in the place of the error output for as long as it is shown.
    """
    outer = _HEARD.get()
    if outer is not None or verbose:
        yield [] if outer is None else outer
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    heard: list[str] = []

    def listen(data: dict[str, Any], **_: Any) -> None:
        heard.extend(data["lines"])

    token = _HEARD.set(heard)
    with contextlib.ExitStack() as stack:
        stack.callback(_HEARD.reset, token)
        stack.enter_context(_muted_library())
        # Errors of nodes and workers are printed by a thread of the driver that no option stops.
        with contextlib.suppress(AttributeError, ImportError):
            stack.enter_context(mock.patch("ray._private.worker.print_to_stdstream", listen))
        stack.enter_context(_muted_loggers())
        yield heard


@contextlib.contextmanager
def _muted_loggers() -> Iterator[None]:
    """Lose all log lines: Ray makes loggers and handlers as it goes, and this package has none."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _muted_library() -> Iterator[None]:
    """Lose what Ray's library in C++ writes to this process's error output by itself."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        kept = os.dup(2)
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 2)
        if _is_error_output(sys.stderr):
            # Python's own messages go where they went: to the terminal, if it is one.
            ours = stack.enter_context(os.fdopen(os.dup(kept), "w", buffering=1))
            stack.enter_context(mock.patch.object(sys, "stderr", ours))
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield


def _is_error_output(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 2)  # noqa: PLR2004  as the system numbers it
    except (AttributeError, OSError, ValueError):
        return False
