"""The portal: calls from any thread, cancellation, Ctrl-C, fork, exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from s3dlio.blocking.portal import BlockingPortal, CancelledError, Job, portal
from s3dlio.stores.memory import MemoryStore
from s3dlio.transfer import ParallelStore


@pytest.fixture
def own_portal() -> Iterator[BlockingPortal]:
    made = BlockingPortal()
    yield made
    made.close()


async def _add(left: int, right: int) -> int:
    await trio.lowlevel.checkpoint()
    return left + right


def _run_script(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_call_returns_the_value(own_portal: BlockingPortal) -> None:
    assert own_portal.call(_add, 2, 3) == 5


def test_call_raises_what_the_coroutine_raised(own_portal: BlockingPortal) -> None:
    async def fail() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        own_portal.call(fail)
    assert own_portal.call(_add, 1, 1) == 2


def test_calls_from_many_threads(own_portal: BlockingPortal) -> None:
    sums: list[int] = []
    threads = [threading.Thread(target=lambda n=n: sums.append(own_portal.call(_add, n, n))) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [2 * n for n in range(32)]


def test_a_call_on_the_portals_own_thread_is_refused(own_portal: BlockingPortal) -> None:
    async def nested() -> int:
        return own_portal.call(_add, 1, 2)

    with pytest.raises(RuntimeError, match="own thread"):
        own_portal.call(nested)


def test_a_closed_portal_says_so(own_portal: BlockingPortal) -> None:
    own_portal.close()
    with pytest.raises(RuntimeError, match="closed"):
        own_portal.call(_add, 1, 2)
    assert repr(own_portal) == "<BlockingPortal closed>"


def test_closing_ends_jobs_and_closes_stores(own_portal: BlockingPortal) -> None:
    class Kept(MemoryStore):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    kept = Kept()
    own_portal.stores["it"] = ParallelStore(kept, part_size=1, parts_in_flight=1)
    job = own_portal.start_task_soon(trio.sleep_forever)
    own_portal.close()
    with pytest.raises(CancelledError):
        job.result()
    assert kept.closed


def test_a_cancelled_job_says_so(own_portal: BlockingPortal) -> None:
    job = own_portal.start_task_soon(trio.sleep_forever)
    job.cancel()
    with pytest.raises(CancelledError):
        job.result()
    job.cancel()


async def _steps(count: int) -> int:
    for _ in range(count):
        await trio.lowlevel.checkpoint()
    return count


def test_cancel_churn_leaves_no_task(own_portal: BlockingPortal) -> None:
    random = Random(7)

    async def tasks_left() -> int:
        await trio.testing.wait_all_tasks_blocked()
        assert own_portal._nursery is not None
        return len(own_portal._nursery.child_tasks) - 1

    cancelled = 0
    for _ in range(300):
        jobs = [own_portal.start_task_soon(_steps, random.randrange(40)) for _ in range(8)]
        for job in jobs[random.randrange(8) :]:
            job.cancel()
        for job in jobs:
            try:
                job.result()
            except CancelledError:
                cancelled += 1
    assert cancelled > 100
    assert own_portal.call(tasks_left) == 0


class _Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    @asynccontextmanager
    async def context(self) -> AsyncIterator[str]:
        self.events.append("enter")
        try:
            yield "value"
            self.events.append("left")
        except BaseException as error:
            self.events.append(type(error).__name__)
            raise


def test_a_held_context_is_left_without_error(own_portal: BlockingPortal) -> None:
    recorder = _Recorder()
    held = own_portal.enter(recorder.context())
    assert held.value == "value"
    held.leave()
    assert recorder.events == ["enter", "left"]


def test_a_held_context_is_cancelled(own_portal: BlockingPortal) -> None:
    recorder = _Recorder()
    held = own_portal.enter(recorder.context())
    held.cancel()
    held.cancel()
    assert recorder.events == ["enter", "Cancelled"]


def test_entering_raises_what_the_context_raises(own_portal: BlockingPortal) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise PermissionError("no")
        yield

    with pytest.raises(PermissionError, match="no"):
        own_portal.enter(broken())


def test_a_forked_child_has_its_own_portal_and_the_parent_keeps_its() -> None:
    parent = portal()
    assert parent.call(_add, 1, 2) == 3
    child = os.fork()
    if child == 0:
        try:
            same = portal() is parent
            works = portal().call(_add, 3, 4) == 7
            refused = False
            try:
                parent.call(_add, 1, 1)
            except RuntimeError:
                refused = True
            os._exit(0 if works and refused and not same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert portal() is parent
    assert parent.call(_add, 5, 6) == 11


def test_interrupt_cancels_the_job_before_it_raises() -> None:
    done = _run_script(
        """
