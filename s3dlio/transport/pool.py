"""Kept-alive connections to one endpoint: a semaphore for how many, a deque for the idle ones.

Theory of operation. A task takes a slot, then the connection used last (the one least likely to have been closed by
the server), or a new one. Invariant: `leased + free slots == limit`, whatever is cancelled when; an idle connection
holds no slot, but makes room for a new one. Ownership: between :meth:`acquire` and :meth:`release` the connection is
the task's alone; otherwise it is the pool's, which closes it. Cancellation: while waiting for a slot nothing is held;
while connecting the slot is given back; afterwards the holder must call :meth:`release`, in a `finally`, with
`reusable=False` unless the exchange ended cleanly.

A server closes idle connections when it likes. One that is readable while idle is dead, and is dropped before reuse;
what lies between may forget them without a word, so none stays idle for long. While there are idle ones, a system task
looks them over, and ends with the last.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from .connection import Connection

IDLE_LIMIT = 30.0
"""Seconds that a connection is kept idle: servers and middleboxes drop them after some twenty to some hundreds."""

_LOOK_AFTER = 5.0


class Dial(Protocol):
    """Makes connections."""

    async def __call__(self) -> Connection:
        """A new connection."""

    def avoid(self, connection: Connection) -> None:
        """Prefer other addresses to that of `connection`."""

    def avoids(self, address: str) -> bool:
        """Whether others are preferred to `address`."""


class ConnectionPool:
    """At most `limit` connections, made by `connect`. Belongs to one Trio run."""

    def __init__(self, connect: Dial, limit: int) -> None:
        self._connect = connect
        self._slots = trio.Semaphore(limit, max_value=limit)
        self._idle: deque[tuple[Connection, float]] = deque()
        """And since when, in Trio's time, the longest first."""
        self._closed = self._retired = self._looking = False
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

    def take(self, most: int = 1) -> list[Connection]:
        """Connections of the caller's own: up to `most`, as many as are idle while none waits for a slot."""
        taken: list[Connection] = []
        while len(taken) < most and self._slots.value and not self._closed:
            connection = self._take_idle()
            if connection is None:
                break
            self._slots.acquire_nowait()
            taken.append(connection)
        return taken

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if self._usable(connection, since):
                return connection
        return None

    def _usable(self, connection: Connection, since: float) -> bool:
        """Whether an idle connection can be used again; otherwise it is closed."""
        if trio.current_time() - since < IDLE_LIMIT and not connection.stale:
            return True
        self.stale += 1
        connection.close()
        return False

    async def _look_after_idle(self) -> None:
        try:
            while self._idle:
                await trio.sleep(_LOOK_AFTER)
                self._idle = deque(idle for idle in self._idle if self._usable(*idle))
        finally:
            self._looking = False

    async def _open(self) -> Connection:
        # those longest idle, the likeliest to have ended; the caller's own slot is among the leased
        while self._idle and self.leased + len(self._idle) > self.limit:
            self._idle.popleft()[0].close()
        connection = await self._connect()
        connection.pool = self
        self.opened += 1
        return connection

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Give the connection back; it is closed unless `reusable`."""
        if reusable and not self._retired:
            self._idle.append((connection, trio.current_time()))
            if not self._looking:
                self._looking = True
                trio.lowlevel.spawn_system_task(self._look_after_idle, name="s3dlio idle connections")
        else:
            connection.close()
        self._slots.release()

    def distrust(self, connection: Connection) -> None:
        """A peer has fallen silent. The idle connections may be as dead, and it may have another address."""
        self._close_idle()
        self._connect.avoid(connection)

    def distrusts(self, address: str) -> bool:
        """Whether a peer at `address` has fallen silent lately."""
        return self._connect.avoids(address)

    def close(self) -> None:
        """Close the idle connections, and each other one when it comes back; give out no more."""
        self._closed = True
        self.retire()

    def retire(self) -> None:
        """Keep no connection from now on; requests that are under way may still finish."""
        self._retired = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()

    @property
    def leased(self) -> int:
        """How many connections are in use."""
        return self.limit - self._slots.value

    @property
    def idle(self) -> int:
        """How many connections are kept."""
        return len(self._idle)

    def __repr__(self) -> str:
        return f"<ConnectionPool {self.leased} leased, {len(self._idle)} idle, limit {self.limit}>"
