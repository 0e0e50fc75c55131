"""Progress of long work: a live bar on a terminal, now and then a plain line in a log."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich import progress as bars
from rich.console import Console
from rich.text import Text

#: Where progress goes: never into results that someone pipes.
STDERR = Console(stderr=True, highlight=False)
LOG_EVERY_S = 10.0
#: Opens a progress display: what is being done and how many pieces; gives ``advance(count)``.
OpenProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def silent(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    yield lambda _count: None


def say(line: str) -> None:
    """Print *line* where progress goes."""
    STDERR.print(line, soft_wrap=True, markup=False)


#: `say`, once for each line in a process.
say_once = functools.cache(say)


class _Rate(bars.ProgressColumn):
    """Pieces of work a second."""

    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="cyan")


@contextlib.contextmanager
def progress(what: str, total: int, console: Console = STDERR) -> Iterator[Callable[[int], None]]:
    """Yield a function that is called with the number of pieces just done."""
    shown = (bars.BarColumn(), bars.MofNCompleteColumn(), _Rate(), bars.TimeRemainingColumn())
    live, done = console.is_terminal, 0
    with bars.Progress("{task.description}", *shown, console=console, disable=not live) as bar:
        task = bar.add_task(what, total=total)
        start = last = time.perf_counter()

        def advance(count: int) -> None:
            """In a log, print at most one line in `LOG_EVERY_S`, and the last one always."""
            nonlocal done, last
            bar.advance(task, count)
            done += count
            now = time.perf_counter()
            if live or (done < total and now - last < LOG_EVERY_S):
                return
            last = now
            rate = done / max(now - start, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            line = f"{what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left"
            console.print(line, soft_wrap=True)

        yield advance


@contextlib.contextmanager
def download_progress(
    what: str, console: Console = STDERR
) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function that is called with bytes that are there and bytes of the whole file."""
    speed = (bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    shown, live = (bars.BarColumn(), bars.DownloadColumn(), *speed), console.is_terminal
    with bars.Progress("{task.description}", *shown, console=console, disable=not live) as bar:
        task = bar.add_task(what, total=None)
        last = time.perf_counter()

        def on_bytes(done: int, total: int | None) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total)
            now = time.perf_counter()
            if not live and now - last >= LOG_EVERY_S:
                last = now
                whole = "" if total is None else f" of {total / 1e6:.0f}"
                console.print(f"{what}: {done / 1e6:.0f}{whole} MB")

        yield on_bytes