import os, signal, trio
from s3dlio.blocking.portal import portal
events = []
async def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()
    except trio.Cancelled:
        events.append("cancelled")
        raise
try:
    portal().call(work)
except KeyboardInterrupt:
    print("interrupted", events)
"""
    )
    assert (done.stdout, done.stderr) == ("interrupted ['cancelled']\n", "")


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "portal().start_task_soon(trio.sleep_forever)"])
def test_a_process_that_used_the_portal_exits_quietly(ending: str) -> None:
    done = _run_script(
        f"import trio\nfrom s3dlio.blocking.portal import portal\nportal().call(trio.sleep, 0)\n{ending}"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


_UNSEEN_INTERRUPT = """
import signal, sys, threading, trio, trio.testing
from s3dlio.blocking.gather import Gather, ObjectRanges
from s3dlio.blocking.portal import portal
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from tests.watched import watched_store
from s3dlio.config import Config

waiting = threading.Event()

async def wait_for_ever(_=None):
    waiting.set()
    await trio.sleep_forever()

class Entered:
    async def __aenter__(self):
        await wait_for_ever()
    async def __aexit__(self, *_):
        pass

def interrupt():
    waiting.wait()
    portal().call(trio.testing.wait_all_tasks_blocked, 0.1)  # by now the main thread waits, too
    # taken note of here: the main thread's own wait is not disturbed, as by a signal in the instant before it
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

store = watched_store(Config(), first=b"first", second=b"second", third=b"third")
store.watched.during = wait_for_ever
ahead = ReadAhead((Want(store, key) for key in ("first", "second")), eager=True)
list(ahead)
waits = {
    "call": lambda: portal().call(wait_for_ever),
    "context": lambda: portal().enter(Entered()),
    "read ahead": lambda: ahead.body(0),
    "gather": lambda: Gather([ObjectRanges(store, "third", [(0, 5)])], max_gap=0).view(0, 0),
}
threading.Thread(target=interrupt).start()
try:
    waits[sys.argv[1]]()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("wait", ["call", "context", "read ahead", "gather"])
def test_an_interrupt_that_the_wait_does_not_see_ends_it_all_the_same(wait: str) -> None:
    command = [sys.executable, "-c", _UNSEEN_INTERRUPT, wait]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_a_call_that_comes_while_the_portal_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(MemoryStore):
        async def aclose(self) -> None:
            await trio.to_thread.run_sync(call)

    def call() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            made.call(_add, 1, 2)
        refused.append(True)

    made, refused, failures = BlockingPortal(), list[bool](), list[BaseException | None]()
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(failure.exc_value))
    made.stores["it"] = ParallelStore(Kept(), part_size=1, parts_in_flight=1)
    made.close()
    assert (refused, failures) == ([True], [])


@pytest.mark.parametrize("attempt", range(16))  # of two tasks that can run, Trio takes either first
def test_a_job_that_comes_while_the_last_one_ends_is_refused(monkeypatch: pytest.MonkeyPatch, attempt: int) -> None:
    async def hold() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            late.append(made.start_task_soon(_add, 1, 2))

    made, begun, late, failures = BlockingPortal(), threading.Event(), list[Job[int]](), list[BaseException | None]()
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(failure.exc_value))
    job = made.start_task_soon(hold)
    begun.wait()
    made.close()
    jobs: list[Job[Any]] = [job, *late]
    for each in jobs:
        with pytest.raises(CancelledError, match="closed"):
            each.result()
    assert failures == []


_DAEMONS = """
import threading, time
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.portal import portal
from s3dlio.config import Config
from tests.watched import watched_store
import trio

store = watched_store(Config(part_size=10), small=b"small", large=bytes(100))
barrier = threading.Barrier(7)

def read(key):
    barrier.wait()
    while True:
        store.get(key)

def read_ahead():
    barrier.wait()
    while True:
        ahead = ReadAhead(Want(store, "large") for _ in range(100))
        for position, _ in ahead:
            ahead.body(position)

def hang():
    barrier.wait()
    portal().call(trio.sleep_forever)

for target, arguments in [(read, ("small",))] * 2 + [(read, ("large",))] * 2 + [(read_ahead, ()), (hang, ())]:
    threading.Thread(target=target, args=arguments, daemon=True).start()
barrier.wait()
store.get("small")
"""


@pytest.mark.parametrize("attempt", range(10))
def test_threads_that_read_while_the_interpreter_ends_are_silent(attempt: int) -> None:
    done = _run_script(_DAEMONS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
