"""Blocking calls into Trio: one thread per process that runs the loop, and the way in for all others.

Theory of operation. :func:`portal` gives the process's :class:`BlockingPortal`, made on first use. A call posts a job
to the loop by `run_sync_soon` and sleeps on a lock that the job releases; that is a third of the cost of
`trio.from_thread.run`.

Ownership: the portal's thread owns every connection, buffer and task made behind it; callers get finished values.
Stores live as long as the loop, in :attr:`BlockingPortal.stores`, and are closed with it.

Cancellation: an interrupted caller (Ctrl-C) cancels its job, waits a moment for it to let go of what it holds, and only
then raises; a second interrupt does not wait. A job that nobody waits for is cancelled by :meth:`Job.cancel`.

Fork: the child has the object but not the thread. A portal knows the process it was made in; in a child,
:func:`portal` makes a new one, and inherited sockets are neither used nor shut down.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar, TypeVarTuple, cast

import trio

from ..transfer import ParallelStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LET_GO = 0.8
_STOP = 2.0


class Job(Generic[T]):
    """One coroutine on the portal's thread."""

    def __init__(self, portal: BlockingPortal, work: Callable[[], Awaitable[T]]) -> None:
        self._portal = portal
        self._work: Callable[[], Awaitable[T]] | None = work
        self._scope = trio.CancelScope()
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = threading.Lock()  # an Event is one too, under two more and a page of Python
        self._done.acquire()

    async def run(self) -> None:
        """The job itself, on the loop. Never raises: the outcome is the waiter's."""
        assert self._work is not None
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
            self._work = None  # it holds what the caller gave, such as the body of a put
            self._done.release()

    def result(self) -> T:
        """Wait, and give what the coroutine returned, once.

        Errors: what it raised; `CancelledError`; `RuntimeError` on the loop's own thread, which would wait for itself.
        """
        if self._portal.is_this_thread:
            raise RuntimeError("a blocking call on the portal's own thread can never return; use the async methods")
        try:
            self._done.acquire()
        except BaseException:
            self.cancel()
            if self._done.acquire(timeout=_LET_GO):
                self._done.release()
            raise
        self._done.release()
        value, error, self._value, self._error = self._value, self._error, None, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: together they would wait for the collector
        return cast("T", value)

    def cancel(self) -> None:
        """Cancel the coroutine. Any thread may call this, also a finaliser, and also when it is long over."""
        self._portal.soon(self._scope.cancel)


class CancelledError(RuntimeError):
    """The job was cancelled: by :meth:`Job.cancel`, or because its portal was closed."""


class BlockingPortal:
    """A Trio loop in a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.stores: dict[Hashable, ParallelStore] = {}
        """Open stores by their handles. For the loop's thread alone; closed when the loop ends."""
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._run, name="s3dlio-portal", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        trio.run(self._main, strict_exception_groups=True)

    async def _main(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for store in self.stores.values():
                    await store.aclose()

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
        if self.pid != os.getpid():
            raise RuntimeError("this portal belongs to the parent process")
        if self._token is None or self._nursery is None or not self._thread.is_alive():
            raise RuntimeError("the portal is closed")
        job: Job[T] = Job(self, lambda: function(*arguments))
        # The loop's own thread has to start it; nothing is sent back: the job's lock tells that it is over
        self._token.run_sync_soon(self._nursery.start_soon, job.run)
        return job

    def call(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Run `await function(*arguments)` on the loop and wait for it: see :meth:`Job.result`."""
        return self.start_task_soon(function, *arguments).result()

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
        self._job = portal.start_task_soon(self._stay)
        try:
            self._entered.acquire()
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

    def cancel(self) -> None:
        """End the body by cancelling it, and wait; never raises what that led to."""
        self._job.cancel()
        try:
            self._job.result()
        except Exception:
            return


_lock = threading.Lock()
_current: BlockingPortal | None = None


def portal() -> BlockingPortal:
    """This process's portal."""
    global _current
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
    if _current is not None:
        _current.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
