"""Blocking calls into Trio: one thread per process that runs the loop, and the way in for all others.

Theory of operation. :func:`portal` gives the process's :class:`BlockingPortal`, made on first use. A call posts a job
to the loop by `run_sync_soon` and sleeps on a lock that the job releases; that is a third of the cost of
`trio.from_thread.run`.

Ownership: the portal's thread owns every connection, buffer and task made behind it; callers get finished values.
Stores live as long as the loop, in :attr:`BlockingPortal.stores`, and are closed with it.

Cancellation: an interrupted caller (Ctrl-C) cancels its job, waits a moment for it to let go of what it holds, and only
then raises; a second interrupt does not wait. A job that nobody waits for is cancelled by :meth:`Job.cancel`.

Signals: one may come in the instant between the interpreter's last look for it and a wait, which would sleep through
it. So every wait looks up once a second (:func:`acquire`).

Exit: the portal is closed, so that uploads are aborted. Daemon threads may be in a call, or begin one; since nobody is
left to tell, they are held for good (:func:`hold_if_ending`).

Fork: the child has the object but not the thread. A portal knows the process it was made in; in a child,
:func:`portal` makes a new one, and inherited sockets are neither used nor shut down.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar, TypeVarTuple, cast

import trio

from ..errors import StoreError
from ..observers import caused_by, span_ended
from ..transfer import ParallelStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LOOK_UP = 1.0
"""Longest time, in seconds, that a signal which came just before a wait is not seen."""

_LET_GO = 0.8
_STOP = 2.0
_ending = False


def acquire(lock: threading.Lock) -> None:
    """Take `lock`, and be interruptible while waiting for it."""
    while not lock.acquire(timeout=LOOK_UP):
        pass


def hold_if_ending() -> None:
    """Never return, in a daemon thread while the interpreter ends: it has nobody left to tell of an error."""
    while _ending and threading.current_thread() is not threading.main_thread():
        time.sleep(LOOK_UP)


def as_shown(error: BaseException) -> BaseException:
    """`error` as a person should see it: the way through the loop tells nothing of an error of the package's own."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(error, StoreError):
            link.__traceback__ = None
        if isinstance(error, StoreError) or link.__suppress_context__:  # notebooks follow it all the same
            link.__context__ = None
        link = link.__cause__
    return error


class Job(Generic[T]):
    """One coroutine on the portal's thread."""

    def __init__(self, portal: BlockingPortal, work: Callable[[], Awaitable[T]]) -> None:
        self._portal = portal
        self._work: Callable[[], Awaitable[T]] | None = work
        self._scope = trio.CancelScope()
        self.context = copy_context()
        """The caller's: what they observe, such as a span of OpenTelemetry's, includes what is done for them."""
        self._value: T | None = None
        self._error: BaseException | None = None
        self._let_go = False
        self._done = threading.Lock()  # an Event is one too, under two more and a page of Python
        self._done.acquire()

    async def run(self) -> None:
        """The job itself, on the loop. Never raises: the outcome is the waiter's."""
        assert self._work is not None
        caused_by(id(self))
        try:
            with self._scope:
                self._value = await self._work()
            if self._scope.cancelled_caught:
                self._error = CancelledError("the call was cancelled")
        except Exception as error:
            self._error = error
        except BaseException as error:
            self._error = error if isinstance(error, KeyboardInterrupt) else CancelledError("the portal was closed")
            raise
        finally:
            self._end()

    def refuse(self) -> None:
        """Instead of :meth:`run`, on a loop that takes no more jobs."""
        self._error = CancelledError("the portal was closed")
        self._end()

    def _end(self) -> None:
        self._work = None  # it holds what the caller gave, such as the body of a put
        self._done.release()

    def wait(self, timeout: float) -> bool:
        """Whether it is over, now or after at most `timeout` seconds."""
        if over := self._done.acquire(timeout=timeout):
            self._done.release()
        return over

    def result(self) -> T:
        """Wait, and give what the coroutine returned, once.

        Errors: what it raised; `CancelledError`; `RuntimeError` on the loop's own thread, which would wait for itself.
        """
        if self._portal.is_this_thread:
            raise RuntimeError("a blocking call on the portal's own thread can never return; use the async methods")
        begun = time.monotonic()
        try:
            acquire(self._done)
        except BaseException:
            self.let_go()
            raise
        self._done.release()
        span_ended("wait", begun, id(self))
        value, error, self._value, self._error = self._value, self._error, None, None
        if error is not None:
            try:
                hold_if_ending()
                raise as_shown(error)
            finally:
                del error  # its traceback holds this frame: together they would wait for the collector
        return cast("T", value)

    def let_go(self) -> None:
        """Have it let go of what it holds, if it is not over, and wait a moment for that, once."""
        if self._done.locked() and not self._let_go:
            self._let_go = True
            self.cancel()
            if self._done.acquire(timeout=_LET_GO):
                self._done.release()

    def cancel(self) -> None:
        """Cancel the coroutine. Any thread may call this, also a finaliser, and also when it is long over."""
        self._portal.soon(self._scope.cancel)


