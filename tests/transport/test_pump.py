"""The pump against the Python way: the same bytes from a peer, the same result; and what is left when it is let go."""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from typing import NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from s3dlio.alignment.checksum import ALGORITHMS, Fold, checksum_of
from s3dlio.errors import ProtocolError
from s3dlio.transport import pump, pump_table
from s3dlio.transport.connection import Connection
from s3dlio.transport.http1 import Head
from s3dlio.transport.pump import Pump, pump_of_run
from s3dlio.transport.pump_code import pump_code
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import StaleError, Stream

from .test_connection import ANSWERS, CUT, ERRORS
from .test_http1 import SMUGGLING, head_of

REQUEST = memoryview(b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n")
POISON = 0xAA


@pytest.fixture(autouse=True)
def compiled(compiled_pump: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the code there is no pump, and nothing here to test: the run that hides it says so."""
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")


class Whole:
    """A landing that takes whatever comes."""

    filled = skip = 0
    fold: Fold | None = None

    def __init__(self) -> None:
        self.data = bytearray()

    def place(self, head: Head, length: int) -> memoryview:
        self.data = bytearray(length)
        return memoryview(self.data)


class Outcome(NamedTuple):
    """What became of an exchange."""

    result: object
    body: bytes
    reusable: bool


async def outcome_of(connection: Connection, method: str, *, lands: bool) -> Outcome:
    landing = Whole() if lands else None
    try:
        answer = await connection.exchange(method, REQUEST, landing=landing)
    except ProtocolError as error:
        return Outcome(str(error), b"", reusable=False)
    except OSError as error:
        return Outcome(type(error), b"", reusable=False)
    body = bytes(landing.data[: landing.filled]) if landing is not None else b""
    return Outcome((answer.status, dict(answer.headers)), body + answer.body, connection.reusable)


@contextmanager
def connected() -> Iterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    connection = Connection(Stream(near, StallWatch(60)))
    with far:
        try:
            yield connection, far
        finally:
            connection.close()


async def feed(far: socket.socket, sent: bytes, cuts: list[int]) -> None:
    """In pieces, each of which has time to arrive by itself."""
    peer = trio.socket.from_stdlib_socket(far)
    places = [0, *sorted(cut % (len(sent) + 1) for cut in cuts), len(sent)]
    with suppress(OSError):
        for start, end in pairwise(places):
            rest = memoryview(sent)[start:end]
            while rest:
                rest = rest[await peer.send(rest) :]
            await trio.testing.wait_all_tasks_blocked()


async def exchange(sent: bytes, cuts: list[int], method: str, *, lands: bool) -> tuple[Outcome, bool]:
    """The outcome, and whether it came before the peer ended the connection."""
    with connected() as (connection, far):
        found: list[Outcome] = []

        async def ask() -> None:
            found.append(await outcome_of(connection, method, lands=lands))

        async with trio.open_nursery() as feeding, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            feeding.start_soon(feed, far, sent, cuts)
            while not found and len(feeding.child_tasks):  # it may be done with less than all
                await trio.testing.wait_all_tasks_blocked(0.001)
            await trio.testing.wait_all_tasks_blocked(0.001)
            early = bool(found)
            feeding.cancel_scope.cancel() if early else far.shutdown(socket.SHUT_WR)
        return found[0], early


async def compare(sent: bytes, cuts: list[int], method: str, *, lands: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pump, "pump_code", lambda openssl=None: None)
        expected, early = await exchange(sent, cuts, method, lands=lands)
    with connected() as (connection, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed_and_end, far, sent, cuts, early)
            with trio.fail_after(20):  # it waits for more than comes, where the Python way does not
                found = await outcome_of(connection, method, lands=lands)
            nursery.cancel_scope.cancel()
    if cuts:  # what follows an answer is seen at once, or when the connection is used again
        assert found[:2] == expected[:2]
    else:
        assert found == expected


async def feed_and_end(far: socket.socket, sent: bytes, cuts: list[int], stays: bool) -> None:
    await feed(far, sent, cuts)
    if not stays:
        far.shutdown(socket.SHUT_WR)


STREAMS = {
    **{name: sent for name, (sent, _, _) in ANSWERS.items()},
    **CUT,
    **{f"smuggling {name}": head + b"hello" for name, head in SMUGGLING.items()},
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize("name", STREAMS)
async def test_known_streams(name: str, lands: bool, method: str) -> None:
    await compare(STREAMS[name], [], method, lands=lands)
    await compare(STREAMS[name], [1, 7, 17, 40], method, lands=lands)


@pytest.mark.parametrize("name", ERRORS)
async def test_known_errors(name: str) -> None:
    await compare(ERRORS[name][: 2 << 20], [100, 1 << 19], "GET", lands=True)


_HOSTILE = st.sampled_from(
    [
        b"content-length: 5",
        b"Content-Length:5",
        b"CONTENT-LENGTH:   5 ",
        b"content-length: 05",
        b"content-length: +5",
        b"content-length: 5, 5",
        b"content-length: 0x5",
        b"content-length: 4",
        b"content-length: 99999999999999999999",
        b"content-length : 5",
        b" content-length: 5",
        b"\tfolded",
        b"x: y\r\n content-length: 5",
        b"x-content-length: 3",
        b"content-lengt: 3",
        b"transfer-encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"connection: close",
        b"x: \ncontent-length: 5",
        b"x: \rcontent-length: 5",
        b"x: \x00",
        b"keep-alive: timeout=5",
        b"etag: " + b"e" * 5000,
        b"x",
        b"",
    ]
)
_STATUS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 206 Partial",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"http/1.1 200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 204 No",
        b"HTTP/1.1 304 Not",
        b"HTTP/1.1 404 Not",
        b"HTTP/1.1 100 Continue",
        b"HTTP/2 200",
    ]
)
_END = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Heads made of what may go wrong, and bodies that may be shorter or longer than they say."""
    lines = [draw(_STATUS), *draw(st.lists(_HOSTILE, max_size=4))]
    head = b"".join(line + draw(_END) for line in lines) + draw(_END)
    return head + draw(st.sampled_from([b"hello", b"", b"hel", b"hello, world", b"5\r\nhello\r\n0\r\n\r\n"]))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink what hangs would take hours
)
@given(streams(), st.lists(st.integers(0, 200), max_size=3), st.booleans())
async def test_any_stream(sent: bytes, cuts: list[int], lands: bool) -> None:
    await compare(sent, cuts, "GET", lands=lands)


@pytest.mark.parametrize("size", [0, 1, 1 << 14, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20, (3 << 20) + 7])
async def test_bodies_of_all_sizes(size: int) -> None:
    body = random.Random(size).randbytes(size)
    await compare(head_of(f"Content-Length: {size}") + body, [size // 2], "GET", lands=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [300 << 10, 1 << 20, (3 << 20) + 7])
@pytest.mark.parametrize("cut", [0, 1, 100_003])
async def test_a_checksum_is_made_of_what_lands_also_where_it_is_cut(algorithm: str, size: int, cut: int) -> None:
    body, landing = random.Random(size).randbytes(size), Whole()
    landing.fold = fold = Fold(algorithm)
    with connected() as (connection, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                feed_and_end, far, head_of(f"Content-Length: {size}") + body[: size - cut], [size // 3], False
            )
            with pytest.raises(ConnectionResetError) if cut else nullcontext():
                await connection.exchange("GET", REQUEST, landing=landing)
    assert fold.length == landing.filled == size - cut
    assert fold.value == checksum_of(algorithm, body[: size - cut])


async def test_a_reused_connection_on_which_something_lies_is_stale() -> None:
    with connected() as (connection, far):
        far.send(head_of("Content-Length: 5") + b"hello")
        assert (await outcome_of(connection, "GET", lands=True)).body == b"hello"
        far.send(head_of("Content-Length: 4") + b"evil")
        with pytest.raises(StaleError):
            await connection.exchange("GET", REQUEST, landing=Whole())
        far.settimeout(10)
        assert far.recv(1 << 16) == REQUEST  # the second one was never sent


async def _use_pump() -> Pump:
    found = pump_of_run()
    assert found is not None
    return found


async def test_what_is_cancelled_is_let_go_and_not_written_to_again() -> None:
    """The memory of a row that was given up is overwritten, and stays so though the peer goes on sending."""
    chance = random.Random(7)
    used = await _use_pump()
    for _ in range(100):
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        stream, memory = Stream(near, StallWatch(60)), bytearray(1 << 16)
        with far:
            far.send(bytes(chance.randrange(1, 1000)))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_converse, stream, memory)
                    for _ in range(chance.randrange(4)):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert used._rows == {}
            memory[:] = bytes([POISON]) * len(memory)
            far.send(bytes(2000))
            stream.close()
        assert memory == bytes([POISON]) * len(memory)


async def _converse(stream: Stream, memory: bytearray) -> None:
    await stream.converse(REQUEST, memory, 0, whole=True, reused=False)


async def test_rows_and_descriptors_are_given_back_under_cancellation() -> None:
    """A peer that answers when it likes, and tasks that are cancelled whenever: nothing is left of any."""
    chance = random.Random(11)
    used = await _use_pump()
    before = _descriptors()

    async def peer(far: socket.socket) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        body = bytes(chance.choice([10, 100_000, 2_000_000]))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                async for _ in stream:
                    await stream.send_all(head_of(f"Content-Length: {len(body)}") + body)

    async def user() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        connection = Connection(Stream(near, StallWatch(60)))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer, far)
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel_after, scope, chance.randrange(60))
                    for _ in range(3):
                        landing = Whole()
                        await connection.exchange("GET", REQUEST, landing=landing)
                        assert not any(landing.data)
                nursery.cancel_scope.cancel()
        finally:
            connection.close()

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(user)
        assert (used._rows, used.attached) == ({}, 0)
    assert _descriptors() <= before


def _descriptors() -> set[str]:
    gc.collect()  # what earlier tests left goes now
    return set(os.listdir("/proc/self/fd"))


async def _cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


def test_a_pump_ends_with_its_run() -> None:
    async def main() -> None:
        with connected() as (connection, far):
            far.send(head_of("Content-Length: 5") + b"hello")
            assert (await outcome_of(connection, "GET", lands=True)).body == b"hello"
        assert len(pumps()) == len(others) + 1

    def pumps() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "s3dlio-pump"}

    others, before = pumps(), _descriptors()  # the portal's, for one
    trio.run(main)
    assert pumps() == others
    assert _descriptors() <= before


