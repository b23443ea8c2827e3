"""Which bytes a reader fetches, and which of them it keeps.

A :class:`Fetcher` answers reads at any position of one object. It keeps at most one window of bytes in memory, and a
policy says which:

- :class:`Growing`, for reading through. A read of everything from the start is one fetch of the whole object, which is
  then the window; the caller gets that very `bytes` object, not a copy. An object of at most one part is fetched whole
  by any read. Other reads fetch a window of one part; each that continues the one before is twice as long, up to
  `GROWTH` parts, so that a long sequential read becomes few, large, parallel fetches.
- :class:`Fixed`, for reading here and there. The size is asked for first; then a read fetches `buffer_size` bytes from
  where it begins, and never more. An object that fits the buffer is fetched whole when all of it is wanted.

With either, a read of a window or more takes what the window has and receives the rest straight into the caller's
memory. Nothing of that is kept: reading a checkpoint of any size costs what the caller asked for and no more.

The first answer tells the size and the etag. Every later fetch asks for that version, so bytes of two versions of an
object never mix: a replaced object is an error. A size from a listing is only a plan, and may be stale: an object that
grew since then is read to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ....alignment.buffers import fresh_bytes
from ....model import ObjectMeta

GROWTH = 8
"""Longest window, in parts."""

_LINE = 64 << 10


class Source(Protocol):
    """Where a fetcher gets bytes from. `etag`, where it is not `None`, is the version that is asked for."""

    @property
    def part_size(self) -> int:
        """Bytes. An object of at most this size is fetched whole."""

    @property
    def root(self) -> str:
        """What the object's key is relative to, as a URI; empty where that is not known."""

    @property
    def known(self) -> ObjectMeta | None:
        """What is known without a request."""

    @property
    def read_ahead(self) -> bool:
        """Whether :meth:`whole` is the way to get all of it, as others are fetched with it."""

    def head(self) -> ObjectMeta:
        """Size and etag, by a request."""

    def whole(self) -> bytes:
        """Everything."""

    def first_part(self) -> tuple[bytes, ObjectMeta]:
        """The first part, of an object of unknown size."""

    def part(self, start: int, end: int, etag: str | None) -> tuple[bytes, ObjectMeta]:
        """Bytes `start` to `end`."""

    def fill(self, view: memoryview, start: int, etag: str | None) -> ObjectMeta:
        """Fill `view` with the bytes from `start`."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` (inclusive) to `end` (exclusive) of the object."""

    start: int
    end: int

    def __contains__(self, position: int) -> bool:
        return self.start <= position < self.end

    @property
    def length(self) -> int:
        """Bytes."""
        return self.end - self.start


def next_window(position: int, size: int, last: Span, part_size: int) -> Span:
    """The window to fetch for a read at `position`, which is below `size` and not in the window `last`.

    A position at the end of `last` continues it: the window doubles. Any other is a jump. One that lands less than a
    part before the end gets the whole last part, because formats with their directory at the end are read backwards.
    """
    if position == last.end and position:
        length = min(max(part_size, 2 * last.length), GROWTH * part_size)
        return Span(position, min(position + length, size))
    if size - position < part_size:
        return Span(max(0, size - part_size), size)
    return Span(position, position + part_size)


class Policy(Protocol):
    """What to fetch for a read, and what to keep of it."""

    @property
    def large(self) -> int:
        """Reads of at least so many bytes go straight into the caller's memory."""

    @property
    def asks_size(self) -> bool:
        """Whether the size is asked for before anything is fetched, or learned from the first answer."""

    def keeps(self, size: int | None) -> bool:
        """Whether an object of this size is fetched whole when all of it is read, and kept."""

    def window(self, position: int, size: int, last: Span) -> Span:
        """The window to fetch for a read at `position`, which is below `size` and not in the window `last`."""


@dataclass(frozen=True, slots=True)
class Growing:
    """For reading through an object: windows of one part and more."""

    part_size: int
    asks_size = False

    @property
    def large(self) -> int:
        return self.part_size

    def keeps(self, size: int | None) -> bool:
        return True

    def window(self, position: int, size: int, last: Span) -> Span:
        return next_window(position, size, last, self.part_size)


@dataclass(frozen=True, slots=True)
class Fixed:
    """For reading here and there: windows of `buffer_size` bytes; without a buffer, single lines still need one."""

    buffer_size: int
    asks_size = True

    @property
    def large(self) -> int:
        return self.buffer_size

    def keeps(self, size: int | None) -> bool:
        return size is not None and size <= self.buffer_size

    def window(self, position: int, size: int, last: Span) -> Span:
        return Span(position, min(position + (self.buffer_size or _LINE), size))


