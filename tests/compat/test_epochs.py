"""Positions in an epoch against a plain model: whatever the shards and wherever they stop, each object comes once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector._s3bucket_key_data import S3BucketKeyData
from s3dlio.compat.s3torchconnector.epochs import Position, positions_in, size_of, together
from s3dlio.compat.s3torchconnector.objects import ObjectInfo

_COUNTS = st.integers(0, 40)
_ROUNDS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), max_size=3)
"""How many objects each shard takes before it is stopped; then all go on, as another number of shards."""

_SIZES = st.lists(st.integers(0, 3) | st.integers(0, 1 << 40), max_size=30)
"""Bytes."""


def records(keys: Sequence[str]) -> list[S3BucketKeyData]:
    return [S3BucketKeyData("bucket", key) for key in keys]


def numbered(count: int) -> list[str]:
    return [f"{number:03}" for number in range(count)]


def summed(position: Position, keys: Sequence[str], *, listed: bool = False) -> list[tuple[str, int]]:
    return [(record.key, crc32) for record, crc32 in position.rest(records(keys), listed=listed)]


def rest(position: Position, keys: Sequence[str], *, listed: bool = False) -> list[str]:
    return [key for key, _ in summed(position, keys, listed=listed)]


def stopped(position: Position, keys: Sequence[str], more: int, **order: bool) -> tuple[list[str], Position]:
    """What a shard takes when it goes on from `position`, and where it is then: by way of JSON, as programs keep it."""
    taken = summed(position, keys, **order)[:more]
    last, crc32 = taken[-1] if taken else (position.last, position.crc32)
    state = position.state() | {"taken": position.taken + len(taken), "last": last, "crc32": crc32}
    return [key for key, _ in taken], Position.of(json.loads(json.dumps(state)))


def one_after_the_other(keys: list[str], stops: Sequence[Sequence[int]]) -> tuple[list[str], list[str]]:
    """The model: what is taken of a list, and what is left of it, where shards take their own in turn."""
    taken: list[str] = []
    left = keys
    for round_ in stops:
        own = [[(i, key) for i, key in enumerate(left) if i % len(round_) == shard] for shard in range(len(round_))]
        gone = {i: key for mine, more in zip(own, round_, strict=True) for i, key in mine[:more]}
        taken += gone.values()
        left = [key for i, key in enumerate(left) if i not in gone]
    return taken, left


@given(_COUNTS, _ROUNDS, st.integers(1, 5), st.booleans())
def test_each_object_comes_once_however_often_the_number_of_shards_changes(
    count: int, stops: list[list[int]], shards: int, listed: bool
) -> None:
    keys, left = numbered(count), Position()
    taken: list[str] = []
    for round_ in stops:
        begun = [Position(cuts=left.cuts, shard=shard, shards=len(round_)) for shard in range(len(round_))]
        ends = [stopped(*each, listed=listed) for each in zip(begun, [keys] * len(begun), round_, strict=True)]
        taken += [key for mine, _ in ends for key in mine]
        left = together([position for _, position in reversed(ends)])
    last = [rest(Position(cuts=left.cuts, shard=shard, shards=shards), keys) for shard in range(shards)]
    model_taken, model_left = one_after_the_other(keys, stops)
    assert taken == model_taken
    assert last == [model_left[shard::shards] for shard in range(shards)]


@given(_COUNTS, st.integers(1, 4), st.lists(st.integers(0, 5), max_size=4), st.booleans())
def test_a_shard_goes_on_where_it_was(count: int, shards: int, steps: list[int], listed: bool) -> None:
    keys = numbered(count)
    for shard in range(shards):
        position, taken = Position(shard=shard, shards=shards), []
        for more in steps:
            mine, position = stopped(position, keys, more, listed=listed)
            taken += mine
        assert taken + rest(position, keys, listed=listed) == keys[shard::shards]


@given(st.sets(_COUNTS), st.sets(_COUNTS), st.integers(0, 40))
def test_one_shard_in_the_order_of_keys_may_see_any_change(before: set[int], after: set[int], more: int) -> None:
    old, new = ([f"{number:03}" for number in sorted(numbers)] for numbers in (before, after))
    for position in (Position(), Position(cuts=(((0, None, 0),),))):
        taken, position = stopped(position, old, more, listed=True)
        for resumed in (position, together([position])):
            left = rest(resumed, new, listed=True)
            assert not set(taken) & set(left)
            assert {key for key in new if key in old} <= {*taken, *left}
            assert left == sorted(left)


def test_one_shard_goes_on_in_any_order_that_stays() -> None:
    keys = ["b/a", "a", "c", "b"]
    for more in range(5):
        taken, position = stopped(Position(), keys, more, listed=True)
        assert taken + rest(position, keys, listed=True) == keys
    position = stopped(Position(), keys, 2, listed=True)[1]
    with pytest.raises(ValueError, match="listed in no order"):
        rest(position, ["b/a", "c", "b"], listed=True)


@given(st.sets(_COUNTS), st.sets(_COUNTS), st.integers(2, 4), st.lists(st.integers(0, 12), min_size=4, max_size=4))
def test_shards_that_see_a_change_refuse_it_or_it_comes_later(
    before: set[int], after: set[int], shards: int, stops: list[int]
) -> None:
    """That one of them refuses it is enough: a rank that fails ends the job."""
    old, new = ([f"{number:03}" for number in sorted(numbers)] for numbers in (before, after))
    ends = [stopped(Position(shard=shard, shards=shards), old, stops[shard], listed=True) for shard in range(shards)]
    seen = max((old.index(taken[-1]) for taken, _ in ends if taken), default=-1) + 1
    for positions in ([position for _, position in ends], [together([position for _, position in ends])]):
        if new[:seen] != old[:seen]:
            with pytest.raises(ValueError, match="not those of the state"):
                [rest(position, new, listed=True) for position in positions]
        else:
            left = [key for position in positions for key in rest(position, new, listed=True)]
            assert sorted(left + [key for taken, _ in ends for key in taken]) == sorted(new)


def sized(sizes: Sequence[int]) -> list[S3BucketKeyData]:
    infos = [ObjectInfo(f"{number:03}", "", size, 0) for number, size in enumerate(sizes)]
    return [S3BucketKeyData("bucket", info.key, info) for info in infos]


def by_bytes(found: Sequence[S3BucketKeyData], shards: int) -> list[list[S3BucketKeyData]]:
    """The model: each goes to the shard that has the fewest bytes."""
    shares: list[list[S3BucketKeyData]] = [[] for _ in range(shards)]
    for record in found:
        min(shares, key=lambda share: sum(map(size_of, share))).append(record)
    return shares


def own(found: Sequence[S3BucketKeyData], position: Position) -> list[tuple[S3BucketKeyData, int]]:
    return list(position.rest(found, listed=True))


@given(_SIZES, st.integers(1, 6), st.randoms(use_true_random=False))
def test_shards_by_bytes_differ_by_no_more_than_the_largest_object(sizes: list[int], shards: int, random: Any) -> None:
    found = sized(sizes)
    random.shuffle(found)
    ways = [Position(shard=shard, shards=shards, by_bytes=True) for shard in range(shards)]
    shares = [[record for record, _ in own(found, position)] for position in ways]
    loads = [sum(map(size_of, share)) for share in shares]
    assert sorted(record.key for share in shares for record in share) == [record.key for record in sized(sizes)]
    assert max(loads) - min(loads) <= max(sizes, default=0)
    assert shares == by_bytes(found, shards)


@given(_SIZES, _ROUNDS, st.integers(1, 5))
def test_what_shards_by_bytes_left_is_dealt_out_anew(sizes: list[int], stops: list[list[int]], shards: int) -> None:
    found, left = sized(sizes), Position(by_bytes=True)
    model = found
    for round_ in stops:
        ends, taken = [], list[S3BucketKeyData]()
        for shard, (share, more) in enumerate(zip(by_bytes(model, len(round_)), round_, strict=True)):
            position = replace(left, shard=shard, shards=len(round_))
            mine = own(found, position)[:more]
            assert [record for record, _ in mine] == share[:more]
            if mine:
                position = replace(position, taken=len(mine), last=mine[-1][0].key, crc32=mine[-1][1])
            assert [record for record, _ in own(found, position)] == share[more:]
            ends.append(Position.of(json.loads(json.dumps(position.state()))))
            taken += share[:more]
        left, model = together(ends), [record for record in model if record not in taken]
    rest = [[record for record, _ in own(found, replace(left, shard=n, shards=shards))] for n in range(shards)]
    assert rest == by_bytes(model, shards)


def test_sizes_that_have_changed_or_are_not_known() -> None:
    position = Position(shard=1, shards=2, by_bytes=True)
    ((first, crc32), *_) = own(sized([5, 3, 4]), position)
    position = replace(position, taken=1, last=first.key, crc32=crc32)
    assert own(sized([5, 3, 9]), position)[0][0].key == "002"
    with pytest.raises(ValueError, match="not those of the state"):
        own(sized([4, 3, 9]), position)
    with pytest.raises(ValueError, match="that of 'a' is not known"):
        own(records(["a"]), position)


def test_all_shards_of_one_epoch_are_needed() -> None:
    a, b = (Position(seed=1, shard=shard, shards=2) for shard in range(2))
    wrong: list[list[Position]] = [[], [a], [a, a], [a, b, b], [a, Position(seed=2, shard=1, shards=2)]]
    wrong += [[a, Position(seed=1, epoch=1, shard=1, shards=2)], [a, Position(seed=1, shard=1, shards=3)]]
    wrong += [[a, Position(seed=1, shard=1, shards=2, by_bytes=True)]]
    wrong += [[a, Position(seed=1, cuts=(((1, "a", 0),),), shard=1, shards=2)], [Position(), Position()]]
    for positions in wrong:
        with pytest.raises(ValueError, match="each of them once"):
            together(positions)
    assert together([b, a]).cuts == (((0, None, 0), (0, None, 0)),)


def test_states_are_found_wherever_a_loader_keeps_them() -> None:
    states = [Position(shard=shard, shards=3, taken=shard).state() for shard in range(3)]
    kept: Any = [{"workers": {"0": {"dataset": states[0]}, "1": {"dataset": states[1], "n": 5}}}, {"it": [states[2]]}]
    assert [position.taken for position in positions_in(kept)] == [0, 1, 2]
    assert [position.taken for position in positions_in(states[1])] == [1]
    assert list(positions_in({"n": 1, "text": "state", "bytes": b"b", "nothing": None})) == []


def test_a_state_is_the_same_after_json() -> None:
    position = Position(seed=1, cuts=(((2, "a", 5), (0, None, 0)),), shards=3, taken=1, last="b")
    assert Position.of(json.loads(json.dumps(position.state()))) == Position.of(position.state()) == position


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="no state of an S3IterableDataset"):
        Position.of({"taken": 5})
    with pytest.raises(ValueError, match="snapshot_every_n_steps=1"):
        list(positions_in({"_snapshot": {"w": Position().state()}, "_steps_since_snapshot": 2}))
