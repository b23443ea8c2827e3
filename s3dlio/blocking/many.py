"""Many objects at once, by their URIs, of any number of stores.

The caller's thread draws what is to be done, as it may be made by a generator of theirs, and puts each object under
way, as a job of its own or, where it is read, with others (:mod:`.bodies`); at most `max_in_flight` of them are under
way, and no more bytes to be sent than the store's `memory_limit`. The oldest is waited for, so results come in order.
All objects are tried; those that failed are told of together at the end. An outage, which is an error of
:data:`s3dlio.errors.OUTAGES` after all attempts, ends it early: the others would wait for as long each. An interrupt
cancels what is under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from ..config import Config
from ..errors import OUTAGES, BulkError, StoreError
from ..model import PutOptions, PutResult
from .bodies import Bodies
from .contents import Piece, buffer_of
from .prefetch import Want
from .progress import Awaited, Display, Tally
from .store import BlockingStore, Places

if TYPE_CHECKING:
    from ..transfer import ParallelStore

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

IN_FLIGHT = 64
_BATCHES = 2
_BATCH = 1000
"""Most keys of one request that removes objects. Source: "DeleteObjects" in the Amazon S3 API Reference."""


class UnderWay(Awaited[T_co], Protocol[T_co]):
    """What was begun, and can be given up."""

    def cancel(self) -> None:
        """Give it up."""

    def let_go(self) -> None:
        """The same, and wait a moment until nothing of it is left."""


class Task(NamedTuple, Generic[T]):
    """One thing to do for `store`, about the objects `uris`: `begin` puts it under way, and it holds `size` bytes."""

    uris: Sequence[str]
    store: BlockingStore
    begin: Callable[[], UnderWay[T]]
    size: int = 0


class Refusal(NamedTuple):
    """What cannot even be begun."""

    uri: str
    error: StoreError


class Window(Generic[T]):
    """The tasks under way, the oldest first, and what came of those before; `settled` is told of each that ended well.

    :meth:`finish` ends it, after an error too.
    """

    def __init__(self, display: Display, most: int, settled: Callable[[Task[T], T], None]) -> None:
        self.failures: dict[str, Exception] = {}
        self.outage = False
        self._display = display
        self._most = most
        self._settled = settled
        self._held = 0
        self._under_way: deque[tuple[Task[T], UnderWay[T]]] = deque()

    def run(self, tasks: Iterable[Task[T] | Refusal]) -> None:
        """Do all `tasks`; refusals are failures at once. Errors: those that are no store's."""
        try:
            for task in tasks:
                if isinstance(task, Refusal):
                    self.failures[task.uri] = task.error
                    continue
                self._make_room(task)
                if self.outage:
                    break
                self._begin(task)
            while self._under_way:
                self._settle_oldest()
        finally:
            self._cancel()

    def _make_room(self, task: Task[T]) -> None:
        limit = task.store.config.memory_limit
        while self._under_way and (len(self._under_way) >= self._most or self._held + task.size > limit):
            self._settle_oldest()

    def _begin(self, task: Task[T]) -> None:
        self._under_way.append((task, task.begin()))
        self._held += task.size

    def _settle_oldest(self) -> None:
        task, job = self._under_way[0]
        try:
            self._settled(task, self._display.wait(job))
        except StoreError as error:
            self.failures.update(dict.fromkeys(task.uris, error))
            self.outage = self.outage or isinstance(error, OUTAGES)
        self._under_way.popleft()
        self._held -= task.size

    def _cancel(self) -> None:
        for _, job in self._under_way:
            job.cancel()
        while self._under_way:
            self._under_way.popleft()[1].let_go()


def check(verb: str, failures: Mapping[str, Exception], done: Any, *, outage: bool = False) -> None:
    """Errors: `BulkError` where there are `failures`, because of the first of them."""
    if failures:
        first = next(iter(failures.values()))
        ended = "; an outage ended it before all were tried" if outage else ""
        text = f"{verb}: {len(failures)} objects failed{ended}; the first: {first}"
        raise BulkError(text, None, failures, done) from first


def get_many(
    uris: Iterable[str], *, config: Config | None = None, max_in_flight: int = IN_FLIGHT, progress: bool = True
) -> list[tuple[str, bytes]]:
    """The whole objects at `uris`, as pairs of URI and content, in the same order. `dict(get_many(uris))` finds by URI.

    They are read at once, at most `max_in_flight` objects at a time, and may be of several stores. `config` has the
    settings, by default the environment's; `progress=False` shows no bar. Errors: `BulkError`, when all were tried; its
    `done` has the pairs that could be read.
    """
    done: list[tuple[str, bytes]] = []
    tally = Tally("objects", total=len(uris) if isinstance(uris, Sequence) else None)

    def settled(task: Task[bytes], data: bytes) -> None:
        done.append((task.uris[0], data))
        tally.add(1)

    places = Places(config)
    with Display("get_many", tally, wanted=progress) as display, closing(Bodies()) as bodies:
        window = Window(display, max_in_flight, settled)
        window.run(_reading(uri, places, bodies) for uri in uris)
    check("get_many", window.failures, done, outage=window.outage)
    return done


