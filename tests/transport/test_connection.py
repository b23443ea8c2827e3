"""One exchange on a socket: the same bytes give the same answer in whatever pieces the peer sends them."""

from __future__ import annotations

import math
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3dlio.errors import ProtocolError
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.connection import Answer, Connection
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import Stream

from ..servers.faults import Fault, FaultServer
from .test_http1 import SMUGGLING, head_of

MiB = 1 << 20
REQUEST = memoryview(b"GET /b/k%20?X-Signature=canary HTTP/1.1\r\nhost: h\r\nauthorization: canary\r\n\r\n")
CHUNKED = head_of("Transfer-Encoding: chunked")
LENGTH = head_of("Content-Length: 5")

ANSWERS: dict[str, tuple[bytes, bytes, bool]] = {
    "length": (LENGTH + b"hello", b"hello", True),
    "nothing": (head_of("Content-Length: 0"), b"", True),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32: abc\r\n\r\n", b"hello", True),
    "to the end": (head_of() + b"hello", b"hello", False),
    "interim": (head_of(status="HTTP/1.1 103 Early Hints") + LENGTH + b"hello", b"hello", True),
    "will close": (head_of("Content-Length: 5", "Connection: close") + b"hello", b"hello", False),
    "HTTP/1.0": (head_of("Content-Length: 5", status="HTTP/1.0 200 OK") + b"hello", b"hello", False),
    "more than asked for": (LENGTH + b"hello" + LENGTH + b"again", b"hello", False),
    "more after chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTTP", b"hello", False),
    "more of the same after chunks": (CHUNKED + b"0\r\n\r\n" + LENGTH + b"again", b"", False),
    "interims": (head_of(status="HTTP/1.1 102 Processing") * 200 + LENGTH + b"hello", b"hello", True),
    "no content": (head_of(status="HTTP/1.1 204 No Content"), b"", True),
}

CUT: dict[str, bytes] = {
    "nothing at all": b"",
    "in the status": b"HTTP/1.1 2",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the body": LENGTH,
    "in the body": LENGTH + b"hel",
    "in a chunk's size": CHUNKED + b"5",
    "in a chunk": CHUNKED + b"5\r\nhel",
    "after a chunk": CHUNKED + b"5\r\nhello\r\n",
    "before the last line": CHUNKED + b"5\r\nhello\r\n0\r\n",
}


async def exchange(sent: bytes, step: int | None = None, method: str = "GET") -> tuple[Answer, Connection]:
    """What a client makes of a server that sends `sent`, `step` bytes at a time, and ends."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        connection = Connection(Stream(near, StallWatch(60)))

        async def feed() -> None:
            for piece in _pieces(sent, step):
                far.send(piece)
                await trio.testing.wait_all_tasks_blocked()
            far.shutdown(socket.SHUT_WR)

        answer: Answer | Exception
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            try:
                answer = await connection.exchange(method, REQUEST, landing=None)
            except (OSError, ProtocolError) as error:
                answer = error
            nursery.cancel_scope.cancel()
    if isinstance(answer, Exception):
        raise answer
    return answer, connection


def _pieces(sent: bytes, step: int | None) -> Sequence[bytes]:
    return [sent[start : start + step] for start in range(0, len(sent), step)] if step else [sent]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("step", [None, 1, 7])
async def test_answers_in_any_pieces(name: str, step: int | None) -> None:
    sent, body, reusable = ANSWERS[name]
    answer, connection = await exchange(sent, step)
    assert answer.body == body
    if step is None or not name.startswith("more"):
        assert connection.reusable is reusable
    assert connection.answered


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("step", [None, 1])
async def test_answers_that_break_off(name: str, step: int | None) -> None:
    with pytest.raises(ConnectionResetError):
        await exchange(CUT[name], step)


@pytest.mark.parametrize("name", SMUGGLING)
@pytest.mark.parametrize("step", [None, 1])
async def test_ambiguous_answers_are_refused(name: str, step: int | None) -> None:
    with pytest.raises(ProtocolError):
        await exchange(SMUGGLING[name] + b"5\r\nhello\r\n0\r\n\r\n", step)


@pytest.mark.parametrize("size", [60_000, 65_536 - 1])
async def test_a_long_head(size: int) -> None:
    sent = head_of("Content-Length: 5")[:-2] + b"x-long: "
    sent += b"x" * (size - len(sent) - 4) + b"\r\n\r\n"
    assert len(sent) == size
    answer, _ = await exchange(sent + b"hello")
    assert answer.body == b"hello"


@pytest.mark.parametrize(
    "sent", [head_of("x-long: " + "x" * 66_000), b"x" * 70_000, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000]
)
async def test_a_head_without_end(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        await exchange(sent)


async def test_bodies_are_bounded() -> None:
    for sent in (head_of("Content-Length: 67108865"), head_of("Content-Length: 9223372036854775807")):
        with pytest.raises(ProtocolError):
            await exchange(sent)


@pytest.mark.parametrize("sent", [head_of() + b"hello", CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"])
async def test_bodies_without_a_length_are_bounded(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("s3dlio.transport.connection.MAX_BUFFERED", 5)
    assert (await exchange(sent))[0].body == b"hello"
    monkeypatch.setattr("s3dlio.transport.connection.MAX_BUFFERED", 4)
    for step in (None, 1):
        with pytest.raises(ProtocolError, match="longer than 4 bytes"):
            await exchange(sent, step)


async def test_a_head_request_has_no_body() -> None:
    answer, connection = await exchange(head_of("Content-Length: 5"), method="HEAD")
    assert (answer.body, answer.headers["content-length"], connection.reusable) == (b"", "5", True)
    answer, connection = await exchange(head_of(status="HTTP/1.1 404 Not Found"), method="HEAD")
    assert (answer.body, connection.reusable) == (b"", True)


async def test_any_byte_wakes_who_waits_after_a_large_body() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        connection = Connection(Stream(near, StallWatch(60)))
        far.send(head_of("Content-Length: 100000") + bytes(100_000))
        assert (await connection.exchange("GET", REQUEST, landing=None)).body == bytes(100_000)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


REFUSED = "HTTP/1.1 403 Forbidden"
ERRORS = {
    "length": head_of(f"Content-Length: {3 * MiB}", status=REFUSED) + b"x" * 3 * MiB,
    "length that never comes": head_of(f"Content-Length: {2**60}", status=REFUSED) + b"x" * 2 * MiB,
    "chunks": head_of("Transfer-Encoding: chunked", status=REFUSED) + b"80000\r\n%b\r\n" % (b"x" * 2**19) * 6,
    "one chunk": head_of("Transfer-Encoding: chunked", status=REFUSED) + b"%x\r\n" % 2**40 + b"x" * 2 * MiB,
    "to the end": head_of(status=REFUSED) + b"x" * 3 * MiB,
}


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("name", ERRORS)
async def test_of_an_error_a_mebibyte_is_read(name: str, method: str) -> None:
    """The peer goes on sending, and is not listened to: the connection is of no use any more."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near:
        connection = Connection(Stream(near, StallWatch(60)))
        peer = trio.socket.from_stdlib_socket(far)

        async def feed() -> None:
            with peer, suppress(OSError):
                rest = memoryview(ERRORS[name])
                while rest:
                    rest = rest[await peer.send(rest[: 1 << 16]) :]
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            answer = await connection.exchange(method, REQUEST, landing=None)
            nursery.cancel_scope.cancel()
    assert answer.status == 403
    assert answer.body == b"x" * MiB
    assert not connection.reusable


