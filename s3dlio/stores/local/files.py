"""One file as one version of an object: read without mixing versions, written so that it appears whole or not at all.

A version's etag is made of inode, size and time of modification. Files are replaced, never rewritten, by what is
written here, so a descriptor once open goes on reading the old version; a file that somebody else changes in place
is found out by comparing after every read, as finely as the file system keeps time.

A :class:`Draft` is a new version that is not visible yet: a temporary file in the directory of its target. It is
published by `rename` (or by `link`, which replaces nothing), so a process killed at any moment leaves the old version
or the new one, and at worst a temporary file, which no listing shows. Where a failure or a cancellation unwinds, it is
removed. A forked child that closes its parent's draft removes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import trio

from ...alignment.direct import BufferedFile
from ...config import Config
from ...errors import AlreadyExistsError, ErrorContext, ObjectChangedError, PreconditionFailedError, StallError
from ...model import ObjectMeta, PutOptions, PutResult
from .paths import Root, closing_fd, os_error, sync_directory, temporary_name

Opener = Callable[[int], BufferedFile]
"""Makes a file of a descriptor, which it takes over."""

_CONTENT_TYPE, _METADATA = "user.mime_type", "user.s3dlio.metadata"
_NOT_REGULAR = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
_ATTEMPTS = 100
_LOCK_PAUSE = 0.002
_COPY_AT_ONCE = 64 << 20
_COPY_REFUSALS = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def describe(key: str, status: os.stat_result) -> ObjectMeta:
    """A file's metadata, but for what is in its attributes. Errors: `OSError` where it is not a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise os_error(_NOT_REGULAR.get(stat.S_IFMT(status.st_mode), errno.ENXIO))
    return ObjectMeta(key, status.st_size, etag_of(status), _time(status.st_mtime))


def etag_of(status: os.stat_result) -> str:
    """What names one version of a file."""
    return f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'


def _time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):  # a file system can hold times that no calendar does
        return None


def _attributes(fd: int) -> tuple[str | None, dict[str, str]]:
    """Content type and metadata, as :func:`_set_attributes` keeps them."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return None, {}
    content_type = os.getxattr(fd, _CONTENT_TYPE).decode("utf-8", "replace") if _CONTENT_TYPE in names else None
    metadata = json.loads(os.getxattr(fd, _METADATA)) if _METADATA in names else {}
    return content_type, metadata


def _set_attributes(fd: int, options: PutOptions) -> None:
    if options.content_type is not None:
        os.setxattr(fd, _CONTENT_TYPE, options.content_type.encode())
    if options.metadata:
        os.setxattr(fd, _METADATA, json.dumps(dict(options.metadata)).encode())


READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
"""Flags to open a file with: should it be a FIFO, nobody at its other end is waited for."""


class CachedFile(BufferedFile):
    """A file read as far as it is in the page cache. Errors: `BlockingIOError` where it is not."""

    def _read_some(self, view: memoryview, offset: int) -> int:
        try:
            return os.preadv(self.fd, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise os_error(errno.EAGAIN) from error
            raise


class ReadableFile:
    """A file open for reading: one version of an object. It owns the descriptor `fd`."""

    def __init__(self, fd: int, opener: Opener, context: ErrorContext) -> None:
        try:
            self._context = context
            meta = describe(context.key or "", os.fstat(fd))
            content_type, metadata = _attributes(fd)
            described = content_type is not None or metadata
            self.meta = replace(meta, content_type=content_type, metadata=metadata) if described else meta
            self.file = opener(fd)
        except BaseException:
            os.close(fd)
            raise

    def fill(self, view: memoryview, offset: int) -> None:
        """Read all of `view`. Errors: `ObjectChangedError` where that is not of the version that was opened."""
        count = self.file.read_into(view, offset)
        if count != len(view) or etag_of(os.fstat(self.file.fd)) != self.meta.etag:
            raise ObjectChangedError("the file was changed while it was read", self._context)

    def copy_to(self, target: BufferedFile) -> None:
        """Copy all of it inside the kernel, sharing blocks where the file system can."""
        copy_range(self.file.fd, 0, target.fd, 0, self.meta.size)
        self.fill(memoryview(b""), 0)  # reads nothing, but sees whether the version is still the same

    def close(self) -> None:
        self.file.close()


def copy_range(source: int, start: int, target: int, offset: int, length: int) -> None:
    """Copy `length` bytes between files. To be cancelled between system calls, in a thread of Trio's."""
    copied = 0
    while copied < length:
        trio.from_thread.check_cancelled()
        count = _copy_some(source, start + copied, target, offset + copied, min(length - copied, _COPY_AT_ONCE))
        if count == 0:
            raise OSError(errno.EIO, "the file has become shorter")
        copied += count


