"""The loop's side of reading ahead, and how bodies come from there to the consumer's thread.

Theory of operation. A :class:`.fetcher.Fetcher` fetches on the loop. What it has is put into a dictionary, which the
consumer's thread empties without a lock or a call; where it has to wait, it does on a queue.

Ownership: the consumer owns its prefetcher, which ends with it. Cancellation: :meth:`Prefetcher.close` cancels all that
is under way.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue

from ..fetcher import Fetcher, Outcome, Wanted
from ..model import ObjectMeta
from ..versions import check_size, pin_of
from .portal import LOOK_UP, BlockingPortal, CancelledError, hold_if_ending
from .store import BlockingStore

_WAKE_OBJECTS = 8
_WAKE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Want:
    """One object to come: `key` of `store`. `meta`, from a listing, tells its size.

    With `held`, only the object that `meta` tells of is meant: another one is an `ObjectChangedError`.
    """

    store: BlockingStore
    key: str
    meta: ObjectMeta | None = None
    held: bool = False

    @property
    def cost(self) -> int:
        """Bytes to reckon with; those of a part where the size is unknown."""
        return self.meta.size if self.meta is not None else self.store.config.part_size

    @property
    def pin(self) -> str | None:
        """The etag that is asked for, if only one will do."""
        return pin_of(self.meta) if self.held and self.meta is not None else None

    def read(self) -> bytes:
        """The body, fetched now. Errors: `StoreError`."""
        body = self.store.get(self.key, known=self.meta, if_match=self.pin)
        if self.held and self.meta is not None:
            check_size(self.meta, len(body), self.store.bucket.bucket)
        return body


class Prefetcher:
    """Fetches ahead. `done` holds outcomes by position; `wake` gets an item when the one waited for is there.

    To wake a thread, and to be woken, costs as much as a small object. So the consumer is woken for eight small bodies,
    or for a mebibyte, or when nothing more is under way or can be before they take it. `learnt` is the size in bytes of
    an object like those to come, if one was seen.
    """

    def __init__(self, portal: BlockingPortal, learnt: int | None = None) -> None:
        self.done: dict[int, Outcome] = {}
        self.wake: SimpleQueue[None] = SimpleQueue()
        self._portal = portal
        self._fetcher = Fetcher(self._finish, portal.soon, self._wake_if_due, learnt)
        self.room = self._fetcher.room
        self._unfinished = 0
        self._ready = 0
        self._dropped: set[int] = set()
        self._closed = False
        self._job = portal.start_task_soon(self._serve)

    async def _serve(self) -> None:
        try:
            await self._fetcher.run()
        finally:
            self._closed = True  # before waking: who is woken looks at it
            self.wake.put(None)

    def submit(self, wants: list[tuple[int, Want]]) -> None:
        """From the consumer's thread: fetch these, in this order."""
        self._portal.soon(self._job.context.run, self._accept, wants)

    def _accept(self, wants: list[tuple[int, Want]]) -> None:
        """The stores are opened as they are now, since credentials may have changed."""
        self._unfinished += len(wants)
        for store, group in groupby(wants, key=_store_of):
            located = list(group)
            try:
                opened = store.opened(self._portal)
            except Exception as error:  # of the objects, as it is where they are read one by one
                for position, _ in located:
                    self._finish(position, error)
            else:
                self._fetcher.accept(
                    [(position, Wanted(opened, want.key, want.meta, want.held)) for position, want in located]
                )

    def drop(self, position: int) -> None:
        """From the consumer's thread: nobody will come for this one."""
        self._dropped.add(position)  # before looking whether it is there: see `_finish`
        if self.done.pop(position, None) is not None:
            self._dropped.discard(position)
            self.room.give_back(position)

    def _finish(self, position: int, outcome: Outcome) -> None:
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

    def wait(self, position: int, timeout: float) -> bool:
        """From the consumer's thread: whether :meth:`take` need not wait, now or after at most `timeout` seconds."""
        self.room.wanted = position  # before looking: what is stored just after the look must find it, to wake us
        if position in self.done or self._closed:
            return True
        self.room.poke()
        with suppress(Empty):
            self.wake.get(timeout=timeout)
        return position in self.done or self._closed

    def take(self, position: int) -> Outcome:
        """From the consumer's thread: the outcome of a submitted position, when it is there."""
        while not self.wait(position, LOOK_UP):
            pass
        self.room.wanted = None
        outcome = self.done.pop(position, None)
        if outcome is None:
            hold_if_ending()
            return CancelledError("reading ahead was closed while a body was waited for")
        self.room.give_back(position)
        return outcome

    def close(self) -> None:
        """Cancel what is under way."""
        self._job.cancel()

    def let_go(self) -> None:
        """The same, and wait a moment until nothing of it is left."""
        self._job.let_go()


def _store_of(each: tuple[int, Want]) -> BlockingStore:
    return each[1].store
