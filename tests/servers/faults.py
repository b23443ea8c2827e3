"""A small S3 server that fails on purpose, in the client's own Trio run, so that both share a mock clock.

It holds objects in memory and serves them properly: `GET` with `Range` and conditions, `HEAD`, `PUT`, `DELETE` and a
listing. A :class:`Fault` says how one request is answered where that differs from the truth. `script` holds the faults
of the requests to come, in order of their arrival; `always` is what happens when the script is used up. Every request
is recorded, so that a test can say how many were sent and what each asked for.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import trio
import trio.testing

from .process import HOST, keep_port

NOTHING = -1
"""For :attr:`Fault.cut` and :attr:`Fault.stall`: not even the head is sent."""

_PIECE = 256 << 10
_LULL = 0.005
_LAST_MODIFIED = "Mon, 23 Nov 2026 01:02:03 GMT"


@dataclass(frozen=True)
class Fault:
    """How one request is answered. What is not given is as it should be; sizes are bytes, times seconds."""

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Added to the true headers, or in their place; `None` removes one."""
    body: bytes | None = None
    raw: bytes | None = None
    """All that is sent, instead of head and body; then the connection ends."""
    interim: bytes = b""
    """Sent before the head."""
    pieces: Sequence[bytes] | None = None
    """The body as these chunks, with `Transfer-Encoding: chunked`."""
    chunk: int | None = None
    """The true body in chunks of so many bytes."""
    lie: int = 0
    """By so much the length that the head tells is wrong."""
    cut: int | None = None
    """The connection ends after so many bytes of the body."""
    reset: bool = False
    """It ends with RST, not FIN."""
    stall: int | None = None
    """After so many bytes of the body nothing follows, and nothing ends."""
    pace: tuple[int, float] | None = None
    """The body in pieces of so many bytes, and the pause between two."""
    sip: tuple[int, float] | None = None
    """The request's body is read in pieces of so many bytes, with a pause after each."""
    hints: bytes = b""
    """Sent after each such piece."""
    refuse_after: int | None = None
    """Answered when so many bytes of the request's body are read; the rest stays unread, and the connection ends."""
    early: bool = False
    """Answered, and the connection ended, with the request's body unread."""
    proceed: float | None = 0.0
    """After how long `Expect: 100-continue` is answered; `None` for never: the body is read all the same."""
    before_continue: bytes = b""
    """Sent at once to `Expect: 100-continue`, whether that is answered or not."""
    lingers: bool = False
    """After a refusal (`refuse_after`) the connection stays open, with the rest of the body unread."""
    deaf_to: frozenset[str] = frozenset()
    """Request headers that are not there for the server."""
    hang_up: bool = False
    """The answer promises to keep the connection, and it ends all the same."""
    delay: float = 0.0
    """Before anything is answered."""


HONEST = Fault()


@dataclass(frozen=True)
class Asked:
    """A request as it came. `target` is unchanged from the wire, header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass(frozen=True)
class Truth:
    """What an honest server answers."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Gone(Exception):
    """This connection has ended."""


def error_body(code: str, **more: str) -> bytes:
    """An S3 error document. Each of `more` is an element of its own."""
    elements = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in {"Code": code, **more}.items())
    return f"<?xml version='1.0'?><Error>{elements}</Error>".encode()


