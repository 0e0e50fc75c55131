"""Where a worker stands: its open runner, and the device that it has."""

from __future__ import annotations

import contextlib
import time

import numpy as np

from ..errors import Effd0Error, RunnerError
from ..runners.base import Runner
from .ledger import ASK_EVERY_S, Book, WorkerId
from .subject import Opened, Subject, check_alike, describe, model_file


class Station:
    """
    The runner of *subject*, open on the device of *worker* until the process ends.

    Where that is known not to work, or turns out not to, or differs from the others, making one
    does not end before the round does.  *expected* is what all workers are; *opened* counts how
    often the runner was.
    """

    def __init__(
        self, subject: Subject, batch_size: int, book: Book, worker: WorkerId, expected: Opened
    ) -> None:
        self.worker, self.opened = worker, 0
        self._subject, self._batch_size, self._book = subject, batch_size, book
        self._expected, self._stack = expected, contextlib.ExitStack()
        if why := book.enter(worker):
            hold_device(book, worker)
            raise RunnerError(why)
        start = time.perf_counter()
        try:
            self.runner = self._open()
        except Effd0Error as error:
            book.retire(worker, str(error))
            hold_device(book, worker)
            raise
        book.opened(worker, time.perf_counter() - start)

    def reopen(self) -> None:
        """Open the runner again, and run zeros: what fails on these is not an image's fault."""
        with contextlib.suppress(Effd0Error):  # what is broken may not close
            self._stack.close()
        self._stack = contextlib.ExitStack()
        self.runner = self._open()
        self.runner.infer(
            {
                info.name: np.zeros(
                    [self._batch_size, *(side or 1 for side in info.shape[1:])], info.dtype
                )
                for info in self.runner.inputs
            }
        )

    def _open(self) -> Runner:
        self.opened += 1
        # Once it is open, nothing of it is left on the host, however this process ends.
        with model_file(self._subject, self._book) as path:
            opened = self._subject.opened(path, self.worker.opens)
            runner = self._stack.enter_context(opened)
        check_alike(self._expected, describe(runner, self._batch_size), self.worker)
        return runner


def hold_device(book: Book, worker: WorkerId) -> None:
    """Hold a device that does not work, so that nobody else gets it, until the round ends."""
    while not book.is_over(worker):
        time.sleep(ASK_EVERY_S)
