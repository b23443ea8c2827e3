"""Chunks as files of one folder, which any number of processes use at once. All of it blocks: it is for threads.

Theory of operation. A chunk is written under a temporary name and then renamed, so its name leads to all of it or to
nothing. Nothing is waited for to be on the disk: what a power failure leaves has not its checksums, and is not there.
Whoever has a file open goes on reading it while it is replaced or removed. No process knows of the others, and there is
no index: what is in the folder is what its files say, so a process may be killed at any moment. What it was writing is
removed when it is old enough. A file's time of modification is when it was last used, to some minutes.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial

from ..alignment.buffers import fresh_bytes
from ..alignment.direct import BounceBuffers, BufferedFile, DirectFile, DirectStats, copy
from .chunks import (
    BLOCK,
    CacheFile,
    Trailer,
    blocks_of,
    is_ours,
    parse_trailer,
    sums_of,
    to_remove,
    trailer_size,
)

_AT_ONCE = 256 << 10
"""Bytes of a file up to which one read of all of it costs less than one of its trailer and another one."""

_USED_EVERY = 300.0


class _Uncounted(DirectStats):
    """Nobody has asked for direct I/O: where there is none, there is nothing to warn of."""

    def moved(self, count: int, *, direct: bool) -> None:
        """Do nothing."""

    def fell_back(self, reason: str) -> None:
        """Do nothing."""


class Folder:
    """The cache in the folder at `path`, of `limit` bytes. The first chunk that is written makes it."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._direct = partial(DirectFile, stats=_Uncounted(), bounce=BounceBuffers())

    def has(self, names: Iterable[str]) -> bool:
        """Whether there are files of all `names`."""
        return all(os.path.exists(self._path(name)) for name in names)

    def read(self, name: str, length: int, start: int, view: memoryview) -> bool | None:
        """Fill `view` with the bytes from `start` of the chunk `name`, which has `length` bytes.

        Returns whether the chunk is proven; `None` where it is not there, or not as it was written: then the view holds
        anything.
        """
        try:
            with self._direct(os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)) as file:
                status = os.fstat(file.fd)
                if status.st_size != length + trailer_size(length):
                    return None
                proven = _read(file, name, length, start, view)
                if proven is not None and status.st_mtime < time.time() - _USED_EVERY:
                    with suppress(OSError):
                        os.utime(file.fd)
                return proven
        except OSError:
            return None

    def _make(self, folder: str) -> None:
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            os.makedirs(self.path, 0o700, exist_ok=True)  # by itself: those above it get the rights that all have
            os.makedirs(folder, 0o700, exist_ok=True)

    def write(self, name: str, data: memoryview, *, proven: bool) -> None:
        """Keep `data` as the chunk `name`. Errors: `OSError`; then what was there before is."""
        path = self._path(name)
        self._make(os.path.dirname(path))
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with BufferedFile(fd) if len(data) < BLOCK else self._direct(fd) as file:
                file.write(data)
                file.write(Trailer(sums_of(data), proven).encode(name), len(data))
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def remove(self, name: str) -> None:
        """Have the chunk `name` no more."""
        with suppress(OSError):
            os.unlink(self._path(name))

    def sweep(self) -> None:
        """Remove what was abandoned, and what is too much."""
        for file in to_remove(self._files(), self.limit, time.time()):
            with suppress(OSError):
                os.unlink(file.path)

    def _files(self) -> Iterator[CacheFile]:
        for number in range(256):
            try:
                entries = list(os.scandir(os.path.join(self.path, f"{number:02x}")))
            except OSError:
                continue
            for entry in entries:
                with suppress(OSError):
                    if is_ours(entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        yield CacheFile(entry.path, status.st_size, status.st_mtime)

    def _path(self, name: str) -> str:
        return os.path.join(self.path, name)


def _read(file: BufferedFile, name: str, length: int, start: int, view: memoryview) -> bool | None:
    """As :meth:`Folder.read`, of an open file of the right size."""
    first, last = blocks_of(start, start + len(view), length)
    if length <= _AT_ONCE:
        found = fresh_bytes(length + trailer_size(length))[1]
        blocks, tail = found[:length], found[length:]
        done = file.read_into(found) == len(found)
    else:
        tail = memoryview(os.pread(file.fd, trailer_size(length), length))
        blocks = view if (start, len(view)) == (first, last - first) else fresh_bytes(last - first)[1]
        done = file.read_into(blocks, first) == len(blocks)
    trailer = parse_trailer(bytes(tail), name) if done else None
    if trailer is None or not trailer.fits(blocks, first):
        return None
    if blocks is not view:
        copy(view, blocks[start - first : start - first + len(view)])
    return trailer.proven