class Fetcher:
    """Reads at any position of one object. Not for use by two threads at once."""

    def __init__(self, source: Source, policy: Policy) -> None:
        self.used = False
        """Whether anything was fetched."""
        self._source = source
        self._policy = policy
        self._data = b""
        self._window = Span(0, 0)
        self._version: ObjectMeta | None = None

    @property
    def root(self) -> str:
        """What the object's key is relative to, as a URI; empty where that is not known."""
        return self._source.root

    @property
    def known_size(self) -> int | None:
        """The size, where it is known without a request."""
        known = self._version or self._source.known
        return known.size if known else None

    def size(self) -> int:
        """The size; asked for where it is not known."""
        if self.known_size is None:
            self._version = self._source.head()
        return self.known_size or 0

    def begin(self) -> None:
        """Fetch the beginning, and with it the size, where nothing was fetched yet. A small object is fetched whole."""
        if self.used:
            return
        if self._policy.asks_size:
            self.size()
        elif self.known_size is None:
            self._keep(0, *self._source.first_part())
        elif self.known_size <= self._source.part_size:
            self._keep_whole()

    def clamped(self, target: int, position: int) -> int:
        """Where a seek from `position` to `target` ends: the object's end at the furthest.

        It is found out where a seek goes forward, or by a policy that asks.
        """
        if self.known_size is None and (target > position or self._policy.asks_size):
            self.begin()
        size = self.known_size
        return target if size is None else min(target, size)

    def read(self, position: int, count: int | None) -> bytes:
        """At most `count` bytes from `position`, all of them where `count` is `None`; fewer only at the end."""
        if position == 0 and not self.used and self._is_everything(count) and self._policy.keeps(self.known_size):
            self._keep_whole()
        planned = self._end(position, count)
        data = self._bytes(position, planned)
        end = self._end(position, count)  # a listed size may be stale: the answer told the true one
        return data + self._bytes(planned, end) if end > planned else data

    def _bytes(self, position: int, end: int) -> bytes:
        if position >= end:
            return b""
        if end - position < self._policy.large:
            self._load(position)
        if position in self._window and end <= self._window.end:
            return self._data[position - self._window.start : end - self._window.start]
        data, view = fresh_bytes(end - position)
        filled = self._fill(position, view)
        return data if filled == len(data) else data[:filled]

    def read_into(self, position: int, view: memoryview) -> int:
        """Fill `view` from `position`; the count is below its length only at the end."""
        planned = self._end(position, len(view))
        filled = self._fill(position, view[: max(0, planned - position)])
        end = self._end(position, len(view))
        return filled + self._fill(planned, view[filled : end - position]) if end > planned else filled

    def left(self, position: int) -> int:
        """Bytes from `position` to the end. What is read ahead, or small, is fetched first."""
        if position == 0 and not self.used and self._source.read_ahead and self._policy.keeps(self.known_size):
            self._keep_whole()
        return max(0, self._end(position, None) - position)

    def window(self, position: int) -> tuple[bytes, int]:
        """Bytes in memory and where `position` is in them. Some follow it, except at the object's end."""
        if position < self._end(position, 1):
            self._load(position)
        return self._data, min(max(0, position - self._window.start), len(self._data))

    def _is_everything(self, count: int | None) -> bool:
        size = self.known_size
        return count is None or (size is not None and count >= size)

    def _end(self, position: int, count: int | None) -> int:
        if count == 0:
            return position
        self.begin()
        return self.size() if count is None else min(position + count, self.size())

    def _fill(self, position: int, view: memoryview) -> int:
        filled = self._copy(position, view)
        while filled < len(view):
            rest = view[filled:]
            if len(rest) >= self._policy.large:
                self._receive(position + filled, rest)
                return len(view)
            self._load(position + filled)
            copied = self._copy(position + filled, rest)
            if not copied:
                break
            filled += copied
        return filled

    def _copy(self, position: int, view: memoryview) -> int:
        if position not in self._window:
            return 0
        count = min(len(view), self._window.end - position)
        offset = position - self._window.start
        view[:count] = memoryview(self._data)[offset : offset + count]
        return count

    def _load(self, position: int) -> None:
        if position in self._window or position >= self.size():
            return
        span = self._policy.window(position, self.size(), self._window)
        self._data, self._window = b"", Span(position, position)  # first, so that two windows never are in memory
        self._keep(span.start, *self._source.part(span.start, span.end, self._etag))

    def _receive(self, position: int, view: memoryview) -> None:
        version = self._source.fill(view, position, self._etag)
        self._keep(position + len(view), b"", version)  # nothing, but where it ended: a read from there continues it

    def _keep_whole(self) -> None:
        data = self._source.whole()
        self._keep(0, data, ObjectMeta(key="", size=len(data)))

    def _keep(self, start: int, data: bytes, version: ObjectMeta) -> None:
        self.used = True
        self._version, self._data, self._window = version, data, Span(start, start + len(data))

    @property
    def _etag(self) -> str | None:
        return self._version.etag if self._version else None
