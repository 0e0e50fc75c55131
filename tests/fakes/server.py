"""A download host on this machine that fails in the ways of real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FakeHost:
    """
    Files by path, how to fail, and what was asked.

    Each answer takes the next entry of *break_after*: so many bytes are sent and the connection
    is cut.  When the list is used up, answers are whole.
    """

    files: dict[str, bytes]
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    #: (path, Range header or None) of each request, in order.
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def asked(self) -> list[str | None]:
        """The Range header of each request."""
        return [wanted for _, wanted in self.requests]


@contextmanager
def serving(host: FakeHost) -> Iterator[FakeHost]:
    """Serve *host* on a free port of 127.0.0.1 for the time of the block; fill in its URL."""

    class Handler(BaseHTTPRequestHandler):
        """Answer from *host*."""

        def do_GET(self) -> None:
            """Send the file, or what is missing of it, or less."""
            _answer(self, host)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, host: FakeHost) -> None:
    wanted = handler.headers.get("Range")
    host.requests.append((handler.path, wanted))
    body = host.files.get(handler.path)
    if body is None:
        handler.send_error(404)
        return
    start = 0
    if wanted is not None and host.ranges:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            handler.send_error(416)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) - start))
    handler.end_headers()
    stop = start + host.break_after.pop(0) if host.break_after else len(body)
    handler.wfile.write(body[start:stop])
