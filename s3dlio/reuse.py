"""Which parts of a new object are sent, and which the server copies from an older one that is mostly the same: pure.

An object is a sequence of *items* (of a checkpoint, one tensor's archive each), an item a sequence of *pieces* of
`PIECE` bytes, the last one shorter. What is remembered of the older object is the CRC64NVME and the length of each
piece (:class:`Sums`). A piece is taken to be the same when the piece of the same number in the item of the same number
has both; so items may grow, and all behind them move, without being taken for changed.

:class:`PartPlan` makes parts of pieces, as they come. S3 wants each part but the last to have 5 MiB. So what is the
same is copied where that much of it follows each other in both objects; what changed is sent, with so much beside it
that it is a part. Until that is known, bytes have to be kept: less than a part and two of the least size.

Source: "Amazon S3 multipart upload limits", and "UploadPartCopy" in the API Reference, for ranges and the least size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .alignment.checksum import combine
from .config import MiB
from .copies import COPY_PART
from .parts import MIN_PART, growing_part_size

PIECE = MiB
_HEX = 16
"""Digits of a CRC64."""


class _Item(NamedTuple):
    """`length` bytes from `start` on, and the checksums of its pieces."""

    start: int
    length: int
    crcs: tuple[int, ...]


class Sums:
    """What an object of `size` bytes is made of. Pieces are added in their order; an item ends when it is said to."""

    def __init__(self) -> None:
        self.size = 0
        self._items: list[_Item] = []
        self._open: list[int] = []

    @property
    def place(self) -> tuple[int, int]:
        """Where the next piece comes: the number of its item, and its own in there."""
        return len(self._items), len(self._open)

    def add(self, size: int, crc: int) -> None:
        """One more piece, of `size` bytes, with the CRC64NVME `crc`."""
        self._open.append(crc)
        self.size += size

    def end_item(self) -> None:
        """What comes now is another item. Without a piece since the last one, nothing."""
        if self._open:
            start = self._items[-1].start + self._items[-1].length if self._items else 0
            self._items.append(_Item(start, self.size - start, tuple(self._open)))
            self._open = []

    def find(self, place: tuple[int, int], size: int, crc: int) -> int | None:
        """Where the piece at `place` begins, if it is one of `size` bytes with that checksum."""
        number, piece = place
        item = self._items[number] if number < len(self._items) else None
        if item is None or piece >= len(item.crcs) or item.crcs[piece] != crc:
            return None
        begin = piece * PIECE
        return item.start + begin if min(PIECE, item.length - begin) == size else None

    def as_json(self) -> list[list[Any]]:
        """For each item its length in bytes, and its checksums, each as 16 hexadecimal digits, in one text."""
        return [[item.length, "".join(f"{crc:016x}" for crc in item.crcs)] for item in self._items]

    @classmethod
    def of_json(cls, items: Any) -> Sums:
        """What :meth:`as_json` told. Errors: `ValueError` or `TypeError` for anything else."""
        found = cls()
        for length, digits in items:
            crcs = [int(digits[at : at + _HEX], 16) for at in range(0, len(digits), _HEX)]
            if not isinstance(length, int) or not length > 0 or len(digits) != _HEX * -(-length // PIECE):
                raise ValueError(f"{len(digits)} digits are no checksums of {length} bytes")
            for number, crc in enumerate(crcs):
                found.add(min(PIECE, length - number * PIECE), crc)
            found.end_item()
        return found


@dataclass(frozen=True, slots=True)
class OldObject:
    """A version of an object in `bucket`, known by its etag, that another one may be copied from."""

    bucket: str
    key: str
    etag: str
    sums: Sums


class Sent(NamedTuple):
    """A part: the next `size` bytes, of so many pieces, as they were kept."""

    size: int
    pieces: int


class Copied(NamedTuple):
    """A part: the next `size` bytes, of so many pieces, which are in the older object from `start` on."""

    start: int
    size: int
    pieces: int


@dataclass(slots=True)
class _Run:
    """Pieces that follow each other; where they are copied from, they begin at `start` there."""

    start: int = 0
    size: int = 0
    pieces: deque[int] = field(default_factory=deque)

    @property
    def end(self) -> int:
        return self.start + self.size

    def append(self, size: int) -> None:
        self.pieces.append(size)
        self.size += size

    def pop(self) -> int:
        """Take the first piece; its size."""
        size = self.pieces.popleft()
        self.start += size
        self.size -= size
        return size


class PartPlan:
    """Parts of at least `part_size` bytes where all is sent; `reuses` says whether there is an older object at all.

    Invariant: parts come in the order of their bytes, and together are all of them. `parts` counts them.
    """

    def __init__(self, part_size: int, *, reuses: bool) -> None:
        self.parts = 0
        self._part_size = part_size
        self._reuses = reuses
        self._sure = _Run()
        """Kept: what will be sent."""
        self._same = _Run()
        """Kept: what comes then, and is the same; too little so far to be copied."""
        self._copying: _Run | None = None
        """Not kept: what is copied. Then nothing is."""
        self._ripe = 0
        """Bytes of it that are enough for a part, which begins when what follows them is one, too."""

    @property
    def least(self) -> int:
        """Bytes of the next part, at least, unless it is the last: 5 MiB; more where parts are many."""
        return growing_part_size(self.parts + 1, MIN_PART)

    @property
    def kept(self) -> int:
        """Bytes that have to be kept, of those that were added last."""
        return self._sure.size + self._same.size

    @property
    def room(self) -> int:
        """Bytes that are enough to keep all that has to be, and the next piece."""
        number = self.parts + 3  # those that may be planned before what is kept now is
        return growing_part_size(number, self._part_size) + 2 * growing_part_size(number, MIN_PART) + 3 * PIECE

    @property
    def is_small(self) -> bool:
        """Whether what was added so far had better be sent in one request."""
        return not self.parts and self._copying is None and self.kept <= self._part_size

    def continues(self, at: int | None) -> bool:
        """Whether a piece that is at `at` of the older object, if it is there, is copied with those before it."""
        return at is not None and self._copying is not None and at == self._copying.end

    def add(self, size: int, at: int | None) -> list[Sent | Copied]:
        """The parts that are complete with one more piece; it is at `at` of the older object, if it is there."""
        if self._copying is not None and self.continues(at):
            self._copying.append(size)
            return self._copied_so_far(self._copying)
        copied = self._end_copying()
        if at is None or at != self._same.end:
            self._give_up_same(at or 0)
        (self._sure if at is None else self._same).append(size)
        return copied + self._decide()

    def end(self) -> list[Sent | Copied]:
        """The parts that are left. The very last may be of any size."""
        if self._same.size and (self.parts or self._sure.size):
            self._copying, self._same = self._same, _Run()
            return self._send() + self._end_copying()
        self._give_up_same(0)
        return self._end_copying() + self._send()

    def _give_up_same(self, start: int) -> None:
        """What was the same is sent after all; what is from now on begins at `start`."""
        while self._same.size:
            self._sure.append(self._same.pop())
        self._same.start = start

    def _decide(self) -> list[Sent | Copied]:
        while self._same.size and 0 < self._sure.size < self.least:
            self._sure.append(self._same.pop())
        if self._same.size >= self.least:
            sent = self._send()
            self._copying, self._same = self._same, _Run()
            return sent
        leave = self.least if self._reuses else 0  # what is copied next may begin right behind it
        full = growing_part_size(self.parts + 1, self._part_size) + leave + PIECE
        return self._send(leave) if self._sure.size >= full else []

    def _send(self, leave: int = 0) -> list[Sent | Copied]:
        size = pieces = 0
        while self._sure.pieces and self._sure.size - self._sure.pieces[0] >= leave:
            size += self._sure.pop()
            pieces += 1
        self.parts += pieces > 0
        return [Sent(size, pieces)] if pieces else []

    def _copied_so_far(self, copying: _Run) -> list[Sent | Copied]:
        parts: list[Sent | Copied] = []
        if self._ripe and copying.size - self._ripe >= self.least:
            parts = [self._copy(copying, self._ripe)]
            self._ripe = 0
        if not self._ripe and copying.size >= growing_part_size(self.parts + 1, COPY_PART):
            self._ripe = copying.size
        return parts

    def _end_copying(self) -> list[Sent | Copied]:
        copying, self._copying, self._ripe = self._copying, None, 0
        return [self._copy(copying, copying.size)] if copying is not None else []

    def _copy(self, copying: _Run, size: int) -> Copied:
        start, end, pieces = copying.start, copying.start + size, 0
        while copying.start < end:
            copying.pop()
            pieces += 1
        self.parts += 1
        return Copied(start, size, pieces)


def joined(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC64NVME of pieces that follow each other, each a size and its own."""
    value = 0
    for size, crc in pieces:
        value = combine("CRC64NVME", value, crc, size)
    return value
