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
from typing import Generic, NamedTuple, TypeVar

import trio

from ..alignment.buffers import address_of, fresh_bytes
from .connection import Answer, Connection
from .pool import ConnectionPool
from .pump import Moved, Pump
from .service import Request, Service

T = TypeVar("T")


class Reply(NamedTuple, Generic[T]):
    """What came of a request, which `name` stands for: its answer, else the connection on which it was asked.

    `asked` is the caller's own, to go on with or to release to `pool`; where it broke in a way of its own, it is gone.
    """

    name: T
    answer: Answer | None
    asked: Connection | None
    pool: ConnectionPool

    def drop(self) -> None:
        """Close the connection, if it is there."""
        if self.asked is not None:
            self.pool.release(self.asked, reusable=False)


class _Asked(NamedTuple, Generic[T]):
    name: T
    connection: Connection
    head: memoryview
    place: bytes
    service: Service


class Batch(Generic[T]):
    """Requests under way, each with the name that the caller gives it."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked[T]] = {}
        self._ended: list[tuple[int, Moved]] = []
        self._news = trio.Event()

    def __len__(self) -> int:
        """How many requests are under way, or answered and not taken."""
        return len(self._asked)

    async def ask(self, service: Service, request: Request, wanted: Sequence[tuple[T, str, int]]) -> int:
        """Ask for the first of `wanted`, as many as there are idle connections for; how many these are.

        `request` is the GET of a whole object; each of `wanted` has a name, the path to ask for instead, and the size
        in bytes that the object should have, 0 where that is unknown.
        """
        connections = _of_pumps(service, service.take(len(wanted)))
        if not connections:
            return 0
        chosen = wanted[: len(connections)]
        try:
            heads = await service.heads(request, [path for _, path, _ in chosen])
            places = [fresh_bytes(size)[0] for _, _, size in chosen]
        except BaseException as error:
            for connection in connections:
                service.pool.release(connection, reusable=True)
            if isinstance(error, Exception):  # who asks for one alone meets it again, and says where
                return 0
            raise
        names = [name for name, _, _ in chosen]
        self._post(list(map(_Asked, names, connections, heads, places, [service] * len(heads))))
        return len(heads)

    def _post(self, asked: Sequence[_Asked[T]]) -> None:
        together = memoryview(b"".join([each.head for each in asked]))
        place, rows = address_of(together), dict[Pump, list[int]]()
        for each in asked:
            size, pump = len(each.head), each.connection.stream.pump
            assert pump is not None
            rows.setdefault(pump, []).extend(each.connection.begin_asking((place, size), each.place))
            self._asked[each.connection.stream.descriptor] = each
            place += size
        kept = together, asked
        for pump, words in rows.items():
            pump.post(words, kept, self._note)

    def _note(self, descriptor: int, moved: Moved) -> None:
        self._ended.append((descriptor, moved))
        self._news.set()

    async def answers(self) -> list[Reply[T]]:
        """What has come, when something has. None after :meth:`interrupt`."""
        await self._hear()
        ended, self._ended = self._ended, []
        return [self._reply(self._asked.pop(descriptor), moved) for descriptor, moved in ended]

    async def _hear(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    def interrupt(self) -> None:
        """Have :meth:`answers` return."""
        self._news.set()

    def _reply(self, asked: _Asked[T], moved: Moved) -> Reply[T]:
        connection, pool = asked.connection, asked.service.pool
        connection.end_asking(moved, len(asked.head))
        try:
            answer = connection.take_whole(asked.head)
        except MemoryError:  # who asks for it alone may have it, or says why not
            pool.release(connection, reusable=False)
            return Reply(asked.name, None, None, pool)
        if answer is None:
            return Reply(asked.name, None, connection, pool)
        pool.release(connection, reusable=connection.reusable)
        asked.service.circuit.answered()
        return Reply(asked.name, answer, None, pool)

    async def close(self) -> None:
        """Give up all that is under way."""
        for asked in self._asked.values():
            asked.connection.stream.give_up()
        with trio.CancelScope(shield=True):
            while len(self._ended) < len(self._asked):
                await self._hear()
        for descriptor, moved in self._ended:
            asked = self._asked.pop(descriptor)
            asked.connection.end_asking(moved, len(asked.head))
            asked.service.pool.release(asked.connection, reusable=False)
        self._ended.clear()


def _of_pumps(service: Service, connections: Sequence[Connection]) -> list[Connection]:
    """Those that a pump works for; the others go back."""
    usable = [connection for connection in connections if connection.stream.pumped]
    for connection in connections:
        if not connection.stream.pumped:
            service.pool.release(connection, reusable=True)
    return usable
