"""Bodies of a sequence of objects, fetched ahead of the consumer and handed over several at a time.

Theory of operation. The consumer's thread decides: it pulls wants from its source, keeps a window of positions that may
be under way, and posts new ones to the loop, several at a time. The loop's side, :class:`_Prefetcher`, works them off
with a few tasks and puts outcomes into a dictionary, which the consumer empties without a lock or a call; it waits, on
a queue, only for a body that is not there yet.

When. Nothing is fetched before bodies are really read: the second read starts the window (in the group form, `eager`,
the first read starts the whole group). The window doubles when the consumer had to wait and shrinks when it never does.
Bodies nobody came for are dropped when the window has passed them by.

Memory. The window is bounded in objects, and what it takes in bytes, by :class:`_Room`: a body has its room before it
is received. One of unknown size counts as a part until the head of the answer tells; then the rest of it may have to
wait for room.

Nothing else changes: the source is pulled in order, its errors and those of each object come out where they would have
without reading ahead, and a position that was not fetched ahead is fetched when it is asked for. That holds for what
failed because the server was out, too: it is asked for again when somebody wants it, unless they have been waiting for
most of the time that it was tried.

Ownership: the reading-ahead owns its prefetcher, which ends with it. Cancellation: :meth:`ReadAhead.close`, or its
collection, cancels what is under way. Fork: a child keeps the positions and forgets the prefetcher.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

import trio

from ..config import Config
from ..errors import OUTAGES
from ..model import ObjectMeta
from .portal import LOOK_UP, BlockingPortal, CancelledError, as_shown, hold_if_ending, portal
from .store import BlockingStore

MAX_OBJECTS = 64
_FIRST_OBJECTS = 4
_REMEMBERED = 4096
_WAKE_OBJECTS = 8
_WAKE_BYTES = 1 << 20


def read_ahead_limit(config: Config) -> int:
    """Most bytes that one sequence of reads has under way or fetched, ahead of its consumer.

    That is half of `memory_limit`, so that two of them can be open: the next pass begins before the last has gone.
    """
    return config.memory_limit // 2


@dataclass(frozen=True, slots=True)
class Want:
    """One object to come: `key` of `store`. `meta`, from a listing, tells its size."""

    store: BlockingStore
    key: str
    meta: ObjectMeta | None = None

    @property
    def cost(self) -> int:
        """Bytes to reckon with; those of a part where the size is unknown."""
        return self.meta.size if self.meta is not None else self.store.config.part_size

    def read(self) -> bytes:
        """The body, fetched now. Errors: `StoreError`."""
        return self.store.get(self.key, known=self.meta)


class Outage(NamedTuple):
    """What could not be read ahead, as the server was out: the error, and for how many seconds it was tried."""

    error: Exception
    tried: float

    def bears_another_try(self, waited: float) -> bool:
        """Whether who has waited for it for `waited` seconds should try again: they had little of that patience."""
        return waited < self.tried / 2


_Outcome = bytes | Exception | Outage


class _Room:
    """Bytes for bodies, by position: taken on the loop, given back by the consumer when it takes the body.

    The lowest position comes first. Past the limit goes the one that the consumer waits for, `wanted`, and one alone.
    `on_full` is called when somebody has to wait.
    """

    def __init__(self, portal: BlockingPortal, on_full: Callable[[], None]) -> None:
        self.wanted: int | None = None
        self._portal = portal
        self._on_full = on_full
        self._held: dict[int, int] = {}
        self._total = 0
        self._waiting: dict[int, tuple[int, int, trio.Event]] = {}
        self._returned: deque[int] = deque()

    async def take(self, position: int, size: int, *, limit: int) -> None:
        """Have `size` bytes at `position`, what it has already included, when all together are within `limit`."""
        self._waiting[position] = size, limit, (ready := trio.Event())  # before looking what was given back: see `poke`
        self._settle()
        try:
            if not ready.is_set():
                self._on_full()
                await ready.wait()
        finally:
            self._waiting.pop(position, None)

    def correct(self, position: int, size: int) -> None:
        """On the loop: the body turned out to have `size` bytes."""
        self._hold(position, size)
        self._settle()

    @property
    def full(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiting)

    def give_back(self, position: int) -> None:
        """From any thread; also again, and for a position that has nothing."""
        self._returned.append(position)
        self.poke()

    def poke(self) -> None:
        """From any thread: something has changed. The loop is not woken where nobody waits."""
        if self._waiting:
            self._portal.soon(self._settle)

    def _settle(self) -> None:
        while self._returned:
            self._hold(self._returned.popleft(), 0)
        while self._waiting:
            wanted = self.wanted
            position = wanted if wanted is not None and wanted in self._waiting else min(self._waiting)
            size, limit, ready = self._waiting[position]
            others = self._total - self._held.get(position, 0)
            if position != wanted and others and others + size > limit:
                return
            del self._waiting[position]
            self._hold(position, size)
            ready.set()

    def _hold(self, position: int, size: int) -> None:
        self._total += size - self._held.pop(position, 0)
        if size:
            self._held[position] = size


class _Prefetcher:
    """The loop's side. `done` holds outcomes by position; `wake` gets an item when the one waited for is there.

    To wake a thread, and to be woken, costs as much as a small object. So the consumer is woken for eight small bodies,
    or for a mebibyte, or when nothing more is under way or can be before they take it.
    """

    def __init__(self, portal: BlockingPortal) -> None:
        self.done: dict[int, _Outcome] = {}
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.room = _Room(portal, self._wake_if_due)
        self._portal = portal
        self._queue: deque[tuple[int, Want]] = deque()
        self._workers = 0
        self._unfinished = 0
        self._ready = 0
        self._dropped: set[int] = set()
        self._closed = False
        self._nursery: trio.Nursery | None = None
        self._job = portal.start_task_soon(self._serve)

    async def _serve(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._hire()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # it closes with its last worker, which may be before it is left
        finally:
            self._closed = True  # before waking: who is woken looks at it
            self.wake.put(None)

    def submit(self, wants: list[tuple[int, Want]]) -> None:
        """From the consumer's thread: fetch these, in this order."""
        self._portal.soon(self._accept, wants)

    def _accept(self, wants: list[tuple[int, Want]]) -> None:
        self._queue.extend(wants)
        self._unfinished += len(wants)
        self._hire()

    def _hire(self) -> None:
        if self._nursery is None:
            return
        while self._workers < min(MAX_OBJECTS, len(self._queue)):
            self._workers += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while self._queue:
                position, want = self._queue.popleft()
                self._finish(position, await self._fetch(position, want))
        finally:
            self._workers -= 1

    async def _fetch(self, position: int, want: Want) -> _Outcome:
        take = partial(self.room.take, position, limit=read_ahead_limit(want.store.config))
        await take(want.cost)
        begun = trio.current_time()
        try:
            store = want.store.opened(self._portal)
            if want.meta is not None:
                return await store.get(want.key, known=want.meta)
            body = await store.get(want.key, admit=take)
            self.room.correct(position, len(body))
            return body
        except OUTAGES as error:
            return Outage(error, trio.current_time() - begun)
        except Exception as error:
            return error

    def drop(self, position: int) -> None:
        """From the consumer's thread: nobody will come for this one."""
        self._dropped.add(position)  # before looking whether it is there: see `_finish`
        if self.done.pop(position, None) is not None:
            self._dropped.discard(position)
            self.room.give_back(position)

    def _finish(self, position: int, outcome: _Outcome) -> None:
        self._unfinished -= 1
        # Stored, then looked whether it was dropped; `drop` notes, then looks whether it is there. So whichever of the
        # two threads is later sees what the other did, and no body stays that nobody comes for.
        self.done[position] = outcome
        if position in self._dropped:
            self._dropped.discard(position)
            self.done.pop(position, None)
        if position not in self.done or not isinstance(outcome, bytes):
            self.room.give_back(position)
        self._ready += max(len(outcome), _WAKE_BYTES // _WAKE_OBJECTS) if isinstance(outcome, bytes) else _WAKE_BYTES
        self._wake_if_due()

    def _wake_if_due(self) -> None:
        due = not self._unfinished or self._ready >= _WAKE_BYTES or self.room.full
        if due and self.room.wanted in self.done:
            self._ready, self.room.wanted = 0, None  # before waking: who is woken says anew what is waited for
            self.wake.put(None)

    def take(self, position: int) -> _Outcome:
        """From the consumer's thread: the outcome of a submitted position, when it is there."""
        while True:
            self.room.wanted = position  # before looking: what is stored just after the look must find it, to wake us
            outcome = self.done.pop(position, None)
            if outcome is not None:
                self.room.wanted = None
                self.room.give_back(position)
                return outcome
            if self._closed:
                hold_if_ending()
                return CancelledError("reading ahead was closed while a body was waited for")
            self.room.poke()
            with suppress(Empty):
                self.wake.get(timeout=LOOK_UP)

    def close(self) -> None:
        self._job.cancel()


class ReadAhead:
    """`wants` in order, and their bodies: an iterator of positions, from 0, and wants. See the module's text.

    `eager` is the form for a group, whose bodies are all fetched at the first read. One thread iterates; bodies may be
    asked for by any thread.
    """

    def __init__(self, wants: Iterable[Want], *, eager: bool = False) -> None:
        self._source = iter(wants)
        self._eager = eager
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._prefetcher: _Prefetcher | None = None
        self._wants: dict[int, Want] = {}
        self._ahead: set[int] = set()
        self._pulled = 0
        self._yielded = 0
        self._asked = 0
        self._reads = 0
        self._window = MAX_OBJECTS if eager else _FIRST_OBJECTS
        self._in_time = 0
        self._ended = False
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[int, Want]]:
        return self

    def __next__(self) -> tuple[int, Want]:
        with self._lock:
            if self._yielded == self._pulled and not self._pull():
                raise StopIteration if self._failure is None else self._failure
            position = self._yielded
            self._yielded += 1
            self._forget(position - _REMEMBERED)
            return position, self._wants[position]

    def _pull(self) -> bool:
        """Take one more want from the source, or its end, which is kept till the consumer gets there."""
        if self._ended:
            return False
        try:
            self._wants[self._pulled] = next(self._source)
        except StopIteration:
            self._ended = True  # the exception is not kept: its traceback holds this read's frames, and their bodies
            return False
        except BaseException as error:
            self._ended, self._failure = True, error
            return False
        self._pulled += 1
        return True

    def body(self, position: int, want: Want | None = None) -> bytes:
        """The body of a `position` that was yielded. `want` names the object, for one that may be long past.

        Errors: that object's own `StoreError`; `CancelledError` where the reading-ahead is closed meanwhile; `KeyError`
        for a position that is long past, without `want`.
        """
        if self._pid != os.getpid():
            return (want or self._wants[position]).read()
        with self._lock:
            wanted = self._wants.pop(position, want)
            if wanted is None:
                raise KeyError(position)
            self._reads += 1
            if position not in self._ahead:
                if self._reads < 2 and not self._eager:
                    return wanted.read()
                self._wants[position] = wanted
                self._ask_from(position)
                self._wants.pop(position)
            return self._take(position, wanted)

    def _take(self, position: int, want: Want) -> bytes:
        if position not in self._ahead or self._prefetcher is None:
            return want.read()
        waits = position not in self._prefetcher.done
        self._adapt(waits=waits)
        if waits or len(self._ahead) <= self._window // 2:
            self._ask_from(position + 1)
        begun = time.monotonic()
        outcome = self._prefetcher.take(position)
        self._ahead.discard(position)
        if isinstance(outcome, bytes):
            return outcome
        if isinstance(outcome, Outage) and outcome.bears_another_try(time.monotonic() - begun):
            return self._read_again(want, self._prefetcher)
        raise as_shown(outcome.error if isinstance(outcome, Outage) else outcome)

    def _read_again(self, want: Want, prefetcher: _Prefetcher) -> bytes:
        """What failed while nobody waited for it; once this one is read, so may be the others that did."""
        body = want.read()
        failed = [position for position in self._ahead if isinstance(prefetcher.done.get(position), Outage)]
        for position in failed:
            del prefetcher.done[position]
        prefetcher.submit([(position, self._wants[position]) for position in sorted(failed)])
        return body

    def _adapt(self, *, waits: bool) -> None:
        """A consumer that waits wants more under way; one that never does, less."""
        if waits:
            self._window, self._in_time = min(self._window * 2, MAX_OBJECTS), 0
            return
        self._in_time += 1
        if self._in_time > 4 * MAX_OBJECTS and not self._eager:
            self._window, self._in_time = max(self._window - self._window // 4, _FIRST_OBJECTS), 0

    def _ask_from(self, position: int) -> None:
        """Put the next positions under way, as far as the window reaches."""
        self._drop_passed(position)
        coming: list[tuple[int, Want]] = []
        self._asked = max(self._asked, position)
        while len(self._ahead) < self._window and (self._asked < self._pulled or self._pull()):
            want = self._wants.get(self._asked)
            if want is not None:
                self._ahead.add(self._asked)
                coming.append((self._asked, want))
            self._asked += 1
        if coming:
            self._working_prefetcher().submit(coming)

    def _drop_passed(self, position: int) -> None:
        """Forget bodies that the consumer has left behind by more than a window."""
        for passed in [old for old in self._ahead if old < position - 2 * MAX_OBJECTS]:
            self._ahead.discard(passed)
            if self._prefetcher is not None:
                self._prefetcher.drop(passed)

    def _forget(self, position: int) -> None:
        if position >= 0:
            self._wants.pop(position, None)

    def _working_prefetcher(self) -> _Prefetcher:
        if self._prefetcher is None:
            self._prefetcher = _Prefetcher(portal())
            weakref.finalize(self, self._prefetcher.close)
        return self._prefetcher

    def close(self) -> None:
        """Cancel what is under way and forget what was fetched."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None
            self._ahead.clear()

    def __repr__(self) -> str:
        return f"<ReadAhead at {self._yielded}, {len(self._ahead)} ahead, window {self._window}>"