@pytest.mark.parametrize("status", [200, 403])
async def test_a_body_that_is_refused_while_it_waits_to_be_sent(status: int) -> None:
    """However little it is: the peer reads nothing, and there is no room for all of it on the way."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.setblocking(False)
    with near, far:
        connection = Connection(Stream(near, StallWatch(60)))
        far.send(head_of("Content-Length: 5", status=f"HTTP/1.1 {status} Answer") + b"hello")
        body = [memoryview(bytes(100_000))]
        if status == 200:
            with pytest.raises(ProtocolError, match="before it had the request's body"):
                await connection.exchange("PUT", REQUEST, body, landing=None)
        else:
            answer = await connection.exchange("PUT", REQUEST, body, landing=None)
            assert (answer.status, answer.body) == (403, b"hello")
        assert not connection.reusable


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("timeout=5", 4),
        ("timeout=60, max=100", 59),
        ("max=3, TIMEOUT = 20", 19),
        ("timeout=1", 0.5),
        ("timeout=0", 0),
        ("max=100", math.inf),
        ("timeout=soon", math.inf),
        ("idle_timeout=3", math.inf),
    ],
)
async def test_how_long_the_server_keeps_it(autojump_clock: MockClock, header: str, seconds: float) -> None:
    answer, connection = await exchange(head_of(f"Keep-Alive: {header}", "Content-Length: 0"))
    assert answer.status == 200
    assert connection.expires_at - trio.current_time() == pytest.approx(seconds)


async def test_one_that_the_server_will_have_ended_is_not_used_again(
    clock: MockClock, server: FaultServer, store: S3Store
) -> None:
    server.always = Fault(headers={"keep-alive": "timeout=5"})
    for pause in (3, 3, 4.5):
        await store.get("key")
        await trio.sleep(pause)
    await store.get("key")
    assert [asked.connection for asked in server.requests] == [1, 1, 1, 2]


@pytest.mark.parametrize("size", [5, 100_000])
async def test_a_send_that_fails_shows_nothing_of_what_was_sent(size: int) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.close()
    with near, pytest.raises(OSError, match="pipe") as caught:
        await Connection(Stream(near, StallWatch(60))).exchange("PUT", REQUEST, [memoryview(b"x" * size)], landing=None)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    told.stack = traceback.StackSummary.from_list([frame for frame in told.stack if frame.filename != __file__])
    assert "send" in "".join(told.format())
    assert "canary" not in "".join(told.format())


class _Overtaken(Stream):
    """All of a body is sent, and the answer to it is read before its sender has been woken."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, StallWatch(60))
        self._read = trio.Event()

    def send_now(self, parts: Sequence[memoryview]) -> list[memoryview]:
        return list(parts)

    async def send_all(self, *parts: bytes | memoryview) -> None:
        await super().send_all(*parts)
        await self._read.wait()

    async def receive_into(self, view: memoryview) -> int:
        count = await super().receive_into(view)
        self._read.set()
        return count


async def test_an_answer_that_overtakes_the_senders_waking_up_is_to_the_whole_body() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        far.send(LENGTH + b"hello")
        connection = Connection(_Overtaken(near))
        answer = await connection.exchange("PUT", REQUEST, [memoryview(bytes(50_000))], landing=None)
    assert (answer.status, answer.body) == (200, b"hello")
    assert connection.reusable
