"""Where the shards of an epoch stopped, and what is left of it: pure.

An epoch is a sequence of objects. It is dealt out, one after the other: object `i` is shard `i % shards`'s, or, where
shards are to have as many bytes, that shard's which has the fewest so far. Then no two shards differ by more than the
largest object, and nobody has to know what is still to come. Every shard takes its own in their order. So the numbers
of what each has taken, a *cut*, tell which objects were taken. What a cut leaves is a sequence again: it
may be divided among another number of shards, and cut once more. A position is that of one shard in what some cuts
have left.

A cut is by number, as shards are, so it means something only in the sequence it was made in. With each number goes a
checksum of the keys up to there, those of all shards, and of their sizes where these matter; where it differs, the
sequence has changed, which is an error. It is none for one shard of a listing in the order of keys: what it has not
taken are the keys that come later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from heapq import heapreplace
from itertools import chain, cycle, islice
from typing import Any, Self
from zlib import crc32

from ._s3bucket_key_data import S3BucketKeyData

Stop = tuple[int, str | None, int]
"""How many objects a shard has taken, the key of the last of them, and the CRC-32 of all shards' keys up to it."""

Cut = tuple[Stop, ...]
"""Where each shard stopped."""

Summed = tuple[S3BucketKeyData, int]
"""A record, and the CRC-32 of its key and all before it."""

Dealt = tuple[int, Summed]
"""The number of a shard, and what is that one's."""

SizeOf = Callable[[S3BucketKeyData], int]


@dataclass
class Position:
    """Shard number `shard` of `shards` has taken `taken` objects, the last of them `last`, of what `cuts` leave.

    `crc32` is the checksum of all shards' keys up to there, each followed by a NUL, and by its size `by_bytes`.
    The objects are in the order of `seed` and `epoch`, or, where `seed` is `None`, as they were found.
    """

    seed: int | None = None
    epoch: int = 0
    cuts: tuple[Cut, ...] = ()
    shard: int = 0
    shards: int = 1
    taken: int = 0
    last: str | None = None
    crc32: int = 0
    by_bytes: bool = False

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """The position that `state` holds, also where JSON made lists of tuples. Errors: `ValueError`."""
        if state.keys() != {field.name for field in fields(cls)}:
            raise ValueError("this is no state of an S3IterableDataset")
        cuts = tuple(tuple((taken, last, crc32) for taken, last, crc32 in cut) for cut in state["cuts"])
        return cls(**{**state, "cuts": cuts})

    def state(self) -> dict[str, Any]:
        """What to save: numbers, texts, and tuples of them."""
        return asdict(self)

    @property
    def stop(self) -> Stop:
        """Where it is in a cut."""
        return self.taken, self.last, self.crc32

    def rest(self, records: Iterable[S3BucketKeyData], *, listed: bool) -> Iterator[Summed]:
        """What this shard has not taken of `records`. Errors: `ValueError`, while iterating, where they have changed.

        `listed` says that each key is there once and, unless the store has no order, in the order of keys.
        """
        for cut in self.cuts:
            left = _left_by(cut, self._dealt(records, len(cut)), by_key=listed and len(cut) == 1)
            records = (record for record, _ in left)
        dealt = self._dealt(records, self.shards)
        share = ((0, each) for shard, each in dealt if shard == self.shard)
        return _left_by((self.stop,), share, by_key=listed and self.shards == 1)

    def _dealt(self, records: Iterable[S3BucketKeyData], shards: int) -> Iterator[Dealt]:
        if self.by_bytes:
            return _to_the_lightest(_summed(records, size_of), shards)
        return zip(cycle(range(shards)), _summed(records), strict=False)


def size_of(record: S3BucketKeyData) -> int:
    """Bytes. Errors: `ValueError` where they are not known."""
    if record.object_info is None:
        raise ValueError(f"shards by bytes need the sizes of all objects, and that of {record.key!r} is not known")
    return record.object_info.size


def _to_the_lightest(records: Iterable[Summed], shards: int) -> Iterator[Dealt]:
    loads = [(0, shard) for shard in range(shards)]
    for each in records:
        load, shard = loads[0]
        heapreplace(loads, (load + size_of(each[0]), shard))
        yield shard, each


def _summed(records: Iterable[S3BucketKeyData], size: SizeOf | None = None) -> Iterator[Summed]:
    total = 0
    for record in records:
        key = str(record.key).encode(errors="surrogatepass")  # what is wrong with a key is for its owner to hear
        total = crc32(key + b"\0", total)
        if size is not None:
            total = crc32(b"%d\0" % size(record), total)
        yield record, total


def _left_by(cut: Cut, dealt: Iterator[Dealt], *, by_key: bool) -> Iterator[Summed]:
    taken, last, _ = cut[0]
    if by_key and last is not None:
        return _left_by_key(taken, last, (each for _, each in dealt))
    return _left_by_number(cut, dealt)


def _left_by_number(cut: Cut, dealt: Iterator[Dealt]) -> Iterator[Summed]:
    behind = [taken for taken, _, _ in cut]
    found, shards = 0, sum(map(bool, behind))
    while shards:
        following = next(dealt, None)
        if following is None:
            raise ValueError(f"the objects are not those of the state: now they end after {found}")
        found += 1
        shard, (record, total) = following
        if not behind[shard]:
            yield record, total
            continue
        behind[shard] -= 1
        shards -= not behind[shard]
        if not behind[shard] and total != cut[shard][2]:
            raise ValueError(f"the objects up to {record.key!r} are not those of the state")
    yield from (each for _, each in dealt)


def _left_by_key(taken: int, last: str, records: Iterator[Summed]) -> Iterator[Summed]:
    late = [each for each in islice(records, taken) if each[0].key >= last]
    if late and late[-1][0].key == last:  # it is where it was, whatever the order
        yield from records
        return
    previous = ""
    for record, total in chain(late, records):
        if record.key < previous:
            raise ValueError("the objects are not those of the state, and are listed in no order")
        previous = record.key
        if previous > last:
            yield record, total


def together(positions: Sequence[Position]) -> Position:
    """The beginning of what all shards of an epoch left. Errors: `ValueError` where one is missing, or there twice."""
    shards = sorted(positions, key=lambda each: each.shard)
    first = shards[0] if shards else Position(shards=0)
    expected = [replace(first, shard=shard, taken=0, last=None, crc32=0) for shard in range(first.shards)]
    if not shards or [replace(each, taken=0, last=None, crc32=0) for each in shards] != expected:
        raise ValueError("these are not the states of all shards of one epoch, each of them once")
    cut = tuple(each.stop for each in shards)
    return Position(first.seed, first.epoch, (*first.cuts, cut), by_bytes=first.by_bytes)


def positions_in(states: object) -> Iterator[Position]:
    """All positions whose states are anywhere in `states`, as loaders keep them. Errors: `ValueError`."""
    if isinstance(states, Mapping):
        if states.get("_steps_since_snapshot"):  # of torchdata's StatefulDataLoader
            raise ValueError("the loader's state is older than its last batch: it needs snapshot_every_n_steps=1")
        if states.keys() == {field.name for field in fields(Position)}:
            yield Position.of(states)
        states = states.values()
    if isinstance(states, Iterable) and not isinstance(states, str | bytes):
        for each in states:
            yield from positions_in(each)
