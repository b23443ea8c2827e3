"""Which chunks a read needs, what is written beside their bytes, and which of them have to go: pure.

A chunk's file is its bytes and then its trailer: the CRC-32C of each block of them, whether the chunk is proven (see
:mod:`.store`), and the CRC-32C of the file's name and of all that. So some bytes can be checked by reading the blocks
that they lie in, and a file that was cut, changed or given to another name is none.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..alignment.checksum import crc32c
from ..config import MiB

CHUNK = 8 * MiB
"""Bytes of an object that are kept together; of a smaller object all, and what is left at the end of a larger one."""

BLOCK = MiB
"""Bytes of a chunk that are checked together."""

ABANDONED = 600.0
"""Seconds after which a file that is still being written has nobody who writes it."""

_END = struct.Struct("<BI")
_NAME = re.compile(r"[0-9a-f]{38}(\.[0-9a-f]{8}\.tmp)?")
_ROOM = 8


class Piece(NamedTuple):
    """What a read takes of chunk `number`: bytes `start` to `end` of the object. The chunk is its `first` to `stop`."""

    number: int
    first: int
    stop: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """The chunk's, in bytes."""
        return self.stop - self.first

    @property
    def whole(self) -> bool:
        """Whether it is all of the chunk."""
        return (self.start, self.end) == (self.first, self.stop)


def plan_pieces(start: int, end: int, size: int) -> list[Piece]:
    """The chunks that bytes `start` to `end` lie in, of an object of `size` bytes."""
    chunks = ((number, number * CHUNK) for number in range(start // CHUNK, -(-end // CHUNK)))
    return [
        Piece(number, first, min(first + CHUNK, size), max(first, start), min(first + CHUNK, end))
        for number, first in chunks
    ]


def chunk_name(version: str, number: int) -> str:
    """The file of a chunk, below the cache's folder. `version` tells an object's version from all others."""
    digest = hashlib.blake2b(f"{version}\0{number}".encode(errors="surrogatepass"), digest_size=20).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def blocks_of(start: int, end: int, length: int) -> tuple[int, int]:
    """Bytes `start` to `end` of a chunk of `length` bytes, widened to whole blocks."""
    return start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, length)


class Trailer(NamedTuple):
    """The CRC-32C of each block, and whether the chunk is proven."""

    sums: tuple[int, ...]
    proven: bool

    def encode(self, name: str) -> bytes:
        """As it stands in the file `name`."""
        table = struct.pack(f"<{len(self.sums)}I", *self.sums)
        return table + _END.pack(self.proven, _seal(name, table, self.proven))

    def fits(self, blocks: memoryview, first: int) -> bool:
        """Whether `blocks`, which begin at byte `first` of the chunk, are what was written."""
        number = first // BLOCK
        found = sums_of(blocks)
        return found == self.sums[number : number + len(found)]


def sums_of(blocks: memoryview) -> tuple[int, ...]:
    """The CRC-32C of each block."""
    return tuple(crc32c(blocks[start : start + BLOCK]) for start in range(0, len(blocks), BLOCK))


def trailer_size(length: int) -> int:
    """Bytes of the trailer of a chunk of `length` bytes."""
    return -(-length // BLOCK) * 4 + _END.size


def parse_trailer(tail: bytes, name: str) -> Trailer | None:
    """What stands at the end of the file `name`; `None` for anything that was not written there so."""
    table, end = tail[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or len(table) % 4:
        return None
    proven, seal = _END.unpack(end)
    if seal != _seal(name, table, proven):
        return None
    return Trailer(struct.unpack(f"<{len(table) // 4}I", table), bool(proven))


def _seal(name: str, table: bytes, proven: int) -> int:
    return crc32c(b"%s %d" % (name.encode(), proven), crc32c(table))


class CacheFile(NamedTuple):
    """A file in the cache: its path, bytes, and when it was last used, in seconds since the epoch."""

    path: str
    size: int
    used: float

    @property
    def temporary(self) -> bool:
        """Whether it is still being written, or was when its process ended."""
        return self.path.endswith(".tmp")


def is_ours(name: str) -> bool:
    """Whether a file of this name, below a folder of two digits, is the cache's own: no other is ever removed."""
    return _NAME.fullmatch(name) is not None


def to_remove(files: Iterable[CacheFile], limit: int, now: float) -> list[CacheFile]:
    """What was abandoned and, where the rest has more than `limit` bytes, what was used longest ago.

    An eighth of the limit is free then, so that it need not be looked after every write.
    """
    found = list(files)
    removed = [file for file in found if file.temporary and file.used < now - ABANDONED]
    excess = sum(file.size for file in found) - sum(file.size for file in removed) - limit
    if excess <= 0:
        return removed
    excess += limit // _ROOM
    for file in sorted((file for file in found if not file.temporary), key=lambda file: file.used):
        if excess <= 0:
            break
        removed.append(file)
        excess -= file.size
    return removed
