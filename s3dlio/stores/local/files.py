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
from ...errors import (
    AlreadyExistsError,
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    ObjectChangedError,
    PreconditionFailedError,
    StallError,
    UnsupportedError,
)
from ...model import ObjectMeta, PutOptions, PutResult
from .paths import Root, closing_fd, os_error, sync_directory, temporary_name
from .rights import Rights

Opener = Callable[[int], BufferedFile]
"""Makes a file of a descriptor, which it takes over."""

_CONTENT_TYPE, _METADATA = "user.mime_type", "user.s3dlio.metadata"
_NOT_REGULAR = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
_ATTEMPTS = 100
_LOCK_PAUSE = 0.002
_COPY_AT_ONCE = 64 << 20
_NO_SIZE = (
    "the file holds {} than the {} bytes that its status tells, as files of /proc and /sys do: "
    "they are read to their end by open().read()"
)
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


def _attributes(fd: int, context: ErrorContext) -> tuple[str | None, dict[str, str]]:
    """Content type and metadata, as :func:`_set_attributes` keeps them."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return None, {}
    content_type = os.getxattr(fd, _CONTENT_TYPE).decode("utf-8", "replace") if _CONTENT_TYPE in names else None
    metadata = _parse_metadata(os.getxattr(fd, _METADATA), context) if _METADATA in names else {}
    return content_type, metadata


def _parse_metadata(text: bytes, context: ErrorContext) -> dict[str, str]:
    """Anybody may have written it. Errors: `IntegrityError` where it is not what is kept there."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise IntegrityError(f"the attribute {_METADATA} holds no names and values", context)
    return found


def _set_attributes(fd: int, options: PutOptions, context: ErrorContext) -> None:
    if options.content_type is not None:
        try:
            os.setxattr(fd, _CONTENT_TYPE, options.content_type.encode())
        except UnicodeEncodeError:
            raise InvalidKeyError("the content type cannot be encoded as UTF-8", context) from None
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
            content_type, metadata = _attributes(fd, context)
            status = os.fstat(fd)  # now, as sysfs sets a file's time when its attributes are first looked at
            meta = describe(context.key or "", status)
            self.mode = status.st_mode
            described = content_type is not None or metadata
            self.meta = replace(meta, content_type=content_type, metadata=metadata) if described else meta
            if not meta.size and os.pread(fd, 1, 0):  # an empty file is looked at twice: some only say that they are
                self._check(fd, 1)
            self.file = opener(fd)
        except BaseException:
            os.close(fd)
            raise

    def fill(self, view: memoryview, offset: int) -> None:
        """Read all of `view`.

        Errors: `ObjectChangedError` where that is not of the version that was opened; `UnsupportedError` where it ends
        before its size.
        """
        self._check(self.file.fd, self.file.read_into(view, offset) - len(view))

    def copy_to(self, target: BufferedFile) -> None:
        """Copy all of it inside the kernel, sharing blocks where the file system can, and holes as holes."""
        fd, size, surplus = self.file.fd, self.meta.size, 0
        for start, end in data_ranges(fd, size):
            surplus += copy_range(fd, start, target.fd, start, end - start) - (end - start)
        os.ftruncate(target.fd, size)
        self._check(fd, surplus)

    def _check(self, fd: int, surplus: int) -> None:
        """Whether what was read is the version that was opened, given how many bytes there were beyond its size."""
        if etag_of(os.fstat(fd)) != self.meta.etag:
            raise ObjectChangedError("the file was changed while it was read", self._context)
        if surplus:
            raise UnsupportedError(_NO_SIZE.format("more" if surplus > 0 else "less", self.meta.size), self._context)

    def close(self) -> None:
        self.file.close()


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file of `size` bytes holds data. The rest are holes, which read as zeros and take no space."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # of file systems that do not tell
                yield end, size
            return  # ENXIO: nothing but a hole is left
        if start < end:
            yield start, end


def copy_range(source: int, start: int, target: int, offset: int, length: int) -> int:
    """Copy `length` bytes between files; the count of bytes is less only where the source ends.

    To be cancelled between system calls, in a thread of Trio's.
    """
    copied = 0
    while copied < length:
        trio.from_thread.check_cancelled()
        count = _copy_some(source, start + copied, target, offset + copied, min(length - copied, _COPY_AT_ONCE))
        if count == 0:
            break
        copied += count
    return copied


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

    Of `config`, `durable` and `stall_timeout` count. What replaces a file gets its rights; a new one `mode`, as the
    umask lets. Errors: `OSError`.
    """

    def __init__(
        self, root: Root, path: bytes, opener: Opener, config: Config, context: ErrorContext, *, mode: int = 0o666
    ) -> None:
        self._root, self._path, self._context, self._mode = root, path, context, mode
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
                    self._rights = self._rights_in(parent)
                    mode = self._mode & 0o777 | 0o600 if self._rights is None else 0o600
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                    return parent, os.open(self._temporary, flags, mode, dir_fd=parent)
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

    def _rights_in(self, parent: int) -> Rights | None:
        return Rights.of(parent, self._target, follow=self._root.follow_symlinks)

    def publish(self, options: PutOptions) -> PutResult:
        """Make what was written the object. Errors: `AlreadyExistsError`, `PreconditionFailedError`, `OSError`."""
        fd = self.file.fd
        _set_attributes(fd, options, self._context)
        now = time.time_ns()  # file systems keep time by ticks of some milliseconds, in which much can happen
        os.utime(fd, ns=(now, now))
        if rights := self._rights_in(self._parent) or self._rights:  # they may have been changed since it was begun
            rights.give(fd)  # last, as a file of another owner's takes no attributes and no times
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
