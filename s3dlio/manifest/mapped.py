"""Manifests as they are read: a file, mapped, in which objects are found by their numbers.

A mapping is the kernel's own copy of the file, the same for all processes that map it. So what goes to a worker is the
name of the file, and each object is made of the columns when it is looked at.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

from ..blocking.store import BlockingStore, locate
from ..blocking.transfers import Path, uri_of
from ..config import Config
from ..endpoint_stats import size_text
from ..errors import ErrorContext, FormatError, ObjectChangedError
from ..model import Decoded, ObjectColumns, ObjectMeta
from .copying import local_copy
from .header import BLOCK, Header, read_header


class Table:
    """The manifest that is the object `meta` of `store`, mapped: what it tells of an object, by the object's number.

    Errors: `FormatError`; those of :func:`.copying.local_copy`.
    """

    def __init__(self, store: BlockingStore, meta: ObjectMeta) -> None:
        self.context = ErrorContext("read manifest", store.bucket.bucket, meta.key)
        self._found = store, meta
        data = _mapped(local_copy(store, meta))
        self.header = read_header(data, self.context)
        columns = self.header.columns()
        self._bases, self._starts = data[columns.bases].cast("Q"), data[columns.starts].cast("H")
        self._sizes, self._etags, self._parts = data[columns.sizes], data[columns.etags], data[columns.parts]
        self._text = data[columns.text]

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (*self._found, self.header)

    def key(self, i: int) -> str:
        """Errors: `FormatError` where the column is damaged."""
        start, end = self._start(i), self._start(i + 1)
        if not start <= end <= len(self._text):
            raise FormatError(f"the manifest is damaged: key {i} lies outside", self.context)
        try:
            return self.header.prefix + str(self._text[start:end], "utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"the manifest is damaged: key {i} is no UTF-8", self.context) from None

    def _start(self, i: int) -> int:
        return self._bases[i // BLOCK] + self._starts[i]

    def size(self, i: int) -> int:
        """Bytes."""
        return _number(self._sizes, self.header.size_width, i)

    def etag(self, i: int) -> str | None:
        """In its quotes. Errors: `FormatError` where the column is damaged."""
        width = self.header.etag_width
        stored = bytes(self._etags[i * width : (i + 1) * width])
        if self.header.digests:
            parts = _number(self._parts, self.header.parts_width, i)
            return f'"{stored.hex()}-{parts}"' if parts else f'"{stored.hex()}"'
        try:
            return stored.rstrip(b"\0").decode() or None
        except UnicodeDecodeError:
            raise FormatError(f"the manifest is damaged: etag {i} is no UTF-8", self.context) from None


def _number(column: memoryview, width: int, i: int) -> int:
    return int.from_bytes(column[i * width : (i + 1) * width], "little")


def _mapped(path: str) -> memoryview:
    with open(path, "rb") as file:
        empty = not os.fstat(file.fileno()).st_size  # which cannot be mapped
        return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _again(store: BlockingStore, meta: ObjectMeta, header: Header) -> Table:
    """The same in another process. Errors: `ObjectChangedError` where the file is another one by now."""
    table = Table(store, meta)
    if table.header != header:
        raise ObjectChangedError("the manifest was replaced", table.context)
    return table


class Manifest(Sequence[ObjectMeta]):
    """The objects that a prefix held when its manifest was made, in the order of their listing: key, size and etag.

    `table` is its file, mapped; `header` tells whose they are, and when they were listed; `objects` are the same as
    columns. It can be sent to other processes, which map the same file. Errors, when an object is looked at:
    `IndexError`; `FormatError` where the file is damaged there.
    """

    def __init__(self, table: Table) -> None:
        self.header = table.header
        rows = range(table.header.count)
        columns = {"key": table.key, "size": table.size, "etag": table.etag}
        self.objects = ObjectColumns({name: Decoded(rows, column) for name, column in columns.items()})

    @property
    def uris(self) -> Sequence[str]:
        """Their URIs, for verbs that take many."""
        root = self.header.place.root
        return Decoded(self.objects.columns["key"], lambda key: f"{root}/{key}")

    def __len__(self) -> int:
        return self.header.count

    @overload
    def __getitem__(self, i: int) -> ObjectMeta: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[ObjectMeta]: ...
    def __getitem__(self, i: int | slice) -> ObjectMeta | Sequence[ObjectMeta]:
        return self.objects[i]

    def __iter__(self) -> Iterator[ObjectMeta]:
        return iter(self.objects)

    def __repr__(self) -> str:
        told = self.header
        return f"<Manifest of {len(self):,} objects of {told.uri}, {size_text(told.size)}, listed {told.made}>"


def load(place: Path, *, config: Config | None = None) -> Manifest:
    """The manifest at `place`, a URI, or a file's `pathlib.Path`.

    A file is mapped where it is, which takes the same time for any number of keys; anything else is fetched once a
    machine, and kept in `$S3DLIO_CACHE_DIR`, else in `s3dlio` in the user's cache. `config` has the settings, by
    default the environment's. Errors: `NotFoundError`, `StoreError`; `FormatError` for what is no manifest; `OSError`
    where there is no room for it.
    """
    return load_from(*locate(uri_of(place), config))


def load_from(store: BlockingStore, key: str) -> Manifest:
    """The manifest that is the object `key` of `store`. Errors: as of :func:`load`."""
    return Manifest(Table(store, store.head(key)))
