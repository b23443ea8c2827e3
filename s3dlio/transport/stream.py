"""A TCP or TLS byte stream that receives into the caller's memory.

Theory of operation. The socket is a plain non-blocking one (`SSLSocket` for TLS), waited for with
`trio.lowlevel.wait_readable`. A read first tries `recv_into` and waits only when nothing is there; decrypted TLS bytes
land in the caller's view as well. Python's own stream classes would hand out fresh `bytes` for every read, which costs
more than the transfer.

Invariant: a stream is used by one task at a time, except that one may wait for an answer while another sends.
Ownership: the stream owns its socket; whoever holds the stream closes it. Cancellation: a cancelled wait leaves the
socket as it was; bytes already received are in the view, and the caller, who no longer knows how many, must close the
stream. Fairness: a peer that always has data never makes us wait, so every `_TURN` bytes the task yields by itself.

Wake-ups are what a busy interpreter makes expensive: each one waits for the GIL. While much of a body is missing,
`SO_RCVLOWAT` lets the kernel collect before it wakes us; not for long, as few bytes are progress too.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import warnings

import trio

from ..errors import ConfigError
from .endpoints import Endpoint

_TURN = 2 << 20
_LOW_WATER = 512 << 10
_SMALL = 64 << 10
_COLLECT = 0.25


class Stream:
    """One connected socket. See the module's text for who may use it how."""

    def __init__(self, sock: socket.socket, stall_timeout: float = math.inf) -> None:
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._since_turn = 0
        self._low_water = 1
        self._stall_timeout = stall_timeout
        self._scope: trio.CancelScope | None = None

    @property
    def tls(self) -> bool:
        """Whether it is encrypted."""
        return self._tls

    def watch(self, scope: trio.CancelScope | None) -> None:
        """From now on, cancel `scope` when a wait for the peer takes longer than the stall limit."""
        self._scope = scope

    def stalled(self) -> TimeoutError:
        """The error for a cancelled :meth:`watch`."""
        return TimeoutError(f"no byte moved for {self._stall_timeout:g} seconds")

    def _arm(self) -> None:
        self._since_turn = 0
        if self._scope is not None:
            self._scope.deadline = trio.current_time() + self._stall_timeout

    async def wait_readable(self) -> None:
        """Wait until there is something to read: as much as :meth:`expect` asked for, or what a while has brought."""
        self._arm()
        if self._low_water > 1:
            with trio.move_on_after(min(_COLLECT, self._stall_timeout / 2)):
                await trio.lowlevel.wait_readable(self._sock)
                return
            self.expect(0)
        await trio.lowlevel.wait_readable(self._sock)

    async def _wait_writable(self) -> None:
        self._arm()
        await trio.lowlevel.wait_writable(self._sock)

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
            self._arm()
            await trio.lowlevel.checkpoint()

    def expect(self, missing: int) -> None:
        """Say how much of a body is missing, so that the kernel wakes us only when a good part of it is there."""
        wanted = 1 if self._tls or missing < _SMALL else min(missing, _LOW_WATER)
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
    """TLS 1.2 or newer, certificates and names checked. Errors: `ConfigError` when the bundle cannot be read."""
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the CA bundle {ca_bundle!r} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        warnings.warn("certificates are not checked: anyone on the way can read and change the data", stacklevel=2)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def connect(endpoint: Endpoint, context: ssl.SSLContext | None, stall_timeout: float) -> Stream:
    """Open a stream, IPv4 and IPv6 addresses racing (RFC 8305). Errors: `OSError`, `ssl.SSLError` included."""
    opened = await trio.open_tcp_stream(endpoint.address, endpoint.port)
    sock = socket.socket(fileno=opened.socket.detach())
    try:
        sock.setblocking(False)
        secure = sock if context is None else await _handshake(sock, context, endpoint.host)
        return Stream(secure, stall_timeout)
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
