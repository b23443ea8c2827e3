"""Churn: `python -m tests.transport.churn [--seconds 60] [--seed 1] [--tls] [--endpoints 4]`.

Many tasks read and write over a bad network (:mod:`tests.servers.bad_network`), each cancelled at random, in rounds; a
round ends when all of them are cancelled together. What arrives is compared byte by byte, and memory that goes back is
poisoned (:mod:`.poison`). In the middle of each round the process forks, and programs end in mid-transfer
(:mod:`.leaving`). Of several endpoints each is killed and started again, time and again. Between rounds, and at the
end, it is looked whether anything is left. Printed is what was done; `AssertionError` says what was wrong.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio
import trio.testing
import trustme

import s3dlio
import s3dlio.stores.http
import s3dlio.stores.store
from s3dlio.alignment import BufferPool
from s3dlio.alignment.allocator import CachingAllocator
from s3dlio.alignment.buffers import HUGE_FROM
from s3dlio.blocking.portal import portal
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.errors import StoreError
from s3dlio.stores.http import HttpStore
from s3dlio.transfer import ParallelStore
from s3dlio.transport.batch import Batch
from s3dlio.transport.dial import Dialer
from s3dlio.transport.pump import _pumps
from s3dlio.transport.pump_code import wait_for_code
from s3dlio.transport.retry import RetryPolicy
from s3dlio.transport.tls import openssl_functions
from s3dlio.urls import parse_uri

from ..descriptors import open_sockets
from ..servers.bad_network import BUCKET, LARGE, POISON, SMALL, STATE, content, some
from .poison import Graveyard, watch_buffers

LONG = 30.0
"""Seconds from which on a run is a long one."""

ROUNDS = 6
"""In a long run, and a third as many in a few seconds."""
TASKS = 24
GROWTH = 48 << 20
"""Bytes by which the resident set may be larger in the second half of the rounds, where it is smallest, than it was in
the first third, where it was largest. It goes up and down by more than that, as malloc keeps what was freed. Asked of
long runs only."""

_URI = f"s3://{BUCKET}"
_WRITTEN = ["write/0-1000", "write/1-300000", "write/2-5000000", "write/3-11000000"]
_PATIENCE = 100.0
"""Seconds after which a process that should have ended hangs. A busy machine does not take as long."""


class Churn:
    """What one Trio run does, and counts."""

    def __init__(self, seed: int, graveyard: Graveyard) -> None:
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.graveyard = graveyard
        self.config = Config(
            part_size=1 << 20, connections=40, max_attempts=4, stall_timeout=1.0, memory_limit=16 << 20
        )
        self.store = s3dlio.open_store(_URI, self.config)
        self.pool = BufferPool(24 << 20)
        self.allocator = CachingAllocator(24 << 20)
        self.one_ahead = trio.CapacityLimiter(1)

    @property
    def inner(self) -> HttpStore:
        """The store that does the requests."""
        assert isinstance(self.store.inner, HttpStore)
        return self.store.inner

    async def work(self) -> None:
        """One operation after the other."""
        while True:
            operation = self.chance.choices(OPERATIONS, WEIGHTS)[0]
            name = operation.__name__
            with trio.move_on_after(self.chance.choice([10, 0.5 ** self.chance.uniform(1, 10)])) as scope:
                try:
                    await operation(self)
                    self.counts[name] += 1
                except StoreError as error:
                    self.counts[f"{name}: {type(error).__name__}"] += 1
            self.counts[f"{name}, cancelled"] += scope.cancelled_caught
            await trio.lowlevel.checkpoint()

    def holds(self, key: str, data: bytes | memoryview, start: int = 0) -> None:
        """Errors: `AssertionError` where `data` is not what `key` holds from `start` on."""
        right = data == memoryview(content(key))[start:]
        assert right, f"{key} came as {len(data)} other bytes, {bytes(data).count(POISON)} of them poison"

    async def get(self) -> None:
        """A small object."""
        key = self.chance.choice(SMALL)
        self.holds(key, await self.store.get(key))

    async def get_large(self) -> None:
        """A large object in ranges, as `bytes`."""
        key = self.chance.choice(LARGE)
        self.holds(key, await self.store.get(key))

    async def batch(self) -> None:
        """Small objects in a batch, as a lane of reading ahead asks for them."""
        keys = self.chance.sample(SMALL, 12)
        wanted = [(key, key, self.chance.choice([0, len(content(key))])) for key in keys]
        batch: Batch[str] = Batch()
        replies = []
        try:
            while wanted or len(batch):
                if wanted:
                    wanted = wanted[await self.inner.ask(batch, wanted) :]
                if not len(batch):
                    key, *_ = wanted.pop()
                    self.holds(key, await self.inner.get(key))
                    continue
                replies = await batch.answers()
                while replies:
                    reply = replies.pop()
                    if reply.answer is None:
                        data = await self.inner.go_on(reply.name, reply)
                    elif await self.inner.is_sound(reply.answer):
                        data = reply.answer.body
                    else:
                        data = await self.inner.get(reply.name)
                    self.holds(reply.name, data)
                    self.counts["objects of batches"] += 1
        finally:
            for reply in replies:
                reply.drop()
            await batch.close()

    async def lease(self) -> None:
        """A large object, or a range of one, into pooled memory."""
        key = self.chance.choice(LARGE)
        start = self.chance.choice([0, some(self.chance) % len(content(key))])
        async with self.pool.lease(len(content(key)) - start) as lease:
            await self._read_into(key, lease.view, start)

    async def array(self) -> None:
        """A large object into an array's memory."""
        array = self.allocator.allocate(len(content(LARGE[-1])))
        assert array.size >= HUGE_FROM
        await self._read_into(LARGE[-1], array.data, 0)

    async def _read_into(self, key: str, view: memoryview, start: int) -> None:
        """What was there before is what was left there, so nobody has written to it since."""
        data = bytes(view)
        assert data.count(POISON) + data.count(0) == len(data), "memory was written to while it was nobody's"
        try:
            await self.store.get_into(key, view, start=start)
            self.holds(key, view, start)
        finally:
            view[:] = POISON * len(view)

    async def put(self) -> None:
        """An object in one request or several, from memory that is someone else's right afterwards."""
        key = self.chance.choice(_WRITTEN)
        data = bytearray(content(key))
        try:
            await self.store.put(key, data)
        finally:
            data[:] = POISON * len(data)

    async def write(self) -> None:
        """An object piece by piece."""
        key = self.chance.choice(_WRITTEN)
        piece = bytearray(900_000)
        async with self.store.open_writer(key) as writer:
            for start in range(0, len(content(key)), len(piece)):
                data = content(key)[start : start + len(piece)]
                piece[: len(data)] = data
                await writer.write(memoryview(piece)[: len(data)])
                piece[:] = POISON * len(piece)

    async def listing(self) -> None:
        """What there is to read."""
        found = {meta.key: meta.size async for page in self.store.list() for meta in page.objects}
        assert found == {key: len(content(key)) for key in (*SMALL, *LARGE)}

    async def ahead(self) -> None:
        """A part of a pass over many objects, in a thread, through the portal."""
        keys = self.chance.choices(SMALL, k=60) + self.chance.choices(LARGE, k=2)
        self.chance.shuffle(keys)
        async with self.one_ahead:
            await trio.to_thread.run_sync(self._pass_over, keys, self.chance.randrange(len(keys)))

    def _pass_over(self, keys: list[str], most: int) -> None:
        store = BlockingStore(parse_uri(_URI), self.config)
        ahead = ReadAhead(Want(store, key) for key in keys)
        try:
            for (position, _), key in zip(ahead, keys[:most], strict=False):
                self.holds(key, ahead.body(position))
                self.counts["objects read ahead"] += 1
        finally:
            ahead.close()


