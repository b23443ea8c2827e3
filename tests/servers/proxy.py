"""A small HTTP proxy that fails on purpose, in the client's own Trio run or in a thread.

It leads to any server: by a tunnel where it is asked to CONNECT, and by forwarding requests whose targets are absolute.
A :class:`Fault` says what it does instead. Every request that it reads is recorded. `hosts` are the names that it alone
knows, as a proxy does that stands where the network's names are resolved.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from .process import HOST

_PIECE = 64 << 10
_LEADS = b"HTTP/1.1 200 Connection established\r\n\r\n"
_FORBIDDEN = (b"proxy-authorization:", b"proxy-connection:")


@dataclass(frozen=True)
class Fault:
    """What is said instead of leading on: `said`, in pieces with pauses of `pause` seconds, and then the end.

    That is a `reset`; or nothing more is said, and nothing ends, where it is to `stall`.
    """

    said: bytes = b""
    reset: bool = False
    stall: bool = False
    piece: int = _PIECE
    pause: float = 0.0


def answer(status: int, *headers: str, body: bytes = b"") -> Fault:
    """A whole answer, after which the connection ends."""
    lines = (f"HTTP/1.1 {status} No", f"content-length: {len(body)}", *headers, "", "")
    return Fault("\r\n".join(lines).encode() + body)


class Asked(NamedTuple):
    """A request's method, target and headers, the names of which are in lower case; and its connection's number."""

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int


@dataclass
class ProxyServer:
    """A proxy's state. `script` are the faults of the requests to come, `always` is that of all others.

    `user` is who may use it, as `name:password`.
    """

    url: str
    user: str | None = None
    hosts: dict[str, tuple[str, int]] = field(default_factory=dict)
    script: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async with client:
                await self._serve(client, _Reader(client), self.connections)

    async def _serve(self, client: trio.SocketStream, reader: _Reader, number: int) -> None:
        head = await reader.head()
        if (fault := self._fault(head, number)) is not None:
            await _fail(client, fault)
        elif head.startswith(b"CONNECT "):
            server = await self._connect(_read(head, number).target)
            await client.send_all(_LEADS)
            await _splice(client, server, reader.rest)
        else:
            await self._forward(client, reader, head, number)

    def _fault(self, head: bytes, number: int) -> Fault | None:
        """Record what is asked, and say how it fails; an end where nothing is asked any more."""
        if not head:
            return Fault()
        self.asked.append(asked := _read(head, number))
        if self.script:
            return self.script.popleft()
        wanted = self.user and f"Basic {base64.b64encode(self.user.encode()).decode()}"
        if wanted and asked.headers.get("proxy-authorization") != wanted:
            return answer(407, 'proxy-authenticate: Basic realm="x"')
        return self.always

    async def _connect(self, authority: str) -> trio.SocketStream:
        host, _, port = authority.rpartition(":")
        return await trio.open_tcp_stream(*self.hosts.get(authority, (host.strip("[]"), int(port))))

    async def _forward(self, client: trio.SocketStream, reader: _Reader, head: bytes, number: int) -> None:
        """To the first request's server, as all requests of a connection are for the same."""
        authority, _ = _parts(_read(head, number).target)
        server = await self._connect(authority if ":" in authority else f"{authority}:80")
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, server, client, nursery.cancel_scope)
            while True:
                await server.send_all(_origin_form(head))
                async for piece in reader.body(_read(head, number).headers):
                    await server.send_all(piece)
                head = await reader.head()
                if (fault := self._fault(head, number)) is not None:
                    await _fail(client, fault)
                    nursery.cancel_scope.cancel()
                    return


def _read(head: bytes, number: int) -> Asked:
    line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
    return Asked(method, target, headers, number)


def _parts(target: str) -> tuple[str, str]:
    """The authority and the rest of an absolute target."""
    assert target.startswith("http://"), target
    authority, slash, rest = target.removeprefix("http://").partition("/")
    return authority, slash + rest


def _origin_form(head: bytes) -> bytes:
    line, *lines = head.split(b"\r\n")
    method, target, version = line.decode("latin-1").split(" ")
    kept = [text for text in lines if not text.lower().startswith(_FORBIDDEN)]
    return b"\r\n".join([f"{method} {_parts(target)[1]} {version}".encode("latin-1"), *kept])


class _Reader:
    """Heads and bodies of a connection's requests."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.rest = b""

    async def head(self) -> bytes:
        """Empty where the connection ends."""
        while b"\r\n\r\n" not in self.rest:
            data = await self._stream.receive_some(_PIECE)
            if not data:
                return b""
            self.rest += data
        head, mark, self.rest = self.rest.partition(b"\r\n\r\n")
        return head + mark

    async def body(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        left = int(headers.get("content-length", 0))
        while left > 0:
            piece = self.rest[:left] or await self._stream.receive_some(min(left, _PIECE))
            if not piece:
                return
            self.rest = self.rest[len(piece) :]
            left -= len(piece)
            yield piece


async def _fail(client: trio.SocketStream, fault: Fault) -> None:
    for start in range(0, len(fault.said), fault.piece):
        await client.send_all(fault.said[start : start + fault.piece])
        if fault.pause:
            await trio.sleep(fault.pause)
    if fault.reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if fault.stall:
        while await client.receive_some(_PIECE):
            pass


async def _splice(client: trio.SocketStream, server: trio.SocketStream, first: bytes) -> None:
    async with server, trio.open_nursery() as nursery:
        await server.send_all(first)
        nursery.start_soon(_copy, server, client, nursery.cancel_scope)
        await _copy(client, server, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Until either ends; then both do."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


@asynccontextmanager
async def proxy_server(host: str = HOST, user: str | None = None) -> AsyncIterator[ProxyServer]:
    """A proxy on a free port of `host`, gone with all its connections at the end of the block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        address, port = listener.socket.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        proxy = ProxyServer(f"http://{shown}:{port}", user)
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()


@contextmanager
def proxy_in_thread(user: str | None = None) -> Iterator[ProxyServer]:
    """The same, for clients that block."""
    started, running = threading.Event(), list[tuple[ProxyServer, trio.lowlevel.TrioToken, trio.CancelScope]]()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with proxy_server(user=user) as proxy:
                running.append((proxy, trio.lowlevel.current_trio_token(), scope))
                started.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    started.wait()
    proxy, token, scope = running[0]
    try:
        yield proxy
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()
