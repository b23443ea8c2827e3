"""The file methods of readers that may go anywhere in their object."""

from __future__ import annotations

import io
import operator
from typing import TYPE_CHECKING, Any

from .fetching import Fetcher
from .named import NamedReader, writable_view

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class FetchedReader(NamedReader):
    """A position in an object, and the file methods that move it. The bytes come from `fetcher`.

    A reader can be pickled until it is read; afterwards that is a `TypeError`. It may be read after `close()`.
    """

    def __init__(self, bucket: str, key: str, fetcher: Fetcher) -> None:
        super().__init__(bucket, key)
        self._fetcher = fetcher
        self._position = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._fetcher.root or self._bucket}/{self._key}>"

    def __getstate__(self) -> dict[str, Any]:
        if self._fetcher.used:
            raise TypeError(f"cannot pickle {self!r}: it was read; send its bytes, or the reader before it is read")
        return self.__dict__

    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes, everything that is left where it is `None` or negative; `b""` at the end."""
        data = self._fetcher.read(self._position, _count(size))
        self._position += len(data)
        return data

    def read1(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, those in memory where there are any, else after one fetch; `b""` at the end."""
        count = _count(size)
        data, at = self._fetcher.window(self._position) if count != 0 else (b"", 0)
        piece = data[at:] if count is None else data[at : at + count]
        self._position += len(piece)
        return piece

    def readinto(self, buf: WriteableBuffer) -> int:
        """Fill `buf`, a writable buffer, and return the count of bytes; 0 at the end."""
        count = self._fetcher.read_into(self._position, writable_view(buf))
        self._position += count
        return count

    def readline(self, size: int | None = -1, /) -> bytes:
        """The bytes up to and with the next newline, at most `size` of them; `b""` at the end."""
        limit = _count(size)
        pieces: list[bytes] = []
        while limit is None or limit > 0:
            data, at = self._fetcher.window(self._position)
            stop = len(data) if limit is None else min(at + limit, len(data))
            end = data.find(b"\n", at, stop) + 1 or stop
            pieces.append(data[at:end])
            self._position += end - at
            if limit is not None:
                limit -= end - at
            if end == at or data[end - 1] == _NEWLINE:
                break
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it. A position beyond the end is the end.

        Errors: `ValueError` for a position before the start and for an unknown `whence`.
        """
        target = operator.index(offset) + self._origin(operator.index(whence))
        if target < 0:
            raise ValueError(f"negative seek value {target}")
        self._position = self._fetcher.clamped(target, self._position)
        return self._position

    def tell(self) -> int:
        """The position. No request is made."""
        return self._position

    def _origin(self, whence: int) -> int:
        if whence == io.SEEK_SET:
            return 0
        if whence == io.SEEK_CUR:
            return self._position
        if whence == io.SEEK_END:
            return self._fetcher.size()
        raise ValueError("Seek must be passed SEEK_CUR, SEEK_SET, or SEEK_END")


_NEWLINE = ord("\n")


def _count(size: int | None) -> int | None:
    count = -1 if size is None else operator.index(size)
    return count if count >= 0 else None