OPERATIONS: list[Callable[[Churn], Awaitable[None]]] = [
    *(Churn.get, Churn.get_large, Churn.batch, Churn.lease, Churn.array),
    *(Churn.put, Churn.write, Churn.listing, Churn.ahead),
]
WEIGHTS = [8, 2, 6, 4, 1, 2, 1, 1, 1]


async def churn(seconds: float, seed: int, graveyard: Graveyard) -> dict[str, object]:
    """All the rounds; what was done in them, and how the resident set grew, in bytes."""
    state = Churn(seed, graveyard)
    await warm_up(state)
    others = await at_rest(state)
    grown = []
    rounds = ROUNDS if seconds >= LONG else ROUNDS // 3
    for number in range(rounds):
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(state.work)
            await trio.sleep(seconds / rounds / 2)
            await trio.to_thread.run_sync(fork)
            await trio.to_thread.run_sync(leave, ENDS[number % len(ENDS)])
            await trio.sleep(seconds / rounds / 2)
            nursery.cancel_scope.cancel()
        assert await at_rest(state) == others, "there are more sockets than idle connections"
        grown.append(resident())
    left = await server_state(state)
    assert (left["uploads"], left["wrong"]) == ([], []), left
    await state.store.aclose()
    state.pool.close()
    return {
        **dict(sorted(state.counts.items())),
        "served": left["served"],
        "resident": grown,
        "growth": min(grown[rounds // 2 :]) - max(grown[: max(rounds // 3, 1)]),
    }


async def warm_up(state: Churn) -> None:
    """Both runs have their pumps, and stores that have asked."""
    for _ in range(20):
        try:
            await state.store.get(SMALL[0])
            await trio.to_thread.run_sync(state._pass_over, SMALL[:3], 3)
        except StoreError:
            continue
        return


async def at_rest(state: Churn) -> int:
    """Look whether anything is left of what was done; how many sockets there are that are no idle connection."""
    idle = await idle_connections(state)
    stats = state.pool.stats
    assert (stats.leased, stats.leases, stats.waiting) == (0, 0, 0), stats
    gc.collect()
    state.graveyard.settle()
    assert not state.graveyard.disturbed, "memory was written to after it had gone back"
    while True:  # a server that is killed meanwhile, or is back, changes their number
        sockets, before, idle = open_sockets(), idle, await idle_connections(state)
        if before == idle:
            return sockets - idle


async def idle_connections(state: Churn) -> int:
    """Of both runs."""
    blocking = BlockingStore(parse_uri(_URI), state.config)

    async def look() -> int:
        return await quiet(blocking.opened(portal()))

    return await quiet(state.store) + await trio.to_thread.run_sync(lambda: portal().call(look))


async def quiet(store: ParallelStore) -> int:
    """In the store's run: it uses no connection, the pumps no row; how many connections are idle."""
    assert isinstance(store.inner, HttpStore)
    assert store.inner._service is not None
    rotation = store.inner._service.rotation
    pools = [upstream.pool for upstream in rotation]
    with trio.fail_after(_PATIENCE):
        while any(pool.leased for pool in pools):  # a reading-ahead that was closed ends a moment later
            await trio.testing.wait_all_tasks_blocked()
    assert [upstream.load.owed for upstream in rotation] == [0] * len(rotation), "more is awaited than was asked for"
    assert rotation.late is None or not rotation.late._since, "a first byte is awaited that nobody asked for"
    pumps = [pump for pumps in _pumps.get({}).values() for pump in pumps]
    assert [pump._rows for pump in pumps] == [{}] * len(pumps)
    assert pumps, "nothing was pumped"
    idle = [connection for pool in pools for connection, _ in pool._idle]
    assert sum(pump.attached for pump in pumps) <= len(idle)
    for pool in pools:
        assert isinstance(pool._connect, Dialer)
        assert not pool._connect._watch._since, "a wait is watched that has ended"
    assert all(connection.stream.waits == 0 for connection in idle)
    return len(idle)


async def server_state(state: Churn) -> dict[str, object]:
    """What the server says is left, and was wrong."""
    answer: dict[str, object] = json.loads(await persistent(state.store.get, STATE.rpartition("/")[2]))
    return answer


def fork() -> None:
    """The child reads by a run of its own, and exits; to be called in a thread beside the run."""
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)  # the parent's loop has it
        try:
            trio.run(read_in_child)
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    with_end = os.pidfd_open(child)
    ended = select.poll()
    ended.register(with_end, select.POLLIN)
    if not ended.poll(1000 * _PATIENCE):
        os.kill(child, signal.SIGKILL)
    os.close(with_end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a forked child could not read, or did not end"


async def read_in_child() -> None:
    """By the Trio API, and by the portal."""
    async with s3dlio.open_store(_URI, max_attempts=20, stall_timeout=1.0, part_size=1 << 20) as store:
        for key in (SMALL[3], SMALL[4], LARGE[1]):
            assert await persistent(store.get, key) == content(key)
    blocking = BlockingStore(parse_uri(_URI), Config(max_attempts=20, stall_timeout=1.0))

    async def in_thread(key: str) -> bytes:
        return await trio.to_thread.run_sync(blocking.get, key)

    assert await persistent(in_thread, SMALL[4]) == content(SMALL[4])


async def persistent(get: Callable[[str], Awaitable[bytes]], key: str) -> bytes:
    """What it holds, whatever the network says at first."""
    while True:
        with suppress(StoreError):
            return await get(key)


ENDS = ["end", "exit", "interrupt"]


def leave(how: str) -> None:
    """Run a program that ends in mid-transfer."""
    command = [sys.executable, "-W", "error", "-m", "tests.transport.leaving", how]
    pipe, environment = subprocess.PIPE, os.environ | {"S3DLIO_STALL_TIMEOUT": "1"}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "under way\n"
        if how == "interrupt":
            program.send_signal(signal.SIGINT)
        try:
            output, errors = program.communicate(timeout=_PATIENCE)
        finally:
            program.kill()
    assert (program.returncode, output, errors) == ({"end": 0, "exit": 5, "interrupt": 6}[how], "", ""), errors


def resident() -> int:
    """Bytes of this process's memory that are mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@contextmanager
def bad_network(seed: int, endpoints: int, *, tls: bool) -> Iterator[None]:
    """The servers, in a process of their own; the environment says where they are."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.servers.bad_network", str(seed), str(endpoints)]
        if tls:
            authority, both = trustme.CA(), Path(folder) / "server.pem"
            authority.cert_pem.write_to_path(os.path.join(folder, "authority.pem"))
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(both))
            os.environ["S3DLIO_CA_BUNDLE"] = os.path.join(folder, "authority.pem")
            command.append(str(both))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            os.environ |= {"AWS_ENDPOINT_URL": server.stdout.readline().strip(), "AWS_REGION": "us-east-1"}
            os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
            try:
                yield
            finally:
                assert server.poll() is None, "the server has broken down"
                server.stdin.close()