def refusal(status: int, code: str, **more: str) -> Fault:
    """An error answer of S3."""
    headers = {"content-type": "application/xml", "x-amz-request-id": f"request-{code}"}
    return Fault(status, headers, error_body(code, **more))


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class FaultServer:
    """The server's state. `script`, `always` and `objects` (by path) may be changed at any time."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.objects: dict[str, bytes] = {}
        self.script: deque[Fault] = deque()
        self.always = HONEST
        self.requests: list[Asked] = []
        self.body_bytes_sent = 0
        self.connections = 0
        self.open: dict[int, trio.abc.Stream] = {}
        self.most_open = 0
        self.serving = trio.CancelScope()
        self.restart = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, from its first request to its end."""
        self.connections += 1
        number = self.connections
        self.open[number] = stream
        self.most_open = max(self.most_open, len(self.open))
        try:
            with suppress(_Gone, trio.BrokenResourceError, trio.ClosedResourceError):
                exchange = _Exchange(self, stream, number)
                while await exchange.run():
                    pass
        finally:
            del self.open[number]
            await trio.aclose_forcefully(stream)

    async def be_down(self, seconds: float) -> None:
        """Be killed: every connection ends, and new ones are refused, until the server is started again."""
        self.restart = trio.Event()
        self.serving.cancel()
        await trio.sleep(seconds)
        self.restart.set()

    async def hang_up_all(self) -> None:
        """End every connection, as a server does with idle ones, and wait until the clients can know."""
        for stream in list(self.open.values()):
            await trio.aclose_forcefully(stream)
        await trio.testing.wait_all_tasks_blocked(_LULL)

    async def settled(self, connections: Callable[[], int]) -> None:
        """Wait until exactly so many connections are open as the client should have. Errors: `trio.TooSlowError`."""
        with trio.fail_after(30):
            while len(self.open) != connections():
                await trio.testing.wait_all_tasks_blocked(2 * _LULL)

    def next_fault(self, method: str, target: str) -> Fault:
        return self.script.popleft() if self.script else self.always

    def heard(self, data: bytes | bytearray) -> None:
        """Called with whatever comes, as it comes."""

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        """The honest answer, for a server that does not see the headers that the fault makes it deaf to."""
        parts = urlsplit(asked.target)
        path = unquote(parts.path)
        heard = {name: value for name, value in asked.headers.items() if name not in fault.deaf_to}
        if asked.method == "PUT":
            return self._put(path, heard, asked.body)
        if asked.method == "DELETE":
            self.objects.pop(path, None)
            return Truth(204)
        if "list-type" in parts.query:
            return self._list(path, parse_qs(parts.query).get("prefix", [""])[0])
        return self._get(path, heard)

    def _put(self, path: str, heard: Mapping[str, str], body: bytes) -> Truth:
        if heard.get("if-none-match") == "*" and path in self.objects:
            return Truth(412, {}, error_body("PreconditionFailed"))
        self.objects[path] = body
        return Truth(200, {"etag": etag_of(body)})

    def _list(self, root: str, prefix: str) -> Truth:
        names = sorted(path.removeprefix(root) for path in self.objects if path.startswith(root + prefix))
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.objects[root + name])}</Size></Contents>"
            for name in names
        )
        return Truth(200, {}, f"<ListBucketResult>{contents}</ListBucketResult>".encode())

    def _get(self, path: str, heard: Mapping[str, str]) -> Truth:
        data = self.objects.get(path)
        if data is None and path.strip("/").count("/") == 0:
            return Truth(200)  # the bucket
        if data is None:
            return Truth(404, {}, error_body("NoSuchKey", Message="The key does not exist."))
        headers = {"etag": etag_of(data), "last-modified": _LAST_MODIFIED, "accept-ranges": "bytes"}
        if heard.get("if-match", headers["etag"]) != headers["etag"]:
            return Truth(412, {}, error_body("PreconditionFailed"))
        if heard.get("if-none-match") == headers["etag"]:
            return Truth(304, headers)
        return ranged(data, headers, heard)


