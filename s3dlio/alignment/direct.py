"""Files read and written past the page cache, with `O_DIRECT`.

What direct I/O buys is predictable memory: a training job that streams a terabyte through the page cache evicts
everything else from it, one that reads directly evicts nothing. The price is alignment: the kernel takes only whole
blocks, at block offsets, from and to aligned memory. :class:`DirectFile` takes any offset, length and memory.

Theory of operation
-------------------

*Two descriptors.* A `DirectFile` has the file open twice: as it was given, and again with `O_DIRECT`. The second is
opened through `/proc/self/fd`, so both are the same file even when its name has just been given to another one.

*Reading.* The range is rounded outwards to blocks and read by one `preadv`. The middle lands straight in the caller's
memory where that is aligned; the blocks at both ends, which hold bytes nobody asked for, land in a bounce buffer. Where
the memory is not aligned everything goes through the bounce buffer, and is copied with the GIL released. Reading past
the end of the file is allowed and yields a short count, so reads need the page cache for nothing.

*Writing.* Whole blocks are written directly. The head and the tail are less than a block, and the rest of their block
is not ours to write, so they go through the first descriptor, for at most two pages in the cache, which :meth:`sync`
drops. Invariant: a block is never smaller than a page, so no page is written both ways; the kernel does not keep the
two coherent when they happen at once (open(2), "O_DIRECT").

*Side by side.* File systems take one write at a time that makes a file longer. What is to be written by several threads
is therefore reserved first (:meth:`DirectFile.reserve`), which also tells early that the disk is full.

*Fallback.* Where a file system refuses, all goes through the first descriptor: never silently, see
:class:`DirectStats`.

*Who owns what.* A `DirectFile` owns both descriptors. Every call is positional, so threads may share one file. Bounce
buffers are borrowed for one system call; they are of shared memory, as the kernel may be writing into them while
another thread forks, and a child starts with none.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .buffers import AlignedBuffer

if TYPE_CHECKING:
    from typing_extensions import Buffer  # whatever memoryview accepts

BLOCK = 1 << 20
"""Most bytes of one direct system call, and the size of a bounce buffer."""

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _STATX_DIOALIGN = 0x1000, 0x2000  # linux/fcntl.h, linux/stat.h
_DIOALIGN_AT = 0x98  # stx_dio_mem_align and stx_dio_offset_align in struct statx
_REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP}
_NOT_RESERVED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EINTR, errno.ENODEV}
_COPY_UNLOCKED_FROM = 32 << 10  # below this, calling numpy costs more than holding the GIL


class Alignment(NamedTuple):
    """What direct I/O on a file must be multiples of, in bytes."""

    memory: int
    """Memory addresses."""
    offset: int
    """Offsets in the file, and lengths."""


UNKNOWN = Alignment(4096, 4096)
"""Assumed where the kernel does not say: the largest sector of today's disks, and a multiple of the smaller ones."""


class Plan(NamedTuple):
    """A range cut where blocks begin: the lengths of its three pieces, in bytes."""

    head: int
    middle: int
    tail: int


def plan(offset: int, length: int, alignment: int) -> Plan:
    """Cut the `length` bytes from `offset` into unaligned head, whole blocks of `alignment`, and unaligned tail.

    A range that holds no whole block is all head.
    """
    head = -offset % alignment
    middle = (length - head) // alignment * alignment
    return Plan(head, middle, length - head - middle) if middle > 0 else Plan(length, 0, 0)


def alignment_of(fd: int) -> Alignment | None:
    """What direct I/O on this open file needs, by `statx`'s STATX_DIOALIGN; None where the kernel says it cannot be.

    Before Linux 6.1, and on file systems without rules or without an answer, it is :data:`UNKNOWN`.
    """
    statx = getattr(_libc, "statx", None)
    answer = ctypes.create_string_buffer(256)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return UNKNOWN
    (mask,) = struct.unpack_from("I", answer, 0)
    if not mask & _STATX_DIOALIGN:
        return UNKNOWN
    memory, offset = struct.unpack_from("II", answer, _DIOALIGN_AT)
    return Alignment(memory, offset) if memory and offset else None


class DirectIOWarning(RuntimeWarning):
    """Direct I/O was asked for, and the file system refuses it."""