def test_a_run_that_breaks_down_keeps_the_memory_that_is_written_to() -> None:
    """Its tasks, and what they held, are gone; the pump still has what it was given."""

    async def main() -> None:
        with connected() as (connection, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome_of_task, connection)
                await trio.testing.wait_all_tasks_blocked()
                (row,) = (await _use_pump())._rows.values()
                assert row.kept[0] is not None
                assert isinstance(row.kept[1], bytearray)
                nursery.cancel_scope.cancel()

    async def outcome_of_task(connection: Connection) -> None:
        await outcome_of(connection, "GET", lands=True)

    trio.run(main)


async def test_many_connections() -> None:
    """More than a batch, all under way at once."""

    async def one(number: int) -> None:
        with connected() as (connection, far):
            body = number.to_bytes(4, "big") * 1000
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, far, head_of(f"Content-Length: {len(body)}") + body, [10, 2000])
                assert (await outcome_of(connection, "GET", lands=True)).body == body

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, number)


async def test_a_descriptor_beyond_the_table_does_without() -> None:
    used = await _use_pump()
    assert not used.attach(pump_table.ROWS)


_SCRIPT = """
import os, sys, threading, trio
from s3dlio.transport.pump_code import wait_for_code
assert wait_for_code(120)
import s3dlio
from s3dlio.blocking.portal import portal
from tests.servers.faults import fault_server

async def serve(task_status):
    async with fault_server() as server:
        server.objects["/bucket/small"] = bytes(100_000)
        server.objects["/bucket/large"] = bytes(40_000_000)
        task_status.append(server.endpoint)
        ready.set()
        await trio.sleep_forever()

ready, found = threading.Event(), []
threading.Thread(target=trio.run, args=(serve, found), daemon=True).start()
ready.wait()
os.environ.update(AWS_ENDPOINT_URL=found[0], AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="s", AWS_REGION="r")

def read(key):
    while True:
        s3dlio.get(f"s3://bucket/{key}")
        begun.set()

begun = threading.Event()
for key in ("small", "large") * 2:
    threading.Thread(target=read, args=(key,), daemon=True).start()
begun.wait()
"""

_FORK = """
child = os.fork()
if child == 0:
    ok = s3dlio.get("s3://bucket/small") == bytes(100_000) and s3dlio.get("s3://bucket/large") == bytes(40_000_000)
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert s3dlio.get("s3://bucket/large") == bytes(40_000_000)
"""


@pytest.mark.parametrize("then", ["", _FORK], ids=["exit", "fork"])
@pytest.mark.parametrize("attempt", range(3))
def test_an_exit_or_a_fork_in_mid_transfer(then: str, attempt: int) -> None:
    command = [sys.executable, "-W", "error", "-c", _SCRIPT + then]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_code_that_was_found_is_found_again() -> None:
    assert pump_code() is pump_code()