def ranged(data: bytes, headers: dict[str, str], heard: Mapping[str, str]) -> Truth:
    """An object, or the range of it that was asked for."""
    if "range" not in heard:
        return Truth(200, headers, data)
    start, end = _range(heard["range"], len(data))
    if start >= len(data):
        return Truth(416, {"content-range": f"bytes */{len(data)}"}, error_body("InvalidRange"))
    return Truth(206, {**headers, "content-range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])


def _range(value: str, size: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", value)
    assert match is not None, f"not a range: {value!r}"
    if not match[1]:
        return max(0, size - int(match[2])), size
    return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size


class _Exchange:
    """The requests of one connection, one after the other."""

    def __init__(self, server: FaultServer, stream: trio.abc.Stream, number: int) -> None:
        self._server = server
        self._stream = stream
        self._number = number
        self._received = bytearray()

    async def run(self) -> bool:
        """One request and its answer; whether another may follow."""
        method, target, headers = await self._head()
        fault = self._server.next_fault(method, target)
        body = b"" if fault.early else await self._body(headers, fault)
        asked = Asked(method, target, headers, body, self._number)
        self._server.requests.append(asked)
        await self._answer(asked, fault)
        if fault.refuse_after is not None:
            await trio.testing.wait_all_tasks_blocked(_LULL)  # or RST would overtake the answer
        if fault.lingers:
            await trio.sleep_forever()
        if fault.hang_up or fault.early or fault.raw is not None or fault.refuse_after is not None:
            await self._end(fault)
        return True

    async def _head(self) -> tuple[str, str, dict[str, str]]:
        while b"\r\n\r\n" not in self._received:
            await self._receive()
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1", f"not a request line: {first!r}"
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header is there twice: {lines}"
        return method, target, headers

    async def _body(self, headers: Mapping[str, str], fault: Fault) -> bytes:
        if "expect" in headers and fault.before_continue:
            await self._stream.send_all(fault.before_continue)
        if headers.get("expect") == "100-continue" and fault.proceed is not None:
            await trio.sleep(fault.proceed)
            await self._stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(headers.get("content-length", "0"))
        sip, pause = fault.sip or (_PIECE, 0.0)
        if fault.refuse_after is not None:
            size = min(size, fault.refuse_after)
        while len(self._received) < size:
            await self._receive(sip)
            if fault.hints:
                await self._stream.send_all(fault.hints)
            if pause:
                await trio.sleep(pause)
        body = bytes(self._received[:size])
        del self._received[:size]
        return body

    async def _receive(self, most: int = _PIECE) -> None:
        data = await self._stream.receive_some(most)
        if not data:
            raise _Gone
        self._server.heard(data)
        self._received += data

    async def _answer(self, asked: Asked, fault: Fault) -> None:
        if fault.raw is not None:
            await self._stream.send_all(fault.raw)
            return
        truth = self._server.answer(asked, fault)
        status = fault.status or truth.status
        body = truth.body if fault.body is None and fault.status is None else fault.body or b""
        pieces = fault.pieces if fault.chunk is None else _cut(body, fault.chunk)
        if fault.delay:
            await trio.sleep(fault.delay)
        await self._stop_at(NOTHING, fault)
        length = None if pieces is not None else max(len(body) + fault.lie, 0)
        await self._stream.send_all(fault.interim + _head(status, length, truth.headers, fault))
        if asked.method != "HEAD" and status not in (204, 304):
            await self._send_body(body if pieces is None else _chunked(pieces), fault)

    async def _send_body(self, body: bytes, fault: Fault) -> None:
        limits = [limit for limit in (fault.cut, fault.stall) if limit is not None]
        left = memoryview(body)[: min(limits, default=len(body))]
        step, pause = fault.pace or (_PIECE, 0.0)
        while len(left):
            self._server.body_bytes_sent += len(left[:step])
            await self._stream.send_all(left[:step])
            left = left[step:]
            if pause and len(left):
                await trio.sleep(pause)
        for limit in limits:
            await self._stop_at(limit, fault)

    async def _stop_at(self, place: int, fault: Fault) -> None:
        if fault.stall == place:
            while True:  # until the client gives up
                await self._receive()
        if fault.cut == place:
            await self._end(fault)

    async def _end(self, fault: Fault) -> None:
        plain = getattr(self._stream, "transport_stream", self._stream)
        if fault.reset and isinstance(plain, trio.SocketStream):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self._stream)
        raise _Gone


def _head(status: int, length: int | None, true_headers: Mapping[str, str], fault: Fault) -> bytes:
    """Of a body of `length` bytes, or one in chunks."""
    framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    standard = {"date": formatdate(usegmt=True), "x-amz-request-id": "request-id", **framing}
    headers: dict[str, str | None] = {**standard, **true_headers, **fault.headers}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"HTTP/1.1 {status} Answer\r\n{''.join(lines)}\r\n".encode("latin-1")


def _cut(body: bytes, size: int) -> Sequence[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def _chunked(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


@asynccontextmanager
async def fault_server(
    host: str = HOST,
    tls: ssl.SSLContext | None = None,
    kind: Callable[[str], FaultServer] = FaultServer,
    port: int = 0,
) -> AsyncIterator[FaultServer]:
    """A server on `port` of `host`, or a free one, gone with all its connections at the end of the block."""
    with keep_port(host, port) as kept:
        address, port = kept.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        server = kind(f"http{'s' if tls else ''}://{shown}:{port}")
        handler = server.serve if tls is None else partial(_serve_tls, server, tls)
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, server, handler, address, port)
            yield server
            nursery.cancel_scope.cancel()


async def _serve(
    server: FaultServer,
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    host: str,
    port: int,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take connections, with pauses: see :meth:`FaultServer.be_down`."""
    while True:
        listeners = await trio.open_tcp_listeners(port, host=host)
        with trio.CancelScope() as server.serving:
            await trio.serve_listeners(handler, listeners, task_status=task_status)
        task_status = trio.TASK_STATUS_IGNORED
        await server.restart.wait()


async def _serve_tls(server: FaultServer, context: ssl.SSLContext, stream: trio.abc.Stream) -> None:
    secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    with suppress(trio.BrokenResourceError):
        await secure.do_handshake()
        await server.serve(secure)
    await trio.aclose_forcefully(stream)


@asynccontextmanager
async def cutting_proxy(port: int, cuts: Iterable[int]) -> AsyncIterator[str]:
    """The endpoint of a proxy to `port` of this host that resets connections.

    The n-th one ends when the server has sent the n-th of `cuts` bytes; those that follow are left alone.
    """
    limits = iter(cuts)

    async def forward(client: trio.SocketStream) -> None:
        limit = next(limits, None)
        server = await trio.open_tcp_stream(HOST, port)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, None)
                await _pump(server, client, limit)
                nursery.cancel_scope.cancel()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(client)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, forward, [listener])
        yield f"http://{HOST}:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, limit: int | None) -> None:
    left = limit
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while left is None or left > 0:
            data = await source.receive_some(_PIECE if left is None else min(_PIECE, left))
            if not data:
                return
            await sink.send_all(data)
            left = None if left is None else left - len(data)