def _reading(uri: str, places: Places, bodies: Bodies) -> Task[bytes] | Refusal:
    try:
        store, key = places.locate(uri)
    except StoreError as error:
        return Refusal(uri, error)
    return Task((uri,), store, partial(bodies.begin, Want(store, key)))


def put_many(
    items: Mapping[str, Piece] | Iterable[tuple[str, Piece]],
    options: PutOptions = PutOptions(),
    *,
    config: Config | None = None,
    max_in_flight: int = IN_FLIGHT,
    progress: bool = True,
) -> list[tuple[str, PutResult]]:
    """Write all `items`, a dict or pairs of URI and content, and return pairs of URI and the version that was made.

    Contents are text, any contiguous buffers, or tensors. They are drawn as they are sent, at most `max_in_flight`
    objects at a time and `memory_limit` bytes of them, so a generator may make them. Files are for :func:`upload`.
    `options` are of all; `config` has the settings, by default the environment's; `progress=False` shows no bar.
    Errors: `BulkError`, when all were tried; its `done` has the pairs that were written. `TypeError` for what is no
    content.
    """
    done: list[tuple[str, PutResult]] = []
    pairs = items.items() if isinstance(items, Mapping) else items
    tally = Tally("objects", total=len(items) if isinstance(items, Mapping | Sequence) else None)

    def settled(task: Task[PutResult], result: PutResult) -> None:
        done.append((task.uris[0], result))
        tally.add(1)

    places = Places(config)
    with Display("put_many", tally, wanted=progress) as display:
        window = Window(display, max_in_flight, settled)
        window.run(_writing(uri, data, options, places) for uri, data in pairs)
    check("put_many", window.failures, done, outage=window.outage)
    return done


def _writing(uri: str, data: Piece, options: PutOptions, places: Places) -> Task[PutResult] | Refusal:
    try:
        store, key = places.locate(uri)
    except StoreError as error:
        return Refusal(uri, error)
    view = buffer_of(data)
    return Task((uri,), store, partial(store.begin, lambda opened: opened.put(key, view, options)), len(view))


def delete_many(uris: Iterable[str], *, config: Config | None = None, progress: bool = True) -> None:
    """Remove the objects at `uris`, up to 1,000 of them in one request where the store can. Absent ones are no error.

    `config` has the settings, by default the environment's; `progress=False` shows no bar. Errors: `BulkError`, when
    all were tried; its `done` has the URIs of those that are gone.
    """
    failures: dict[str, Exception] = {}
    done: list[str] = []
    tally = Tally("objects", total=len(uris) if isinstance(uris, Sequence) else None)

    def settled(task: Task[Sequence[StoreError]], failed: Sequence[StoreError]) -> None:
        of_batch = {f"{task.store.root}/{error.key or ''}": error for error in failed}
        failures.update(of_batch)
        done.extend(uri for uri in task.uris if uri not in of_batch)
        tally.add(len(task.uris))

    with Display("delete_many", tally, wanted=progress) as display:
        window = Window(display, _BATCHES, settled)
        window.run(_removing(uris, Places(config)))
    check("delete_many", window.failures | failures, done, outage=window.outage)


def _removing(uris: Iterable[str], places: Places) -> Iterator[Task[Sequence[StoreError]] | Refusal]:
    """Batches of consecutive `uris` of one store each."""
    for store, located in groupby(_located(uris, places), itemgetter(0)):
        if store is None:
            yield from (Refusal(uri, error) for _, uri, error in located)
            continue
        while batch := list(islice(located, _BATCH)):
            keys = [key for _, _, key in batch]
            yield Task([uri for _, uri, _ in batch], store, partial(store.begin, partial(_remove, keys)))


async def _remove(keys: Sequence[str], store: ParallelStore) -> Sequence[StoreError]:
    return await store.delete_each(keys)


def _located(uris: Iterable[str], places: Places) -> Iterator[tuple[BlockingStore | None, str, Any]]:
    for uri in uris:
        try:
            store, key = places.locate(uri)
        except StoreError as error:
            yield None, uri, error
        else:
            yield store, uri, key