def _copy_some(source: int, start: int, target: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, start, offset)
    except OSError as error:
        if error.errno not in _COPY_REFUSALS:
            raise
    data = os.pread(source, min(length, 1 << 20), start)
    return os.pwrite(target, data, offset)


class Draft:
    """A version being written. To be closed in any case; what is not published by then is removed.

    Of `config`, `durable` and `stall_timeout` count. Errors: `OSError`.
    """

    def __init__(self, root: Root, path: bytes, opener: Opener, config: Config, context: ErrorContext) -> None:
        self._root, self._path, self._context = root, path, context
        self._durable, self._stall_timeout = config.durable, config.stall_timeout
        self._target, self._temporary = path.rpartition(b"/")[2], temporary_name()
        self._pid = os.getpid()
        self._parent, fd = self._create()
        try:
            self.file = opener(fd)
        except BaseException:
            os.close(fd)
            self._remove()
            raise

    def _create(self) -> tuple[int, int]:
        """The directory and the temporary file. Others may remove the directory, while it is empty."""
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                parent = self._open_parent()
                try:
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                    return parent, os.open(self._temporary, flags, 0o666, dir_fd=parent)
                except BaseException:
                    os.close(parent)
                    raise
        raise FileNotFoundError(errno.ENOENT, "somebody removes the directory again and again")

    def _open_parent(self) -> int:
        try:
            return self._root.open_parent(self._path)
        except FileNotFoundError:
            self._root.make_parent(self._path, durable=self._durable == "full")
            return self._root.open_parent(self._path)

    def publish(self, options: PutOptions) -> PutResult:
        """Make what was written the object. Errors: `AlreadyExistsError`, `PreconditionFailedError`, `OSError`."""
        fd = self.file.fd
        _set_attributes(fd, options)
        now = time.time_ns()  # file systems keep time by ticks of some milliseconds, in which much can happen
        os.utime(fd, ns=(now, now))
        if self._durable != "none":
            self.file.sync()
        etag = etag_of(os.fstat(fd))
        self.file.close()  # now, not later: a network file system may tell only here that a write failed
        self._place(options)
        if self._durable == "full":
            sync_directory(self._parent)
        return PutResult(etag)

    def _place(self, options: PutOptions) -> None:
        if options.if_none_match:
            try:  # unlike a rename, a link replaces nothing; closing the draft removes the temporary name
                os.link(self._temporary, self._target, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            except FileExistsError as error:
                raise AlreadyExistsError("an object of this key exists", self._context) from error
        elif options.if_match is not None:
            with self._locked():
                if self._current() != options.if_match:
                    raise PreconditionFailedError("the object is not the expected one", self._context)
                self._rename()
        else:
            self._current()  # a rename would replace a symbolic link or a FIFO as it does a file
            self._rename()

    def _current(self) -> str | None:
        """The etag of what is to be replaced. Errors: `OSError` where it is not a file."""
        try:
            status = os.stat(self._target, dir_fd=self._parent, follow_symlinks=self._root.follow_symlinks)
        except FileNotFoundError:
            return None
        return describe(self._context.key or "", status).etag

    def _rename(self) -> None:
        os.rename(self._temporary, self._target, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._temporary = b""  # nothing is left to be removed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among conditional writers in this directory, of all processes."""
        deadline = time.monotonic() + self._stall_timeout
        while True:
            try:  # again and again, as a thread that waits inside flock cannot be cancelled
                fcntl.flock(self._parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                trio.from_thread.check_cancelled()
                if time.monotonic() > deadline:
                    raise StallError("another process keeps the directory locked", self._context) from error
                time.sleep(_LOCK_PAUSE)
        try:
            yield
        finally:
            fcntl.flock(self._parent, fcntl.LOCK_UN)

    def close(self) -> None:
        """Remove what was not published, and close."""
        if self._parent < 0:
            return
        try:
            self.file.close()
        finally:
            self._remove()

    def _remove(self) -> None:
        parent, self._parent = self._parent, -1  # whatever fails below, this is done once
        with closing_fd(parent):
            if not self._temporary or self._pid != os.getpid():  # in a child, it is the parent's to publish
                return
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=parent)
        self._root.prune(self._path)
