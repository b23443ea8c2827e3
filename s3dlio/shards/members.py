"""The index of a shard: what is in it, and where. Pure.

It is kept as JSON: the shard's etag and size, and of its members a list for each field.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Self, overload

from ..archives import Member, Zipped

_VERSION = 1
_PLACES = ("start", "end")
_OF_ZIP = ("method", "packed", "size", "crc")


@dataclass(frozen=True, eq=False)
class Index(Sequence[Member]):
    """The members of a shard, in the order in which they lie, as columns; `size` is the shard's, in bytes.

    `names` are theirs, `numbers` the columns of all else, `etag` is that of the shard, the version that it is an index
    of. A member is made when it is looked at.
    """

    etag: str | None
    size: int
    names: Sequence[str]
    numbers: Sequence[Sequence[int]]

    @classmethod
    def of(cls, members: Iterable[Member], etag: str | None, size: int) -> Self:
        """That of a shard of `size` bytes with `members`; `etag` is its version."""
        listed = list(members)
        rows = [(member.start, member.end, *(member.zipped or ())) for member in listed]
        columns = [array("Q", column) for column in zip(*rows, strict=True)] or [array("Q"), array("Q")]
        return cls(etag, size, [member.name for member in listed], columns)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> Member: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Member]: ...
    def __getitem__(self, i: int | slice) -> Member | Sequence[Member]:
        if isinstance(i, slice):
            return [self[number] for number in range(len(self))[i]]
        name = self.names[i]
        start, end, *zipped = (column[i] for column in self.numbers)
        return Member(name, start, end, Zipped(*zipped) if zipped else None)

    def to_json(self) -> bytes:
        """As it is kept."""
        fields = zip((*_PLACES, *_OF_ZIP), map(list, self.numbers), strict=False)
        members = {"name": self.names, **dict(fields)}
        kept = {"version": _VERSION, "etag": self.etag, "size": self.size, "members": members}
        return json.dumps(kept).encode()


def parse_index(data: bytes, etag: str | None, size: int) -> Index | None:
    """The index that `data` is, of the shard's version `etag` of `size` bytes; `None` where it is of no such."""
    try:
        found = json.loads(data)
        if (found["version"], found["etag"], found["size"]) != (_VERSION, etag, size):
            return None
        members = found["members"]
        fields = (*_PLACES, *(_OF_ZIP if _OF_ZIP[0] in members else ()))
        index = Index(etag, size, members["name"], [array("Q", members[field]) for field in fields])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    return index if _is_sound(index) else None


def _is_sound(index: Index) -> bool:
    """Whether every member has all fields, and they lie in the shard, one after the other."""
    names: Any = index.names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    if any(len(column) != len(names) for column in index.numbers):
        return False
    places = [*chain.from_iterable(zip(*index.numbers[:2], strict=True)), index.size]
    return all(first <= second for first, second in pairwise(places))
