"""Memory that has gone back is filled with poison, and looked at later: whoever writes to it then is seen.

What is poisoned: `bytes` that bodies are received into, once nobody refers to them; the buffers of connections that are
closed, or idle; and whatever else is buried by name. A result that is compared with what it must be holds no poison.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import s3dlio.stores.store
import s3dlio.transfer
import s3dlio.transport.batch
import s3dlio.transport.connection
from s3dlio.alignment.buffers import address_of, fresh_bytes
from s3dlio.transport.connection import Connection
from s3dlio.transport.pool import ConnectionPool

from ..servers.bad_network import POISON

_KEPT = 12 << 20
"""Bytes that lie poisoned at a time."""


class Graveyard:
    """The memory that lies poisoned, and the `bytes` that will once they are dropped. For any thread."""

    def __init__(self) -> None:
        self.buried = self.disturbed = 0
        self._graves: deque[tuple[Any, int, int]] = deque()
        self._size = 0
        self._made: deque[bytes] = deque()

    def fresh_bytes(self, size: int) -> tuple[bytes, memoryview]:
        """In the place of the function of that name."""
        made = fresh_bytes(size)
        self._made.append(made[0])
        for _ in range(min(len(self._made), 8)):
            self._look_at_oldest()
        return made

    def _look_at_oldest(self) -> None:
        data = self._made.popleft()
        if sys.getrefcount(data) > 2:  # this name, and the argument
            self._made.append(data)
        elif data:
            self.bury(data, address_of(data), len(data))

    def bury(self, owner: object, address: int, size: int) -> None:
        """Poison `size` bytes at `address`, which `owner` keeps, and look at them when others have followed."""
        ctypes.memset(address, POISON[0], size)
        self._graves.append((owner, address, size))
        self.buried += 1
        self._size += size
        while self._size > _KEPT:
            self._exhume()

    def _exhume(self) -> None:
        _, address, size = self._graves.popleft()
        self._size -= size
        self.disturbed += not is_poisoned(ctypes.string_at(address, size))

    def settle(self) -> None:
        """Bury what is still to be buried, and look at all that is."""
        for _ in range(len(self._made)):
            self._look_at_oldest()
        while self._graves:
            self._exhume()


def is_poisoned(data: bytes | bytearray) -> bool:
    """Whether it is all poison."""
    return data.count(POISON) == len(data)


def watch_buffers(graveyard: Graveyard) -> None:
    """From now on poison the buffers of connections that are closed, or idle, and `bytes` that were dropped."""
    for module in (s3dlio.stores.store, s3dlio.transfer, s3dlio.transport.batch, s3dlio.transport.connection):
        setattr(module, "fresh_bytes", graveyard.fresh_bytes)  # noqa: B010 - a name of the module's own, to mypy
    setattr(Connection, "close", _closing(Connection.close, graveyard))  # noqa: B010
    setattr(ConnectionPool, "release", _releasing(ConnectionPool.release))  # noqa: B010
    setattr(ConnectionPool, "_take_idle", _taking(ConnectionPool._take_idle, graveyard))  # noqa: B010


def _closing(close: Callable[[Connection], None], graveyard: Graveyard) -> Callable[[Connection], None]:
    def closed(connection: Connection) -> None:
        close(connection)
        graveyard.bury(connection._buffer, address_of(connection._buffer), len(connection._buffer))

    return closed


def _releasing(release: Callable[..., None]) -> Callable[..., None]:
    def released(pool: ConnectionPool, connection: Connection, *, reusable: bool) -> None:
        release(pool, connection, reusable=reusable)
        connection._buffer[:] = POISON * len(connection._buffer)

    return released


def _taking(
    take_idle: Callable[[ConnectionPool], Connection | None], graveyard: Graveyard
) -> Callable[[ConnectionPool], Connection | None]:
    def taken(pool: ConnectionPool) -> Connection | None:
        connection = take_idle(pool)
        graveyard.disturbed += connection is not None and not is_poisoned(connection._buffer)
        return connection

    return taken
