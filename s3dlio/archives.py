"""Members of zip and tar files: where they lie, and what they hold. No I/O of its own.

`zipfile` and `tarfile` read the directories, from a :class:`Window`. What they say is compared with what is there: that
each member lies within the file, and no two of one zip overlap. Sources: PKWARE's APPNOTE 6.3.10, sections 4.3.7 (local
headers), 4.4.5 (methods); POSIX.1-2017, "pax Interchange Format".
"""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from .alignment.checksum import checksum_of
from .errors import ChecksumError, ErrorContext, FormatError, StoreError, UnsupportedError, shown

_KiB = 1 << 10
_NEAR = 4 << 20
_MOST_AHEAD = 32 << 20
_MOST_AT_ONCE = 1 << 30
_LEAST = 64 * _KiB
TAIL = 2 * _LEAST
"""Bytes at the end of a zip in which its end record is found, behind the longest comment."""

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_LOCAL = struct.Struct("<4s2xH18xHH")
_UTF8 = 0x800
_INFLATED_AT_MOST = 1032
"""Times as long as what it was made of. Source: zlib's "Technical Details"."""

_PIECE = 64 * _KiB


class Zipped(NamedTuple):
    """What a zip says of a member: its `method`, its length there (`packed`, bytes) and unpacked (`size`), CRC-32."""

    method: int
    packed: int
    size: int
    crc: int


class Member(NamedTuple):
    """A file called `name`, in the bytes `start` to `end`. In a zip its local header is the first of these.

    What follows the content there, up to `end`, is of no meaning.
    """

    name: str
    start: int
    end: int
    zipped: Zipped | None = None


