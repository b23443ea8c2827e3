"""Many ranges of objects, fetched ahead in order, as views of page-aligned buffers: how a checkpoint is loaded.

Theory of operation. :func:`plan_batches` puts consecutive ranges of one object into a batch, which is one buffer, and
:func:`plan_pieces` says which requests fill it: ranges that lie near each other share one, and a gap that is as wide as
a request is not fetched. The loop's side, :class:`_Loader`, leases a buffer for one batch after the other from a pool
of its own and starts to fill it; the pool's limit is what bounds how far it is ahead. The consumer, :class:`Gather`,
takes the batches in the same order.

Invariant: all batches of one object are of one version, or an error.

Ownership: a buffer belongs to the loader until its batch is taken, then to the consumer, who gives it back when he
goes on to the next batch; views of it must be dropped by then (one that is kept stays good, but its memory is then not
reused). Order: batches are taken in order, so that a full pool always becomes free again. Cancellation:
:meth:`Gather.close`, or its collection, ends the loader on the loop's thread, where nothing can be handed over
meanwhile, and every buffer not taken goes back. Fork: a gather belongs to the process it was made in.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import trio

from .alignment.buffers import BufferPool, Lease, size_class
from .errors import ErrorContext, ObjectChangedError
from .portal import BlockingPortal, CancelledError, portal
from .session import BlockingStore

Range = tuple[int, int]
"""Bytes `start` (inclusive) to `end` (exclusive)."""

_PARTS_A_BATCH = 4
_BATCHES_AHEAD = 4
_FILLING = 64


class Wanted(NamedTuple):
    """Ranges of one object, none empty, sorted by their start."""

    store: BlockingStore
    key: str
    ranges: Sequence[Range]


@dataclass(frozen=True, slots=True)
class Batch:
    """Ranges number `first` to `stop` (exclusive) of an object: they lie in its bytes `start` to `end`."""

    first: int
    stop: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.end - self.start


def plan_batches(ranges: Sequence[Range], *, max_gap: float, most: int) -> Iterator[Batch]:
    """Consecutive ranges, where no more than `max_gap` bytes apart, in batches of at most `most` bytes.

    A larger range is in a batch alone.
    """
    batch: Batch | None = None
    for position, (start, end) in enumerate(ranges):
        if batch is None or start - batch.end > max_gap or end - batch.start > most:
            if batch is not None:
                yield batch
            batch = Batch(position, position + 1, start, end)
        else:
            batch = Batch(batch.first, position + 1, batch.start, max(batch.end, end))
    if batch is not None:
        yield batch


def plan_pieces(ranges: Iterable[Range], start: int, part_size: int) -> list[Range]:
    """The requests for `ranges`, sorted and none before `start`: at most one for each `part_size` bytes from there.

    Each begins and ends with bytes that are wanted.
    """
    pieces: list[Range] = []
    cell, done = -1, start
    for first, end in ranges:
        position = max(first, done)
        while position < end:
            number = (position - start) // part_size
            stop = min(end, start + (number + 1) * part_size)
            begin = pieces.pop()[0] if number == cell else position
            pieces.append((begin, stop))
            cell, position = number, stop
        done = max(done, end)
    return pieces


class _Job(NamedTuple):
    """A batch of object number `number`, and the lease it will have."""

    number: int
    batch: Batch
    filled: Future[Lease]


class _Loader:
    """The loop's side. `pending` holds what is not taken yet, in order."""

    def __init__(self, door: BlockingPortal, wanted: Sequence[Wanted], max_gap: float) -> None:
        self.pending = deque(_jobs(wanted, max_gap))
        self._door = door
        self._wanted = wanted
        self.etags: dict[int, str | None] = {}
        self._task = door.start_task_soon(self._run, list(self.pending))

    async def _run(self, jobs: Sequence[_Job]) -> None:
        pool = BufferPool(self._limit(jobs))
        filling = trio.Semaphore(_FILLING)
        try:
            async with trio.open_nursery() as nursery:
                for job in jobs:
                    await filling.acquire()
                    lease = await pool.acquire(job.batch.size)
                    nursery.start_soon(self._fill, job, lease, filling)
        finally:
            pool.close()
            for job in jobs:
                if not job.filled.done():
                    job.filled.set_exception(CancelledError("the ranges are no longer read"))

    def _limit(self, jobs: Sequence[_Job]) -> int:
        """Bytes of all buffers: what keeps the connections busy, and not less than the largest batch."""
        configs = [each.store.config for each in self._wanted]
        ahead = _BATCHES_AHEAD * _PARTS_A_BATCH * max((config.part_size for config in configs), default=0)
        allowed = min((config.memory_limit // 2 for config in configs), default=0)
        return max(min(ahead, allowed), *(size_class(job.batch.size) for job in jobs), 1)

    async def _fill(self, job: _Job, lease: Lease, filling: trio.Semaphore) -> None:
        try:
            await self._fetch(job, lease)
        except Exception as error:
            lease.release()
            job.filled.set_exception(error)
        except BaseException:
            lease.release()
            raise
        else:
            job.filled.set_result(lease)
        finally:
            filling.release()

    async def _fetch(self, job: _Job, lease: Lease) -> None:
        store, key, ranges = self._wanted[job.number]
        opened, batch = store.opened(self._door), job.batch
        pieces = plan_pieces(ranges[batch.first : batch.stop], batch.start, opened.part_size)
        views = ((start, lease.view[start - batch.start : end - batch.start]) for start, end in pieces)
        meta = await opened.get_pieces(key, views)
        if meta is not None and self.etags.setdefault(job.number, meta.etag) != meta.etag:
            raise ObjectChangedError("the object was replaced while it was read", ErrorContext("GetObject", key=key))

    def close(self) -> None:
        """From any thread: end the work, and give back what nobody took."""
        self._task.cancel()
        self._door.soon(self._give_back)

    def _give_back(self) -> None:
        while self.pending:
            self.pending.popleft().filled.add_done_callback(_release)


def _jobs(wanted: Sequence[Wanted], max_gap: float) -> Iterator[_Job]:
    for number, each in enumerate(wanted):
        most = _PARTS_A_BATCH * each.store.config.part_size
        for batch in plan_batches(each.ranges, max_gap=max_gap, most=most):
            yield _Job(number, batch, Future())


def _release(filled: Future[Lease]) -> None:
    if filled.exception() is None:
        filled.result().release()


class Gather:
    """The ranges of `wanted`, object after object, as views. See the module's text. For one thread.

    Ranges of an object that are at most `max_gap` bytes apart (`math.inf`: at any distance) share requests.
    """

    def __init__(self, wanted: Sequence[Wanted], *, max_gap: float) -> None:
        self._wanted = wanted
        self._pid = os.getpid()
        self._loader = _Loader(portal(), wanted, max_gap)
        self._end = weakref.finalize(self, self._loader.close)
        self._job: _Job | None = None

    def view(self, number: int, position: int) -> memoryview:
        """Range `position` of object `number`: writable, and good until a range of a later batch is asked for.

        Errors: `StoreError`; `ValueError` for a range that lies before the last one; `RuntimeError` in a forked child.
        """
        if self._pid != os.getpid():
            raise RuntimeError("ranges are gathered in the process that asked for them")
        while self._job is None or not _is_in(self._job, number, position):
            self._advance()
        lease, first = self._job.filled.result(), self._job.batch.start
        start, end = self._wanted[number].ranges[position]
        return lease.view[start - first : end - first]

    def etag(self, number: int) -> str | None:
        """The version of object `number`, once a view of it was given; `None` where the store has none."""
        return self._loader.etags.get(number)

    def _advance(self) -> None:
        self._let_go()
        try:
            job = self._loader.pending.popleft()
        except IndexError:
            raise ValueError("ranges are taken in order, each batch once") from None
        try:
            job.filled.exception()
        except BaseException:  # interrupted: whoever closes the loader gives it back
            self._loader.pending.appendleft(job)
            raise
        self._job = job

    def _let_go(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            _release(job.filled)

    def close(self) -> None:
        """End the fetching and give the buffers back."""
        self._let_go()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gather of {len(self._wanted)} objects, {len(self._loader.pending)} batches to come>"


def _is_in(job: _Job, number: int, position: int) -> bool:
    if (number, position) < (job.number, job.batch.first):
        raise ValueError("ranges are taken in order, and this one lies before the last")
    return number == job.number and position < job.batch.stop
