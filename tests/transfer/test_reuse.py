"""Objects that are mostly as an older one: the plan, on its own, and the writer, against a store that copies ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s3dlio import parts, reuse, reusing_writer
from s3dlio.alignment.checksum import crc64nvme
from s3dlio.errors import ChecksumError, IntegrityError, ObjectChangedError, StoreError
from s3dlio.model import BoundedRange, Part, PartCopy, PutResult, StoredChecksum, Upload
from s3dlio.parts import MIN_PART
from s3dlio.reuse import PIECE, Copied, OldObject, PartPlan, Sent, Sums, joined
from s3dlio.reusing_writer import ReusingWriter
from s3dlio.transfer import ParallelStore

from .recorder import KEY, Recorder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEAST, SMALL_PIECE = 10, 4
MiB = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which some bytes are many."""
    for module in (reuse, reusing_writer):
        monkeypatch.setattr(module, "MIN_PART", LEAST, raising=False)
        monkeypatch.setattr(module, "PIECE", SMALL_PIECE)
    monkeypatch.setattr(parts, "MIN_PART", LEAST)
    monkeypatch.setattr(reuse, "COPY_PART", 40)
    monkeypatch.setattr(reusing_writer, "SENT_PART", 12)


def planned(pieces: Sequence[tuple[int, int | None]], part_size: int = 16 * MiB) -> list[Sent | Copied]:
    plan, found = PartPlan(part_size, reuses=True), []
    for size, at in pieces:
        found += plan.add(size, at)
        assert plan.kept + PIECE <= plan.room
    return found + plan.end()


def same(first: int, last: int) -> list[tuple[int, int | None]]:
    return [(MiB, number * MiB) for number in range(first, last)]


def changed(count: int) -> list[tuple[int, int | None]]:
    return [(MiB, None)] * count


def test_a_changed_tensor_among_others_is_what_is_sent() -> None:
    copied_before, sent, copied_after = planned([*same(0, 50), *changed(8), *same(58, 90)])
    assert copied_before == Copied(0, 50 * MiB, 50)
    assert sent == Sent(8 * MiB, 8)
    assert copied_after == Copied(58 * MiB, 32 * MiB, 32)


def test_what_is_too_little_for_a_part_takes_of_its_neighbour() -> None:
    assert planned([*same(0, 50), *changed(1), *same(51, 90)]) == [
        Copied(0, 50 * MiB, 50),
        Sent(5 * MiB, 5),
        Copied(55 * MiB, 35 * MiB, 35),
    ]


def test_what_is_the_same_for_less_than_a_part_is_sent() -> None:
    assert planned([*changed(6), *same(6, 10), *changed(6)]) == [Sent(16 * MiB, 16)]


def test_scattered_bytes_cost_a_part_each() -> None:
    pieces = [*changed(1), *same(1, 20)] * 3
    assert [type(part) for part in planned(pieces)] == [Sent, Copied] * 3
    assert sum(part.size for part in planned(pieces) if isinstance(part, Sent)) == 15 * MiB


def test_what_has_moved_is_copied_from_where_it_was() -> None:
    moved = [(size, at + 100) for size, at in same(0, 10) if at is not None]
    assert planned([*changed(6), *moved]) == [Sent(6 * MiB, 6), Copied(100, 10 * MiB, 10)]


def test_the_end_may_be_any_size() -> None:
    assert planned([*changed(6), *same(6, 7)]) == [Sent(6 * MiB, 6), Copied(6 * MiB, MiB, 1)]
    assert planned([*same(0, 6), *changed(1)]) == [Copied(0, 6 * MiB, 6), Sent(MiB, 1)]
    assert planned(same(0, 3)) == [Sent(3 * MiB, 3)]
    assert planned([]) == []


def test_long_copies_are_several_parts_none_of_which_is_short() -> None:
    sizes = [part.size // MiB for part in planned([*same(0, 130), *changed(5), *same(135, 300)])]
    assert sizes == [130, 5, 128, 37]


_PIECES = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from(["same", "changed", "elsewhere"]), st.integers(1, MiB)), max_size=20
)


