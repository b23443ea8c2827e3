"""GETs of small objects, many at once, by one task: what each would cost by itself is paid once for several.

Theory of operation. To receive a small object costs less than a task of its own, its signature and its being woken for.
A batch signs several requests together, hands their rows to the pump in one call, sleeps, and takes whatever has been
answered when it wakes.

It takes nothing but a plain 200 that has come whole. Anything else it does not judge: the connection is handed out as
the answer left it, and the way of a single request goes on there: see :attr:`.download.Download.asked`.

Ownership: a batch is one task's. A connection is the batch's from :meth:`Batch.ask` on, until :meth:`Batch.answers`
gives it back, or away with the reply. Cancellation: :meth:`Batch.close` waits, a moment, until the pump has let go of
every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

import trio

from ..alignment.buffers import address_of, fresh_bytes
from ..errors import ErrorContext
from ..observers import Attempt, Row, have_read, observers, recording, witnesses
from .balance import LEAST
from .connection import Answer, Connection
from .endpoint import Endpoint
from .late import LateWatch
from .pump import Moved, Pump
from .retry import Failure
from .service import Service
from .upstream import Request, Upstream

T = TypeVar("T")


class Reply(NamedTuple, Generic[T]):
    """What came of a request, which `name` stands for: its answer, else the connection on which it was asked.

    `asked` is the caller's own, to go on with or to release; where it broke in a way of its own, it is gone.
    `endpoint` is where it was asked.
    """

    name: T
    answer: Answer | None
    asked: Connection | None
    endpoint: Endpoint

    def drop(self) -> None:
        """Close the connection, if it is there."""
        if self.asked is not None:
            if self.asked.attempt is not None:
                self.asked.attempt.failed("cancelled")
            self.asked.give_back(reusable=False)


class _Asked(NamedTuple, Generic[T]):
    name: T
    upstream: Upstream
    connection: Connection
    head: memoryview
    place: bytes
    service: Service
    begun: float
    owed: int
    """Bytes that its endpoint owed then, its own included."""
    request: Request
    key: str
    attempt: Attempt | None

    @property
    def watch(self) -> LateWatch | None:
        """What looks after it until it is answered."""
        return self.service.rotation.late

    @property
    def size(self) -> int:
        """About how many bytes come."""
        return _size(self.place)

    def where(self) -> ErrorContext:
        """Names it."""
        return self.upstream.where(self.request, self.key)

    def failed(self, failure: str) -> None:
        """Tell that it was not answered."""
        if self.connection.attempt is not None:
            self.connection.attempt.failed(failure)

    def observe(self) -> None:
        """Have what is not over be an attempt, from now on, where recorders alone were to be told when it is."""
        told = observers(self.request.observer) if self.attempt is None else ()
        if told:
            self.connection.attempt = self.upstream.observed(
                told, self.request, self.key, cause=self.key, asked_at=self.begun
            )


class Batch(Generic[T]):
    """Requests under way, each with the name that the caller gives it."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked[T]] = {}
        self._ended: list[tuple[int, Moved]] = []
        self._late: set[Connection] = set()
        self._news = trio.Event()

    def __len__(self) -> int:
        """How many requests are under way, or answered and not taken."""
        return len(self._asked)

    async def ask(self, service: Service, request: Request, wanted: Sequence[tuple[T, str, str, int]]) -> int:
        """Ask for the first of `wanted`, as many as there are idle connections for; how many these are.

        `request` is the GET of a whole object; each of `wanted` has a name, the key and its path to ask for instead,
        and the size in bytes that the object should have, 0 where that is unknown.
        """
        taken = _of_pumps(service.take(len(wanted), max(wanted[0][3], LEAST)))
        if not taken:
            return 0
        chosen = wanted[: len(taken)]
        try:
            heads = await _heads([upstream for upstream, _ in taken], request, [path for *_, path, _ in chosen])
            places = [fresh_bytes(size)[0] for *_, size in chosen]
        except BaseException as error:
            for _, connection in taken:
                connection.give_back(reusable=True)
            if isinstance(error, Exception):  # who asks for one alone meets it again, and says where
                return 0
            raise
        now = trio.current_time()
        attempts = _observed(request, chosen, taken)
        each = zip(chosen, taken, heads, places, attempts, strict=True)
        self._post(
            [
                _Asked(name, *whom, head, body, service, now, whom[0].load.owe(_size(body)), request, key, attempt)
                for (name, key, *_), whom, head, body, attempt in each
            ]
        )
        return len(heads)

    def _post(self, asked: Sequence[_Asked[T]]) -> None:
        together = memoryview(b"".join([each.head for each in asked]))
        place, rows = address_of(together), dict[Pump, list[int]]()
        for each in asked:
            connection, size = each.connection, len(each.head)
            pump = connection.stream.pump
            assert pump is not None
            connection.stream.purpose, connection.attempt = each.where, each.attempt
            rows.setdefault(pump, []).extend(connection.begin_asking((place, size), each.place))
            self._asked[connection.stream.descriptor] = each
            if each.watch is not None and len(each.service.rotation) > 1:
                each.watch.begin(connection, partial(self._give_up, connection))
            place += size
        kept = together, asked
        for pump, words in rows.items():
            pump.post(words, kept, self._note)

    def _give_up(self, connection: Connection) -> None:
        self._late.add(connection)
        connection.stream.give_up()

    def _note(self, descriptor: int, moved: Moved) -> None:
        self._ended.append((descriptor, moved))
        self._news.set()

    async def answers(self) -> list[Reply[T]]:
        """What has come, when something has. None after :meth:`interrupt`."""
        await self._hear()
        return self._replies()

    def _replies(self) -> list[Reply[T]]:
        ended, self._ended = self._ended, []
        read: list[Row] | None = [] if recording() else None
        replies = [self._reply(descriptor, moved, read) for descriptor, moved in ended]
        if read:
            have_read(read)
        return replies

    async def _hear(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    def interrupt(self) -> None:
        """Have :meth:`answers` return."""
        self._news.set()

    def _reply(self, descriptor: int, moved: Moved, read: list[Row] | None) -> Reply[T]:
        asked = self._asked.pop(descriptor)
        owed = self._account(asked)
        connection = asked.connection
        connection.end_asking(moved, len(asked.head))
        try:
            answer = connection.take_whole()
        except MemoryError:  # who asks for it alone may have it, or says why not
            asked.observe()
            asked.failed("MemoryError")
            connection.give_back(reusable=False)
            return Reply(asked.name, None, None, asked.upstream.endpoint)
        if answer is not None:
            connection.give_back(reusable=connection.reusable)
            asked.service.answered(asked.upstream, len(answer.body), owed, asked.begun)
            if read is not None and asked.attempt is None:
                read.append((asked.key, asked.request.operation, asked.upstream.name, asked.begun, len(answer.body)))
        else:
            asked.observe()
            if connection in self._late:
                asked.failed(Failure.LATE.value)
                connection.give_back(reusable=False)
                asked.service.rotation.failed(asked.upstream, Failure.LATE, asked.size, asked.begun, "late")
        kept = answer is None and connection not in self._late
        self._late.discard(connection)
        return Reply(asked.name, answer, connection if kept else None, asked.upstream.endpoint)

    def _account(self, asked: _Asked[T]) -> int:
        """End what was begun with the request; of how many bytes it was one."""
        if asked.watch is not None:
            asked.watch.end(asked.connection)
        return asked.upstream.load.settle(asked.size, asked.owed)

    async def close(self) -> None:
        """Give up all that is under way."""
        for asked in self._asked.values():
            asked.connection.stream.give_up()
        with trio.CancelScope(shield=True):
            while len(self._ended) < len(self._asked):
                await self._hear()
        for reply in self._replies():
            reply.drop()


def _size(place: bytes) -> int:
    """About how many bytes come to a `place`, which is empty where that is unknown."""
    return max(len(place), LEAST)


def _observed(
    request: Request, wanted: Sequence[tuple[T, str, str, int]], taken: Sequence[tuple[Upstream, Connection]]
) -> Sequence[Attempt | None]:
    """Attempts that begin, where there are witnesses."""
    if not witnesses(request.observer):
        return [None] * len(taken)
    told = observers(request.observer)
    each = zip(wanted, taken, strict=True)
    return [upstream.observed(told, request, key, cause=key) for (_, key, *_), (upstream, _) in each]


def _of_pumps(taken: Sequence[tuple[Upstream, Sequence[Connection]]]) -> list[tuple[Upstream, Connection]]:
    """Those that a pump works for, one by one; the others go back."""
    usable = []
    for upstream, connections in taken:
        for connection in connections:
            if connection.stream.pumped:
                usable.append((upstream, connection))
            else:
                connection.give_back(reusable=True)
    return usable


async def _heads(upstreams: Sequence[Upstream], request: Request, paths: Sequence[str]) -> list[memoryview]:
    """The heads of `request` for each of `paths`, signed for the endpoint that it goes to."""
    heads: list[memoryview] = []
    for upstream, group in groupby(upstreams):
        count = len(list(group))
        heads += await upstream.heads(request, paths[len(heads) : len(heads) + count])
    return heads
