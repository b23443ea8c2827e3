"""A TCP or TLS byte stream that receives into the caller's memory.

Theory of operation. The socket is a plain non-blocking one (`SSLSocket` for TLS), waited for with
`trio.lowlevel.wait_readable`. A read first tries `recv_into` and waits only when nothing is there; decrypted TLS bytes
land in the caller's view as well. Python's own stream classes would hand out fresh `bytes` for every read, which costs
more than the transfer.

Invariant: a stream is used by one task at a time, except that one may wait for an answer while another sends. Under TLS
that is safe because the two directions are independent of each other after the handshake: renegotiation, which alone
could make a read wait for room to send, or a send for something to read, is refused.
Ownership: the stream owns its socket; whoever holds the stream closes it. Cancellation: a cancelled wait leaves the
socket as it was; bytes already received are in the view, and the caller, who no longer knows how many, must close the
stream. Fairness: a peer that always has data never makes us wait, so every `_TURN` bytes the task yields by itself.

Wake-ups are what a busy interpreter makes expensive: each one waits for the GIL. While much of a body is missing,
`SO_RCVLOWAT` lets the kernel collect before it wakes us; :mod:`.stall` bounds for how long.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from ..errors import ConfigError
from .endpoint import Endpoint
from .stall import StallWatch

_TURN = 2 << 20
_LOW_WATER = 64 << 10

_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A host that is gone is noticed within 25 seconds of silence, and what lies between is reminded of the connection."""


class Stream:
    """One connected socket. See the module's text for who may use it how."""

    def __init__(self, sock: socket.socket, watch: StallWatch) -> None:
        self.waits = 0
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._since_turn = 0
        self._low_water = 1
        self._watch = watch

    @property
    def tls(self) -> bool:
        """Whether it is encrypted."""
        return self._tls

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return str(self._sock.getpeername()[0])

    def accept_any(self) -> None:
        """Wake up for any byte, though :meth:`expect` asked for more."""
        self.expect(1)

    def give_up(self) -> None:
        """End all waits, with a `TimeoutError`."""
        trio.lowlevel.notify_closing(self._sock)

    async def wait_readable(self) -> None:
        """Wait until there is something to read, as much as :meth:`expect` asked for. Errors: `TimeoutError`."""
        await self._wait(trio.lowlevel.wait_readable)

    async def _wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._since_turn = 0
        self._watch.begin(self)
        try:
            await wait(self._sock)
        except trio.ClosedResourceError:
            raise TimeoutError(f"no byte moved for {self._watch.limit:g} seconds") from None
        finally:
            self._watch.end(self)

    async def receive_into(self, view: memoryview) -> int:
        """Receive up to `len(view)` bytes; returns how many, 0 when the peer has ended. Errors: `OSError`."""
        await self._take_turn()
        while True:
            try:
                count = self._sock.recv_into(view)
            except (BlockingIOError, ssl.SSLWantReadError):
                await self.wait_readable()
            except ssl.SSLWantWriteError:
                await self._wait_writable()
            else:
                self._since_turn += count
                return count

    async def _take_turn(self) -> None:
        """Let others run, if it is time to: before any byte is taken, as a cancelled call must not have taken one."""
        if self._since_turn > _TURN:
            self._since_turn = 0
            await trio.lowlevel.checkpoint()

    def expect(self, missing: int) -> None:
        """Say how much of a body is missing, so that the kernel wakes us only when a good part of it is there."""
        wanted = _LOW_WATER if missing >= _LOW_WATER and not self._tls else 1
        if wanted != self._low_water:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            self._low_water = wanted

    async def send(self, view: memoryview) -> int:
        """Send some of `view`; returns how many bytes went. Errors: `OSError`."""
        await self._take_turn()
        while True:
            try:
                count = self._sock.send(view)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait_writable()
            except ssl.SSLWantReadError:
                await self.wait_readable()
            else:
                self._since_turn += count
                return count

    def send_now(self, parts: Sequence[memoryview]) -> list[memoryview]:
        """Send what can be sent without waiting; returns the rest. Errors: `OSError`."""
        rest = [part for part in parts if len(part)]
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while rest:
                rest[0] = rest[0][self._sock.send(rest[0]) :]
                if not len(rest[0]):
                    del rest[0]
        return rest

    async def send_all(self, *parts: bytes | memoryview) -> None:
        """Send all of `parts`, in order. Errors: `OSError`."""
        for part in parts:
            view = memoryview(part).cast("B")
            while len(view):
                view = view[await self.send(view) :]

    @property
    def readable(self) -> bool:
        """Whether bytes, or the peer's end, are waiting."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    @property
    def stale(self) -> bool:
        """Whether an idle stream cannot be used again: the peer ended it, or sent what nobody asked for.

        An idle TLS stream may hold a session ticket; reading shows whether anything else is there.
        """
        try:
            if not isinstance(self._sock, ssl.SSLSocket):
                self._sock.recv(1, socket.MSG_PEEK)
            elif self.readable or self._sock.pending():
                self._sock.recv(1)
            else:
                return False
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once. Nothing that was asked for is waited for."""
        self._sock.close()

    def __repr__(self) -> str:
        return f"<Stream {'tls' if self._tls else 'tcp'} fd={self._sock.fileno()}>"


def tls_context(ca_bundle: str | None, *, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or newer; certificates are checked, and the names in their extension (RFC 9525, section 6.3).

    Errors: `ConfigError` when the bundle cannot be read.
    """
    folder = ca_bundle if ca_bundle is not None and os.path.isdir(ca_bundle) else None
    try:
        context = ssl.create_default_context(cafile=None if folder else ca_bundle, capath=folder)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the CA bundle {ca_bundle!r} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        warnings.warn("certificates are not checked: anyone in between can read and change the data", stacklevel=2)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def connect(endpoint: Endpoint, address: str, context: ssl.SSLContext | None, watch: StallWatch) -> Stream:
    """Open a stream to an `address`, or the addresses of a name, IPv4 and IPv6 racing (RFC 8305).

    Errors: `OSError`, `ssl.SSLError` included.
    """
    opened = await trio.open_tcp_stream(address, endpoint.port)
    sock = socket.socket(fileno=opened.socket.detach())
    try:
        sock.setblocking(False)
        for level, option, value in _KEEP_ALIVE:
            sock.setsockopt(level, option, value)
        secure = sock if context is None else await _handshake(sock, context, endpoint.host)
        return Stream(secure, watch)
    except BaseException:
        sock.close()
        raise


async def _handshake(sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=False)
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secure)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secure)
            else:
                return secure
    except BaseException:
        secure.close()
        raise