@settings(deadline=None)
@given(runs=_PIECES, part_size=st.integers(MIN_PART, 20 * MiB))
@example(runs=[(1, "changed", 1)] * 20, part_size=MIN_PART)
def test_parts_are_all_the_pieces_and_long_enough(runs: list[tuple[int, str, int]], part_size: int) -> None:
    """A run is some whole pieces and a shorter one, as an item is."""
    pieces: list[tuple[int, int | None]] = []
    at = 0
    for count, kind, last in runs:
        at += 1000 * MiB if kind == "elsewhere" else 0
        for size in (*[MiB] * count, last):
            pieces.append((size, None if kind == "changed" else at))
            at += size
    found = planned(pieces, part_size)
    assert sum(part.size for part in found) == sum(size for size, _ in pieces)
    assert all(part.size >= MIN_PART for part in found[:-1])
    rest = iter(pieces)
    for part in found:
        taken = [next(rest) for _ in range(part.pieces)]
        assert sum(size for size, _ in taken) == part.size
        if isinstance(part, Copied):
            assert taken[0][1] == part.start
            assert all(one[1] is not None and one[0] + one[1] == two[1] for one, two in pairwise(taken))


def test_many_parts_grow_so_that_they_are_not_too_many() -> None:
    plan = PartPlan(5 * MiB, reuses=True)
    for number in range(20_000):
        for _ in range(5):
            plan.add(MiB, None)
        for piece in range(5):
            plan.add(MiB, (10 * number + piece) * MiB)
    assert plan.parts < parts.MAX_PARTS


# What is remembered


def test_sums_are_told_and_read_again() -> None:
    sums = Sums()
    for size, crc, ends in ((PIECE, 1, False), (5, 2**64 - 1, True), (7, 0, True), (PIECE, 3, True)):
        sums.add(size, crc)
        if ends:
            sums.end_item()
            sums.end_item()
    read = Sums.of_json(sums.as_json())
    assert read.as_json() == sums.as_json()
    assert read.size == sums.size == 2 * PIECE + 12
    assert read.find((0, 1), 5, 2**64 - 1) == PIECE
    assert read.find((2, 0), PIECE, 3) == PIECE + 12
    assert [read.find((1, 0), size, crc) for size, crc in ((7, 1), (6, 0))] == [None, None]
    assert [read.find(place, 5, 2**64 - 1) for place in ((0, 0), (0, 2), (3, 0))] == [None] * 3


