"""Bodies that the pump sends: whole, watched for an early answer, and not looked at any more once they are let go."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from s3dlio.errors import ProtocolError
from s3dlio.transport import pump
from s3dlio.transport.connection import Connection
from s3dlio.transport.pump import Pump, pump_of_run
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import Stream, after
from s3dlio.transport.tls import openssl_functions

from .test_http1 import head_of
from .test_pump import POISON, REQUEST, Whole
from .test_tls_pieces import Certified
from .test_tls_pieces import connected as connected_by_tls

HEAD = memoryview(b"PUT /b/k HTTP/1.1\r\nhost: h\r\n\r\n")
DONE = head_of("Content-Length: 0")
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
MiB = 1 << 20

Peer = Callable[[bytearray, Any], Awaitable[None]]
"""The other end, which puts what it gets from a stream where that can be seen, and answers as it likes."""


@pytest.fixture(autouse=True)
def compiled(compiled_pump: bool, compiled_pump_for_tls: None) -> None:
    """Without the code there is no pump, and nothing here to test: the run that hides it says so."""
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")


@pytest.fixture
def by_pump_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent or received by the interpreter."""

    def refuse(*_: object) -> Any:
        pytest.fail("this is for the pump to do")

    for name in ("send", "send_now", "receive_into"):
        monkeypatch.setattr(Stream, name, refuse)


class Sent(NamedTuple):
    """What became of an upload, and what the peer received."""

    result: object
    received: bytes
    reusable: bool


@asynccontextmanager
async def connected(
    peer: Callable[[Any], Awaitable[None]], certified: Certified | None = None
) -> AsyncIterator[Connection]:
    """A connection to a peer, by TLS where that is `certified`."""
    if certified is not None:
        async with connected_by_tls(certified.context, certified.authority, peer) as secure:
            yield Connection(secure)
        return
    near, far = socket.socketpair()
    near.setblocking(False)
    connection = Connection(Stream(near, StallWatch(60)))
    async with trio.open_nursery() as nursery, trio.SocketStream(trio.socket.from_stdlib_socket(far)) as other:
        nursery.start_soon(peer, other)
        try:
            yield connection
        finally:
            connection.close()
            nursery.cancel_scope.cancel()


async def put(peer: Peer, body: Sequence[memoryview], certified: Certified | None = None) -> Sent:
    """The outcome of one upload."""
    got = bytearray()
    async with connected(partial(peer, got), certified) as connection:
        result: object
        try:
            answer = await connection.exchange("PUT", HEAD, body, landing=None)
            result = answer.status, answer.body
        except ProtocolError as error:
            result = str(error)
        except OSError:
            result = OSError
        return Sent(result, bytes(got), connection.reusable)


async def take(got: bytearray, other: trio.abc.ReceiveStream, size: int) -> None:
    """Receive until there are `size` bytes, or the end."""
    while len(got) < size and (more := await other.receive_some(min(1 << 16, size - len(got)))):
        got += more


async def accept(size: int, got: bytearray, other: trio.abc.HalfCloseableStream) -> None:
    """Take it all, and answer."""
    await take(got, other, size)
    await other.send_all(DONE)
    await trio.sleep_forever()


async def refuse(some: int, answer: bytes, got: bytearray, other: trio.abc.HalfCloseableStream) -> None:
    """Take only `some` bytes, and answer."""
    await take(got, other, some)
    await other.send_all(answer)
    await trio.sleep_forever()


async def hint(size: int, got: bytearray, other: trio.abc.HalfCloseableStream) -> None:
    """Say something that is no answer, again and again."""
    for some in range(0, size, size // 5 + 1):
        await take(got, other, some)
        await other.send_all(HINTS)
    await accept(size, got, other)


async def hang_up(some: int, got: bytearray, other: trio.abc.HalfCloseableStream) -> None:
    await take(got, other, some)
    await other.aclose()


def pieces_of(*sizes: int) -> list[memoryview]:
    chance = random.Random(sum(sizes))
    return [memoryview(chance.randbytes(size)) for size in sizes]


SIZES = [
    (1,),
    ((16 << 10) - 1,),
    (16 << 10,),
    (300_000,),
    (MiB + 1,),
    (9 * MiB,),
    (100, 3 * MiB, 50),
    (20_000, 1, 1, 40_000),
]


@pytest.mark.usefixtures("by_pump_alone")
@pytest.mark.parametrize("sizes", SIZES)
async def test_bodies_of_all_sizes(sizes: tuple[int, ...]) -> None:
    body = pieces_of(*sizes)
    sent = b"".join((HEAD, *body))
    assert await put(partial(accept, len(sent)), body) == Sent((200, b""), sent, reusable=True)


@pytest.mark.parametrize("sizes", SIZES)
async def test_bodies_of_all_sizes_over_tls(
    sizes: tuple[int, ...], certified: Certified, request: pytest.FixtureRequest
) -> None:
    if openssl_functions():
        request.getfixturevalue("by_pump_alone")
    body = pieces_of(*sizes)
    sent = b"".join((HEAD, *body))
    assert await put(partial(accept, len(sent)), body, certified) == Sent((200, b""), sent, reusable=True)


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path, "localhost")


