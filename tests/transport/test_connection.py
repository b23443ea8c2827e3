"""One exchange on a socket: the same bytes give the same answer in whatever pieces the peer sends them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from s3dlio.errors import ProtocolError
from s3dlio.transport.connection import Answer, Connection
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import Stream

from .test_http1 import SMUGGLING, head_of

REQUEST = b"GET /b/k%20?X-Signature=canary HTTP/1.1\r\nhost: h\r\nauthorization: canary\r\n\r\n"
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


async def test_an_exchange_is_logged_without_what_may_sign_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "s3dlio.transport")
    await exchange(LENGTH + b"hello")
    await exchange(head_of("Content-Length: 2", status="HTTP/1.1 404 Not Found") + b"no", method="DELETE")
    assert caplog.messages == ["GET /b/k%20 (0 bytes): 200 (5 bytes)", "DELETE /b/k%20 (0 bytes): 404 (2 bytes)"]
    caplog.clear()
    caplog.set_level(logging.INFO, "s3dlio.transport")
    await exchange(LENGTH + b"hello")
    assert not caplog.messages
