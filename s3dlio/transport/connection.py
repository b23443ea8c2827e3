"""One connection, one exchange at a time: a request out, its answer in.

Theory of operation. The head of the answer is received into a small buffer of the connection's own, together with
whatever begins the body; a landing (see :class:`Landing`) then says where the body goes, the few bytes that came with
the head are copied there, and the rest is received in place.

An answer may come early: a server that refuses an upload says so and stops reading. So the answer is watched for while
a body is sent. The pump does both, and stops where the server says something; what is left then, or all of it without
the pump, is sent while a second task reads what was said, which may be no answer yet. A send that breaks is not an
error before the answer has been looked for. `Expect: 100-continue` (RFC 9110 section 10.1.1) avoids sending the body at
all where the server plays along. A success that comes before the server has the whole body is none.

Of an error's body only the beginning is read. Neither the head nor the request's body is in the `repr` of anything
here: heads are signed, and tracebacks may be shown with the local variables.

Cancellation: an exchange that does not return leaves the connection unusable, and `reusable` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from ..alignment.buffers import address_of, fresh_bytes
from ..errors import ProtocolError
from .http1 import HEAD_END, MAX_HEAD, ChunkedDecoder, Framing, Head, body_framing, idle_timeout, parse_head, plain_head
from .landing import Count, Landing
from .pump import Moved
from .stream import StaleError, Stream, after

if TYPE_CHECKING:
    from ..observers import Attempt
    from .pool import ConnectionPool

EXPECT_FROM = 1 << 20
_EXPECT_WAIT = 1.0
_WATCH_FROM = 256 << 10
_FIRST_READ = 16 << 10
_WHOLE = (256 << 10) + _FIRST_READ
"""Room for a head and for a body that is worth a copy more than a second wait."""

_ENDED = "the server closed the connection before its answer was complete"
_MAX_INFORMATIONAL = 256
_SCRATCH = 256 << 10
MAX_BUFFERED = 64 << 20
"""Most bytes of a success that has no landing: a listing."""

MAX_ERROR = 1 << 20
"""How many bytes of an error's body are read at most; no service sends as many."""


