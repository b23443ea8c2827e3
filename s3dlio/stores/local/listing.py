"""Directory trees listed as S3 lists buckets: all keys in the order of their UTF-8 bytes, page by page.

A directory's entries are sorted with a slash after the names of directories; then walking them depth first meets all
keys in order. The walk is lazy: it opens only directories that can hold keys with the prefix and past the point where
the page begins, so memory is bounded by the largest directory, and a page costs its own entries and the directories
that lead to them. Every page starts anew at its token, so it shows what is there when it is asked for; the names of
large directories, which are expensive to sort, are kept for the next page, as long as the directory is not changed.

Files being written are not shown. Nor is what is no object: symbolic links (unless they are followed), FIFOs, sockets,
devices, and names that are no UTF-8. The caller learns about the first such entry, to tell the user.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...model import ListOptions, ListPage, ObjectMeta
from ..store import MAX_KEY
from .errors import HOW_TO_FOLLOW
from .files import describe
from .paths import Root, closing_fd, is_temporary, segment_problem

_SLASH = b"/"
_LAST = b"\xff"
"""Greater than any byte of UTF-8."""
_KEEP_FROM = 1000
_KEPT = 4
_LINK = f"a symbolic link ({HOW_TO_FOLLOW})"
_SETTLED = 50_000_000
"""Nanoseconds after which a further change of a directory surely shows in its time of modification."""


@dataclass(frozen=True)
class _Selection:
    """Which keys a page shows; all in bytes of UTF-8."""

    prefix: bytes
    delimiter: bytes
    after: bytes
    """Keys up to this one are passed over."""

    @classmethod
    def of(cls, prefix: str, options: ListOptions) -> _Selection:
        """A token is a key, or a common prefix with all its keys passed over."""
        start, fold = _encode(prefix), _encode(options.delimiter)
        after = _encode(options.token or options.start_after)
        if options.token and fold and after.endswith(fold) and len(after) > len(start):
            after += _LAST
        return cls(start, fold, after)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # no key has surrogates, so nothing is found


class Listing:
    """Pages of a root's tree. Any number of threads may ask for them. Errors: `OSError`."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._cache = _NameCache()

    def page(self, prefix: str, options: ListOptions) -> tuple[ListPage, str | None]:
        """What `list_page` gives, and what was passed over, if anything was."""
        walk = _Walk(self._root, _Selection.of(prefix, options), self._cache)
        chosen = list(islice(walk.entries(), options.limit + 1))
        shown, more = chosen[: options.limit], len(chosen) > options.limit
        objects = tuple(self._describe([entry for entry in shown if not entry.is_prefix]))
        prefixes = tuple(entry.path.decode() for entry in shown if entry.is_prefix)
        return ListPage(objects, prefixes, shown[-1].path.decode() if more else None), walk.passed_over

    def _describe(self, entries: Sequence[_Entry]) -> Iterator[ObjectMeta]:
        """Metadata of those that are still there."""
        position = 0
        while position < len(entries):
            directory = entries[position].directory
            try:
                fd = self._root.open(directory.rstrip(_SLASH), os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # removed since its names were read, and its files with it
                fd = -1
            while position < len(entries) and entries[position].directory == directory:
                if fd >= 0 and (meta := self._stat(fd, entries[position])):
                    yield meta
                position += 1
            if fd >= 0:
                os.close(fd)

    def _stat(self, directory: int, entry: _Entry) -> ObjectMeta | None:
        name = entry.path[len(entry.directory) :]
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=self._root.follow_symlinks)
            return describe(entry.path.decode(), status)
        except OSError:  # removed, or replaced by something else, since its directory was read
            return None


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a page shows: a file, or a common prefix."""

    path: bytes
    directory: bytes
    """Of a file: its directory, empty or with a slash at the end."""
    is_prefix: bool = False


@dataclass
class _Walk:
    """One walk over the tree, from where a page begins."""

    root: Root
    selection: _Selection
    cache: _NameCache
    passed_over: str | None = None
    _identities: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def entries(self) -> Iterator[_Entry]:
        """Keys and common prefixes in order."""
        if self.selection.delimiter in (b"", _SLASH):
            yield from self._below(b"", fold=bool(self.selection.delimiter))
            return
        last = None
        for entry in self._below(b"", fold=False):
            end = entry.path.find(self.selection.delimiter, len(self.selection.prefix))
            if end < 0:
                yield entry
            elif (shown := entry.path[: end + len(self.selection.delimiter)]) != last:
                last = shown
                yield _Entry(shown, b"", is_prefix=True)

    def _below(self, directory: bytes, *, fold: bool) -> Iterator[_Entry]:
        """What a directory holds. With `fold`, subdirectories past the prefix are shown, if they hold anything."""
        prefix, after = self.selection.prefix, self.selection.after
        names = self._names(directory)
        for index in range(_first(names, directory, max(prefix, after)), len(names)):
            path = directory + names[index]
            if path > prefix and not path.startswith(prefix):
                break
            if not path.endswith(_SLASH):
                if path > after and path.startswith(prefix):
                    yield _Entry(path, directory)
            elif not fold or prefix.startswith(path):
                yield from self._below(path, fold=fold)
            elif any(True for _ in self._below(path, fold=False)):
                yield _Entry(path, b"", is_prefix=True)

    def _names(self, directory: bytes) -> list[bytes]:
        """Sorted names of files and, with a slash at the end, directories. Along the prefix, there is but one."""
        rest = self.selection.prefix[len(directory) :] if self.selection.prefix.startswith(directory) else b""
        child, slash, _ = rest.partition(_SLASH)
        if slash:
            return [] if segment_problem(child) else [child + _SLASH]
        try:
            return self._read(directory)
        except (FileNotFoundError, NotADirectoryError):
            if not directory:
                raise
            return []  # removed since its name was read
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            self._pass_over(directory, _LINK)
            return []

    def _read(self, directory: bytes) -> list[bytes]:
        with closing_fd(self.root.open(directory.rstrip(_SLASH), os.O_RDONLY | os.O_DIRECTORY)) as fd:
            status = os.fstat(fd)  # before the names are read, so that a change in between changes the version
            if self.root.follow_symlinks and self._is_loop(directory, (status.st_dev, status.st_ino)):
                return []
            version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            settled = time.time_ns() - status.st_mtime_ns > _SETTLED
            names = self.cache.get(directory, version)
            if names is None:
                with os.scandir(fd) as entries:
                    names = sorted(name for entry in entries if (name := self._name(directory, entry)))
                if settled and len(names) >= _KEEP_FROM:
                    self.cache.put(directory, version, names)
            return names

    def _is_loop(self, directory: bytes, identity: tuple[int, int]) -> bool:
        """Whether a directory is one of those that lead to it."""
        self._identities[directory] = identity
        parts = directory.split(_SLASH)[:-1]
        above = [b"".join(part + _SLASH for part in parts[:count]) for count in range(len(parts))]
        if all(self._identities.get(path) != identity for path in above):
            return False
        self._pass_over(directory, "a symbolic link to a directory that it is in")
        return True

    def _name(self, directory: bytes, entry: os.DirEntry[str]) -> bytes | None:
        """The entry's name, with a slash if it is a directory; None where it is no object."""
        name = os.fsencode(entry.name)
        if is_temporary(name):
            return None
        path, follow = directory + name, self.root.follow_symlinks
        try:
            path.decode()
            if len(path) > MAX_KEY:
                why = "its path is too long for a key"
            elif entry.is_dir(follow_symlinks=follow):
                return name + _SLASH
            elif entry.is_file(follow_symlinks=follow):
                return name
            else:
                why = _LINK if entry.is_symlink() else "a special file"
        except UnicodeDecodeError:
            why = "its name is not UTF-8"
        except OSError as error:
            why = str(error.strerror)
        self._pass_over(path, why)
        return None

    def _pass_over(self, path: bytes, why: str) -> None:
        self.passed_over = self.passed_over or f"{os.fsdecode(path)!r}: {why}"


class _NameCache:
    """The names in the large directories read last, for as long as these stay as they were."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, tuple[object, list[bytes]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, directory: bytes, version: object) -> list[bytes] | None:
        known = self._names.get(directory)  # one step, so that no lock is needed
        return known[1] if known and known[0] == version else None

    def put(self, directory: bytes, version: object, names: list[bytes]) -> None:
        with self._lock:
            self._names[directory] = (version, names)
            self._names.move_to_end(directory)
            while len(self._names) > _KEPT:
                self._names.popitem(last=False)


def _first(names: Sequence[bytes], directory: bytes, bound: bytes) -> int:
    """Where in a directory keys from `bound` on begin: perhaps in the subdirectory just before."""
    if not bound.startswith(directory):
        return 0
    rest = bound[len(directory) :]
    index = bisect_left(names, rest)
    return index - 1 if index and names[index - 1].endswith(_SLASH) and rest.startswith(names[index - 1]) else index
