"""Another bucket or store to read from, when an object or a store is not to be had.

Theory of operation. :class:`ReplicatedStore` is the store that was asked for, which alone is written to; its reads go
to the first store that answers. An absent object, an outage, an answer that is none and bytes that do not have their
checksum send a read on to the next store. A refusal by the first one does not: credentials that are wrong would be seen
by nobody, while every read goes the long way.

Each store is asked with little patience while there is another one: as often as a hiccup needs, and once where nobody
takes a connection or answers. One that was out is passed over for a while, and then tried by one read. When all have
failed, and not because the object is absent everywhere, there is another round, on the schedule of a single store's
attempts; the last round asks all. So nobody fails without having asked, and all stores together are waited for as long
as one alone.

Invariant: what is read is of one store. A read that goes on to another begins anew there, and whoever reads an object
by several calls is held to its version by `if_match`: a store that does not have that etag is passed over. A listing is
of the first store that answers, to its end: its tokens say which one that is.

Ownership: the store owns its replicas. Cancellation: at any await, nothing is left.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import trio

from .endpoint_stats import Stats
from .errors import OUTAGES, ChecksumError, NotFoundError, NotModifiedError, ProtocolError, RangeError, StoreError
from .model import GetOptions, GetResult, ListOptions, ListPage, ObjectMeta, Sink
from .stores.store import ObjectStore
from .transfer import Admit, ParallelStore
from .transport.retry import Failure, RetryPolicy
from .transport.service import impatient

_log = logging.getLogger("s3dlio.replicas")

T = TypeVar("T")
Ask = Callable[[ParallelStore], Awaitable[T]]

_ELSEWHERE = (*OUTAGES, NotFoundError, ChecksumError, ProtocolError)
_ANSWERS = (RangeError, NotModifiedError)
_ATTEMPTS = 3
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds for which a store that was out is passed over: doubled from time to time."""


class _Turn:
    """Whether a store is asked: one that was out is by one read, at the end of a pause."""

    def __init__(self) -> None:
        self._pauses = 0
        self._again_at = -math.inf

    def take(self, now: float) -> bool:
        if now < self._again_at:
            return False
        if self._pauses:
            self._pause(now)
        return True

    def answered(self) -> None:
        self._pauses, self._again_at = 0, -math.inf

    def failed(self, now: float) -> bool:
        """Note that it is out; whether that is news."""
        if self._pauses:
            return False
        self._pause(now)
        return True

    def _pause(self, now: float) -> None:
        self._again_at = now + min(math.ldexp(_PAUSE, min(self._pauses, 16)), _LONGEST_PAUSE)
        self._pauses += 1


class ReplicatedStore(ParallelStore):
    """The store `inner`, and `replicas` to read from where it fails: see the module's text.

    `max_attempts` bounds how often a store is asked for one thing; the other settings are as in
    :class:`ParallelStore`. Errors: those of the first store, or of the first that was out; notes tell of the others.
    """

    def __init__(
        self,
        inner: ObjectStore,
        replicas: Sequence[ParallelStore],
        *,
        part_size: int,
        parts_in_flight: int,
        memory_limit: int,
        max_attempts: int,
    ) -> None:
        super().__init__(inner, part_size=part_size, parts_in_flight=parts_in_flight, memory_limit=memory_limit)
        self.replicas = tuple(replicas)
        self._policy = RetryPolicy(max_attempts)
        self._turns = [_Turn() for _ in range(len(self.replicas) + 1)]

    @property
    def lists_from_keys(self) -> bool:
        """A listing is of one of the stores, from its first page to its last."""
        return False

    async def get(
        self,
        key: str,
        *,
        known: ObjectMeta | None = None,
        if_match: str | None = None,
        admit: Admit | None = None,
    ) -> bytes:
        elsewhere = known and replace(known, etag=None)
        return await self._read(
            lambda store: ParallelStore.get(
                store, key, known=known if store is self else elsewhere, if_match=if_match, admit=admit
            )
        )

    async def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        return await self._read(lambda store: ParallelStore.get_into(store, key, view, start=start, if_match=if_match))

    async def get_pieces(
        self, key: str, pieces: Iterable[tuple[int, memoryview]], *, if_match: str | None = None
    ) -> ObjectMeta | None:
        kept = list(pieces)
        return await self._read(lambda store: ParallelStore.get_pieces(store, key, kept, if_match=if_match))

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        """As in every store; but the `sink` is called again for another store, which begins anew."""
        return await self._read(lambda store: ParallelStore.fetch(store, key, sink, options))

    async def head(self, key: str) -> ObjectMeta:
        return await self._read(lambda store: ParallelStore.head(store, key))

    async def exists(self, key: str) -> bool:
        async def found(store: ParallelStore) -> bool:
            if await ParallelStore.exists(store, key):
                return True
            raise _AbsentError("no such object")

        try:
            return await self._read(found)
        except _AbsentError:
            return False

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        if options.token is None:
            number, page = await self._read(lambda store: self._page(store, prefix, options))
        else:
            which, _, token = options.token.partition(" ")
            number, page = await self._page(self._all[int(which)], prefix, replace(options, token=token))
        return page if page.token is None else replace(page, token=f"{number} {page.token}")

    async def _page(self, store: ParallelStore, prefix: str, options: ListOptions) -> tuple[int, ListPage]:
        return self._all.index(store), await ParallelStore.list_page(store, prefix, options)

    def stats(self) -> Stats:
        return Stats.of_all([super().stats(), *(replica.stats() for replica in self.replicas)])

    async def aclose(self) -> None:
        await super().aclose()
        for replica in self.replicas:
            await replica.aclose()

    @property
    def _all(self) -> Sequence[ParallelStore]:
        return self, *self.replicas

    async def _read(self, ask: Ask[T]) -> T:
        """What the first store answers that has it. Errors: see the class."""
        most = self._policy.max_attempts
        patience = min(_ATTEMPTS, most)
        for attempt in range(patience, most + 1):
            failures: list[tuple[ParallelStore, StoreError]] = []
            for store, turn in zip(self._all, self._turns, strict=True):
                if attempt < most and not turn.take(trio.current_time()):
                    continue
                try:
                    with impatient(patience):
                        answer = await ask(store)
                except StoreError as error:
                    if isinstance(error, _ANSWERS) or (store is self and not isinstance(error, _ELSEWHERE)):
                        raise
                    failures.append((store, error))
                    self._note(store, turn, error)
                else:
                    turn.answered()
                    return answer
            all_absent = len(failures) == len(self._all) and not any(_is_outage(error) for _, error in failures)
            if attempt == most or all_absent:
                break
            patience = 1
            await trio.sleep(self._policy.delay(Failure.TRANSIENT, attempt, random.random()))
        raise _told_of_all(failures)

    def _note(self, store: ParallelStore, turn: _Turn, error: StoreError) -> None:
        if not _is_outage(error):
            turn.answered()
        elif turn.failed(trio.current_time()):
            _log.warning("%s is not read from for a while: %s", store.uri, error)


class _AbsentError(NotFoundError):
    """What :meth:`ReplicatedStore.exists` is not told by an error."""


def _is_outage(error: StoreError) -> bool:
    return isinstance(error, OUTAGES)


def _told_of_all(failures: Sequence[tuple[ParallelStore, StoreError]]) -> StoreError:
    """The failure that says most, that of a store that was out before that of an object that was absent."""
    _, chosen = next(((store, error) for store, error in failures if _is_outage(error)), failures[0])
    for store, error in failures:
        if error is not chosen:
            chosen.add_note(f"{store.uri}: {error}")
    return chosen