class Answer(NamedTuple):
    """A complete answer. `body` is empty where it went to a landing, and the beginning of it where that is an error."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:  # a server may repeat what it was sent
        return f"<Answer {self.status}, {len(self.body)} bytes>"


class Connection:
    """A kept-alive connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray(_FIRST_READ)
        self._place = b""
        self._located: bytearray | None = None
        self._address = 0
        self._start = 0
        self._end = 0
        self._drained = self._sent = self._bodiless = self.asked = False
        self._broken: OSError | None = None
        self.uses = 0
        self.answered = False
        self.may_have_acted = False
        self.reusable = False
        self.ignores_expect = False
        self.pool: ConnectionPool | None = None
        self.attempt: Attempt | None = None
        """What it is used for, where somebody wants to know."""
        self.expires_at = math.inf
        """Until when the server has said it keeps an idle connection, in seconds of Trio's clock."""

    @property
    def stale(self) -> bool:
        """Whether the server has ended it while it was idle, or said that it would by now."""
        return trio.current_time() >= self.expires_at or self._stream.stale

    @property
    def stream(self) -> Stream:
        """The bytes themselves."""
        return self._stream

    @property
    def peer(self) -> str:
        """The address at the other end. Errors: `OSError` where that has ended the connection."""
        return self._stream.peer

    def close(self) -> None:
        """Close at once."""
        self._stream.close()

    def give_back(self, *, reusable: bool) -> None:
        """Return it to the pool that it came from."""
        assert self.pool is not None
        self.pool.release(self, reusable=reusable)

    async def exchange(
        self,
        method: str,
        head: memoryview,
        body: Sequence[memoryview] = (),
        *,
        landing: Landing | None,
        expect: bool = False,
    ) -> Answer:
        """Send a request and receive its answer.

        With `expect` the head asks for a 100 before the body is sent. Errors: `OSError` (`TimeoutError` for a stall)
        and `ProtocolError`; then `answered` says whether the server had begun to answer, `may_have_acted` whether all
        that a server needs to act has begun to be sent, and `landing.filled` how much of the body is there.
        """
        if self.asked:
            early, broken = None, self._broken
            self.asked = False
        else:
            self._begin(method, expect=expect)
            early, broken = await self._send_request(head, body, expect=expect)
        if isinstance(broken, TimeoutError | StaleError):
            raise broken  # whoever let us wait so long, or was not asked, has not answered
        try:
            answer_head = early or self._head_received() or await self._final_head()
        except (OSError, ProtocolError):
            if broken is not None:
                raise broken from None
            raise
        if self.attempt is not None:
            self.attempt.answered()
        if not self._sent and answer_head.status < 300:
            raise broken or ProtocolError(f"the server answered {answer_head.status} before it had the request's body")
        content = b""
        if landing is None or not self._land_received(method, answer_head, landing):
            content = await self._receive_body(method, answer_head, landing)
        self._end_exchange(answer_head)
        return Answer(answer_head.status, answer_head.headers, content)

    def _begin(self, method: str, *, expect: bool = False) -> None:
        self.uses += 1
        if self.attempt is not None:
            self.attempt.connected()
        self.answered = self.reusable = self.ignores_expect = self._drained = self._sent = False
        self.may_have_acted = not expect
        self._bodiless = method == "HEAD"
        self._broken = None

    def _end_exchange(self, head: Head) -> None:
        # whatever follows the answer nobody asked for: it would pass for the answer to the next request
        self.reusable = self._sent and head.keep_alive and self._drained and self._start == self._end
        self.expires_at = math.inf
        if "keep-alive" in head.headers:
            self.expires_at = trio.current_time() + idle_timeout(head.headers)

    async def ask(self, head: memoryview) -> None:
        """Begin an exchange: send a GET, and receive of its answer what comes at once.

        Then :meth:`take_whole` may have it, or else :meth:`exchange` goes on from here, errors included.
        """
        self._begin("GET")
        self.asked = True
        try:
            await self._ask(head)
        except OSError as error:
            self._broken = error

    def begin_asking(self, request: tuple[int, int], place: bytes) -> list[int]:
        """As :meth:`ask`, by a row of the pump's for the caller to post; `request` is the head's address and size.

        The stream is :attr:`~.stream.Stream.pumped`. `place` are fresh bytes for the body, none where its size is
        unknown. Both are kept by the caller till :meth:`end_asking`, which has to follow.
        """
        self._begin("GET")
        self.asked = True
        self._make_whole_room()
        self._place = place
        if self._located is not self._buffer:
            self._located, self._address = self._buffer, address_of(self._buffer)
        receive, landing = (self._address, len(self._buffer)), (address_of(place), len(place))
        return self._stream.begin_conversing(request, receive, landing, reused=self.uses > 1)

    def end_asking(self, moved: Moved, size: int) -> None:
        """What became of the row for a head of `size` bytes."""
        try:
            self._note_answer(self._stream.end_conversing(moved, size))
        except OSError as error:
            self._broken = error
        self._sent = self._stream.sent
        place, self._place = self._place, b""
        start = moved.wanted - len(place)
        if not place or moved.received > moved.wanted or self._buffer.find(HEAD_END) + len(HEAD_END) != start:
            return  # the pump has not used it
        if self._stream.plain and self._buffer.startswith(b"HTTP/1.1 200 "):
            self._place = place
        else:
            self._buffer[start : moved.received] = memoryview(place)[: moved.received - start]

    def take_whole(self) -> Answer | None:
        """A plain 200, all of whose body has come; `None`, and nothing is taken, where it is anything else."""
        start = self._start
        with suppress(ProtocolError):  # whoever goes on meets it again
            head = self._head_received()
            if head is not None and head.status == 200:
                rest = "length", self._end - self._start
                if self._stream.plain or body_framing("GET", head) == rest:
                    return self._take_body(head)
        self._start = start
        return None

    def _take_body(self, head: Head) -> Answer:
        data, self._place = self._place, b""
        if not data:
            data, view = fresh_bytes(self._end - self._start)
            view[:] = memoryview(self._buffer)[self._start : self._end]
        self._start, self._drained, self.asked = self._end, True, False
        self._end_exchange(head)
        if self.attempt is not None:
            self.attempt.complete(head.status, head.headers, len(data))
        return Answer(head.status, head.headers, data)

    async def _send_request(
        self, head: memoryview, body: Sequence[memoryview], *, expect: bool
    ) -> tuple[Head | None, OSError | None]:
        """The final head, where it came early, and what broke, which is no error before the answer was looked for."""
        try:
            if expect:
                await self._stream.send_all(head)
                early = await self._await_continue()
                if early is not None:
                    return early, None
            self.may_have_acted = True
            return await self._send(() if expect else (head,), body), None
        except OSError as error:
            return None, error

    async def _send(self, head: Sequence[memoryview], body: Sequence[memoryview]) -> Head | None:
        """Send it all, but for a `head` that is sent; the final head, when it came before the body's end."""
        if not body:
            await self._ask(head[0])
            return None
        pieces = [*head, *body]
        if sum(map(len, body)) < _FIRST_READ:  # a copy is cheaper than a system call
            pieces = [memoryview(b"".join(pieces))]
        self._rewind()
        if self._stream.pumped and self._end == 0:
            pieces = await self._send_watched(pieces)
        return await self._send_body(pieces) if pieces else None

    async def _send_watched(self, pieces: Sequence[memoryview]) -> list[memoryview]:
        """Have it sent outside the interpreter, until the server says something; what is left then."""
        try:
            moved = await self._stream.converse_watched(pieces, self._buffer)
        finally:
            self._sent = self._stream.sent
        self._note_received(moved.received)
        return [] if self._sent else after(pieces, moved.sent)

    async def _send_body(self, body: Sequence[memoryview]) -> Head | None:
        """Send the body; the final head, when it came before the body's end."""
        if sum(map(len, body)) < _WATCH_FROM and not (body := self._stream.send_now(body)):
            self._sent = True
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
                self._sent = True  # whatever the watch has seen: the answer to a whole body may overtake our waking up
            except OSError as error:
                broken = error
            nursery.cancel_scope.cancel()
        if broken is not None and early is None:
            raise broken
        return early

    async def _ask(self, head: memoryview) -> None:
        """Send a request that has no body, and receive the beginning of its answer, or all of a small one."""
        stream = self._stream
        self._make_whole_room()
        try:
            whole, reused = not self._bodiless, self.uses > 1
            count = await stream.converse(head, self._buffer, self._end, whole=whole, reused=reused)
        finally:
            self._sent = stream.sent
        self._note_answer(count)

    def _make_whole_room(self) -> None:
        """Have room for all of a small answer, where that may come at once."""
        self._rewind()
        if self._stream.pumped and len(self._buffer) < _WHOLE and self._end == 0:
            self._buffer = bytearray(_WHOLE)

    def _note_answer(self, count: int) -> None:
        if not count:
            raise ConnectionResetError(_ENDED)
        self._note_received(count)

    async def _await_continue(self) -> Head | None:
        """The final head, when it came instead of a 100 (or of silence for a second)."""
        with trio.move_on_after(_EXPECT_WAIT) as waiting:
            head = await self._final_head(or_permission=True)
            return None if head.status == 100 else head
        self.ignores_expect = waiting.cancelled_caught
        return None

    async def _final_head(self, *, or_permission: bool = False) -> Head:
        for _ in range(_MAX_INFORMATIONAL):
            head = await self._head()
            if head.status >= 200 or (or_permission and head.status == 100):
                return head
        raise ProtocolError("the server sent nothing but informational answers")

    def _head_received(self) -> Head | None:
        """The final head, where it is in the buffer."""
        end = self._buffer.find(HEAD_END, self._start, self._end) + len(HEAD_END)
        if end < len(HEAD_END) or not self._sent:
            return None
        self._check_head(end)
        data = bytes(self._buffer[self._start : end])
        head = plain_head(data) if self._stream.plain else parse_head(data)
        if head.status < 200:
            return None
        self._start = end
        return head

    def _land_received(self, method: str, head: Head, landing: Landing) -> bool:
        """Let an object land whose every byte is in the buffer; whether it was so."""
        if head.status not in (200, 206):
            return False
        framing = body_framing(method, head)
        if framing.kind != "length" or framing.length > self._end - self._start:
            return False
        view, first = landing.place(head, framing.length), self._start + landing.skip
        view[:] = memoryview(self._buffer)[first : first + len(view)]
        landing.filled = len(view)
        self._start = first + len(view)
        self._drained = landing.skip + len(view) == framing.length
        return True

    async def _head(self) -> Head:
        self._rewind()
        buffer, searched = self._buffer, 0
        # from 3 bytes before what is new: the end may have come in two pieces
        while (end := buffer.find(HEAD_END, max(self._start, searched - 3), self._end)) < 0:
            searched = self._end
            self._check_head(self._end)
            await self._receive_more()
            buffer = self._buffer
        end += len(HEAD_END)
        self._check_head(end)
        head = parse_head(bytes(buffer[self._start : end]))
        self._start = end
        return head

    def _check_head(self, end: int) -> None:
        if end - self._start > MAX_HEAD:
            raise ProtocolError(f"the head of the answer is longer than {MAX_HEAD} bytes")

    async def _receive_more(self) -> None:
        if not await self._receive_some():
            raise ConnectionResetError(_ENDED)

    async def _receive_some(self) -> int:
        self._make_room()
        count = await self._stream.receive_into(memoryview(self._buffer)[self._end :])
        self._note_received(count)
        return count

    def _note_received(self, count: int) -> None:
        self._end += count
        self.answered = self.answered or count > 0

    def _rewind(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0

    def _make_room(self) -> None:
        if self._end < len(self._buffer):
            return
        self._buffer = self._buffer + bytes(len(self._buffer))  # never resized: the pump may know where it is

    async def _receive_body(self, method: str, head: Head, landing: Landing | None) -> bytes:
        """The body; empty where it is the object, which lands."""
        framing = body_framing(method, head)
        if landing is None or head.status not in (200, 206):
            return bytes(await self._collect(method, head, framing))
        if framing.kind == "close":
            raise ProtocolError("the object comes without its length: its end could not be told from a cut")
        if framing.kind == "length":
            await self._land(landing.place(head, framing.length), landing, framing.length)
        else:
            content = await self._collect(method, head, framing)
            view = landing.place(head, len(content))
            view[:] = memoryview(content)[landing.skip :][: len(view)]
            landing.filled = len(view)
        return b""

    async def _land(self, view: memoryview, landing: Landing, length: int) -> None:
        """Receive what is wanted of `length` bytes: the rest of them is nobody's."""
        scratch = memoryview(bytearray(min(landing.skip, _SCRATCH)))
        for passed in range(0, landing.skip, _SCRATCH):
            await self._fill(scratch[: landing.skip - passed], Count())
        await self._fill(view, landing)
        self._drained = landing.skip + len(view) == length

    async def _fill(self, view: memoryview, landing: Landing | Count) -> None:
        received = min(len(view), self._end - self._start)
        view[:received] = memoryview(self._buffer)[self._start : self._start + received]
        self._start += received
        landing.filled = received
        if landing.fold is not None:
            landing.fold.add(view[:received])
        await self._stream.fill(view[received:], landing)

    async def _collect(self, method: str, head: Head, framing: Framing) -> bytearray:
        """A body that is not the object: all of a success, the beginning of an error."""
        failed = head.status >= 300
        most = MAX_ERROR if failed else MAX_BUFFERED
        if framing.kind == "length":
            return await self._sized(framing.length, most, failed=failed)
        if framing.kind == "chunked":
            content = await self._chunks(most)
        else:
            content = await self._until_closed(most, method, failed=failed)
        if len(content) > most and not failed:
            raise ProtocolError(f"an answer without a length is longer than {most} bytes")
        return content[:most]

    async def _sized(self, length: int, most: int, *, failed: bool) -> bytearray:
        if length > most and not failed:
            raise ProtocolError(f"an answer of {length} bytes where at most {most} make sense")
        content = bytearray(min(length, most))
        await self._fill(memoryview(content), Count())
        self._drained = len(content) == length
        return content

    async def _chunks(self, most: int) -> bytearray:
        """A chunked body; where it is longer than `most` bytes, more than these."""
        content, decoder = bytearray(), ChunkedDecoder()
        while not decoder.done and len(content) <= most:
            if self._start == self._end:
                self._rewind()
                await self._receive_more()
            content += decoder.feed(self._take_received())
        self._start -= decoder.excess  # a byte that is left over: see `exchange`
        self._drained = decoder.done
        return content

    async def _until_closed(self, most: int, method: str, *, failed: bool) -> bytearray:
        """A body that ends with the connection; where it is longer than `most` bytes, more than these.

        How that ends matters to what could have been cut: not to an error, nor to the nothing that answers a write.
        """
        content = bytearray()
        while len(content) <= most:
            content += self._take_received()
            self._rewind()
            try:
                if not await self._receive_some():
                    break
            except OSError:
                if not failed and (content or method == "GET"):
                    raise
                break
        return content

    def _take_received(self) -> bytes:
        piece = bytes(memoryview(self._buffer)[self._start : self._end])
        self._start = self._end
        return piece
