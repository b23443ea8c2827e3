"""HTTP servers for a few lines of a test's own, in a thread of this process."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

from .process import HOST


class Handler(BaseHTTPRequestHandler):
    """One request, or several on a connection; nothing goes to standard error."""

    def body(self) -> bytes:
        """What the request carries; to be read before the answer."""
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Send a whole answer, to HEAD without its body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Not to stderr."""


@contextlib.contextmanager
def listening(handler: type[Handler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of a server that answers with `handler` while the block runs."""
    server = ThreadingHTTPServer((HOST, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
