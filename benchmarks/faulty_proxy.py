"""A proxy on loopback that, in the middle of a transfer, fails as networks and services do.

Until then it passes bytes on. What it does is begun by the bytes that have passed, not by time, so that it comes in the
middle of whatever is measured.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tests.servers.process import HOST

_PIECE = 256 << 10
_REQUEST = re.compile(rb"[A-Z]+ /\S* HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"


class FaultyProxy:
    """Between clients of `port` and a server at `behind`, both on loopback."""

    def __init__(self, behind: int, port: int) -> None:
        self.port = port
        self._behind = behind
        self.sent = 0
        """Bytes of requests that have passed."""
        self._slow = False
        self._listening = trio.CancelScope()
        self._back = trio.Event()
        self._left: float = float("inf")
        self._due = trio.Event()

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            with trio.CancelScope() as self._listening:
                await trio.serve_tcp(self._forward, self.port, host=HOST)
            await self._back.wait()

    async def passed(self, size: int) -> None:
        """Wait until so many more bytes have passed."""
        self._due, self._left = trio.Event(), size
        await self._due.wait()

    async def refuse(self, seconds: float) -> None:
        """Reset all connections, and refuse new ones for a while."""
        self._back = trio.Event()
        self._listening.cancel()
        await trio.sleep(seconds)
        self._back.set()

    async def slow_down(self, seconds: float) -> None:
        """Answer all requests that begin with SlowDown for a while."""
        self._slow = True
        await trio.sleep(seconds)
        self._slow = False

    async def _forward(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(HOST, self._behind)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async with server, trio.open_nursery() as nursery:
                    answering = trio.Lock()
                    nursery.start_soon(self._pass_requests, client, server, answering)
                    await self._pass_answers(server, client, answering)
                    nursery.cancel_scope.cancel()
        finally:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(client)

    async def _pass_requests(self, client: trio.SocketStream, server: trio.SocketStream, answering: trio.Lock) -> None:
        """A request follows upon the answer to the last one, so a piece that begins like one is one.

        The client may have that answer before who sent it gets their turn.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await client.receive_some(_PIECE):
                if self._slow and _REQUEST.match(data):
                    async with answering:
                        await _turn_away(client, data)
                else:
                    await self._send(server, data)
                    self.sent += len(data)

    async def _pass_answers(self, server: trio.SocketStream, client: trio.SocketStream, answering: trio.Lock) -> None:
        while data := await server.receive_some(_PIECE):
            async with answering:
                await self._send(client, data)

    async def _send(self, sink: trio.SocketStream, data: bytes) -> None:
        await sink.send_all(data)
        self._left -= len(data)
        if self._left <= 0:
            self._due.set()


async def _turn_away(client: trio.SocketStream, received: bytes) -> None:
    """Answer a request of which the beginning was received, when its body is there, or at once where it waits."""
    while b"\r\n\r\n" not in received:
        received += await client.receive_some(_PIECE)
    head, _, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    missing = int(length[1]) - len(body) if length and not _EXPECT.search(head) else 0
    while missing > 0 and (more := await client.receive_some(_PIECE)):
        missing -= len(more)
    await client.send_all(_SLOW_DOWN % len(_BODY) + (b"" if head.startswith(b"HEAD") else _BODY))


@asynccontextmanager
async def faulty_proxy(behind: int, port: int) -> AsyncIterator[FaultyProxy]:
    """A proxy that is gone at the end of the block."""
    proxy = FaultyProxy(behind, port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()