class Window:
    """An object of `size` bytes as a file to read: a stretch of it is in memory.

    `fetch` gives bytes from a start to an end. Who reads on gets more and more at once; who leaps, little. Errors:
    `FormatError`, with `context`, for a read of more than a directory can be.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, context: ErrorContext) -> None:
        self.size = size
        self.context = context
        self._fetch = fetch
        self._position = self._start = 0
        self._held = b""
        self._ahead = _LEAST

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to byte `offset`, from the beginning, from here or from the end. Errors: `OSError` before the first."""
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence] + offset
        if position < 0:
            raise OSError(f"no position: {position}")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, by default all; fewer where it ends. Errors: those of `fetch`; `FormatError`."""
        start = min(self._position, self.size)
        end = self.size if size < 0 else min(start + size, self.size)
        if end - start > _MOST_AT_ONCE:
            raise FormatError(f"this says it has a header of {end - start} bytes", self.context)
        if start < self._start or end > self._start + len(self._held):
            self._load(start, end)
        self._position = max(self._position, end)
        return self._held[start - self._start : end - self._start]

    def load(self, start: int, end: int) -> None:
        """Have the bytes `start` to `end` in memory."""
        self._held, self._start = self._fetch(start, end) if start < end else b"", start

    def _load(self, start: int, end: int) -> None:
        near = 0 <= start - self._start <= len(self._held) + _NEAR
        self._ahead = min(4 * self._ahead, _MOST_AHEAD) if near else _LEAST
        self.load(start, max(end, min(start + self._ahead, self.size)))


def zip_members(file: Window) -> list[Member]:
    """The files in a zip, in the order in which they lie. Errors: `FormatError`; those of `file`."""
    file.load(max(0, file.size - TAIL), file.size)
    with _as_format_errors("zip", file.context):
        archive = zipfile.ZipFile(_taken_for_file(file))
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    starts = [*(info.header_offset for info in infos), archive.start_dir]
    members = [_zip_member(info, end, file.context) for info, end in zip(infos, starts[1:], strict=True)]
    return [member for member in members if not member.name.endswith("/")]


def _zip_member(info: zipfile.ZipInfo, end: int, context: ErrorContext) -> Member:
    start = info.header_offset
    if start < 0 or info.compress_size < 0 or start + _LOCAL.size + info.compress_size > end:
        raise FormatError(f"member {shown(info.filename, 100)!r} does not end before what follows it", context)
    if info.flag_bits & 1:
        raise UnsupportedError(f"member {shown(info.filename, 100)!r} is encrypted", context)
    return Member(info.filename, start, end, Zipped(info.compress_type, info.compress_size, info.file_size, info.CRC))


def tar_members(file: Window) -> list[Member]:
    """The files in a tar that is not compressed, in order; links and the like are passed over.

    Errors: `FormatError`, also where a header in the middle cannot be read; `UnsupportedError` for a file with holes;
    those of `file`.
    """
    with (
        _as_format_errors("tar", file.context),
        tarfile.open(fileobj=_taken_for_file(file), mode="r:") as archive,
    ):
        members = list(_tar_members(archive, file))
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # what cannot be read as a header ends tarfile's reading
            raise tarfile.ReadError(f"no header at byte {archive.offset}")
    return members


def _tar_members(archive: tarfile.TarFile, file: Window) -> Iterator[Member]:
    while (info := archive.next()) is not None:
        if info.issparse():
            raise UnsupportedError(f"member {shown(info.name, 100)!r} is a file with holes", file.context)
        if info.size < 0 or info.offset_data + info.size > file.size:
            raise tarfile.ReadError(f"member {shown(info.name, 100)!r} does not end before the file does")
        if info.isreg():
            yield Member(info.name, info.offset_data, info.offset_data + info.size)
        archive.members.clear()  # type: ignore[attr-defined]  # a large shard's take a gigabyte


def content_of(
    member: Member, data: memoryview, context: ErrorContext, allocate: Callable[[int], memoryview]
) -> memoryview:
    """What `member` holds, whose bytes from start to end `data` are: the bytes themselves, where they are not deflated.

    `allocate` gives memory of so many bytes for what is. Errors: `FormatError`; `ChecksumError` where the zip's CRC-32
    is another one; `UnsupportedError` for a method of compression that is neither of these.
    """
    if member.zipped is None:
        return data
    name, said = shown(member.name, 100), member.zipped
    if said.method not in (_STORED, _DEFLATED):
        raise UnsupportedError(
            f"member {name!r} is compressed by method {said.method}, not stored or deflated", context
        )
    packed = _packed(data, member.name, said.packed)
    if packed is None or said.size > said.packed * _INFLATED_AT_MOST:
        raise FormatError(f"member {name!r} is not where, or not as long as, the zip says", context)
    content = packed if said.method == _STORED else _inflated(packed, allocate(said.size))
    if content is None or len(content) != said.size:
        raise FormatError(f"member {name!r} does not unpack to {said.size} bytes", context)
    if checksum_of("CRC32", content) != said.crc:
        raise ChecksumError(f"member {name!r} does not have the CRC-32 that the zip says", context)
    return content


def _packed(data: memoryview, name: str, length: int) -> memoryview | None:
    """The `length` bytes behind the local header, that of `name`, which `data` begins with, if they are there."""
    if len(data) < _LOCAL.size:
        return None
    signature, flags, named, extra = _LOCAL.unpack_from(data)
    begun = _LOCAL.size + named
    told = bytes(data[_LOCAL.size : begun]).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    found = data[begun + extra : begun + extra + length]
    return found if signature == b"PK\3\4" and told == name and len(found) == length else None


def _inflated(packed: memoryview, target: memoryview) -> memoryview | None:
    """`target`, filled by what `packed` unpacks to, if that is just as long."""
    inflater, filled = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        for start in range(0, len(packed), _PIECE):
            piece = inflater.decompress(packed[start : start + _PIECE], len(target) - filled + 1)
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
    except (zlib.error, ValueError):  # ValueError: there is more of it than there is room
        return None
    return target if inflater.eof and filled == len(target) else None


_MALFORMED = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RecursionError, TypeError),
    *(ValueError, struct.error, tarfile.TarError, zipfile.BadZipFile),
)
"""What `zipfile` and `tarfile` raise of files that are none, as these may hold anything."""


@contextmanager
def _as_format_errors(kind: str, context: ErrorContext) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except _MALFORMED as error:
        raise FormatError(f"this cannot be read as a {kind}: {shown(str(error))}", context) from error


def _taken_for_file(file: Window) -> Any:
    """It has what the two modules call."""
    return file
