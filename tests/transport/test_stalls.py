"""Limits are on silence, never on the whole: a peer that stops is given up, one that is slow is not."""

from __future__ import annotations

import logging
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3dlio.errors import ConnectionFailedError, ConnectTimeoutError, ErrorContext, StallError
from s3dlio.model import PutOptions
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import Stream

from ..servers.faults import NOTHING, Fault, FaultServer
from .conftest import DATA, ROOT, MakeStore

MiB = 1 << 20
BIG = bytes(2 * MiB)


@pytest.mark.parametrize("operation", ["get", "head", "put", "list"])
async def test_silence_instead_of_a_head(
    clock: MockClock, server: FaultServer, make_store: MakeStore, operation: str
) -> None:
    store = make_store(max_attempts=1, stall_timeout=30)
    server.always = Fault(stall=NOTHING)
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get("key"),
        "head": lambda: store.head("key"),
        "put": lambda: store.put("key", DATA),
        "list": store.list_page,
    }
    began = trio.current_time()
    with pytest.raises(StallError, match="30 seconds") as caught:
        await verbs[operation]()
    assert trio.current_time() - began == pytest.approx(30, abs=0.5)
    assert caught.value.attempts == len(server.requests) == 1


async def test_each_attempt_has_its_own_limit(clock: MockClock, server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(stall_timeout=30)
    server.always = Fault(stall=NOTHING)
    began = trio.current_time()
    with pytest.raises(StallError) as caught:
        await store.get("key")
    assert trio.current_time() - began == pytest.approx(90, abs=1)
    assert caught.value.attempts == len(server.requests) == 3


@pytest.mark.parametrize("size", [1, 20_000, 600_000])
async def test_silence_in_mid_body(clock: MockClock, server: FaultServer, make_store: MakeStore, size: int) -> None:
    server.objects[f"{ROOT}big"] = BIG
    server.script += [Fault(stall=size)]
    began = trio.current_time()
    assert await make_store(stall_timeout=30).get("big") == BIG
    assert 30 <= trio.current_time() - began < 46
    assert server.requests[1].range == f"bytes={size}-{len(BIG) - 1}"


async def test_a_long_silence_is_worth_a_line(
    clock: MockClock, server: FaultServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3dlio")
    server.objects[f"{ROOT}big"] = BIG
    server.script += [Fault(stall=NOTHING), Fault(stall=600_000)]
    began = trio.current_time()
    times: list[float] = []

    def note(_record: logging.LogRecord) -> bool:
        times.append(trio.current_time() - began)
        return True

    caplog.handler.addFilter(note)  # it is that of all tests
    try:
        assert await make_store().get("big") == BIG
    finally:
        caplog.handler.removeFilter(note)
    lines = [line for line in caplog.messages if line.startswith("no byte has moved for 10 seconds")]
    assert len(lines) == 2
    assert times[0] == pytest.approx(10, abs=0.5)
    for part in ("operation='GetObject'", "bucket='bucket'", "key='big'", server.endpoint):
        assert all(part in line for line in lines)


async def test_a_slow_body_is_not_worth_a_line(
    clock: MockClock, server: FaultServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3dlio")
    server.objects[f"{ROOT}slow"] = BIG[:1200]
    server.script += [Fault(pace=(100, 9.0))]
    assert await make_store().get("slow") == BIG[:1200]
    assert caplog.messages == []


async def test_each_of_many_waits_has_a_line_of_its_own(
    clock: MockClock, server: FaultServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3dlio")
    server.always = Fault(stall=NOTHING)
    store = make_store()
    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(store.head, key)
        await trio.sleep(59)
        nursery.cancel_scope.cancel()
    assert sorted(line.partition("key=")[2][:3] for line in caplog.messages) == ["'a'", "'b'", "'c'"]


class Dripping:
    """What a pump receives for: a byte comes whenever one looks."""

    waits = 0
    purpose: Callable[[], ErrorContext] | None = None
    _moved = 0

    @property
    def moved(self) -> int:
        self._moved += 1
        return self._moved

    def accept_any(self) -> None:
        raise AssertionError("it was not silent")

    give_up = accept_any


async def test_what_a_pump_receives_is_no_silence(clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    watch, stream = StallWatch(60), Dripping()
    watch.begin(stream)
    await trio.sleep(300)
    watch.end(stream)
    assert caplog.messages == []


async def test_an_ambiguous_stall_is_not_repeated(clock: MockClock, server: FaultServer, make_store: MakeStore) -> None:
    server.always = Fault(stall=NOTHING)
    with pytest.raises(StallError):
        await make_store(stall_timeout=30).put("new", DATA, PutOptions(if_none_match=True))
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [120 * 1024, 2 * MiB], ids=["1 KB/s", "a few bytes of much"])
async def test_a_slow_body_is_no_stall(clock: MockClock, server: FaultServer, make_store: MakeStore, size: int) -> None:
    """It takes minutes, and each pause is shorter than the limit, though little comes between two."""
    server.objects[f"{ROOT}slow"] = data = BIG[:size]
    server.always = Fault(pace=(size // 20, 29.0))
    began = trio.current_time()
    assert await make_store(max_attempts=1, stall_timeout=30).get("slow") == data
    assert trio.current_time() - began >= 19 * 29
    assert len(server.requests) == 1


async def test_a_slow_reader_of_an_upload_is_no_stall(
    clock: MockClock, server: FaultServer, make_store: MakeStore
) -> None:
    data = bytes(16 * MiB)
    server.always = Fault(sip=(MiB, 3.0))
    began = trio.current_time()
    await make_store(max_attempts=1, stall_timeout=30).put("big", data)
    assert trio.current_time() - began > 40
    assert server.objects[f"{ROOT}big"] == data


async def test_an_upload_that_nobody_reads(clock: MockClock, server: FaultServer, make_store: MakeStore) -> None:
    server.always = Fault(sip=(1, 1e9))
    with pytest.raises(StallError):
        await make_store(max_attempts=1, stall_timeout=30).put("big", bytes(16 * MiB))


async def test_a_busy_connection_is_no_stall(clock: MockClock) -> None:
    """Time passes while bytes move and nothing is waited for: that is the opposite of a stall."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        stream = Stream(near, StallWatch(30))
        view = memoryview(bytearray(64 << 10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_into, view)
            await trio.testing.wait_all_tasks_blocked()
            far.send(view)
        for _ in range(200):
            clock.jump(10)
            far.send(view)
            assert await stream.receive_into(view)
        clock.jump(10)
        with pytest.raises(TimeoutError, match="30 seconds"):
            await stream.receive_into(view)


async def test_time_in_which_the_loop_did_not_run_does_not_count(clock: MockClock) -> None:
    """The process was stopped for longer than the limit, and so, perhaps, was who would have sent."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream = Stream(near, StallWatch(30))
        view = memoryview(bytearray(100))

        async def answer_after_a_stop() -> None:
            await trio.sleep(5)
            for _ in range(3):
                clock.jump(3600)
                await trio.sleep(5)
            far.send(b"x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_after_a_stop)
            assert await stream.receive_into(view) == 1
        began = trio.current_time()

        async def stop() -> None:
            await trio.sleep(10)
            clock.jump(3600)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with pytest.raises(TimeoutError, match="30 seconds"):
                await stream.receive_into(view)
        assert trio.current_time() - began == pytest.approx(3630, abs=16)


READ_SLOWLY = """
import trio, s3dlio
async def main():
    async with s3dlio.open_store("s3://bucket", endpoint={endpoint!r}, stall_timeout=2, max_attempts=1) as store:
        print(len(await store.get("key")))
trio.run(main)
"""


def test_a_process_that_was_stopped_reads_on() -> None:
    """Nothing comes before it has looked at the time again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code = READ_SLOWLY.format(endpoint=endpoint)
        reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with reader, listener.accept()[0] as connection:
            connection.recv(65536)
            waits(reader)
            reader.send_signal(signal.SIGSTOP)
            stopped_for(reader, 4)
            reader.send_signal(signal.SIGCONT)
            waits(reader)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234567890")
            assert reader.communicate()[0] == "10\n"


def stopped_for(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait, by the clock that goes on while a process is stopped."""
    until = time.monotonic() + seconds
    while time.monotonic() < until or state(process) != "T":
        select.select([], [], [], 0.1)


def waits(process: subprocess.Popen[str]) -> None:
    while state(process) not in "SZ":
        pass


def state(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_cancelled_read_has_taken_nothing() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        stream = Stream(near, StallWatch(30))
        view = memoryview(bytearray(100))
        taken = 0
        for _ in range(100_000):
            far.send(b"x" * 100)
            with trio.CancelScope() as scope:
                scope.cancel()
                taken += await stream.receive_into(view)
            if scope.cancelled_caught:
                break
        sent = taken + 100
        assert scope.cancelled_caught
        assert await stream.receive_into(view) == sent - taken


async def test_nobody_takes_the_connection(
    clock: MockClock, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: object, **options: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    began = trio.current_time()
    with pytest.raises(ConnectTimeoutError, match="20 seconds") as caught:
        await make_store().get("key")
    assert trio.current_time() - began == pytest.approx(60, abs=1)
    assert caught.value.attempts == 3


async def test_nobody_is_there(clock: MockClock, make_store: MakeStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        store = make_store(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConnectionFailedError, match="refused") as caught:
            await store.put("key", DATA)
    assert caught.value.attempts == 3
