"""Memory that bodies are received into.

Page faults, not Python, are what receiving costs: a body that lands in pages already mapped moves three times faster
than one that lands in fresh memory. So large transfers borrow buffers from a :class:`BufferPool` and give them back.
Where the caller must own a `bytes` in the end, :func:`fresh_bytes` makes one that is received into, without a copy.

Theory of operation of the pool
-------------------------------

*Invariant.* The capacities of all leased and all free buffers together never exceed the limit, and a buffer is free
only when no view of it is left. A buffer that comes back while a view (or an array made from one) is still alive is not
reused: it leaves the pool, and its memory goes with the last view. Nobody ever sees bytes change under a view.

*Who owns what.* The event loop owns the pool's state: only :meth:`BufferPool.acquire`, a cancellation inside it, and a
callback of Trio's touch it, so none of them can meet halfway and no lock is needed. A lease owns its buffer. To release
it means to append the buffer to a deque, which is atomic and therefore allowed in any thread, in a finaliser and in a
signal handler; Trio is woken only when someone waits. Every acquire enqueues itself before it looks at the deque, and
every release looks for waiters after it has appended: one of the two always sees the other.

*Order.* Room is given first come, first served. The head of the queue is never passed by, so a large request gets its
turn; free buffers of other sizes are dropped, oldest first, when their room is needed.

*Cancellation.* A task cancelled while it waits leaves the queue and holds nothing. A task that was given room is past
cancellation: Trio wakes it with the room in its hands, and it makes its lease without another checkpoint.

*Fork.* The mappings are shared, so a child that wrote into its parent's buffers would corrupt the parent. In the child,
therefore, `acquire` on a pool that the parent has used raises, and releasing an inherited lease does nothing.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PAGE = mmap.PAGESIZE

_LARGE_BLOCK = 16 << 20
_HUGE_PAGE = 2 << 20
HUGE_FROM = 4 << 20  # below this, asking for huge pages costs more than it saves
_MADV_HUGEPAGE = 14  # asm-generic/mman-common.h

_libc_madvise = ctypes.CDLL(None).madvise
_libc_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of_bytes = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


class _Buffer(ctypes.Structure):
    """The head of a `Py_buffer`, and room for the rest of it."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_void_p * 11))


_get_buffer = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release_buffer = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("PyBuffer_Release", ctypes.pythonapi))


def address_of(data: ReadableBuffer) -> int:
    """Where the first byte of a contiguous buffer lies, which whoever uses the address keeps alive."""
    if isinstance(data, bytes):
        inside: int = _address_of_bytes(data)
        return inside
    described = _Buffer()
    place = ctypes.addressof(described)
    _get_buffer(data, place, 0)
    address: int = described.address
    _release_buffer(place)
    return address


