"""HTTP/1.1 messages as pure functions (RFC 9112): request heads out, response heads and body framing in.

Heads are parsed by httptools (llhttp). Bodies of a known length never pass through it: :func:`body_framing` says how
many bytes follow, and the connection receives them where they belong. Chunked ones, which listings and errors may be
but objects hardly are, do: see :class:`ChunkedDecoder`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import httptools

from ..errors import ErrorContext, InvalidKeyError, ProtocolError, shown

MAX_HEAD = 64 << 10
HEAD_END = b"\r\n\r\n"

_FORBIDDEN = re.compile(r"[\x00\r\n]|[^\x00-\xff]")
_IDLE = re.compile(r"(?:^|[,;\s])timeout\s*=\s*([0-9]{1,9})\b", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,19}")
_SIZES_END = 1 << 62  # the sum of two sizes, or one rounded up to pages, still fits in 64 bits
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


class _Unshown:
    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class SecretText(_Unshown, str):
    """Text that may hold a secret: its `repr`, and so a traceback with local variables, does not show it."""

    __slots__ = ()


class SecretHeaders(_Unshown, dict[str, str]):
    """A request's headers, as :class:`SecretText`."""

    __slots__ = ()


class Head(NamedTuple):
    """A response's status and headers (names in lower case, repeated ones joined by a comma)."""

    status: int
    headers: Mapping[str, str]
    keep_alive: bool


@lru_cache(256)
def _line_start(name: str) -> bytes:
    return f"\n{name}:".encode("latin-1", "replace")