async def test_a_body_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    work = Pump.work

    async def count(self: Pump, *given: Any) -> Any:
        nonlocal rows
        rows += 1
        return await work(self, *given)

    monkeypatch.setattr(Pump, "work", count)
    body = pieces_of(5 * MiB)
    assert (await put(partial(accept, len(HEAD) + 5 * MiB), body)).result == (200, b"")
    assert rows == 1


PEERS: dict[str, Peer] = {
    "refuses at once": partial(refuse, 0, REFUSED),
    "refuses in the middle": partial(refuse, 100_000, REFUSED),
    "has done nothing": partial(refuse, 100_000, DONE),
    "talks": partial(hint, len(HEAD) + 3 * MiB),
    "goes": partial(hang_up, 100_000),
}


@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("name", PEERS)
async def test_an_answer_that_comes_early(
    monkeypatch: pytest.MonkeyPatch, name: str, certified: Certified, *, over_tls: bool
) -> None:
    """The same as without the pump."""
    body, how = pieces_of(2 * MiB, MiB), certified if over_tls else None
    found = await put(PEERS[name], body, how)
    monkeypatch.setattr(pump, "pump_code", lambda openssl=None: None)
    expected = await put(PEERS[name], body, how)
    assert found == expected
    if name == "talks":
        assert expected.received == b"".join((HEAD, *body))


async def test_what_is_cancelled_is_not_read_again() -> None:
    """The body may be written to as soon as the cancelled task goes on, though the peer takes more of the bytes."""
    used = pump_of_run()
    assert used is not None
    for size in (300_000, 3 * MiB):
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        connection, body = Connection(Stream(near, StallWatch(60))), bytearray(size)
        with far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(connection.exchange, "PUT", HEAD, [memoryview(body)], landing=None))
                while not used.moved(near.fileno()):  # till some of it is sent
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert used._rows == {}
            body[:] = bytes([POISON]) * size
            got = _drained(far)
            connection.close()
            got += _drained(far)
        assert len(got) > len(HEAD)
        assert POISON not in got


def _drained(far: socket.socket) -> bytes:
    got = b""
    with suppress(BlockingIOError):
        while more := far.recv(1 << 16):
            got += more
    return got


async def test_a_peer_that_takes_nothing_is_given_up() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    connection = Connection(Stream(near, StallWatch(0.2)))
    with far:
        with pytest.raises(TimeoutError, match="no byte moved"):
            await connection.exchange("PUT", HEAD, pieces_of(5 * MiB), landing=None)
        assert not connection.reusable
        connection.close()


@pytest.mark.usefixtures("by_pump_alone")
async def test_what_follows_an_upload_is_only_what_it_is() -> None:
    """The row of a descriptor is used again, without the body it had."""

    async def answer_twice(got: bytearray, other: trio.abc.HalfCloseableStream) -> None:
        for size in accumulate((len(HEAD) + 300_000, len(REQUEST))):
            await take(got, other, size)
            await other.send_all(DONE)
        await take(got, other, MiB)

    got, body = bytearray(), pieces_of(300_000)
    async with connected(partial(answer_twice, got)) as connection:
        await connection.exchange("PUT", HEAD, body, landing=None)
        await connection.exchange("GET", REQUEST, landing=Whole())
        assert connection.reusable
    assert got == b"".join((HEAD, *body, REQUEST))


@pytest.mark.parametrize("sizes", [(5,), (1, 2, 3), (4, 1, 1)])
def test_what_follows_some_bytes(sizes: tuple[int, ...]) -> None:
    pieces = pieces_of(*sizes)
    whole = b"".join(pieces)
    for count in range(len(whole) + 1):
        rest = after(pieces, count)
        assert b"".join(rest) == whole[count:]
        assert all(rest)
    assert after(pieces, sizes[0]) == pieces[1:]