class _Inside(ctypes.Union):
    """The inside of a bytes object as a buffer exporter that keeps the object alive.

    Its length is beyond any real size, so that one type serves all sizes (to make one takes ctypes 20 µs); only slices
    of the true size are ever handed out. It is a union as that, of all ctypes types, exports the plain format 'B'.
    """

    __slots__ = ("owner",)
    _fields_ = (("raw", ctypes.c_ubyte * (1 << 46)),)
    owner: bytes


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory for the next body, up to 32 MiB of it, rather than give it back each time.

    That is what it does once a large block was freed (mallopt(3), M_MMAP_THRESHOLD): one that nobody touches will do.
    Else every body of a group comes in pages that the kernel has to make first, which costs as much as to receive it.
    """
    _new_bytes(None, _LARGE_BLOCK)


def fresh_bytes(size: int) -> tuple[bytes, memoryview]:
    """A new `bytes` of `size` uninitialised bytes, and the writable view (format 'B') by which to fill it.

    Fill it before anyone else sees it: `bytes` promise not to change. The view keeps the object alive. From 4 MiB on,
    huge pages are asked for. Errors: `ValueError` for a negative size, `MemoryError` where there is no memory.
    """
    if size <= 0:
        if size < 0:
            raise ValueError(f"a size cannot be negative: {size}")
        return b"", memoryview(bytearray())  # not of b"": a view of that is read-only
    _keep_freed_memory()
    try:
        data: bytes = _new_bytes(None, size)
    except MemoryError:
        raise MemoryError(f"there is no memory for {size} bytes") from None
    address = _address_of_bytes(data)
    if size >= HUGE_FROM:
        start = -(-address // PAGE) * PAGE
        _ask_for_huge_pages(start, (address + size - start) // PAGE * PAGE)
    inside = _Inside.from_address(address)
    inside.owner = data
    return data, memoryview(inside).cast("B")[:size]


def _ask_for_huge_pages(address: int, length: int) -> None:
    """With the GIL released. Where there are none, small pages do."""
    if sys.platform == "linux":
        _libc_madvise(address, length, _MADV_HUGEPAGE)


class AlignedBuffer:
    """Page-aligned, zeroed memory of `size` bytes, for `recv_into` and for `O_DIRECT`.

    The mapping is anonymous and `shared`: when a process forks while the kernel reads into private pages, the two may
    end up with each other's copy. If it is not, a forked child has a copy of its own, as with other memory. It begins
    at `address`; its `capacity` is `size` rounded up to pages, at least one.
    Arrays: `np.frombuffer(buffer.view, np.uint8)`.

    Errors: `ValueError` for a negative size, `OSError` where there is no memory.
    """

    __slots__ = ("_exporters", "_memory", "address", "capacity", "size")

    def __init__(self, size: int, *, shared: bool = True) -> None:
        if size < 0:
            raise ValueError(f"a size cannot be negative: {size}")
        self.size = size
        self.capacity = _whole_pages(size)
        self._memory: mmap.mmap | None = mmap.mmap(-1, self.capacity, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._exporters = sys.getrefcount(self._memory)  # without any view: what is more is views
        if self.capacity >= _HUGE_PAGE:
            _ask_for_huge_pages(self.address, self.capacity)

    @property
    def view(self) -> memoryview:
        """A writable view of exactly `size` bytes. Errors: `ValueError` once the buffer is closed."""
        if self._memory is None:
            raise ValueError("the buffer is closed")
        return memoryview(self._memory)[: self.size]

    @property
    def viewed(self) -> bool:
        """Whether a view, a slice of one, or an array made from one is alive: each holds a reference to the mapping."""
        return self._memory is not None and sys.getrefcount(self._memory) > self._exporters

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._memory is None

    def close(self) -> None:
        """Let go of the memory, now or, where views are alive, when the last of them goes. May be called again."""
        self._memory = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "viewed" if self.viewed else "open"
        return f"<AlignedBuffer size={self.size} capacity={self.capacity} {state}>"


def _whole_pages(size: int) -> int:
    return max(1, -(-size // PAGE)) * PAGE


def size_class(size: int) -> int:
    """The capacity in bytes that the pool gives a lease of `size` bytes.

    Up to eight pages it is whole pages; beyond, there are four classes to each doubling, so that less than a quarter of
    what was asked for is wasted. Powers of two are classes.
    """
    pages = _whole_pages(size) // PAGE
    step = 1 << max(0, (pages - 1).bit_length() - 3)
    return -(-pages // step) * step * PAGE


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A :class:`BufferPool` at one moment. Sizes (`limit`, `leased`, `free`, `peak`) are in bytes, of whole buffers."""

    limit: int
    leased: int
    free: int
    leases: int
    waiting: int
    hits: int
    """Leases that reused a buffer."""
    misses: int
    """Leases that a new buffer was made for."""
    peak: int
    """The most that was ever leased at once."""


