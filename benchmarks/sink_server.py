"""An S3 server that takes every write and keeps nothing: `python -m benchmarks.sink_server PORT`.

What it costs is one `recv` for a mebibyte, in a thread for each connection, so that the clients are what is measured.
It checks no signature and no checksum.
"""

from __future__ import annotations

import re
import socket
import socketserver
import sys
from urllib.parse import parse_qs, urlsplit

from tests.servers.process import HOST

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_WAITS = re.compile(rb"\r\nexpect: *100-continue *\r\n", re.IGNORECASE)
_ETAG = '"0123456789abcdef0123456789abcdef"'
_BEGUN = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
_DONE = f"<CompleteMultipartUploadResult><ETag>{_ETAG}</ETag></CompleteMultipartUploadResult>"


def answer(method: str, target: str) -> bytes:
    """The whole answer to a request whose body has been taken."""
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    if method == "POST":
        return _message("200 OK", _BEGUN if "uploads" in query else _DONE)
    return _message("204 No Content" if method == "DELETE" else "200 OK", "", f"ETag: {_ETAG}")


def _message(status: str, body: str, *lines: str) -> bytes:
    length = () if status.startswith("204") else (f"Content-Length: {len(body)}",)
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, *length, "", body)).encode()


class Connection(socketserver.BaseRequestHandler):
    """One client's connection."""

    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, begun = memoryview(bytearray(1 << 20)), b""
        while (head_and_more := self._head(begun)) is not None:
            head, more = head_and_more
            begun = self._take_body(head, more, buffer)
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            self.request.sendall(answer(method, target))

    def _head(self, begun: bytes) -> tuple[bytes, bytes] | None:
        """The next request's head, and what came after it; `None` where the client has ended."""
        while _END not in begun:
            received = self.request.recv(1 << 16)
            if not received:
                return None
            begun += received
        end = begun.index(_END) + 2
        return begun[:end], begun[end + 2 :]

    def _take_body(self, head: bytes, more: bytes, buffer: memoryview) -> bytes:
        """Drop the request's body; what came after it."""
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if _WAITS.search(head):
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = length - len(more)
        while left > 0:
            count = self.request.recv_into(buffer[: min(left, len(buffer))], flags=socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the client closed the connection in the middle of a body")
            left -= count
        return more[length:]


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    with Server((HOST, int(sys.argv[1])), Connection) as server:
        server.serve_forever()
