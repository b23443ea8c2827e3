"""A TCP or TLS byte stream that receives into the caller's memory.

Theory of operation. The socket is a plain non-blocking one (a :data:`.tls.TlsSocket` for TLS), waited for with
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
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from ..alignment.buffers import address_of
from ..alignment.checksum import Fold
from ..errors import ErrorContext
from . import pump_table
from .endpoint import Endpoint
from .proxied import open_tunnel
from .pump import Moved, Pump, pump_of_run
from .stall import StallWatch
from .tls import TlsContext, TlsSocket, openssl_functions, pointer_of, tls_error

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

    def __init__(self, sock: socket.socket | TlsSocket, watch: StallWatch) -> None:
        self.waits = 0
        self.purpose: Callable[[], ErrorContext] | None = None
        """Says what it is used for, to who has to tell that nothing comes."""
        self._sock = sock
        self._since_turn = 0
        self._low_water = 1
        self._watch = watch
        self._fd = sock.fileno()
        self._ssl = pointer_of(sock)
        self._tls = self._ssl != 0
        self._pump: Pump | None = None
        self._pending: OSError | None = None
        self.sent = False
        """Whether the last request went out whole."""
        self.plain = False
        """Whether all that was received last is one answer to a GET, which is plain by the pump's rules."""

    @property
    def tls(self) -> bool:
        """Whether it is encrypted."""
        return self._tls

    @property
    def descriptor(self) -> int:
        """The socket's."""
        return self._fd

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return str(self._sock.getpeername()[0])

    def accept_any(self) -> None:
        """Wake up for any byte, though :meth:`expect` asked for more."""
        self.expect(1)

    def give_up(self) -> None:
        """End all waits, with a `TimeoutError`."""
        if self._pump is not None:
            self._pump.let_go(self._fd)
        trio.lowlevel.notify_closing(self._sock)

    @property
    def moved(self) -> int:
        """Bytes that the pump has moved in the wait that goes on."""
        return 0 if self._pump is None else self._pump.moved(self._fd)

    @property
    def pump(self) -> Pump | None:
        """What does outside the interpreter what is asked for now, if anything does."""
        if self._pump is None and self._ssl is not None:
            pump = pump_of_run(openssl_functions() if self._tls else None)
            if pump is not None and pump.attach(self._fd):
                self._pump = pump
        return self._pump

    @property
    def pumped(self) -> bool:
        """Whether there is a :attr:`pump`."""
        return self.pump is not None

    async def converse(self, request: memoryview, buffer: bytearray, start: int, *, whole: bool, reused: bool) -> int:
        """Send a request, and receive of its answer what there is into `buffer`, from `start` on.

        Returns how many bytes that are, 0 for the peer's end. With `whole` it may be the whole answer, if that fits.
        A `reused` connection may turn out to be stale. Errors: `OSError`.
        """
        self.sent = self.plain = False
        if self.pumped:
            early = pump_table.REUSED if reused else pump_table.ANYHOW
            want = pump_table.ANSWER if whole else pump_table.ANYTHING
            moved = await self._move(request, buffer, start, len(buffer) - start, want, early)
            count = self._conversed(moved, len(request))
            self.plain = self.plain and start == 0
            return count
        await self.send_all(request)
        self.sent = True
        if not self._tls:  # nothing can be there yet; under TLS looking is what reads
            await self.wait_readable()
        return await self.receive_into(memoryview(buffer)[start:])

    def _conversed(self, moved: Moved, size: int) -> int:
        self.sent = moved.sent == size
        self.plain = moved.outcome == pump_table.COMPLETE and moved.received == moved.wanted > pump_table.ANYTHING
        return self._received(moved)

    def begin_conversing(
        self, request: tuple[int, int], receive: tuple[int, int], place: tuple[int, int], *, reused: bool
    ) -> list[int]:
        """What asks the pump for a whole answer, for :meth:`.pump.Pump.post`; addresses and sizes in bytes.

        A plain answer's body comes to `place`, if it has just that size. For a stream that is :attr:`pumped`.
        :meth:`end_conversing` has to follow.
        """
        assert self._ssl is not None
        self._watch.begin(self)
        early = pump_table.REUSED if reused else pump_table.ANYHOW
        return [self._fd, self._ssl, *request, *receive, pump_table.ANSWER, early, 0, 0, *place, 0]

    def end_conversing(self, moved: Moved, size: int) -> int:
        """As :meth:`converse`, when that is what became of a request of `size` bytes."""
        self._watch.end(self)
        return self._conversed(moved, size)

    async def converse_watched(self, pieces: Sequence[memoryview], buffer: bytearray) -> Moved:
        """Have the pump send `pieces`, and receive what is answered into `buffer`.

        The result tells how much was sent, and received: where the peer says something before it has all, nothing more
        is sent, and nothing received. For a stream that is :attr:`pumped`. Errors: `OSError`.
        """
        self.sent = self.plain = False
        want, early = pump_table.ANSWER, pump_table.WATCHED
        moved = await self._move(None, buffer, 0, len(buffer), want, early, pieces)
        self.sent = moved.sent == sum(map(len, pieces))
        self._received(moved)
        return moved

    async def _move(
        self,
        request: memoryview | None,
        memory: bytearray | memoryview,
        start: int,
        room: int,
        want: int,
        early: int = pump_table.ANYHOW,
        body: Sequence[memoryview] = (),
        fold: Fold | None = None,
    ) -> Moved:
        """Have the pump send `request` and `body`, and receive into `memory` from `start` on."""
        assert self._pump is not None
        assert self._ssl is not None
        send = (address_of(request), len(request)) if request is not None else (0, 0)
        receive = (address_of(memory) + start, room)
        listed = array("q", [number for piece in body for number in (address_of(piece), len(piece))])
        sizes = (address_of(listed), sum(map(len, body)))
        kept, words = (request, memory, self._sock, body, listed, fold), 0 if fold is None else fold.address
        self._watch.begin(self)
        try:
            return await self._pump.work(self._fd, self._ssl, send, receive, want, kept, early, sizes, words)
        finally:
            self._watch.end(self)

    def _received(self, moved: Moved) -> int:
        """How much came. An error that ended it is raised now where nothing did, or the next time."""
        error = self._failure(moved) if moved.outcome > pump_table.ENDED else None
        if error is not None and not moved.received:
            raise error
        self._pending = error
        return moved.received

    def _failure(self, moved: Moved) -> OSError | None:
        if moved.outcome == pump_table.CANCELLED:
            return TimeoutError(f"no byte moved for {self._watch.limit:g} seconds")
        if moved.outcome == pump_table.STALE:
            return StaleError("the peer said something, or ended the connection, before it was asked")
        if moved.outcome == pump_table.BROKEN:
            return OSError(moved.detail, os.strerror(moved.detail))
        if moved.outcome == pump_table.TLS_BROKEN:
            return tls_error(moved.detail)
        return None

    async def fill(self, view: memoryview, landing: Filled) -> None:
        """Receive all of `view`. `landing.filled` grows with it. Errors: `OSError`, also where the peer ends before."""
        try:
            while len(view):
                count = await self._fill_some(view, landing.fold)
                landing.filled += count
                if not count:
                    raise ConnectionResetError(f"the connection ended {len(view)} bytes before the body did")
                view = view[count:]
        finally:
            self.expect(1)  # or the next head, being shorter, would wake nobody

    async def _fill_some(self, view: memoryview, fold: Fold | None) -> int:
        if self.pumped:
            self._raise_pending()
            moved = await self._move(None, view, 0, len(view), len(view), fold=fold)
            if fold is not None:
                fold.length += moved.received
            return self._received(moved)
        self.expect(len(view))
        return await self.receive_into(view)

    def _raise_pending(self) -> None:
        if self._pending is not None:
            error, self._pending = self._pending, None
            raise error

    async def wait_readable(self) -> None:
        """Wait until there is something to read, as much as :meth:`expect` asked for. Errors: `TimeoutError`."""
        await self._wait(trio.lowlevel.wait_readable)

    async def _wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket | TlsSocket], Awaitable[None]]) -> None:
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
        self._raise_pending()
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
        if self._pump is not None and not self._pump.has_event(self._fd):
            return False
        sock = self._sock
        try:
            if isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket):
                sock.recv(1, socket.MSG_PEEK)
            elif self.readable or sock.pending():
                sock.recv_into(bytearray(1))
            else:
                return False
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once. Nothing that was asked for is waited for."""
        if self._pump is not None:
            self._pump.detach(self._fd)
            self._pump = None
        self._sock.close()

    def __repr__(self) -> str:
        return f"<Stream {'tls' if self._tls else 'tcp'} fd={self._sock.fileno()}>"


def can_pump(*, tls: bool) -> bool:
    """Whether there is a pump in this run, for streams that are encrypted or not."""
    functions = openssl_functions() if tls else None
    return (functions is None or bool(functions)) and pump_of_run(functions) is not None


class StaleError(ConnectionResetError):
    """An idle connection was of no use any more. Nothing was sent."""


class Filled(Protocol):
    """What counts the bytes of a body."""

    filled: int
    fold: Fold | None
    """Goes on with those that the pump receives."""


async def connect(
    opened: trio.SocketStream, endpoint: Endpoint, context: TlsContext | None, watch: StallWatch
) -> Stream:
    """Have a connection to the endpoint, or to its proxy, lead to the endpoint, and take it over.

    Errors: `OSError`, `ssl.SSLError` and `ProxyError` included.
    """
    if endpoint.proxy is not None and endpoint.tls:
        await open_tunnel(opened, endpoint, endpoint.proxy)
    sock = socket.socket(fileno=opened.socket.detach())
    try:
        sock.setblocking(False)
        for level, option, value in _KEEP_ALIVE:
            sock.setsockopt(level, option, value)
        secure: socket.socket | TlsSocket = sock if context is None else await _handshake(sock, context, endpoint.host)
        return Stream(secure, watch)
    except BaseException:
        sock.close()
        raise


async def _handshake(sock: socket.socket, context: TlsContext, name: str) -> TlsSocket:
    secure = context(sock, name)
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


def after(pieces: Sequence[memoryview], count: int) -> list[memoryview]:
    """What follows the first `count` bytes."""
    rest = []
    for piece in pieces:
        rest += [piece[count:]] if count < len(piece) else []
        count = max(count - len(piece), 0)
    return rest
