"""Threads and callbacks of the runtime, as the asynchronous samples use them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .host import Thing
from .ledger import Fail
from .streams import Stream
from .surface import api

if TYPE_CHECKING:
    from .host import Host

#: A callback that blocks its stream is waited for so long, in seconds of real time.
PATIENCE = 5.0


@dataclass(eq=False)
class Thread(Thing):
    """A thread that the runtime started."""

    worker: threading.Thread | None = None


@dataclass
class Launch:
    """A callback that is due."""

    function: Callable[[Any], object]
    argument: Any
    done: threading.Event = field(default_factory=threading.Event)


class Callbacks:
    """Calls that start threads and let them work for streams."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._subscribers: dict[Stream, int] = {}
        self._due: dict[int, queue.Queue[Launch]] = {}

    @api("util.start_thread", "OO", "pointer")
    def start_thread(self, function: Callable[[Any], object], args: Any) -> int:
        """Run ``function(args)`` in a thread; give its id."""
        thread = self.host.add(Thread, "thread")
        self._due[thread.handle] = queue.Queue()

        def work() -> None:
            self.host.local.thread = thread.handle
            function(args)

        thread.worker = threading.Thread(target=work, daemon=True)
        thread.worker.start()
        return thread.handle

    @api("util.stop_thread", "k", releases=True)
    def stop_thread(self, handle: int) -> None:
        """Wait for a thread's end."""
        thread = self.host.get(handle, Thread, "thread")
        if thread.worker is not None:
            with self.host.unlocked():
                thread.worker.join(PATIENCE)
            if thread.worker.is_alive():
                raise Fail(507000, "the thread does not end")
        thread.alive = False

    @api("rt.subscribe_report", "kk")
    def subscribe_report(self, thread: int, stream: int) -> None:
        """Let a thread run the callbacks of a stream."""
        self.host.get(thread, Thread, "thread")
        self._subscribers[self.host.streams.stream(stream)] = thread

    @api("rt.unsubscribe_report", "kk", releases=True)
    def unsubscribe_report(self, thread: int, stream: int) -> None:
        """End what `subscribe_report` began."""
        if self._subscribers.pop(self.host.streams.stream(stream), None) != thread:
            raise Fail(100033, "the thread is not subscribed")

    @api("rt.launch_callback", "OOik")
    def launch_callback(
        self, function: Callable[[Any], object], argument: Any, block_type: int, handle: int
    ) -> None:
        """Queue ``function(argument)``, for the subscribed thread to run."""
        stream = self.host.streams.stream(handle)
        thread = self._subscribers.get(stream)
        if thread is None:
            raise Fail(100034, "no thread is subscribed to the stream")
        launch = Launch(function, argument)

        def effect() -> None:
            self._due[thread].put(launch)
            if block_type:
                with self.host.unlocked():
                    done = launch.done.wait(PATIENCE)
                if not done:
                    raise Fail(507046, "nobody processed the callback")

        self.host.streams.enqueue(stream, "callback", effect=effect)

    @api("rt.process_report", "i", waits=True)
    def process_report(self, timeout_ms: int) -> None:
        """Run one callback that is due to the calling thread; wait so long for it."""
        thread = getattr(self.host.local, "thread", None)
        if thread is None:
            raise Fail(100035, "the thread was not started by acl.util.start_thread")
        with self.host.unlocked():
            try:
                launch = self._due[thread].get(timeout=None if timeout_ms < 0 else timeout_ms / 1e3)
            except queue.Empty:
                # Which code hardware gives here is not verified.
                raise Fail(107019) from None
            try:
                launch.function(launch.argument)
            finally:
                launch.done.set()
