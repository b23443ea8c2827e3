"""HTTP/1.1 messages as pure functions (RFC 9112): request heads out, response heads and body framing in.

Heads are parsed by httptools (llhttp). Bodies never pass through it: :func:`body_framing` says how many bytes follow,
and the connection receives them where they belong. Only chunked bodies, which no object GET of S3 uses, are decoded
here, by :class:`ChunkedDecoder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

import httptools

from ..errors import ProtocolError

MAX_HEAD = 64 << 10
HEAD_END = b"\r\n\r\n"

_FORBIDDEN = re.compile(r"[\x00\r\n]")
_DIGITS = re.compile(r"[0-9]{1,19}")


class Head(NamedTuple):
    """A response's status and headers (names in lower case, repeated ones joined by a comma)."""

    status: int
    headers: Mapping[str, str]
    keep_alive: bool


class Framing(NamedTuple):
    """How a body ends: after `length` bytes, after its last chunk, or with the connection."""

    kind: Literal["length", "chunked", "close"]
    length: int = 0


@lru_cache(256)
def _field_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


class _HeadCollector:
    """The callbacks httptools makes while it reads a head."""

    __slots__ = ("complete", "headers")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        field, text = _field_name(name), value.decode("latin-1").rstrip(" \t")
        old = self.headers.get(field)
        self.headers[field] = text if old is None else f"{old}, {text}"

    def on_headers_complete(self) -> None:
        self.complete = True


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request's head. Errors: `ProtocolError` where a value would end its line or has no such bytes."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    if _FORBIDDEN.search("".join(lines)):
        raise ProtocolError("a request line or header holds CR, LF or NUL")
    try:
        return "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise ProtocolError("a request line or header holds a character that HTTP cannot carry") from None


def parse_head(data: bytes | bytearray | memoryview) -> Head:
    """A head from its bytes, the empty line included. Errors: `ProtocolError`."""
    collector = _HeadCollector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise ProtocolError(f"not an HTTP response: {error}") from None
    except httptools.HttpParserUpgrade:
        raise ProtocolError("the server changed to a protocol that nobody asked for") from None
    if not collector.complete:
        raise ProtocolError("not an HTTP response: the head is incomplete")
    headers = collector.headers
    keep_alive = parser.get_http_version() == "1.1" and "close" not in headers.get("connection", "").lower()
    return Head(parser.get_status_code(), headers, keep_alive)


def body_framing(method: str, head: Head) -> Framing:
    """How the body of this answer ends (RFC 9112 section 6.3). Contradictory framing is a `ProtocolError`."""
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return Framing("length")
    coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    if coding is not None:
        if coding.strip().lower() != "chunked" or length is not None:
            raise ProtocolError(f"unusable framing: transfer-encoding {coding!r}, content-length {length!r}")
        return Framing("chunked")
    if length is None:
        return Framing("close")
    if not _DIGITS.fullmatch(length):
        raise ProtocolError(f"unusable framing: content-length {length!r}")
    return Framing("length", int(length))


def quote_etag(etag: str) -> str:
    """An etag as `If-Match` wants it."""
    return etag if etag.startswith(('"', "W/")) or etag == "*" else f'"{etag}"'


_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}


def http_date(text: str) -> datetime | None:
    """An HTTP date in its one preferred form (RFC 9110 section 5.6.7), aware, UTC; `None` for anything else."""
    try:
        day, month, year = int(text[5:7]), _MONTHS[text[8:11]], int(text[12:16])
        return datetime(year, month, day, int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=UTC)
    except (ValueError, KeyError):
        return None


_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_MAX_LINE = 4096


class ChunkedDecoder:
    """Decodes a chunked body (RFC 9112 section 7.1) fed in any pieces; trailers are read and dropped.

    `done` is set at the end of the message; `excess` then holds the bytes that came after it.
    """

    def __init__(self) -> None:
        self.done = False
        self.excess = b""
        self._pending = bytearray()
        self._left = 0
        self._trailer_left = MAX_HEAD
        self._state: Literal["size", "data", "end", "trailer"] = "size"

    def feed(self, data: bytes | memoryview) -> Iterable[bytes]:
        """The decoded pieces that `data` completes. Errors: `ProtocolError` on anything but valid chunks."""
        self._pending += data
        steps = {"size": self._size, "data": self._data, "end": self._end, "trailer": self._trailer}
        pieces: list[bytes] = []
        while not self.done and steps[self._state](pieces):
            pass
        if self.done:
            self.excess = bytes(self._pending)
        return pieces

    def _line(self) -> bytes | None:
        end = self._pending.find(b"\n")
        if end > _MAX_LINE or (end < 0 and len(self._pending) > _MAX_LINE):
            raise ProtocolError("a chunk line is too long")
        return self._take(end + 1) if end >= 0 else None

    def _take(self, count: int) -> bytes:
        piece = bytes(self._pending[:count])
        del self._pending[:count]
        return piece

    def _size(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"not a chunk size: {line[:40]!r}")
        self._left = int(match[1], 16)
        self._state = "data" if self._left else "trailer"
        return True

    def _data(self, pieces: list[bytes]) -> bool:
        if not self._pending:
            return False
        piece = self._take(self._left)
        pieces.append(piece)
        self._left -= len(piece)
        self._state = "data" if self._left else "end"
        return True

    def _end(self, pieces: list[bytes]) -> bool:
        if len(self._pending) < 2:
            return False
        if self._take(2) != b"\r\n":
            raise ProtocolError("a chunk does not end where its size says")
        self._state = "size"
        return True

    def _trailer(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line.endswith(b"\r\n"):
            raise ProtocolError("a trailer line does not end in CR LF")
        self._trailer_left -= len(line)
        if self._trailer_left < 0:
            raise ProtocolError(f"the trailers are longer than {MAX_HEAD} bytes")
        self.done = line == b"\r\n"
        return True