def ours() -> list[threading.Thread]:
    """The threads that the package has begun, and that have not ended."""
    return [thread for thread in threading.enumerate() if "s3dlio" in thread.name]


def hasten() -> None:
    """Repeat at once what fails, and give up no upload for want of time: neither is what this is about."""
    policy = functools.partial(RetryPolicy, scale=0.02, throttle_scale=0.02)
    setattr(s3dlio.stores.http, "RetryPolicy", policy)  # noqa: B010
    setattr(s3dlio.stores.http, "_UNDO_TIME", _PATIENCE)  # noqa: B010
    setattr(s3dlio.stores.store, "_ABORT_TIME", _PATIENCE)  # noqa: B010


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--endpoints", type=int, default=1)
    options = parser.parse_args()
    hasten()
    logging.getLogger("s3dlio").setLevel(logging.ERROR)  # that an attempt failed is no news here
    graveyard = Graveyard()
    watch_buffers(graveyard)
    assert wait_for_code(120, openssl_functions() if options.tls else None)
    with bad_network(options.seed, options.endpoints, tls=options.tls):
        before = open_sockets()
        report = trio.run(churn, options.seconds, options.seed, graveyard)
        portal().close()
        for thread in ours():  # who closes a portal waits for two seconds, which are few on a busy machine
            thread.join(2 * _PATIENCE)
        assert open_sockets() == before
        assert ours() == []
    print(json.dumps({**report, "buried": graveyard.buried}, indent=1))
    growth = report["growth"]
    assert isinstance(growth, int)
    if options.seconds >= LONG:  # before, the first rounds have not reached what is usual
        assert growth < GROWTH, f"{growth} bytes more stay resident than in the first third of the rounds"


if __name__ == "__main__":
    main()
