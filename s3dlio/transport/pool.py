"""Kept-alive connections to one endpoint: a semaphore for how many, a deque for the idle ones.

Theory of operation. A task takes a slot, then the connection used last (the one least likely to have been closed by
the server), or a new one. Invariant: `leased + free slots == limit`, whatever is cancelled when; an idle connection
holds no slot, but makes room for a new one. Ownership: between :meth:`acquire` and :meth:`release` the connection is
the task's alone; otherwise it is the pool's, which closes it. Cancellation: while waiting for a slot nothing is held;
while connecting the slot is given back; afterwards the holder must call :meth:`release`, in a `finally`, with
`reusable=False` unless the exchange ended cleanly.

A server closes idle connections when it likes. One that is readable while idle is dead, and is dropped before reuse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from .connection import Connection


class ConnectionPool:
    """At most `limit` connections, made by `connect`. Belongs to one Trio run."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], limit: int) -> None:
        self._connect = connect
        self._slots = trio.Semaphore(limit, max_value=limit)
        self._idle: deque[Connection] = deque()
        self._closed = self._retired = False
        self.limit = limit
        self.opened = 0
        self.stale = 0

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """A connection of the caller's own. Errors: what `connect` raises; `trio.ClosedResourceError` after a close.

        `fresh` is for who has just found a kept-alive connection dead: it has a new one made, since the other idle ones
        have probably ended with it.
        """
        try:
            self._slots.acquire_nowait()  # `acquire` would let other tasks run first, even where a slot is free
        except trio.WouldBlock:
            await self._slots.acquire()
        try:
            if self._closed:  # only now: the pool may be closed while a slot is waited for
                raise trio.ClosedResourceError("the store is closed")
            return (None if fresh else self._take_idle()) or await self._open()
        except BaseException:
            self._slots.release()
            raise

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale:
                return connection
            self.stale += 1
            connection.close()
        return None

    async def _open(self) -> Connection:
        # those longest idle, the likeliest to have ended; the caller's own slot is among the leased
        while self._idle and self.leased + len(self._idle) > self.limit:
            self._idle.popleft().close()
        connection = await self._connect()
        self.opened += 1
        return connection

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Give the connection back; it is closed unless `reusable`."""
        if reusable and not self._retired:
            self._idle.append(connection)
        else:
            connection.close()
        self._slots.release()

    def close(self) -> None:
        """Close the idle connections, and each other one when it comes back; give out no more."""
        self._closed = True
        self.retire()

    def retire(self) -> None:
        """Keep no connection from now on; requests that are under way may still finish."""
        self._retired = True
        while self._idle:
            self._idle.pop().close()

    @property
    def leased(self) -> int:
        """How many connections are in use."""
        return self.limit - self._slots.value

    def __repr__(self) -> str:
        return f"<ConnectionPool {self.leased} leased, {len(self._idle)} idle, limit {self.limit}>"
