"""Many ranges of objects, fetched ahead in order, as views of page-aligned buffers: how a checkpoint is loaded.

Theory of operation. :func:`plan_extents` puts consecutive ranges of one object into an extent, which is one buffer, and
:func:`plan_pieces` says which requests fill it: ranges that lie near each other share one, and a gap that is as wide as
a request is not fetched. The loop's side, :class:`_Loader`, leases a buffer for one extent after the other from a pool
of its own and starts to fill it; the pool's limit is what bounds how far it is ahead. The consumer, :class:`Gather`,
takes the extents in the same order.

Invariant: all extents of one object are of one version, or an error. What could not be read ahead because the server
was out is tried again when it is asked for, as in :mod:`.readahead`; it has kept its buffer.

Ownership: a buffer belongs to the loader, which keeps its extents in their order; the consumer looks into the first
one, and has it given back when they go on to the next. Views of it must be dropped by then (one that is kept stays
good, but its memory is then not reused). Order: extents are given up in order, so that a full pool always becomes free
again. Interrupts: the consumer may be interrupted at any instruction, and look again: the loader still has what they
looked at, and the loop never waits for a lock that they may hold. Cancellation: :meth:`Gather.close`, or its
collection, ends the loader, and every buffer goes back. Fork: a gather belongs to the process it was made in.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import trio

from ..alignment.buffers import BufferPool, Lease, size_class
from ..config import Config
from ..errors import OUTAGES, ErrorContext, ObjectChangedError
from ..fetcher import Outage, read_ahead_limit
from ..model import ObjectMeta
from ..observers import caused_by, span_ended
from ..transport.download import validators
from .portal import BlockingPortal, CancelledError, acquire, as_shown, hold_if_ending, portal
from .store import BlockingStore

Range = tuple[int, int]
"""Bytes `start` (inclusive) to `end` (exclusive)."""

_PARTS_PER_EXTENT = 4
_EXTENTS_AHEAD = 4
_MOST_FILLING = 64


class ObjectRanges(NamedTuple):
    """`ranges` of the object `key` of `store`, none empty, sorted by their start."""

    store: BlockingStore
    key: str
    ranges: Sequence[Range]


@dataclass(frozen=True, slots=True)
class Extent:
    """Ranges number `first` to `stop` (exclusive) of an object: they lie in its bytes `start` to `end`."""

    first: int
    stop: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """The buffer's, in bytes."""
        return self.end - self.start


def plan_extents(ranges: Sequence[Range], *, max_gap: float, most: int) -> Iterator[Extent]:
    """Consecutive `ranges`, where no more than `max_gap` bytes apart, in extents of at most `most` bytes.

    A larger range is in an extent alone, but for those that lie inside of it.
    """
    extent: Extent | None = None
    for position, (start, end) in enumerate(ranges):
        if extent is not None and (end <= extent.end or (start - extent.end <= max_gap and end - extent.start <= most)):
            extent = Extent(extent.first, position + 1, extent.start, max(extent.end, end))
            continue
        if extent is not None:
            yield extent
        extent = Extent(position, position + 1, start, end)
    if extent is not None:
        yield extent


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


class _Filling:
    """An extent of object number `number`, and the buffer it is fetched into. The loop ends it, once, or with an error.

    Of giving it up and ending it, in whatever order, the second sees the first, or both give the buffer back. Where
    there is an `outage`, its buffer is not filled yet.
    """

    __slots__ = ("_given_up", "_outcome", "_wake", "extent", "number", "outage")

    def __init__(self, number: int, extent: Extent) -> None:
        self.number = number
        self.extent = extent
        self.outage: Outage | None = None
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
        # Written, then looked whether it was given up, as `give_up` writes, then looks: the later one gives it back. No
        # lock, as an interrupted consumer might keep it, and the loop would wait.
        self._outcome = outcome
        self._wake.release()
        if self._given_up:
            self.give_up()

    def lease(self) -> Lease:
        """Wait for the buffer. For the consumer, as often as they like. Errors: what the filling ended with."""
        if self._outcome is None:
            acquire(self._wake)  # let go of once, after the outcome is there: who is interrupted here finds that
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            hold_if_ending()
            raise as_shown(self._outcome)
        return self._outcome

    def give_up(self) -> None:
        """From any thread: give the buffer back, now or when it was filled. May be called again."""
        self._given_up = True
        if isinstance(self._outcome, Lease):
            self._outcome.release()