class CancelledError(RuntimeError):
    """The job was cancelled: by :meth:`Job.cancel`, or because its portal was closed."""


class Interruption:
    """Lets another thread end a call: all that is done by :meth:`run`, whatever jobs it consists of."""

    def __init__(self) -> None:
        self._jobs: weakref.WeakSet[Job[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._come = False

    def run(self, call: Callable[[], T]) -> T:
        """What `call` returns. Errors: what it raises; `CancelledError` when it was interrupted."""
        outer = _interruption.set(self)
        try:
            return call()
        finally:
            _interruption.reset(outer)

    def watch(self, job: Job[Any]) -> None:
        """Note that `job` is about to be posted. Errors: `CancelledError` when the interruption has come."""
        with self._lock:
            self._jobs.add(job)
        if self._come:
            job.refuse()
            raise CancelledError("the call was cancelled")

    def interrupt(self) -> None:
        """Cancel what is under way, and what would follow. Any thread may call this."""
        with self._lock:
            self._come = True
            jobs = [*self._jobs]
        for job in jobs:
            job.cancel()


_interruption: ContextVar[Interruption | None] = ContextVar("s3dlio_interruption", default=None)


class BlockingPortal:
    """A Trio loop in a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.stores: dict[Hashable, ParallelStore] = {}
        """Open stores by their places. For the loop's thread alone, as `marks` is; closed when the loop ends."""
        self.marks: dict[Hashable, int] = {}
        """Under which credentials each was opened."""
        self._retired: weakref.WeakSet[ParallelStore] = weakref.WeakSet()
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="s3dlio-portal", daemon=True)
        self._thread.start()
        while not self._ready.wait(LOOK_UP):
            pass

    def _run(self) -> None:
        trio.run(self._main, strict_exception_groups=True)

    async def _main(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                try:
                    await trio.sleep_forever()
                finally:
                    self._over = True  # the nursery closes with its last job, which may be before it is left
        finally:
            with trio.CancelScope(shield=True):
                for store in (*self.stores.values(), *self._retired):
                    await store.aclose()

    def retire(self, store: ParallelStore) -> None:
        """On the loop: close the store as soon as nobody uses it any more."""
        self._retired.add(store)
        for each in (store, *store.replicas):
            weakref.finalize(store, self.soon, self._start, Job(self, each.inner.aclose))

    def soon(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Run a plain function on the loop, soon. Does nothing in a forked child or after the loop has ended."""
        if self._token is None or self.pid != os.getpid():
            return
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return

    def start_task_soon(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> Job[T]:
        """Run `function(*arguments)` on the loop. Errors: `RuntimeError` in a forked child, or when closed."""
        job: Job[T] = Job(self, lambda: function(*arguments))
        self.post(job)
        return job

    def post(self, job: Job[Any]) -> None:
        """Run `job`, which its maker can cancel whenever they are interrupted. Errors: `RuntimeError`, as above."""
        if self.pid != os.getpid():
            job.refuse()
            raise RuntimeError("this portal belongs to the parent process")
        if (interruption := _interruption.get()) is not None:
            interruption.watch(job)
        with suppress(trio.RunFinishedError):
            # The loop's own thread has to start it; nothing is sent back: the job's lock tells that it is over
            if self._token is not None:
                self._token.run_sync_soon(self._start, job)
                return
        job.refuse()
        hold_if_ending()
        raise RuntimeError("the portal is closed")

    def _start(self, job: Job[Any]) -> None:
        if self._over or self._nursery is None:
            job.refuse()
        else:
            job.context.run(self._nursery.start_soon, job.run)

    def call(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Run `await function(*arguments)` on the loop and wait for it: see :meth:`Job.result`."""
        job: Job[T] = Job(self, lambda: function(*arguments))
        try:
            self.post(job)
            return job.result()
        except BaseException:
            job.let_go()
            raise

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs on the loop's thread."""
        return threading.current_thread() is self._thread

    def enter(self, context: AbstractAsyncContextManager[T]) -> HeldContext[T]:
        """Enter an async context manager on the loop; its body lasts until the :class:`HeldContext` is left."""
        return HeldContext(self, context)

    def close(self) -> None:
        """Cancel all jobs, close what is kept, end the thread."""
        if self._nursery is not None:
            self.soon(self._nursery.cancel_scope.cancel)
        if self.pid == os.getpid() and not self.is_this_thread:
            self._thread.join(_STOP)

    def __repr__(self) -> str:
        if self.pid != os.getpid():
            return f"<BlockingPortal of process {self.pid}, not of this one>"
        tasks = len(self._nursery.child_tasks) if self._nursery is not None else 0
        state = f"{tasks} tasks, {len(self.stores)} stores" if self._thread.is_alive() else "closed"
        return f"<BlockingPortal {state}>"


class HeldContext(Generic[T]):
    """An async context manager that one task of the loop is inside of, as `value`."""

    def __init__(self, portal: BlockingPortal, context: AbstractAsyncContextManager[T]) -> None:
        self.value: T
        self._context = context
        self._leave = trio.Event()
        self._portal = portal
        self._entered = threading.Lock()
        self._entered.acquire()
        self._job = Job(portal, self._stay)
        try:
            portal.post(self._job)
            acquire(self._entered)
        except BaseException:
            self._job.cancel()
            raise
        if not hasattr(self, "value"):  # entering failed: that is the job's error
            self._job.result()

    async def _stay(self) -> None:
        try:
            async with self._context as self.value:
                self._entered.release()
                await self._leave.wait()
        finally:
            if not hasattr(self, "value"):
                self._entered.release()

    def leave(self) -> None:
        """End the body without error, and wait. Errors: what the context manager raises."""
        self._portal.soon(self._leave.set)
        self._job.result()

    def drop(self) -> None:
        """End the body by cancelling it, and do not wait. Any thread may call this, also a finaliser."""
        self._job.cancel()

    def cancel(self) -> None:
        """End the body by cancelling it, and wait; never raises what that led to."""
        self.drop()
        try:
            self._job.result()
        except Exception:
            return


_lock = threading.Lock()
_current: BlockingPortal | None = None


def portal() -> BlockingPortal:
    """This process's portal."""
    global _current
    hold_if_ending()
    found = _current
    if found is not None and found.pid == os.getpid() and found._thread.is_alive():
        return found
    with _lock:  # looked at again: another thread may have been here first
        if _current is None or _current.pid != os.getpid() or not _current._thread.is_alive():
            _current = BlockingPortal()
        return _current


def _forget() -> None:
    """In a forked child: the parent's portal, and a lock that another thread may have held."""
    global _lock, _current
    _lock, _current = threading.Lock(), None


def _close() -> None:
    global _ending
    _ending = True
    if _current is not None:
        _current.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
