"""One connection, one exchange at a time: a request out, its answer in.

Theory of operation. The head of the answer is received into a small buffer of the connection's own, together with
whatever begins the body; a landing (see :class:`Landing`) then says where the body goes, the few bytes that came with
the head are copied there, and the rest is received in place.

An answer may come early: a server that refuses an upload says so and stops reading. So a long body is sent while a
second task watches for the answer, and a send that breaks is not an error before the answer has been looked for.
`Expect: 100-continue` (RFC 9110 section 10.1.1) avoids sending the body at all where the server plays along.

Cancellation: an exchange that does not return leaves the connection unusable, and `reusable` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import trio

from ..errors import ProtocolError
from .http1 import HEAD_END, MAX_HEAD, ChunkedDecoder, Framing, Head, body_framing, parse_head
from .stream import Stream

_log = logging.getLogger("s3dlio.transport")

EXPECT_FROM = 1 << 20
_EXPECT_WAIT = 1.0
_WATCH_FROM = 256 << 10
_FIRST_READ = 16 << 10
_MAX_INFORMATIONAL = 16
MAX_BUFFERED = 64 << 20
"""Most bytes of a body that has no landing: an error, a listing."""


class Landing(Protocol):
    """Where the body of a successful answer goes."""

    filled: int
    """How many bytes have landed since :meth:`place`."""

    def place(self, head: Head, length: int) -> memoryview | None:
        """The view for a body of `length` bytes; `None` for an answer that is not the object, which is buffered."""


class Answer(NamedTuple):
    """A complete answer. `body` is empty where it went to a landing."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A kept-alive connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray(_FIRST_READ)
        self._start = 0
        self._end = 0
        self.uses = 0
        self.answered = False
        self.reusable = False
        self.ignores_expect = False

    @property
    def stale(self) -> bool:
        """Whether the server has ended it while it was idle."""
        return self._stream.stale

    def close(self) -> None:
        """Close at once."""
        self._stream.close()

    async def exchange(
        self,
        method: str,
        head: bytes,
        body: Sequence[memoryview] = (),
        *,
        landing: Landing | None,
        expect: bool = False,
    ) -> Answer:
        """Send a request and receive its answer.

        With `expect` the head asks for a 100 before the body is sent. Errors: `OSError` (`TimeoutError` for a stall)
        and `ProtocolError`; then `answered` says whether the server had begun to answer, and `landing.filled` how much
        of the body is there.
        """
        self.uses += 1
        self.answered = self.reusable = self.ignores_expect = False
        early, broken = None, None
        try:
            if expect:
                await self._stream.send_all(head)
                early = await self._await_continue() or await self._send_body(body)
            else:
                early = await self._send(head, body)
        except TimeoutError:
            raise  # an OSError, too, but whoever let us wait so long has not answered
        except OSError as error:
            broken = error
        try:
            answer_head = early or await self._final_head()
        except (OSError, ProtocolError):
            if broken is not None:
                raise broken from None
            raise
        framing = body_framing(method, answer_head)
        content = await self._receive_body(answer_head, framing, landing)
        sent = early is None and broken is None
        # whatever follows the answer nobody asked for: it would pass for the answer to the next request
        self.reusable = sent and answer_head.keep_alive and framing.kind != "close" and self._start == self._end
        if _log.isEnabledFor(logging.DEBUG):
            received = len(content) if content or landing is None else landing.filled
            _log_exchange(method, head, body, answer_head.status, received)
        return Answer(answer_head.status, answer_head.headers, content)

    async def _send(self, head: bytes, body: Sequence[memoryview]) -> Head | None:
        """Send it all; the final head, when it came before the body's end."""
        if not body:
            await self._stream.send_all(head)
            await self._wait_for_answer()
            return None
        if sum(map(len, body)) < _FIRST_READ:  # a copy is cheaper than a system call
            await self._stream.send_all(b"".join((head, *body)))
            return None
        await self._stream.send_all(head)
        return await self._send_body(body)

    async def _send_body(self, body: Sequence[memoryview]) -> Head | None:
        """Send the body; the final head, when it came before the body's end."""
        # under TLS a read may have to send and a send to read: two tasks would get into each other's way
        if self._stream.tls or sum(map(len, body)) < _WATCH_FROM:
            await self._stream.send_all(*body)
            return None
        early: Head | None = None
        broken: OSError | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal early
                with suppress(OSError, ProtocolError):  # who reads on meets them again
                    early = await self._final_head()
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await self._stream.send_all(*body)
            except OSError as error:
                broken = error
            nursery.cancel_scope.cancel()
        if broken is not None and early is None:
            raise broken
        return early

    async def _wait_for_answer(self) -> None:
        """Nothing can be there yet: to look first would only cost a system call. Under TLS looking is what reads."""
        if not self._stream.tls:
            await self._stream.wait_readable()

    async def _await_continue(self) -> Head | None:
        """The final head, when it came instead of a 100 (or of silence for a second)."""
        with trio.move_on_after(_EXPECT_WAIT) as waiting:
            head = await self._head()
            return None if head.status == 100 else head
        self.ignores_expect = waiting.cancelled_caught
        return None

    async def _final_head(self) -> Head:
        for _ in range(_MAX_INFORMATIONAL):
            head = await self._head()
            if head.status >= 200:
                return head
        raise ProtocolError("the server sent nothing but informational answers")

    async def _head(self) -> Head:
        self._rewind()
        buffer, searched = self._buffer, 0
        # from 3 bytes before what is new: the end may have come in two pieces
        while (end := buffer.find(HEAD_END, max(self._start, searched - 3), self._end)) < 0:
            searched = self._end
            await self._receive_more()
        end += len(HEAD_END)
        head = parse_head(bytes(buffer[self._start : end]))
        self._start = end
        return head

    async def _receive_more(self) -> None:
        if not await self._receive_some():
            raise ConnectionResetError("the server closed the connection before its answer was complete")

    async def _receive_some(self) -> int:
        self._make_room()
        count = await self._stream.receive_into(memoryview(self._buffer)[self._end :])
        self._end += count
        self.answered = self.answered or count > 0
        return count

    def _rewind(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0

    def _make_room(self) -> None:
        if self._end < len(self._buffer):
            return
        if len(self._buffer) >= MAX_HEAD:
            raise ProtocolError(f"the head of the answer is longer than {MAX_HEAD} bytes")
        self._buffer.extend(bytes(len(self._buffer)))

    async def _receive_body(self, head: Head, framing: Framing, landing: Landing | None) -> bytes:
        if framing.kind != "length":
            return await self._receive_unsized(head, framing, landing)
        view = landing.place(head, framing.length) if landing is not None else None
        if landing is not None and view is not None:
            await self._fill(view, landing)
            return b""
        if framing.length > MAX_BUFFERED:
            raise ProtocolError(f"an answer of {framing.length} bytes where at most {MAX_BUFFERED} make sense")
        content = bytearray(framing.length)
        await self._fill(memoryview(content), _Count())
        return bytes(content)

    async def _fill(self, view: memoryview, landing: Landing | _Count) -> None:
        size, received = len(view), min(len(view), self._end - self._start)
        view[:received] = memoryview(self._buffer)[self._start : self._start + received]
        self._start += received
        landing.filled = received
        stream = self._stream
        try:
            while received < size:
                stream.expect(size - received)
                count = await stream.receive_into(view[received:])
                if not count:
                    raise ConnectionResetError(f"the connection ended {size - received} bytes before the body did")
                received += count
                landing.filled = received
        finally:
            stream.expect(1)  # or the next head, being shorter, would wake nobody

    async def _receive_unsized(self, head: Head, framing: Framing, landing: Landing | None) -> bytes:
        """A chunked body, or one that ends with the connection: collected, then placed."""
        if landing is not None and framing.kind == "close" and head.status in (200, 206):
            raise ProtocolError("the object comes without its length: its end could not be told from a cut")
        content = await (self._chunks() if framing.kind == "chunked" else self._until_closed())
        view = landing.place(head, len(content)) if landing is not None else None
        if landing is None or view is None:
            return bytes(content)
        view[:] = content
        landing.filled = len(content)
        return b""

    async def _chunks(self) -> bytearray:
        content, decoder = bytearray(), ChunkedDecoder()
        while not decoder.done:
            if self._start == self._end:
                self._rewind()
                await self._receive_more()
            _append(content, decoder.feed(self._take_received()))
        self._start -= decoder.excess  # a byte that is left over: see `exchange`
        return content

    async def _until_closed(self) -> bytearray:
        content = bytearray()
        while True:
            _append(content, self._take_received())
            self._rewind()
            if not await self._receive_some():
                return content

    def _take_received(self) -> bytes:
        piece = bytes(memoryview(self._buffer)[self._start : self._end])
        self._start = self._end
        return piece


class _Count:
    """A landing for bodies that are only counted."""

    filled = 0


def _append(content: bytearray, piece: bytes) -> None:
    content += piece
    if len(content) > MAX_BUFFERED:
        raise ProtocolError(f"an answer without a length is longer than {MAX_BUFFERED} bytes")


def _log_exchange(method: str, head: bytes, body: Sequence[memoryview], status: int, received: int) -> None:
    """Log sizes in bytes and, of the head, only the path: a query or a header may hold a signature."""
    path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
    _log.debug("%s %s (%d bytes): %d (%d bytes)", method, path, sum(map(len, body)), status, received)