class _Loader:
    """The loop's side. `pending` holds what was not given up yet, in order."""

    def __init__(self, portal: BlockingPortal, wanted: Sequence[ObjectRanges], max_gap: float) -> None:
        self.pending = deque(_fillings(wanted, max_gap))
        self._portal = portal
        self._wanted = wanted
        self.metas: dict[int, ObjectMeta] = {}
        self._scope = trio.CancelScope()

    def start(self) -> None:
        """Begin to fetch. Whoever does this has seen to it that :meth:`close` will be called."""
        self._portal.start_task_soon(self._run, list(self.pending))

    async def _run(self, fillings: Sequence[_Filling]) -> None:
        pool = BufferPool(self._limit(fillings))
        try:
            with self._scope:
                await self._fill_all(fillings, pool)
        finally:
            pool.close()
            for filling in fillings:
                if not filling.ended:
                    filling.end(CancelledError("the ranges are no longer read"))

    async def _fill_all(self, fillings: Sequence[_Filling], pool: BufferPool) -> None:
        turns = trio.Semaphore(_MOST_FILLING)
        async with trio.open_nursery() as nursery:
            for filling in fillings:
                await turns.acquire()
                try:
                    lease = await pool.acquire(filling.extent.size)
                except OSError as error:  # no memory
                    turns.release()
                    filling.end(error)
                else:
                    nursery.start_soon(self._fill, filling, lease, turns)

    def _limit(self, fillings: Sequence[_Filling]) -> int:
        """Bytes of all buffers: what keeps the connections busy, and not less than the largest extent."""
        ahead = max((_EXTENTS_AHEAD * _extent_size(each.store.config) for each in self._wanted), default=0)
        return max(ahead, *(size_class(filling.extent.size) for filling in fillings), 1)

    async def _fill(self, filling: _Filling, lease: Lease, turns: trio.Semaphore) -> None:
        begun = trio.current_time()
        caused_by(id(filling))
        try:
            await self._fetch(filling, lease)
        except OUTAGES as error:
            filling.outage = Outage(error, trio.current_time() - begun)
            filling.end(lease)
        except Exception as error:
            lease.release()
            filling.end(error)
        except BaseException:
            lease.release()
            raise
        else:
            filling.end(lease)
        finally:
            turns.release()

    async def _fetch(self, filling: _Filling, lease: Lease) -> None:
        store, key, ranges = self._wanted[filling.number]
        extent = filling.extent
        pieces = plan_pieces(ranges[extent.first : extent.stop], extent.start, store.config.part_size)
        views = ((start, lease.view[start - extent.start : end - extent.start]) for start, end in pieces)
        meta = await store.opened(self._portal).get_pieces(key, views)
        if meta is not None and validators(self.metas.setdefault(filling.number, meta)) != validators(meta):
            raise ObjectChangedError("the object was replaced while it was read", ErrorContext("GetObject", key=key))

    def filled(self, filling: _Filling) -> Lease:
        """For the consumer: wait for the buffer, with what is wanted in it. Errors: what the filling ended with."""
        waits, begun = not filling.ended, time.monotonic()
        lease = filling.lease()
        if waits:
            span_ended("wait", begun, id(filling))
        if filling.outage is not None:
            if not filling.outage.bears_another_try(time.monotonic() - begun):
                raise as_shown(filling.outage.error)
            self._portal.call(self._fetch, filling, lease)
            filling.outage = None
        return lease

    def give_up_first(self) -> None:
        """From any thread: let the first extent go."""
        self.pending[0].give_up()  # before it leaves the queue: who is interrupted between the two does it again
        self.pending.popleft()

    def close(self) -> None:
        """From any thread: end the work, and give all buffers back."""
        self._portal.soon(self._stop)

    def _stop(self) -> None:
        self._scope.cancel()
        while self.pending:
            self.give_up_first()


def _extent_size(config: Config) -> int:
    """Most bytes of an extent: a few parts, where several extents stay within what may be read ahead."""
    return min(_PARTS_PER_EXTENT * config.part_size, read_ahead_limit(config.memory_limit) // _EXTENTS_AHEAD)


def _fillings(wanted: Sequence[ObjectRanges], max_gap: float) -> Iterator[_Filling]:
    for number, each in enumerate(wanted):
        for extent in plan_extents(each.ranges, max_gap=max_gap, most=_extent_size(each.store.config)):
            yield _Filling(number, extent)


class Gather:
    """The ranges of `wanted`, object after object, as views. See the module's text. For one thread.

    Ranges of an object that are at most `max_gap` bytes apart (`math.inf`: at any distance) share requests. Buffers
    hold :func:`read_ahead_limit` bytes at most, or as much as the largest range takes. Making one begins the fetching.
    """

    def __init__(self, wanted: Sequence[ObjectRanges], *, max_gap: float) -> None:
        self._wanted = wanted
        self._pid = os.getpid()
        self._loader = _Loader(portal(), wanted, max_gap)
        self._end = weakref.finalize(self, self._loader.close)
        self._loader.start()

    def view(self, number: int, position: int) -> memoryview:
        """Range `position` of object `number`: writable, and good until a range of a later extent is asked for.

        Errors: `StoreError`; `OSError` where there is no memory for it; `ValueError` for a range that lies before the
        last one, and when the gather is closed; `RuntimeError` in a forked child.
        """
        if self._pid != os.getpid():
            raise RuntimeError("ranges are gathered in the process that asked for them")
        filling = self._go_to(number, position)
        lease, first = self._loader.filled(filling), filling.extent.start
        start, end = self._wanted[number].ranges[position]
        return lease.view[start - first : end - first]

    def etag(self, number: int) -> str | None:
        """The version of object `number`, once a view of it was given; `None` where the store has none."""
        meta = self._loader.metas.get(number)
        return meta.etag if meta is not None else None

    def _go_to(self, number: int, position: int) -> _Filling:
        """The extent of a range, which becomes the first one."""
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
        self._loader.close()  # first: who is interrupted in between leaves it to the finaliser
        self._end.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gather of {len(self._wanted)} objects, {len(self._loader.pending)} extents left>"


def _is_in(filling: _Filling, number: int, position: int) -> bool:
    if (number, position) < (filling.number, filling.extent.first):
        raise ValueError("ranges are taken in order, and this one lies before the last")
    return number == filling.number and position < filling.extent.stop