@dataclass
class DirectStats:
    """What was moved, and how: by one file, or by all that were given the same statistics. The first fallback warns."""

    direct_bytes: int = 0
    """Bytes moved past the page cache."""
    buffered_bytes: int = 0
    """Bytes moved through the page cache: unaligned ends of writes, and everything after a fallback."""
    fallbacks: int = 0
    """Files that could not be read or written directly."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def moved(self, count: int, *, direct: bool) -> None:
        """Count `count` bytes, as `direct` or as buffered ones."""
        with self._lock:
            if direct:
                self.direct_bytes += count
            else:
                self.buffered_bytes += count

    def fell_back(self, reason: str) -> None:
        """Count a file that goes through the page cache for this `reason`."""
        with self._lock:
            self.fallbacks += 1
            first = self.fallbacks == 1
        if first:  # outside the lock: a warning may raise, or run code of the caller's
            warnings.warn(f"no direct I/O here, so the page cache is used: {reason}", DirectIOWarning, stacklevel=2)


class BounceBuffers:
    """Aligned buffers of :data:`BLOCK` bytes, borrowed by threads. There are as many as were ever used at once."""

    def __init__(self) -> None:
        self._free: deque[AlignedBuffer] = deque()
        self._pid = os.getpid()

    @contextmanager
    def borrow(self) -> Iterator[memoryview]:
        """A buffer of arbitrary content."""
        if self._pid != os.getpid():  # those of a parent are shared with it
            self._free = deque()
            self._pid = os.getpid()
        free = self._free  # where the buffer goes back to, even if a fork comes in between
        try:
            buffer = free.pop()  # atomic, as append is: no lock is needed
        except IndexError:
            buffer = AlignedBuffer(BLOCK)
        try:
            yield buffer.view
        finally:
            free.append(buffer)


class BufferedFile:
    """An open file, read and written at offsets (in bytes), through the page cache. It owns the descriptor `fd`.

    Errors: every method raises `OSError`.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read_into(self, view: Buffer, offset: int = 0) -> int:
        """Fill `view` (writable, contiguous) from `offset`; the count of bytes is less only where the file ends."""
        flat, done = memoryview(view).cast("B"), 0
        while done < len(flat) and (count := self._read_some(flat[done:], offset + done)):
            done += count
        return done

    def write(self, view: Buffer, offset: int = 0) -> None:
        """Write all of `view` (contiguous) at `offset`."""
        flat = memoryview(view).cast("B")
        while len(flat):
            count = self._write_some(flat, offset)
            if count == 0:
                raise OSError(errno.EIO, "the file takes no bytes")
            flat, offset = flat[count:], offset + count

    def reserve(self, offset: int, length: int) -> None:
        """Prepare for `length` bytes from `offset` on being written by several threads: nothing to do here."""

    def _read_some(self, view: memoryview, offset: int) -> int:
        """One system call or so; 0 only at the end."""
        return os.preadv(self.fd, [view], offset)

    def _write_some(self, view: memoryview, offset: int) -> int:
        return os.pwrite(self.fd, view, offset)

    def sync(self) -> None:
        """Have everything written on the disk."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Close the file, once; errors of earlier writes may come up now."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DirectFile(BufferedFile):
    """An open file, read and written at offsets (in bytes), past the page cache. It owns the descriptor `fd`.

    Offsets, lengths and memory may be any; page-aligned memory (:class:`AlignedBuffer`) spares a copy. `stats` counts
    what is moved, and `bounce` has the buffers for what is not aligned; files may share them. `alignment` is what the
    file needs.

    Errors: `ValueError` for an `fd` in append mode, which ignores offsets; every method raises `OSError`.
    """

    def __init__(self, fd: int, *, stats: DirectStats | None = None, bounce: BounceBuffers | None = None) -> None:
        super().__init__(fd)
        self.stats = stats or DirectStats()
        self._bounce = bounce or BounceBuffers()
        self._direct: int | None = None
        self._refused = False
        self.alignment = UNKNOWN
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_APPEND:
            raise ValueError("a file in append mode cannot be written at offsets")
        self._open_direct(flags & os.O_ACCMODE)
        self.block = max(self.alignment.offset, mmap.PAGESIZE)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        flags: int = os.O_RDONLY,
        mode: int = 0o666,
        *,
        stats: DirectStats | None = None,
    ) -> Self:
        """Open the file at `path` as `os.open` does, with its `flags`, which need no `O_DIRECT`, and its `mode`."""
        fd = os.open(path, flags & ~os.O_DIRECT, mode)
        try:
            return cls(fd, stats=stats)
        except BaseException:
            os.close(fd)
            raise

    def _open_direct(self, access: int) -> None:
        alignment = alignment_of(self.fd)
        if alignment is None or alignment.offset > BLOCK // 4:  # a bounce buffer takes the blocks at both ends
            return self._fall_back(f"the kernel says {alignment}")
        self.alignment = alignment
        try:  # O_NONBLOCK, as opening a FIFO would wait for its other end
            self._direct = os.open(f"/proc/self/fd/{self.fd}", access | os.O_DIRECT | os.O_NONBLOCK)
        except OSError as error:
            self._fall_back(str(error))
        return None

    def _fall_back(self, reason: str) -> None:
        first, self._refused = not self._refused, True
        if first:
            self.stats.fell_back(reason)

    def reserve(self, offset: int, length: int) -> None:
        """Have disk space for `length` bytes from `offset` on, which the file covers then, where that is possible."""
        if _libc.fallocate(self.fd, 0, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NOT_RESERVED:
            raise OSError(code, os.strerror(code))

    @property
    def is_direct(self) -> bool:
        """Whether the page cache is passed by: the file is open, and its file system has refused nothing so far."""
        return not self._refused

    def sync(self) -> None:
        """Have everything written on the disk, and nothing of the file in the page cache."""
        super().sync()
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close both descriptors, once."""
        direct, self._direct, self._refused = self._direct, None, True  # refused: no block goes to a closed file
        try:
            if direct is not None:
                os.close(direct)
        finally:
            super().close()

    def _read_some(self, view: memoryview, offset: int) -> int:
        if not self._refused:
            try:
                with self._bounce.borrow() as bounce:
                    count = self._read_blocks(view, offset, bounce)
                self.stats.moved(count, direct=True)
                return count
            except OSError as error:
                self._unless_refused(error)
        count = super()._read_some(view, offset)
        self.stats.moved(count, direct=False)
        return count

    def _read_blocks(self, view: memoryview, offset: int, bounce: memoryview) -> int:
        """All blocks that `view` touches, a :data:`BLOCK` of them at most."""
        skip = offset % self.block
        view = view[: BLOCK - skip]
        head, middle, tail = plan(offset, len(view), self.block)
        if middle and self._is_aligned(view, head):
            first = bounce[: self.block if head else 0]
            last = bounce[self.block : 2 * self.block if tail else self.block]
            pieces = [piece for piece in (first, view[head : head + middle], last) if len(piece)]
            count = os.preadv(self._open_fd(), pieces, offset - skip) - skip
            view[:head] = first[skip:]
            view[head + middle :] = last[:tail]
        else:
            blocks = -(-(skip + len(view)) // self.block) * self.block
            count = os.preadv(self._open_fd(), [bounce[:blocks]], offset - skip) - skip
            count = min(max(count, 0), len(view))
            copy(view[:count], bounce[skip : skip + count])
        return min(max(count, 0), len(view))  # the file may end before the range, or go on behind it

    def _write_some(self, view: memoryview, offset: int) -> int:
        head, middle, _ = plan(offset, len(view), self.block)
        if not self._refused and not head:
            try:
                count = self._write_blocks(view[: min(middle, BLOCK)], offset)
                self.stats.moved(count, direct=True)
                return count
            except OSError as error:
                self._unless_refused(error)
        count = super()._write_some(view if self._refused else view[:head], offset)
        self.stats.moved(count, direct=False)
        return count

    def _write_blocks(self, view: memoryview, offset: int) -> int:
        if self._is_aligned(view, 0):
            return os.pwrite(self._open_fd(), view, offset)
        with self._bounce.borrow() as bounce:
            copy(bounce[: len(view)], view)
            return os.pwrite(self._open_fd(), bounce[: len(view)], offset)

    def _is_aligned(self, view: memoryview, start: int) -> bool:
        return (address(view) + start) % self.alignment.memory == 0

    def _open_fd(self) -> int:
        if self._direct is None:
            raise OSError(errno.EBADF, "the file is closed")
        return self._direct

    def _unless_refused(self, error: OSError) -> None:
        """Go on through the page cache if that is what the error asks for."""
        if error.errno not in _REFUSALS:
            raise error
        self._fall_back(str(error))


def address(view: memoryview) -> int:
    """Where the first byte of a contiguous, not empty view lies."""
    pointer: int = _array(view).__array_interface__["data"][0]
    return pointer


def copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes between views of the same length; large ones with the GIL released."""
    if len(source) < _COPY_UNLOCKED_FROM:
        target[:] = source
    else:
        _array(target)[:] = _array(source)


def _array(view: memoryview) -> Any:
    import numpy as np

    return np.frombuffer(view, np.uint8)
