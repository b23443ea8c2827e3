"""What a manifest begins with, and where its columns lie. Pure.

A manifest is a head, then its columns. All begin at multiples of eight bytes, and numbers are little-endian:

| column | bytes of a row | |
| --- | --- | --- |
| `bases` | 8, for every 64 keys | where a block of keys begins in `text` |
| `starts` | 2 | where the key begins, from its block's base; one row more tells where the last one ends |
| `sizes` | as the largest needs | bytes of the object |
| `etags` | 16, or as the longest needs | the digest, where all are MD5s in hexadecimal digits; else text, then NULs |
| `parts` | as the largest needs | what follows the `-` of such an etag, of an object uploaded in parts; else 0 |
| `text` | | the keys in UTF-8, without their prefix, one after the other |

The head is a mark, a version, the length of what follows, its CRC-32, and that: JSON, with the fields of
:class:`Header`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import NamedTuple, Self
from zlib import crc32

from ..errors import ErrorContext, FormatError
from ..model import iso_time
from ..urls import Uri

BLOCK = 64
"""Keys with one base: as many as can begin within 65,536 bytes, where a key has 1024 at most."""

DIGEST = 16
_BEGIN = struct.Struct("<8sIII")
_MARK, _VERSION = b"s3dlio-m", 1
_MOST = 1 << 20
"""Bytes of the JSON: names are the only long ones in it, and no path has as many."""


class Columns(NamedTuple):
    """The columns, by their bytes from the manifest's beginning."""

    bases: slice
    starts: slice
    sizes: slice
    etags: slice
    parts: slice
    text: slice


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a manifest says of itself: `count` objects of `size` bytes together, whose keys begin with `prefix`.

    They are in the bucket that `scheme` and `bucket` name, and were listed at `made`, a time in UTC as ISO 8601 has it.
    The other fields tell how the columns are made: bytes of a row, of all `text`, and whether etags are `digests`.
    """

    scheme: str
    bucket: str
    prefix: str
    made: str
    count: int
    size: int
    text: int
    size_width: int
    etag_width: int
    parts_width: int
    digests: int

    @property
    def uri(self) -> str:
        """The prefix, as a URI."""
        return str(self.place)

    @property
    def place(self) -> Uri:
        """The same in parts. Errors: `InvalidUriError`."""
        return Uri(self.scheme, self.bucket, self.prefix)

    @property
    def made_at(self) -> datetime | None:
        """When the objects were listed, aware, UTC; `None` for what is no time."""
        return iso_time(self.made)

    def to_bytes(self) -> bytes:
        """As a manifest begins with it."""
        told = json.dumps(asdict(self)).encode()
        told += b" " * (-(_BEGIN.size + len(told)) % 8)
        return _BEGIN.pack(_MARK, _VERSION, len(told), crc32(told)) + told

    def columns(self) -> Columns:
        """Where they lie; the last one ends where the manifest does."""
        return Columns(*self._places())

    def _places(self) -> Iterator[slice]:
        end = len(self.to_bytes())
        bases, starts = 8 * (self.count // BLOCK + 1), 2 * (self.count + 1)
        widths = (self.size_width, self.etag_width, self.parts_width)
        for length in (bases, starts, *(self.count * width for width in widths), self.text):
            begin = end + -end % 8
            end = begin + length
            yield slice(begin, end)

    def checked(self) -> Self:
        """This one. Errors: `ValueError` where it cannot be of a manifest."""
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value).__name__ != field.type or (isinstance(value, int) and value < 0):
                raise ValueError(f"{field.name} is {value!r}")
        if self.made_at is None or (self.digests and self.etag_width != DIGEST) or self.digests > 1:
            raise ValueError("its fields contradict each other")
        self.uri.encode()
        return self


def read_header(data: memoryview, context: ErrorContext) -> Header:
    """That of the manifest `data`, which is all there. Errors: `FormatError`, with the `context`."""
    try:
        header = _read(data)
    except (ValueError, TypeError, struct.error, RecursionError) as error:
        raise FormatError(f"this is no manifest: {error}", context) from None
    columns = header.columns()
    if columns.text.stop != len(data):
        message = f"the manifest is damaged: it has {len(data)} bytes, not {columns.text.stop}"
        raise FormatError(message, context)
    return header


def _read(data: memoryview) -> Header:
    mark, version, length, _ = _BEGIN.unpack(data[: _BEGIN.size])
    told = bytes(data[_BEGIN.size : _BEGIN.size + min(length, _MOST)])
    if mark != _MARK:
        raise ValueError("it begins otherwise")
    if version != _VERSION:
        raise ValueError(f"it is of version {version}, and {_VERSION} is known")
    header = Header(**json.loads(told)).checked()
    if header.to_bytes() != data[: _BEGIN.size + length]:  # the checksum, too
        raise ValueError("its head is damaged")
    return header
