"""A read-only S3 server that answers every request late: `python -m benchmarks.slow_server FOLDER PORT SECONDS [HOST]`.

Many requests wait at once, as they would for a store that is far away. It serves what :mod:`benchmarks.objects` wrote,
from memory, and checks no signature. It says when it listens.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .objects import etag

_END = b"\r\n\r\n"
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*) *(?:\r\n|$)", re.IGNORECASE)
_NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


@dataclass(frozen=True)
class Stored:
    """A body, and the header lines that go with it."""

    body: bytes
    lines: tuple[str, ...]


def load(folder: Path) -> dict[str, Stored]:
    """All answers by path: listings as `BUCKET` or `BUCKET.TOKEN`, objects as `BUCKET/KEY`."""
    listings = {
        path.stem: Stored(path.read_bytes(), ("Content-Type: application/xml",)) for path in folder.glob("*.xml")
    }
    objects = {f"{path.parent.name}/{path.name}": _object(path) for path in folder.glob("*/*")}
    return listings | objects


def _object(path: Path) -> Stored:
    modified = formatdate(path.stat().st_mtime, usegmt=True)
    lines = ("Content-Type: binary/octet-stream", "Accept-Ranges: bytes")
    return Stored(path.read_bytes(), (*lines, f"ETag: {etag(path)}", f"Last-Modified: {modified}"))


def answer(request: bytes, stored: dict[str, Stored]) -> bytes:
    """The whole answer to a request's head."""
    method, target, _ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    asked = urlsplit(target)
    token = parse_qs(asked.query).get("continuation-token", [])
    found = stored.get(".".join([unquote(asked.path).strip("/"), *token]))
    if found is None:
        return _message(method, "404 Not Found", _NOT_FOUND, ("Content-Type: application/xml",))
    part = _RANGE.search(request)
    if part is None:
        return _message(method, "200 OK", found.body, found.lines)
    return _part(method, found, int(part[1]), int(part[2]) if part[2] else sys.maxsize)


def _part(method: str, found: Stored, first: int, last: int) -> bytes:
    size = len(found.body)
    if first >= size:
        return _message(method, "416 Range Not Satisfiable", b"", (f"Content-Range: bytes */{size}",))
    last = min(last, size - 1)
    lines = (*found.lines, f"Content-Range: bytes {first}-{last}/{size}")
    return _message(method, "206 Partial Content", found.body[first : last + 1], lines)


@lru_cache(maxsize=4096)
def _message(method: str, status: str, body: bytes, lines: tuple[str, ...]) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}")).encode()
    return head + _END + (b"" if method == "HEAD" else body)


class Connection(asyncio.Protocol):
    """One client's connection. Requests have no bodies."""

    def __init__(self, stored: dict[str, Stored], latency: float) -> None:
        self._stored = stored
        self._latency = latency
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(_END)
        for request in requests:
            asyncio.get_running_loop().call_later(self._latency, self._answer, request)

    def _answer(self, request: bytes) -> None:
        self._transport.write(answer(request, self._stored))


async def serve(folder: Path, port: int, latency: float, host: str = "127.0.0.1") -> None:
    stored = load(folder)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(stored, latency), host, port)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))
