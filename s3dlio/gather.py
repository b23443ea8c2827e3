"""Many ranges of objects, fetched ahead in order, as views of page-aligned buffers: how a checkpoint is loaded.

Theory of operation. :func:`plan_batches` puts consecutive ranges of one object into a batch, which is one buffer, and
:func:`plan_pieces` says which requests fill it: ranges that lie near each other share one, and a gap that is as wide as
a request is not fetched. The loop's side, :class:`_Loader`, leases a buffer for one batch after the other from a pool
of its own and starts to fill it; the pool's limit is what bounds how far it is ahead. The consumer, :class:`Gather`,
takes the batches in the same order.

Invariant: all batches of one object are of one version, or an error.

Ownership: a buffer belongs to the loader, which keeps its batches in their order; the consumer looks into the first
one, and has it given back when he goes on to the next. Views of it must be dropped by then (one that is kept stays
good, but its memory is then not reused). Order: batches are given up in order, so that a full pool always becomes free
again. Interrupts: the consumer may be interrupted at any instruction, and look again: the loader still has what he
looked at, and the loop never waits for a lock that he may hold. Cancellation: :meth:`Gather.close`, or its collection,
ends the loader, and every buffer goes back. Fork: a gather belongs to the process it was made in.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import trio

from .alignment.buffers import BufferPool, Lease, size_class
from .config import Config
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

    A larger range is in a batch alone, but for those that lie inside of it.
    """
    batch: Batch | None = None
    for position, (start, end) in enumerate(ranges):
        if batch is not None and (end <= batch.end or (start - batch.end <= max_gap and end - batch.start <= most)):
            batch = Batch(batch.first, position + 1, batch.start, max(batch.end, end))
            continue
        if batch is not None:
            yield batch
        batch = Batch(position, position + 1, start, end)
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


