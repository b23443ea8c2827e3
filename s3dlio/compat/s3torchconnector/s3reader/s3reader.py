"""What every reader is: a read-only binary file over one object. Which bytes it fetches is told in :mod:`.fetching`."""

from __future__ import annotations

import io
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from .fetching import Fetcher
from .memory import pinned, pooled

if TYPE_CHECKING:
    import numpy as np
    import torch
    from _typeshed import WriteableBuffer
    from numpy.typing import NDArray

_NEWLINE = ord("\n")


class S3Reader(ABC, io.BufferedIOBase):
    """A read-only binary file over one object. Nothing is requested before the first read or seek.

    Positions and sizes are bytes. Every error in accessing S3 is an `S3Exception`; a method of `io.BufferedIOBase` that
    a reader does not have raises `io.UnsupportedOperation`. One reader is for one thread at a time.
    """

    @property
    @abstractmethod
    def bucket(self) -> str:
        """Name of the bucket."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Name of the object in its bucket."""

    @abstractmethod
    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes, everything that is left where it is `None` or negative; `b""` at the end.

        Errors: `S3Exception`; `TypeError` for a `size` that is no integer.
        """

    @abstractmethod
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it: `offset` bytes from the start, the position or the end, as `whence` says.

        A position beyond the end is the end. Errors: `ValueError` for one before the start and for an unknown `whence`;
        `TypeError` for what is no integer; `S3Exception` where the size is not known and cannot be asked for.
        """

    @abstractmethod
    def tell(self) -> int:
        """The position, in bytes. No request is made."""

    @abstractmethod
    def readinto(self, buf: WriteableBuffer) -> int:
        """Fill `buf`, a writable buffer of any item type, and return the count of bytes; 0 at the end.

        Errors: `S3Exception`; `TypeError` for what is no writable buffer.
        """

    def numpy(self) -> NDArray[np.uint8]:
        """What is left, as `read()` has it, in an array: `uint8`, of one dimension, writable, the caller's own.

        The memory is used again when nothing refers to it any more: neither the array nor slices, other views and
        tensors made of it. From 4 MiB on it begins at a page. An object of several parts is received straight into it,
        all parts at once; what the reader has in its own memory, or what was read ahead, is copied.

        Errors: `S3Exception`; `OSError` where there is no memory; `io.UnsupportedOperation` for a reader that does not
        read to the end.
        """
        raise io.UnsupportedOperation("numpy")

    def tensor(self, *, pin_memory: bool = False) -> torch.Tensor:
        """What :meth:`numpy` gives, as a tensor; with `pin_memory` in PyTorch's pinned memory, for copies to a GPU.

        PyTorch waits for such copies before it uses that memory again. Errors: those of :meth:`numpy`; `RuntimeError`
        for `pin_memory` where there is no accelerator.
        """
        raise io.UnsupportedOperation("tensor")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False


class NamedReader(S3Reader):
    """A reader that knows its object's name. Errors: `ValueError` where `bucket` is empty."""

    def __init__(self, bucket: str, key: str) -> None:
        check_bucket(bucket)
        self._bucket = bucket
        self._key = key

    @property
    def bucket(self) -> str:
        return self._bucket

    @property
    def key(self) -> str:
        return self._key


class FetchedReader(NamedReader):
    """A position in an object, and the file methods that move it anywhere. The bytes come from `fetcher`.

    A reader can be pickled until it is read; afterwards that is a `TypeError`. It may be read after `close()`.
    """

    _not_writable: ClassVar[str]
    """What `readinto` says of a buffer it cannot fill, in the original's words."""

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
        data = self._fetcher.read(self._position, read_size(size))
        self._position += len(data)
        return data

    def read1(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, those in memory where there are any, else after one fetch; `b""` at the end.

        `None` or a negative `size` means all of them. Errors: `S3Exception`; `TypeError` for what is no integer.
        """
        count = read_size(size)
        data, at = self._fetcher.window(self._position) if count != 0 else (b"", 0)
        piece = data[at:] if count is None else data[at : at + count]
        self._position += len(piece)
        return piece

    def readinto(self, buf: WriteableBuffer) -> int:
        count = self._fetcher.read_into(self._position, writable_view(buf, self._not_writable))
        self._position += count
        return count

    def numpy(self) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = self._rest(pooled).numpy()
        return array

    def tensor(self, *, pin_memory: bool = False) -> torch.Tensor:
        return self._rest(pinned if pin_memory else pooled)

    def _rest(self, allocate: Callable[[int], torch.Tensor]) -> torch.Tensor:
        memory = allocate(self._fetcher.left(self._position))
        filled = self._fetcher.read_into(self._position, memory.numpy().data)
        if filled < self._fetcher.left(self._position):  # a listed size may be stale: the answer told the true one
            return self._rest(allocate)
        self._position += filled
        return memory[:filled]

    def readline(self, size: int | None = -1, /) -> bytes:
        try:
            limit = read_size(size)
        except TypeError:  # in the words of `io`, whose method the original has
            raise TypeError(f"argument should be integer or None, not {type(size).__name__!r}") from None
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
        target = seek_argument(offset) + self._origin(seek_argument(whence))
        if target < 0:
            raise ValueError(f"negative seek value {target}")
        self._position = self._fetcher.clamped(target, self._position)
        return self._position

    def tell(self) -> int:
        return self._position

    def _origin(self, whence: int) -> int:
        if whence == io.SEEK_SET:
            return 0
        if whence == io.SEEK_CUR:
            return self._position
        if whence == io.SEEK_END:
            return self._fetcher.size()
        raise ValueError("Seek must be passed SEEK_CUR, SEEK_SET, or SEEK_END")


def check_bucket(bucket: str) -> None:
    """Errors: `ValueError` where it is empty."""
    if not bucket:
        raise ValueError("Bucket should be specified")


def writable_view(buffer: WriteableBuffer, not_writable: str) -> memoryview:
    """The bytes of a buffer that can be written to, whatever its items are.

    Errors: `TypeError` for anything else, which begins with `not_writable`.
    """
    try:
        view = memoryview(buffer)
    except TypeError:
        view = memoryview(b"")
    if view.readonly:
        raise TypeError(f"{not_writable}, not {type(buffer).__name__}")
    return view.cast("B") if view.nbytes else memoryview(bytearray())  # a view without items cannot be cast


def read_size(size: int | None) -> int | None:
    """How many bytes to read, `None` for all. Errors: `TypeError` for what is no integer."""
    if size is None:
        return None
    try:
        count = operator.index(size)
    except TypeError:
        raise TypeError(f"argument should be integer or None, not {type(size)!r}") from None
    return count if count >= 0 else None


def seek_argument(number: int) -> int:
    """An offset or an origin. Errors: `TypeError` for what is no integer."""
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"integer argument expected, got {type(number)!r}") from None
