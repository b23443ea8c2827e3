"""An object of one version whose beginning is in memory: for formats whose headers say what to read next.

What lies within the beginning is not asked for again. Every other request is held to its version. Who waits for bytes
and fails cancels all that were begun; their memory is kept by those who fill it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .blocking.memory import allocator
from .blocking.portal import Job
from .blocking.store import BlockingStore
from .errors import ErrorContext, FormatError, ObjectChangedError
from .model import GetResult, ObjectMeta
from .parts import plan_ranges
from .transport.download import validators
from .versions import pin_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class StoredObject:
    """The version `meta` of an object in `store`, of which `head` is the beginning."""

    store: BlockingStore
    meta: ObjectMeta
    head: bytes | memoryview = b""

    @property
    def uri(self) -> str:
        """Where it is."""
        return f"{self.store.root}/{self.meta.key}"

    @property
    def context(self) -> ErrorContext:
        """What errors of its content tell of it."""
        return ErrorContext("load", self.store.bucket.bucket, self.meta.key)

    def without_head(self) -> StoredObject:
        """The same, to keep."""
        return replace(self, head=b"")

    def read(self, start: int, end: int) -> bytes:
        """Its bytes `start` to `end`. Errors: those of :meth:`received`."""
        return bytes(self.head[start:end] if end <= len(self.head) else self.received(start, end).data)

    def received(self, start: int, end: int, *, skip: int = 0) -> NDArray[np.uint8]:
        """Its bytes `start` to `end` in memory to keep, `skip` bytes after one that is aligned.

        Errors: `FormatError` where it ends before; `ObjectChangedError`; `StoreError`.
        """
        if end > self.meta.size:
            raise FormatError(f"this should have {end} bytes or more, and has {self.meta.size}", self.context)
        memory = allocator().allocate(skip + end - start)[skip:]
        if not self._copied(start, memory.data):
            self.check(self.store.get_into(self.meta.key, memory.data, start=start, if_match=pin_of(self.meta)).meta)
        return memory

    def gathered(self, runs: Sequence[tuple[int, int]], start: int) -> NDArray[np.uint8]:
        """What lies from the first to the second byte of each of `runs`, counted from `start`, one after the other.

        It is in memory to keep. Errors: `ObjectChangedError`; `StoreError`.
        """
        memory = allocator().allocate(sum(stop - first for first, stop in runs))
        pieces = self._pieces(runs, start, memory.data)
        found = self.store.call(lambda store: store.get_pieces(self.meta.key, pieces, if_match=pin_of(self.meta)))
        if found is not None:
            self.check(found)
        return memory

    def _pieces(
        self, runs: Iterable[tuple[int, int]], start: int, memory: memoryview
    ) -> Iterator[tuple[int, memoryview]]:
        """A request each: where it begins, and the memory that it fills."""
        filled = 0
        for run in runs:
            for first, stop in plan_ranges(*run, self.store.config.part_size):
                view = memory[filled : filled + stop - first]
                filled += len(view)
                if not self._copied(start + first, view):
                    yield start + first, view

    def begin(self, start: int, view: memoryview) -> Arrival:
        """Begin to fill `view` with its bytes from `start`."""
        if self._copied(start, view):
            return Arrival(self)
        return Arrival(self, self.store.begin_get_into(self.meta.key, view, start=start, if_match=pin_of(self.meta)))

    def _copied(self, start: int, view: memoryview) -> bool:
        """Whether all that `view` is for was in memory, and is in it now."""
        end = start + len(view)
        if end > len(self.head) and len(view):
            return False
        view[:] = self.head[start:end]
        return True

    def check(self, found: ObjectMeta) -> None:
        """That `found` is of the same version. Errors: `ObjectChangedError`."""
        if validators(found) != validators(self.meta):
            raise ObjectChangedError("the object was replaced while it was read", self.context)


class Arrival:
    """Bytes of `stored` that `job` receives; without one they are there."""

    def __init__(self, stored: StoredObject, job: Job[GetResult] | None = None) -> None:
        self._stored = stored
        self._job = job

    def wait(self) -> None:
        """Wait for the bytes, once. Errors: `ObjectChangedError`, `StoreError`."""
        if self._job is not None:
            self._stored.check(self._job.result().meta)


def give_up(arrivals: Iterable[Arrival]) -> None:
    """Cancel what has not come yet, and wait a moment for it to let go."""
    jobs = [each._job for each in arrivals if each._job is not None]
    for job in jobs:
        job.cancel()
    for job in jobs:
        job.let_go()