@pytest.mark.parametrize(
    "wrong", [[[5, ""]], [[5, "0" * 32]], [[0, ""]], [[-1, ""]], [["5", "0" * 16]], [[5, "x" * 16]]]
)
def test_what_no_sums_are_is_refused(wrong: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Sums.of_json(wrong)


# The writer


class CopyingRecorder(Recorder):
    """Copies ranges, all but `cut` bytes of each. Tells the checksum of what it copied, if that is `told`."""

    told = False
    wrong = 0
    cut = 0

    async def copy_part(self, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        async with self._noted("copy"):
            if (await self.inner.head(copy.source)).etag != copy.etag:
                raise ObjectChangedError("the source was replaced")
            data = await self.inner.get_range(copy.source, byte_range)
            part = await self.inner.upload_part(copy.upload, number, data[self.cut :])
        checksum = StoredChecksum("CRC64NVME", crc64nvme(data) ^ self.wrong)
        return replace(part, checksum=checksum) if self.told else part

    async def upload_part(self, upload: Upload, number: int, data: ReadableBuffer) -> Part:
        self.sent += memoryview(data).nbytes
        return await super().upload_part(upload, number, data)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        return await super().complete_upload(upload, [replace(part, checksum=None) for part in parts])

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0


async def written(
    recorder: CopyingRecorder,
    items: Sequence[bytes],
    old: OldObject | None = None,
    opened: Callable[[ReusingWriter], None] = lambda _: None,
) -> ReusingWriter:
    """The object, written item by item, each in two writes, of memory that changes afterwards."""
    store = ParallelStore(recorder, part_size=LEAST, parts_in_flight=3)
    async with store.open_reusing_writer(KEY, old) as writer:
        opened(writer)
        for item in items:
            for piece in (item[:3], item[3:]):
                given = bytearray(piece)
                await writer.write(memoryview(given))
                given[:] = bytes(len(given))
            writer.end_item()
    return writer


async def old_one(recorder: CopyingRecorder, items: Sequence[bytes]) -> OldObject:
    """The object, written, as the next one knows it."""
    writer = await written(recorder, items)
    assert writer.result.etag is not None
    recorder.sent = 0
    recorder.calls.clear()
    return OldObject("bucket", KEY, writer.result.etag, Sums.of_json(writer.sums.as_json()))


_ITEMS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@pytest.mark.usefixtures("small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(sizes=_ITEMS, later=_ITEMS, changes=st.sets(st.integers(0, 400), max_size=4))
@example(sizes=[60] * 6, later=[60] * 6, changes=set())
@example(sizes=[60] * 6, later=[60] * 6, changes={70})
@example(sizes=[60] * 6, later=[1, *[60] * 5], changes={70})
async def test_the_object_is_what_was_written(sizes: list[int], later: list[int], changes: set[int]) -> None:
    recorder = CopyingRecorder()
    old = await old_one(recorder, _of_sizes(sizes, set()))
    items = _of_sizes(later, changes)
    writer = await written(recorder, items, old)
    assert await recorder.content() == b"".join(items)
    assert writer.size == writer.sums.size == sum(later)
    assert recorder.pending == 0
    plain = "put" if "put" in recorder.calls else "complete"
    assert plain in recorder.calls


def _of_sizes(sizes: Sequence[int], changes: set[int]) -> list[bytes]:
    """Items whose bytes follow from their places in the item, but for those at `changes` of the whole."""
    whole = bytearray(
        b"".join(bytes((number * 7 + at) % 251 for at in range(size)) for number, size in enumerate(sizes))
    )
    for at in changes:
        if at < len(whole):
            whole[at] ^= 0xFF
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [bytes(whole[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


SIZES = [60] * 6


@pytest.mark.usefixtures("small")
async def test_only_what_changed_is_sent() -> None:
    recorder = CopyingRecorder()
    old = await old_one(recorder, _of_sizes(SIZES, set()))
    await written(recorder, _of_sizes(SIZES, set(range(120, 180))), old)
    assert recorder.sent == 60


@pytest.mark.usefixtures("small")
async def test_what_lies_behind_a_change_of_length_is_copied() -> None:
    recorder = CopyingRecorder()
    old = await old_one(recorder, _of_sizes(SIZES, set()))
    await written(recorder, [b"of another length", *_of_sizes(SIZES, set())[1:]], old)
    assert recorder.sent == 17


REFUSALS: dict[str, tuple[dict[str, object], type[StoreError]]] = {
    "another checksum": ({"told": True, "wrong": 1}, ChecksumError),
    "another size": ({"cut": 1}, IntegrityError),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("case", REFUSALS)
async def test_a_copy_that_is_not_what_it_was_is_refused(case: str) -> None:
    recorder = CopyingRecorder()
    old = await old_one(recorder, _of_sizes(SIZES, set()))
    wrong, expected = REFUSALS[case]
    for name, value in wrong.items():
        setattr(recorder, name, value)
    await _is_refused(recorder, old, expected)


@pytest.mark.usefixtures("small")
async def test_a_source_that_was_replaced_is_refused() -> None:
    recorder = CopyingRecorder()
    old = await old_one(recorder, _of_sizes(SIZES, set()))
    await recorder.inner.put(KEY, b"another one")
    await _is_refused(recorder, old, ObjectChangedError)
    assert await recorder.content() == b"another one"


async def _is_refused(recorder: CopyingRecorder, old: OldObject, expected: type[StoreError]) -> None:
    writers: list[ReusingWriter] = []
    with pytest.raises(expected):
        await written(recorder, _of_sizes(SIZES, set()), old, writers.append)
    assert isinstance(writers[0].refused, expected)
    assert recorder.pending == 0


@pytest.mark.usefixtures("small")
async def test_a_copy_whose_checksum_is_told_is_compared() -> None:
    recorder = CopyingRecorder()
    recorder.told = True
    old = await old_one(recorder, _of_sizes(SIZES, set()))
    await written(recorder, _of_sizes(SIZES, {100}), old)
    assert "copy" in recorder.calls
    assert await recorder.content() == b"".join(_of_sizes(SIZES, {100}))


def test_checksums_of_pieces_are_joined() -> None:
    data = os.urandom(50)
    assert joined([(20, crc64nvme(data[:20])), (30, crc64nvme(data[20:]))]) == crc64nvme(data)
