"""Where the shards of an epoch stopped, and what is left of it: pure.

An epoch is a sequence of objects. Object `i` is shard `i % shards`'s, and every shard takes its own in their order. So
the numbers of what each has taken, a *cut*, tell which objects were taken. What a cut leaves is a sequence again: it
may be divided among another number of shards, and cut once more. A position is that of one shard in what some cuts
have left.

A cut is by number, as shards are, so it means something only in the sequence it was made in. With each number goes a
checksum of the keys up to there, those of all shards; where it differs, the sequence has changed, which is an error.
It is none for one shard of a listing in the order of keys: what it has not taken are the keys that come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from typing import Any, Self
from zlib import crc32

from ._s3bucket_key_data import S3BucketKeyData

Stop = tuple[int, str | None, int]
"""How many objects a shard has taken, the key of the last of them, and the CRC-32 of all shards' keys up to it."""

Cut = tuple[Stop, ...]
"""Where each shard stopped."""

Summed = tuple[S3BucketKeyData, int]
"""A record, and the CRC-32 of its key and all before it."""


@dataclass
class Position:
    """Shard number `shard` of `shards` has taken `taken` objects, the last of them `last`, of what `cuts` leave.

    `crc32` is the checksum of all shards' keys up to there, each followed by a NUL.
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
            left = _left_by(cut, _summed(records), by_key=listed and len(cut) == 1)
            records = (record for record, _ in left)
        share = islice(_summed(records), self.shard, None, self.shards)
        return _left_by((self.stop,), share, by_key=listed and self.shards == 1)


def _summed(records: Iterable[S3BucketKeyData]) -> Iterator[Summed]:
    total = 0
    for record in records:
        key = str(record.key).encode(errors="surrogatepass")  # what is wrong with a key is for its owner to hear
        total = crc32(key + b"\0", total)
        yield record, total


def _left_by(cut: Cut, records: Iterator[Summed], *, by_key: bool) -> Iterator[Summed]:
    taken, last, _ = cut[0]
    return _left_by_key(taken, last, records) if by_key and last is not None else _left_by_number(cut, records)


def _left_by_number(cut: Cut, records: Iterator[Summed]) -> Iterator[Summed]:
    shards = len(cut)
    sums = {shard + shards * (taken - 1): total for shard, (taken, _, total) in enumerate(cut) if taken}
    expected = max(sums, default=-1) + 1
    found = 0
    for found, (record, total) in enumerate(islice(records, expected), 1):
        index = found - 1
        if sums.get(index, total) != total:
            raise ValueError(f"the objects up to {record.key!r} are not those of the state")
        if index // shards >= cut[index % shards][0]:
            yield record, total
    if found < expected:
        raise ValueError(f"the objects are not those of the state: {expected} were there, now {found}")
    yield from records


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
    expected = [(first.seed, first.epoch, first.cuts, shard, first.shards) for shard in range(first.shards)]
    if not shards or [(each.seed, each.epoch, each.cuts, each.shard, each.shards) for each in shards] != expected:
        raise ValueError("these are not the states of all shards of one epoch, each of them once")
    cut = tuple(each.stop for each in shards)
    return Position(first.seed, first.epoch, (*first.cuts, cut))


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
