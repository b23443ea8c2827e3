"""Keys to files below a root directory, and nowhere else.

A key is a path: its segments, separated by slashes, name directories and, last, a file. Keys that no file can have are
refused by :func:`path_of`, before the file system sees them. What is left cannot climb: no `..`, no absolute path. The
rest are symbolic links, and these are refused at every segment, by the kernel (openat2(2), RESOLVE_NO_SYMLINKS) or,
where it has no such call, by opening one segment after the other with O_NOFOLLOW. With `follow_symlinks` links are
followed wherever they lead.

What the kernel has in its caches can be opened at once, without a thread: openat2's RESOLVE_CACHED fails where it would
have to wait. This is tried on file systems of this machine alone, as opening a file on another may take a round trip
however much is cached.

A :class:`Root` holds no descriptor: every operation opens the root anew, so there is nothing to close, to inherit in a
fork, or to go stale when the directory is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...errors import ErrorContext, InvalidKeyError, InvalidUriError
from ..store import check_key
from .rights import is_as_made

MAX_SEGMENT = 255
"""Longest name of a file or directory, in bytes. Source: linux/limits.h, NAME_MAX."""

_TEMPORARY = re.compile(rb"\.s3dlio-[0-9a-f]{16}\.tmp")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SYS_OPENAT2, _AT_FDCWD = 437, -100
_RESOLVE_NO_XDEV, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_CACHED = 0x01, 0x04, 0x08, 0x20  # linux/openat2.h
_INSIDE = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
_LOCAL = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x794C7630}  # ext4, XFS, btrfs, F2FS, tmpfs, overlay


def split_file_uri(rest: str) -> tuple[str, str]:
    """What follows `file://` or `direct://`, cut after its last slash into root directory and key.

    `/data/train/` is the root `/data/train` and no key; `/data/a.bin` is the root `/data` and the key `a.bin`. Nothing
    is decoded. Errors: `InvalidUriError` where the path is not absolute.
    """
    if not rest.startswith("/"):
        raise InvalidUriError(f"a file's URI has three slashes and an absolute path, as file:///data/ has: {rest!r}")
    if "\0" in rest:
        raise InvalidUriError("a path cannot hold a NUL")
    root, _, key = rest.rpartition("/")
    return root.rstrip("/") or "/", key


def encode_root(root: str) -> bytes:
    """The path of a root directory. Errors: `InvalidUriError` where no directory can have it."""
    if "\0" in root:
        raise InvalidUriError("a path cannot hold a NUL")
    try:
        return os.fsencode(root)
    except UnicodeEncodeError:
        raise InvalidUriError("the path of the directory cannot be encoded") from None


def path_of(key: str) -> bytes:
    """The path of a key's file, relative to the root. Errors: `InvalidKeyError`."""
    path = check_key(key).encode()
    if problem := next(filter(None, map(segment_problem, path.split(b"/"))), None):
        raise InvalidKeyError(f"no file can have this key: {problem}", ErrorContext(key=key))
    return path


def segment_problem(segment: bytes) -> str | None:
    """Why a segment cannot be the name of a file or directory."""
    if segment in (b"", b".", b".."):
        return f"{segment.decode()!r} between slashes is no name"
    if b"\0" in segment:
        return "a name cannot hold a NUL"
    if len(segment) > MAX_SEGMENT:
        return f"a name between slashes is longer than {MAX_SEGMENT} bytes"
    return "such names are kept for files being written" if is_temporary(segment) else None


def temporary_name() -> bytes:
    """A fresh name for a file being written."""
    return b".s3dlio-%b.tmp" % secrets.token_hex(8).encode()


def is_temporary(name: bytes) -> bool:
    """Whether the name is one of :func:`temporary_name`."""
    return _TEMPORARY.fullmatch(name) is not None


class RootNotFoundError(FileNotFoundError):
    """The root directory itself is absent."""


