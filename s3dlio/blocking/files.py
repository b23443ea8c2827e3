"""Objects as Python's files of bytes, for whatever takes an open file; without torch.

A reader is held to the version that was there when it was opened: a later one is an `ObjectChangedError`, never a
mixture. A writer publishes when it is closed; one that is left by an exception, or is dropped, makes no object.
"""

from __future__ import annotations

import io
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..alignment.buffers import fresh_bytes
from ..config import MiB
from ..model import PutOptions
from ..versions import pin_of
from .store import BlockingStore

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

BUFFER = 4 * MiB


class ObjectReader(io.RawIOBase):
    """The object `key` of `store`, read by ranges into a `buffer`; `name` is its URI.

    Errors: `NotFoundError`, `StoreError`.
    """

    def __init__(self, store: BlockingStore, key: str) -> None:
        self.name = f"{store.root}/{key}"
        self._store = store
        self._meta = store.head(key)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._meta.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`, in parallel where it is large; how many bytes there were. Errors: `ObjectChangedError`."""
        self._check()
        view = memoryview(buffer).cast("B")[: max(0, self._meta.size - self._position)]
        if len(view):
            self._store.get_into(self._meta.key, view, start=self._position, if_match=pin_of(self._meta))
            self._position += len(view)
        return len(view)

    def readall(self) -> bytes:
        self._check()
        data, view = fresh_bytes(max(0, self._meta.size - self._position))
        self.readinto(view)
        return data

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def __repr__(self) -> str:
        return f"<ObjectReader {self.name}>"


class ObjectWriter(io.BufferedIOBase):
    """The object `key` of `store`, with `options`, written from its beginning; `name` is its URI. Errors: `StoreError`.

    :meth:`close` publishes it.
    """

    def __init__(self, store: BlockingStore, key: str, options: PutOptions) -> None:
        self.name = f"{store.root}/{key}"
        self._writer = store.open_writer(key, options)
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._position

    def write(self, buffer: ReadableBuffer, /) -> int:
        self._check()
        self._writer.write(buffer)
        size = memoryview(buffer).nbytes
        self._position += size
        return size

    def close(self) -> None:
        """Publish the object. Errors: `StoreError`; then no object was made."""
        if not self.closed:
            super().close()
            self._writer.close()

    def abort(self) -> None:
        """Close it, and make no object."""
        if not self.closed:
            super().close()
            self._writer.abort()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        self.close()

    def __del__(self) -> None:  # where io's would close, and so publish, it
        if hasattr(self, "_writer"):
            self.abort()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def __repr__(self) -> str:
        return f"<ObjectWriter {self.name}>"


def open_object(store: BlockingStore, key: str, mode: str, options: PutOptions) -> Any:
    """A file of the object `key`. Errors: `ValueError` for a `mode` that is neither `rb` nor `wb`."""
    if mode == "wb":
        return ObjectWriter(store, key, options)
    if mode != "rb":
        raise ValueError(f"an object is opened as 'rb' or 'wb', of bytes, not as {mode!r}; io.TextIOWrapper makes text")
    return io.BufferedReader(ObjectReader(store, key), BUFFER)