class _Job:
    """A batch of object number `number`. The loop ends it, once, with a buffer or an error.

    Of giving it up and ending it, in whatever order, the second sees the first, or both give the buffer back.
    """

    __slots__ = ("_given_up", "_outcome", "_wake", "batch", "number")

    def __init__(self, number: int, batch: Batch) -> None:
        self.number = number
        self.batch = batch
        self._outcome: Lease | Exception | None = None
        self._given_up = False
        self._wake = threading.Lock()
        self._wake.acquire()

    @property
    def ended(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._outcome is not None

    def end(self, outcome: Lease | Exception) -> None:
        """On the loop."""
        self._outcome = outcome
        self._wake.release()
        if self._given_up:
            self.give_up()

    def lease(self) -> Lease:
        """Wait for the buffer. For the consumer, as often as he likes. Errors: what the job ended with."""
        if self._outcome is None:
            self._wake.acquire()
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def give_up(self) -> None:
        """From any thread: give the buffer back, now or when the job has ended."""
        self._given_up = True
        if isinstance(self._outcome, Lease):
            self._outcome.release()


class _Loader:
    """The loop's side. `pending` holds what was not given up yet, in order."""

    def __init__(self, door: BlockingPortal, wanted: Sequence[Wanted], max_gap: float) -> None:
        self.pending = deque(_jobs(wanted, max_gap))
        self._door = door
        self._wanted = wanted
        self.etags: dict[int, str | None] = {}
        self._scope = trio.CancelScope()

    def start(self) -> None:
        """Begin to fetch. Whoever does this has seen to it that :meth:`close` will be called."""
        self._door.start_task_soon(self._run, list(self.pending))

    async def _run(self, jobs: Sequence[_Job]) -> None:
        pool = BufferPool(self._limit(jobs))
        try:
            with self._scope:
                await self._fill_all(jobs, pool)
        finally:
            pool.close()
            for job in jobs:
                if not job.ended:
                    job.end(CancelledError("the ranges are no longer read"))

    async def _fill_all(self, jobs: Sequence[_Job], pool: BufferPool) -> None:
        filling = trio.Semaphore(_FILLING)
        async with trio.open_nursery() as nursery:
            for job in jobs:
                await filling.acquire()
                try:
                    lease = await pool.acquire(job.batch.size)
                except OSError as error:  # no memory
                    filling.release()
                    job.end(error)
                else:
                    nursery.start_soon(self._fill, job, lease, filling)

    def _limit(self, jobs: Sequence[_Job]) -> int:
        """Bytes of all buffers: what keeps the connections busy, and not less than the largest batch."""
        ahead = max((_BATCHES_AHEAD * _batch_size(each.store.config) for each in self._wanted), default=0)
        return max(ahead, *(size_class(job.batch.size) for job in jobs), 1)

    async def _fill(self, job: _Job, lease: Lease, filling: trio.Semaphore) -> None:
        try:
            await self._fetch(job, lease)
        except Exception as error:
            lease.release()
            job.end(error)
        except BaseException:
            lease.release()
            raise
        else:
            job.end(lease)
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

    def give_up_first(self) -> None:
        """From any thread: let the first batch go."""
        self.pending[0].give_up()
        self.pending.popleft()

    def close(self) -> None:
        """From any thread: end the work, and give all buffers back."""
        self._door.soon(self._stop)

    def _stop(self) -> None:
        self._scope.cancel()
        while self.pending:
            self.give_up_first()


def _batch_size(config: Config) -> int:
    """Most bytes of a batch: a few parts, where half of the memory holds the batches that are read ahead."""
    return min(_PARTS_A_BATCH * config.part_size, config.memory_limit // 2 // _BATCHES_AHEAD)


def _jobs(wanted: Sequence[Wanted], max_gap: float) -> Iterator[_Job]:
    for number, each in enumerate(wanted):
        for batch in plan_batches(each.ranges, max_gap=max_gap, most=_batch_size(each.store.config)):
            yield _Job(number, batch)


class Gather:
    """The ranges of `wanted`, object after object, as views. See the module's text. For one thread.

    Ranges of an object that are at most `max_gap` bytes apart (`math.inf`: at any distance) share requests.
    """

    def __init__(self, wanted: Sequence[Wanted], *, max_gap: float) -> None:
        self._wanted = wanted
        self._pid = os.getpid()
        self._loader = _Loader(portal(), wanted, max_gap)
        self._end = weakref.finalize(self, self._loader.close)
        self._loader.start()

    def view(self, number: int, position: int) -> memoryview:
        """Range `position` of object `number`: writable, and good until a range of a later batch is asked for.

        Errors: `StoreError`; `OSError` where there is no memory for it; `ValueError` for a range that lies before the
        last one, and when the gather is closed; `RuntimeError` in a forked child.
        """
        if self._pid != os.getpid():
            raise RuntimeError("ranges are gathered in the process that asked for them")
        job = self._go_to(number, position)
        lease, first = job.lease(), job.batch.start
        start, end = self._wanted[number].ranges[position]
        return lease.view[start - first : end - first]

    def etag(self, number: int) -> str | None:
        """The version of object `number`, once a view of it was given; `None` where the store has none."""
        return self._loader.etags.get(number)

    def _go_to(self, number: int, position: int) -> _Job:
        """The batch of a range, which becomes the first one."""
        if not self._end.alive:
            raise ValueError("the gather is closed")
        pending = self._loader.pending
        while pending and not _is_in(pending[0], number, position):
            self._loader.give_up_first()
        if not pending:
            raise ValueError("ranges are taken in order, and this one is not to come")
        return pending[0]

    def close(self) -> None:
        """End the fetching and give the buffers back."""
        self._loader.close()
        self._end.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gather of {len(self._wanted)} objects, {len(self._loader.pending)} batches left>"


def _is_in(job: _Job, number: int, position: int) -> bool:
    if (number, position) < (job.number, job.batch.first):
        raise ValueError("ranges are taken in order, and this one lies before the last")
    return number == job.number and position < job.batch.stop