class PlainHeaders(Mapping[str, str]):
    """The headers of :func:`plain_head`. Most are never looked at, so each is found when it is."""

    __slots__ = ("_head", "_lower")

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._lower = head.lower()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, in lower case, or `default`."""
        mark = _line_start(name)
        start = self._lower.find(mark)
        if start < 0:
            return default
        if self._lower.find(mark, start + 1) >= 0:
            return parse_head(self._head).headers[name]
        return self._head[start + len(mark) : self._head.index(b"\r", start)].decode("latin-1").strip(" \t")

    def __getitem__(self, name: str) -> str:
        found: str | None = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _line_start(name) in self._lower

    def __iter__(self) -> Iterator[str]:
        return iter(parse_head(self._head).headers)

    def __len__(self) -> int:
        return len(parse_head(self._head).headers)


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
    # no local variable and no exception has the head's text: see `SecretText`
    if _FORBIDDEN.search("".join((method, target, *headers, *headers.values()))):
        raise ProtocolError("a request line or header holds CR, LF, NUL or a character that HTTP cannot carry")
    lines = (f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", "")
    return "\r\n".join(lines).encode("latin-1")


def request_heads(method: str, headers: Mapping[str, str], each: Iterable[tuple[str, str]]) -> list[memoryview]:
    """The heads of requests that have `headers` in common, `each` with a target and an `authorization` of its own.

    As views, whose `repr` shows nothing: see :class:`SecretText`. Errors: as in :func:`request_head`.
    """
    alone = str(request_head(method, "", headers), "latin-1")
    common = SecretText(alone[len(f"{method} ") : -len("\r\n")])
    del alone
    return [_with_own(SecretText(f"{method} {target}"), common, own) for target, own in each]


def _with_own(beginning: SecretText, common: SecretText, authorization: str) -> memoryview:
    asked = f"{beginning}{authorization}"
    if not (asked.isascii() and asked.isprintable()):
        raise ProtocolError("a request line or an authorization holds a character that HTTP cannot carry")
    return memoryview(f"{beginning}{common}authorization: {authorization}\r\n\r\n".encode("latin-1"))


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
    status = parser.get_status_code()
    if status < 100 or status == 101:  # RFC 9110 section 15.2.2: only who asks for another protocol gets one
        raise ProtocolError(f"no request is answered with the status {status}")
    headers = collector.headers
    keep_alive = parser.get_http_version() == "1.1" and "close" not in headers.get("connection", "").lower()
    return Head(status, headers, keep_alive)


def plain_head(data: bytes) -> Head:
    """What :func:`parse_head` gives, of a head that the pump has found to be plain: see :mod:`.pump_kernel`."""
    headers = PlainHeaders(data)
    return Head(int(data[9:12]), headers, "close" not in headers.get("connection", "").lower())


def idle_timeout(headers: Mapping[str, str]) -> float:
    """For how many seconds a connection may stay idle and be used again: a little less than the server says."""
    match = _IDLE.search(headers.get("keep-alive", ""))
    return max(int(match[1]) - 1.0, int(match[1]) / 2) if match else math.inf


class _ChunkCollector:
    """The callbacks httptools makes while it reads chunks."""

    __slots__ = ("complete", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.complete = False

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True


class ChunkedDecoder:
    """Decodes a chunked body (RFC 9112 section 7.1) that comes in pieces. Trailers are checked and dropped."""

    def __init__(self) -> None:
        self.excess = False
        """Whether bytes that belong to no answer came with the body's end. Line ends do not count."""
        self._collector = _ChunkCollector()
        self._parser = httptools.HttpResponseParser(self._collector)
        # llhttp reads chunks only after a head; after one that says "close" it refuses whatever follows the body
        self._parser.feed_data(_CHUNKED_HEAD)
        self._bare = 0

    @property
    def done(self) -> bool:
        """Whether the body is at its end."""
        return self._collector.complete

    def feed(self, data: bytes) -> bytes:
        """What `data` adds to the body. Errors: `ProtocolError` on anything but valid chunks."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.done:
                raise ProtocolError(f"not a chunked body: {error}") from None
            self.excess = True
        decoded = b"".join(self._collector.pieces)
        self._collector.pieces.clear()
        # llhttp limits neither a chunk's extensions nor the trailers
        self._bare = 0 if decoded else self._bare + len(data)
        if self._bare > MAX_HEAD:
            raise ProtocolError(f"more than {MAX_HEAD} bytes of chunk lines or trailers without any of the body")
        return decoded


def parse_size(text: str | None) -> int | None:
    """A size in bytes as an answer spells it; `None` for anything but decimal digits that make a number below 2^62."""
    if text is None or not _DIGITS.fullmatch(text):
        return None
    size = int(text)
    return size if size < _SIZES_END else None


def body_framing(method: str, head: Head) -> Framing:
    """How the body of this answer ends (RFC 9112 section 6.3). Contradictory framing is a `ProtocolError`."""
    # step 1; 2 is about CONNECT
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return Framing("length")
    coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    # steps 3 and 4: a length beside a coding may be an attack, and no coding but this was asked for
    if coding is not None:
        if coding.strip().lower() != "chunked" or length is not None:
            told = f"transfer-encoding {shown(coding, 100)!r}, content-length {shown(length or '', 100)!r}"
            raise ProtocolError(f"unusable framing: {told}")
        return Framing("chunked")
    # step 8; 7 is about requests
    if length is None:
        return Framing("close")
    # steps 5 and 6: a value that is there twice may pass there, and does not here
    size = parse_size(length)
    if size is None:
        raise ProtocolError(f"unusable framing: content-length {shown(length, 100)!r}")
    return Framing("length", size)


def quote_path(key: str) -> str:
    """A key, or a bucket and a key, as part of a request's path. Errors: `InvalidKeyError` where UTF-8 has no form."""
    try:
        return quote(key, safe="/")
    except UnicodeEncodeError:
        raise InvalidKeyError("the key cannot be encoded as UTF-8", ErrorContext(key=key)) from None


def quote_query(pairs: Sequence[tuple[str, str]]) -> str:
    """A query: quoted, sorted, with `=` after every name, as signatures want it. Errors: as in :func:`quote_path`."""
    try:
        quoted = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in pairs)
    except UnicodeEncodeError:
        raise InvalidKeyError("a value of the query cannot be encoded as UTF-8") from None
    return "&".join(f"{name}={value}" for name, value in quoted)


def quote_etag(etag: str) -> str:
    """An etag as `If-Match` wants it."""
    return etag if etag.startswith(('"', "W/")) or etag == "*" else f'"{etag}"'


def is_weak(etag: str) -> bool:
    """Whether an etag says of two versions only that one may stand for the other (RFC 9110 section 8.8.3)."""
    return etag.startswith("W/")


_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}


def http_date(text: str) -> datetime | None:
    """An HTTP date in its one preferred form (RFC 9110 section 5.6.7), aware, UTC; `None` for anything else."""
    try:
        day, month, year = int(text[5:7]), _MONTHS[text[8:11]], int(text[12:16])
        return datetime(year, month, day, int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=UTC)
    except (ValueError, KeyError):
        return None
