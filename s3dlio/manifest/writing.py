"""Making a manifest: the columns of a listing go to temporary files as they come, and from there, one after the other,
into the manifest. A page, or some thousands of rows, is all that is in memory at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..blocking.store import BlockingStore, locate, locate_prefix
from ..blocking.transfers import Path, uri_of
from ..config import Config
from ..errors import ErrorContext, ProtocolError
from ..model import ObjectColumns
from ..stores.store import MAX_KEY
from .header import BLOCK, DIGEST, Header

_ROWS = BLOCK << 10
_PIECE = 1 << 20
_MD5 = re.compile(r'"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"')

Numbers = NDArray[np.uint64]


def create(uri: str, target: Path, *, config: Config | None = None, target_config: Config | None = None) -> Header:
    """List the objects whose keys begin with that of `uri`, write their manifest to `target`, and tell what is in it.

    The prefix is plain text: end it in `/` for a folder. `target` is a URI, or a file's `pathlib.Path`; a manifest
    appears whole, in the place of an older one. Outside the prefix, it is not itself an object that was added.
    Memory does not grow with the keys. Temporary files, in `$TMPDIR`, have some 50 bytes for each beside its text.
    `config` has the settings, by default the environment's, `target_config` those of the target where they are others.
    Errors: `StoreError`, of the listing or the writing; `OSError` where there is no room for temporary files.
    """
    store, prefix = locate_prefix(uri, config)
    there, key = locate(uri_of(target), target_config or config)
    with ExitStack() as stack:
        listed = _Listed(store, prefix, [stack.enter_context(TemporaryFile()) for _ in range(5)])
        for page in store.list_pages(prefix):
            listed.add(ObjectColumns.of(page.objects))
        _write(there, key, listed.pieces())
        return listed.header


def _write(store: BlockingStore, key: str, pieces: Iterable[bytes]) -> None:
    writer = store.open_writer(key)
    try:
        for piece in pieces:
            writer.write(piece)
        writer.close()
    except BaseException:
        writer.abort()
        raise


class _Texts:
    """A column of texts: in the file `text` all of them, one after the other, in `lengths` their bytes."""

    def __init__(self, text: IO[bytes], lengths: IO[bytes], where: ErrorContext) -> None:
        self.text = text
        self.lengths = lengths
        self.longest = 0
        self._where = where

    def add(self, texts: Sequence[bytes]) -> int:
        """Append them; how many bytes they have. Errors: `ProtocolError` where that is too much for one."""
        lengths = np.fromiter(map(len, texts), np.uint64, len(texts))
        self.longest = max(self.longest, int(lengths.max()))
        if self.longest > MAX_KEY:
            raise ProtocolError(f"the store lists a key or an etag of more than {MAX_KEY} bytes", self._where)
        self.lengths.write(lengths.astype("<u2").tobytes())
        return self.text.write(b"".join(texts))

    def chunks(self) -> Iterator[list[bytes]]:
        """The texts, some at a time."""
        self.text.seek(0)
        for lengths in _read(self.lengths, "<u2"):
            yield [self.text.read(length) for length in lengths.tolist()]


class _Listed:
    """What is listed of `prefix` in `store`, in five temporary `files`."""

    def __init__(self, store: BlockingStore, prefix: str, files: Sequence[IO[bytes]]) -> None:
        self._where = ErrorContext("create manifest", store.bucket.bucket, prefix)
        keys, key_lengths, etags, etag_lengths, self._sizes = files
        self._keys, self._etags = _Texts(keys, key_lengths, self._where), _Texts(etags, etag_lengths, self._where)
        self._largest = self._most_parts = 0
        self._told = Header(
            scheme=store.bucket.scheme,
            bucket=store.bucket.bucket,
            prefix=prefix,
            made=datetime.now(UTC).isoformat(timespec="microseconds"),
            count=0,
            size=0,
            text=0,
            size_width=0,
            etag_width=DIGEST,
            parts_width=0,
            digests=1,
        )

    def add(self, page: ObjectColumns) -> None:
        """Append a page. Errors: `ProtocolError`."""
        if not len(page):
            return
        told, columns = self._told, page.columns
        sizes = np.array(columns["size"], "<u8")
        self._sizes.write(sizes.tobytes())
        self._largest = max(self._largest, int(sizes.max()))
        etags = [etag or "" for etag in columns.get("etag", [""] * len(page))]
        self._etags.add([etag.encode() for etag in etags])
        self._told = replace(
            told,
            count=told.count + len(page),
            size=told.size + sum(columns["size"]),
            text=told.text + self._keys.add(self._without_prefix(columns["key"])),
            digests=int(told.digests and self._are_digests(etags)),
        )

    def _without_prefix(self, keys: Sequence[str]) -> list[bytes]:
        prefix = self._told.prefix
        if not all(key.startswith(prefix) for key in keys):
            raise ProtocolError("the store lists keys that do not begin with the prefix", self._where)
        return [key.removeprefix(prefix).encode() for key in keys]

    def _are_digests(self, etags: Sequence[str]) -> bool:
        """Whether all are MD5s; the most parts that one tells of are noted."""
        found = [match for match in map(_MD5.fullmatch, etags) if match]
        self._most_parts = max([self._most_parts, *(int(match[2] or 0) for match in found)])
        return len(found) == len(etags)

    @property
    def header(self) -> Header:
        """What the manifest says of itself, when all pages are there."""
        told = replace(self._told, size_width=_width(self._largest))
        if told.digests:
            return replace(told, parts_width=_width(self._most_parts))
        return replace(told, etag_width=self._etags.longest)

    def pieces(self) -> Iterator[bytes]:
        """The manifest, when all pages are there."""
        header = self.header
        self._keys.add([b""])  # one more begins where the last one ends
        yield header.to_bytes()
        yield from _padded(places[::BLOCK].tobytes() for places in self._places())
        yield from _padded(_from_bases(places).tobytes() for places in self._places())
        yield from _padded(_narrowed(sizes, header.size_width) for sizes in _read(self._sizes, "<u8"))
        yield from _padded(_packed(etags, header) for etags in self._etags.chunks())
        if header.parts_width:
            yield from _padded(_narrowed(_parts(etags), header.parts_width) for etags in self._etags.chunks())
        self._keys.text.seek(0)
        yield from iter(lambda: self._keys.text.read(_PIECE), b"")

    def _places(self) -> Iterator[Numbers]:
        """Where keys begin in their text, some at a time."""
        end = np.zeros(1, "<u8")
        for lengths in _read(self._keys.lengths, "<u2"):
            ends = end + np.cumsum(lengths, dtype="<u8")
            yield np.concatenate((end, ends[:-1]))
            end = ends[-1:]


def _read(file: IO[bytes], kind: str) -> Iterator[Numbers]:
    """A column of whole numbers, some at a time."""
    file.seek(0)
    while data := file.read(_ROWS * np.dtype(kind).itemsize):
        yield np.frombuffer(data, kind).astype("<u8")


def _padded(column: Iterable[bytes]) -> Iterator[bytes]:
    written = 0
    for piece in column:
        written += len(piece)
        yield piece
    yield bytes(-written % 8)


def _from_bases(places: Numbers) -> NDArray[np.uint16]:
    return (places - np.repeat(places[::BLOCK], BLOCK)[: len(places)]).astype("<u2")


def _packed(etags: Sequence[bytes], header: Header) -> bytes:
    if header.digests:
        return bytes.fromhex(b"".join(etag[1:33] for etag in etags).decode())
    return b"".join(etag.ljust(header.etag_width, b"\0") for etag in etags)


def _parts(etags: Sequence[bytes]) -> Numbers:
    return np.array([int(etag[34:-1] or 0) for etag in etags], "<u8")


def _width(largest: int) -> int:
    """How many bytes the largest of some numbers needs."""
    return (largest.bit_length() + 7) // 8


def _narrowed(numbers: Numbers, width: int) -> bytes:
    """Their lowest bytes, so many of each."""
    return numbers.view("u1").reshape(-1, 8)[:, :width].tobytes()
