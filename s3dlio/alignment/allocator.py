"""Memory for arrays that users keep, which comes back by itself when the last of them is dropped.

Theory of operation
-------------------

*Invariant.* Memory is handed out again only when nothing refers to it. What a user gets is a view of one array that
spans the memory and that nobody else has; slices, views of other types, tensors and memoryviews, made by whoever, refer
to that array. When it is deallocated, its finaliser gives the memory back. NumPy's arrays are not known to the cyclic
garbage collector, so that is never earlier than the last reference to them. Who has got hold of the mapping itself, by
`base`, is seen when the memory is wanted again: it is passed over.

*Threads, finalisers, signals.* Finalisers run in any thread, at any moment, also in the middle of an `allocate`. So no
lock is held and nothing is counted: what is kept is what lies in one deque, whose operations are atomic. Threads that
meet may give up memory that could have been kept; none can hand it out twice.

*Fork.* The mappings are private: parent and child each go on with arrays, and memory, of their own.
*Exit.* The finalisers of all arrays run while these are alive. Their memory is still viewed, and so passed over.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from .buffers import HUGE_FROM, AlignedBuffer, size_class

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CachingAllocator:
    """Page-aligned memory for arrays; of what is dropped up to `limit` bytes are kept, mapped, for later ones.

    It never waits: beyond what it has kept, and for arrays larger than `limit`, there is new memory. Arrays below 4 MiB
    are NumPy's own, as `malloc` reuses theirs. For any thread; after a fork each process has its own copy.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: deque[AlignedBuffer] = deque()  # oldest first

    @property
    def kept(self) -> int:
        """Bytes that wait for a later array."""
        return sum(buffer.capacity for buffer in tuple(self._free))

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """A writable array of `size` bytes of arbitrary content.

        Errors: `ValueError` for a negative size; `OSError` or `MemoryError` where there is no memory.
        """
        import numpy as np

        if size < HUGE_FROM:
            return np.empty(size, np.uint8)
        capacity = size_class(size)
        buffer = self._take(capacity) or AlignedBuffer(capacity, shared=False)
        memory = np.frombuffer(buffer.view, np.uint8)
        weakref.finalize(memory, self._give_back, buffer)
        return memory[:size]

    def clear(self) -> None:
        """Free what is kept."""
        self._free.clear()

    def _take(self, capacity: int) -> AlignedBuffer | None:
        for buffer in reversed(tuple(self._free)):  # the one used last: its pages are the likeliest to be in the cache
            if buffer.capacity == capacity and not buffer.viewed:
                with suppress(ValueError):  # another thread has taken it
                    self._free.remove(buffer)
                    return buffer
        return None

    def _give_back(self, buffer: AlignedBuffer) -> None:
        if buffer.capacity <= self.limit:
            self._free.append(buffer)
        while self.kept > self.limit:
            with suppress(IndexError):  # another thread has taken the last one
                self._free.popleft()

    def __repr__(self) -> str:
        return f"<CachingAllocator kept={self.kept} limit={self.limit}>"
