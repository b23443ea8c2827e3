"""A bucket in memory behind the portal that notes its reads, and can hold them up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from s3dlio.blocking.portal import BlockingPortal
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.model import BoundedRange, GetOptions, GetRange, GetResult, Sink
from s3dlio.stores.memory import MemoryStore
from s3dlio.transfer import ParallelStore
from s3dlio.urls import Uri


async def at_once(number: int) -> None:
    """Hold nothing up."""


class Watched(MemoryStore):
    """A store that notes its reads. `during` is awaited in each, with its number from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, GetRange | None]] = []
        self.during: Callable[[int], Awaitable[None]] = at_once
        self.active = self.most_active = self.most_tasks = 0

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        self.reads.append((key, options.byte_range))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.most_tasks = max(self.most_tasks, trio.lowlevel.current_statistics().tasks_living)
        try:
            await self.during(len(self.reads))
            return await super().fetch(key, sink, options)
        finally:
            self.active -= 1

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first byte and the end of each read that had both."""
        return [(asked.start, asked.end) for _, asked in self.reads if isinstance(asked, BoundedRange)]


@dataclass(frozen=True)
class WatchedStore(BlockingStore):
    """A blocking store over a watched one."""

    watched: Watched = field(default_factory=Watched, compare=False)
    made: list[ParallelStore] = field(default_factory=list, compare=False)

    def opened(self, portal: BlockingPortal) -> ParallelStore:
        if not self.made:
            part_size, in_flight, limit = self.config.part_size, self.config.parts_in_flight, self.config.memory_limit
            self.made.append(
                ParallelStore(self.watched, part_size=part_size, parts_in_flight=in_flight, memory_limit=limit)
            )
        return self.made[0]


def watched_store(config: Config, **objects: bytes) -> WatchedStore:
    """Such a store, with `objects` in it."""
    made = WatchedStore(Uri("memory", "watched", ""), config)
    for key, data in objects.items():
        made.put(key, data)
    return made