class Lease:
    """A borrowed buffer: `view`, the writable memory of `size` bytes at the page-aligned `address`.

    A `pool` makes it of a `buffer`, whose `capacity`, in bytes, the pool's limit counts. Release it when the bytes are
    used up. `view` is dead from then on: using it raises `ValueError`. The memory is not reused while slices of it, or
    arrays made from it, are alive, but then the limit no longer counts it: so drop them first. A lease that is garbage
    collected instead is given back too, with a `ResourceWarning`.
    """

    __slots__ = ("_held", "_pool", "address", "capacity", "size", "view")

    def __init__(self, pool: BufferPool, buffer: AlignedBuffer, size: int) -> None:
        self._pool = pool
        self.size = size
        self.capacity = buffer.capacity
        self.address = buffer.address
        self.view = buffer.view[:size]
        self._held = [buffer]

    def release(self) -> None:
        """Give the buffer back. From any thread, in a finaliser, and as often as you like."""
        try:
            buffer = self._held.pop()  # atomic: of two threads one gets it
        except IndexError:
            return
        with suppress(BufferError):  # an array made from the view is alive
            self.view.release()
        if buffer.viewed:
            buffer.close()
        self._pool._take_back(buffer)

    @property
    def released(self) -> bool:
        """Whether the buffer went back."""
        return not self._held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_held", None) and self._pool._is_of_this_process():
            warnings.warn(f"a lease was never released: {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.release()

    def __repr__(self) -> str:
        return f"<Lease size={self.size} capacity={self.capacity} {'released' if self.released else 'held'}>"


class _Waiter:
    """A request in the queue. Once `room` is set, its capacity is leased to the task, with a buffer if one was free."""

    __slots__ = ("buffer", "capacity", "room", "task")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.room = False
        self.buffer: AlignedBuffer | None = None
        self.task: trio.lowlevel.Task | None = None


class BufferPool:
    """Page-aligned buffers, leased and returned within one Trio run, never more than `limit` bytes of them.

    `limit` is rounded up to whole pages. Buffers come in classes (see :func:`size_class`) and are counted whole. New
    memory is not pre-faulted: the first body that lands in it does that. Errors: `ValueError` for a limit of no bytes.
    """

    def __init__(self, limit: int) -> None:
        if limit <= 0:
            raise ValueError(f"a pool's limit must be positive: {limit}")
        self.limit = _whole_pages(limit)
        self._leased = self._free_bytes = self._leases = self._hits = self._misses = self._peak = 0
        self._free: OrderedDict[AlignedBuffer, None] = OrderedDict()  # oldest first
        self._free_by_class: dict[int, dict[AlignedBuffer, None]] = {}
        self._waiting: deque[_Waiter] = deque()
        self._returned: deque[AlignedBuffer] = deque()
        self._token: trio.lowlevel.TrioToken | None = None
        self._pid: int | None = None
        self._closed = False

    @asynccontextmanager
    async def lease(self, size: int) -> AsyncIterator[Lease]:
        """`async with pool.lease(size) as lease:` has `size` bytes until its end. Errors: those of :meth:`acquire`."""
        with await self.acquire(size) as lease:
            yield lease

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not cut the bookkeeping in half
    async def acquire(self, size: int) -> Lease:
        """A lease of `size` bytes of arbitrary content, once there is room and all earlier requests are served.

        Errors: `ValueError` where `size` is negative or larger than the whole limit, `trio.ClosedResourceError` when
        the pool is closed, now or while waiting, `RuntimeError` in a forked child or another Trio run, and `OSError`
        where the system has no memory.
        """
        if not 0 <= size <= self.limit:
            raise ValueError(f"cannot lease {size} bytes from a pool whose limit is {self.limit} bytes")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._bind()
        waiter = _Waiter(min(size_class(size), self.limit))
        self._waiting.append(waiter)
        self._settle()
        if waiter.room:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._wait(waiter)
        return self._make_lease(waiter, size)

    @property
    def stats(self) -> PoolStats:
        """What the pool holds and has done."""
        returned = list(self._returned)  # released, though not yet taken in
        reusable = sum(buffer.capacity for buffer in returned if not (buffer.closed or self._closed))
        return PoolStats(
            limit=self.limit,
            leased=self._leased - sum(buffer.capacity for buffer in returned),
            free=self._free_bytes + reusable,
            leases=self._leases - len(returned),
            waiting=len(self._waiting),
            hits=self._hits,
            misses=self._misses,
            peak=self._peak,
        )

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Free what is free, fail all who wait. Leases stay good; their memory goes when they are released.

        To be called where `acquire` is: on the loop's thread, or when the run is over.
        """
        self._closed = True
        if self._is_of_this_process():
            self._settle()

    def __repr__(self) -> str:
        state, now = "closed" if self._closed else "open", self.stats
        return (
            f"<BufferPool {state} limit={now.limit} leased={now.leased} free={now.free}"
            f" leases={now.leases} waiting={now.waiting}>"
        )

    def _is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def _bind(self) -> None:
        """The first acquire decides which run and process the pool belongs to. A closed pool has none any more."""
        if self._closed:
            raise trio.ClosedResourceError("the buffer pool is closed")
        token = trio.lowlevel.current_trio_token()
        if self._token is None:
            self._token, self._pid = token, os.getpid()
        elif not self._is_of_this_process():
            raise RuntimeError(
                f"this pool belongs to process {self._pid}; after a fork the child needs a pool of its own"
            )
        elif self._token is not token:
            raise RuntimeError("this pool belongs to another Trio run")

    async def _wait(self, waiter: _Waiter) -> None:
        def leave(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._waiting.remove(waiter)
            self._settle()  # the one behind may fit where this one did not
            return trio.lowlevel.Abort.SUCCEEDED

        waiter.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(leave)

    def _make_lease(self, waiter: _Waiter, size: int) -> Lease:
        if not waiter.room:
            raise trio.ClosedResourceError("the buffer pool is closed")
        try:
            return Lease(self, waiter.buffer or AlignedBuffer(waiter.capacity), size)
        except BaseException:
            self._leased -= waiter.capacity
            self._leases -= 1
            self._settle()
            raise

    def _take_back(self, buffer: AlignedBuffer) -> None:
        """Called by a lease, in any thread and at any moment."""
        if self._token is None or not self._is_of_this_process():
            return
        self._returned.append(buffer)
        if self._waiting:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._settle, idempotent=True)

    def _settle(self) -> None:
        """Take in what was returned, then serve the queue from its head for as long as there is room."""
        self._collect()
        while self._waiting and (self._closed or self._leased + self._waiting[0].capacity <= self.limit):
            waiter = self._waiting.popleft()
            if not self._closed:
                self._give_room(waiter)
            if waiter.task is not None:
                trio.lowlevel.reschedule(waiter.task)

    def _collect(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            self._leased -= buffer.capacity
            self._leases -= 1
            if not buffer.closed:
                self._free[buffer] = None
                self._free_by_class.setdefault(buffer.capacity, {})[buffer] = None
                self._free_bytes += buffer.capacity
        while self._closed and self._free:
            self._drop_oldest()

    def _give_room(self, waiter: _Waiter) -> None:
        if same := self._free_by_class.get(waiter.capacity):
            waiter.buffer, _ = same.popitem()  # the one used last: its pages are the likeliest to be in the cache
            del self._free[waiter.buffer]
            self._free_bytes -= waiter.capacity
            self._hits += 1
        else:
            self._misses += 1
            while self._leased + self._free_bytes + waiter.capacity > self.limit:
                self._drop_oldest()
        waiter.room = True
        self._leased += waiter.capacity
        self._leases += 1
        self._peak = max(self._peak, self._leased)

    def _drop_oldest(self) -> None:
        buffer, _ = self._free.popitem(last=False)
        del self._free_by_class[buffer.capacity][buffer]
        self._free_bytes -= buffer.capacity
        buffer.close()