class Root:
    """The directory all paths are relative to. Everything here blocks and raises `OSError`."""

    def __init__(self, path: bytes, *, follow_symlinks: bool) -> None:
        self.path = path
        self.follow_symlinks = follow_symlinks
        self._may_be_cached: bool | None = None

    def open_cached(self, path: bytes, flags: int) -> int:
        """Open an existing file without waiting. Errors: `BlockingIOError` where that cannot be, or is not known."""
        if not self._may_be_cached:
            raise os_error(errno.EAGAIN)
        # Not across mounts, as what is known of the root's file system says nothing about another one.
        resolve = _RESOLVE_CACHED | _RESOLVE_NO_XDEV | (0 if self.follow_symlinks else _INSIDE)
        try:
            with closing_fd(_openat2(_AT_FDCWD, self.path, os.O_PATH | os.O_DIRECTORY, _RESOLVE_CACHED)) as root:
                return _openat2(root, path, flags, resolve)
        except OSError as error:
            if error.errno == errno.EINVAL:  # before Linux 5.12
                self._may_be_cached = False
            if error.errno not in (errno.EINVAL, errno.EXDEV):
                raise
            raise os_error(errno.EAGAIN) from error

    def open(self, path: bytes, flags: int) -> int:
        """Open an existing file or directory below the root, or the root itself, whose `path` is empty."""
        with self._opened() as root:
            if self.follow_symlinks or not path:
                return os.open(path or b".", flags, dir_fd=root)
            return _openat2(root, path, flags, _INSIDE) if _has_openat2() else _open_by_steps(root, path, flags)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            root = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise RootNotFoundError(errno.ENOENT, "no such directory", os.fsdecode(self.path)) from error
        with closing_fd(root):
            if self._may_be_cached is None:
                self._may_be_cached = _has_openat2() and _file_system(root) in _LOCAL
            yield root

    def open_parent(self, path: bytes) -> int:
        """Open the directory that a path's last segment is in."""
        return self.open(path.rpartition(b"/")[0], _DIRECTORY)

    def make_parent(self, path: bytes, *, durable: bool) -> None:
        """Make the directories that lead to a path, the root among them; on the disk, if they are to be `durable`."""
        segments = path.split(b"/")[:-1]
        try:
            with self._opened() as root:
                _make_directories(root, segments, durable, self.follow_symlinks)
                return
        except RootNotFoundError:
            above = Root(b"/", follow_symlinks=True)
            above.make_parent(self.path.strip(b"/") + b"/", durable=durable)
        with self._opened() as root:
            _make_directories(root, segments, durable, self.follow_symlinks)

    def prune(self, path: bytes) -> None:
        """Remove the directories that lead to a path as far as they are empty, but not the root.

        Nor one with rights of its own, as the next write would make it again without them.
        """
        above, _, _ = path.rpartition(b"/")
        with suppress(OSError):
            while above:
                above, _, name = above.rpartition(b"/")
                with closing_fd(self.open(above, _DIRECTORY)) as fd:
                    if not is_as_made(fd, name):
                        return
                    os.rmdir(name, dir_fd=fd)


@contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def os_error(code: int) -> OSError:
    """What the system reports by `code`, of the subclass that stands for it."""
    return OSError(code, os.strerror(code))


def _openat2(root: int, path: bytes, flags: int, resolve: int) -> int:
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc().syscall(_SYS_OPENAT2, root, path, how, len(how))
    if fd < 0:
        raise os_error(ctypes.get_errno())
    return fd


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _has_openat2() -> bool:
    """Linux has it since 5.6; sandboxes may refuse it, with various errors."""
    try:
        fd = os.open(b"/", os.O_PATH)
        with closing_fd(fd), closing_fd(_openat2(fd, b".", os.O_PATH, _INSIDE)):
            return True
    except OSError:
        return False


def _file_system(fd: int) -> int | None:
    """The magic number of the file system, see statfs(2)."""
    answer = ctypes.create_string_buffer(256)
    failed: int = _libc().fstatfs(fd, answer)
    return None if failed else int(struct.unpack_from("l", answer)[0])


def _open_by_steps(root: int, path: bytes, flags: int) -> int:
    *directories, name = path.split(b"/")
    fd = os.dup(root)
    for segment in directories:
        with closing_fd(fd):  # the one from before: the block gives `fd` its next value
            fd = _open_directory(fd, segment, follow=False)
    with closing_fd(fd):
        if flags & os.O_DIRECTORY:
            return _open_directory(fd, name, follow=False, flags=flags)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)


def _open_directory(above: int, name: bytes, *, follow: bool, flags: int = os.O_PATH | os.O_DIRECTORY) -> int:
    try:
        return os.open(name, flags | (0 if follow else os.O_NOFOLLOW), dir_fd=above)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            raise os_error(errno.ELOOP) from None
        raise


def _make_directories(root: int, segments: list[bytes], durable: bool, follow: bool) -> None:
    fd = os.dup(root)
    for segment in segments:
        with closing_fd(fd):  # as in _open_by_steps
            try:
                fd = _open_directory(fd, segment, follow=follow)
            except FileNotFoundError:
                with suppress(FileExistsError):  # made by another writer meanwhile
                    os.mkdir(segment, dir_fd=fd)
                if durable:
                    sync_directory(fd)
                fd = _open_directory(fd, segment, follow=follow)
    os.close(fd)


def sync_directory(fd: int) -> None:
    """Have a directory's entries on the disk, on file systems that can; `fd` may be an O_PATH one."""
    with closing_fd(os.open(b".", _DIRECTORY, dir_fd=fd)) as directory:
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
