"""The reader for distributed checkpoints, made by hand, and its constructor."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..standin import refuse
from .kit import TEXT, Body, Library, Place, case, tried

# --- the reader for distributed checkpoints, made by hand ------------------------------------------------------------


def _optimized(lib: Library, body: Body, ranges: list[tuple[int, int]], *gap: Any) -> Any:
    items = [lib.s3reader.ItemRange(*each) for each in ranges]
    return lib.s3reader.DCPOptimizedS3Reader("bucket", "key", items, body.info, body.stream, *gap)


RANGES = [(2, 6), (6, 9), (12, 18)]


@case
def items_one_after_the_other(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = _optimized(lib, body, RANGES)
    return (
        [(reader.seek(start), reader.read(end - start), reader.tell()) for start, end in RANGES],
        body.calls,
        body.asked,
    )


@case
def groups_by_gap(lib: Library, at: Place) -> object:
    def read(gap: Any) -> object:
        body = Body(TEXT)
        reader = _optimized(lib, body, RANGES, gap)
        return [(reader.seek(start), reader.read(end - start))[1] for start, end in RANGES], body.calls

    return [read(gap) for gap in (0, 2, 2.5, 3, float("inf"))]


@case
def going_back_inside_an_item(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), [(2, 12)])
    return [(reader.seek(start), reader.read(count)) for start, count in ((5, 3), (2, 2), (4, 8), (11, 1), (2, 10))]


@case
def reading_an_item_into_buffers(lib: Library, at: Place) -> object:
    reader, target = _optimized(lib, Body(TEXT, piece=3), [(2, 12), (13, 20)]), bytearray(4)
    reader.seek(2)
    first = (
        reader.readinto(target),
        bytes(target),
        reader.readinto(memoryview(target)[:2]),
        bytes(target),
        reader.tell(),
    )
    reader.seek(13)
    whole = np.zeros(7, dtype=np.uint8)
    return first, reader.readinto(whole), whole, reader.tell()


@case
def leaving_out_an_item(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), RANGES)
    reader.seek(12)
    before = tried(lambda: reader.read(2))
    reader.seek(2)
    read = reader.read(4)
    reader.seek(12)
    return before, read, tried(lambda: reader.read(2))


@case
def bytes_outside_of_the_items(lib: Library, at: Place) -> object:
    def at_position(position: int, count: int) -> object:
        reader = _optimized(lib, Body(TEXT), RANGES)
        reader.seek(2)
        reader.read(4)
        reader.seek(position)
        return tried(lambda: reader.read(count)), reader.tell()

    return [at_position(*each) for each in ((0, 1), (1, 3), (5, 2), (9, 1), (8, 2), (18, 1), (6, 3))]


@case
def returning_to_an_item_that_is_over(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), RANGES)
    read = [(reader.seek(start), reader.read(end - start)) for start, end in RANGES[:2]]
    reader.seek(2)
    over = tried(lambda: reader.read(1))
    reader.seek(7)
    return read, over, reader.read(2)


@case
def going_past_the_last_item(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), [(2, 6)])
    reader.seek(2)
    return reader.read(4), tried(lambda: reader.read(1)), tried(lambda: reader.readinto(bytearray(1)))


@case
def whole_reads_are_refused(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), RANGES)
    steps = [
        lambda: reader.read(),
        lambda: reader.read(None),
        lambda: reader.read(-1),
        lambda: reader.read("1"),
        lambda: reader.read(1.0),
    ]
    return [tried(step) for step in steps], reader.read(0)


@case
def seeking_among_items(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), RANGES)
    moves: list[tuple[Any, ...]] = [
        (5,),
        (2, io.SEEK_CUR),
        (-3, io.SEEK_CUR),
        (1000,),
        (0, io.SEEK_END),
        (0, 7),
        ("1",),
        (1.5,),
        (0, "0"),
    ]
    return [(tried(reader.seek, *move), reader.tell()) for move in moves]


@case
def a_negative_position_among_items(lib: Library, at: Place) -> object:
    return tried(lambda: _optimized(lib, Body(TEXT), RANGES).seek(-1)), tried(
        lambda: _optimized(lib, Body(TEXT), RANGES).seek(-1, 1)
    )


@case
def closing_an_item_reader(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT), RANGES)
    with reader as same:
        reader.seek(2)
        read = reader.read(3)
    reader.close()
    return same is reader, read, reader.closed, reader.tell(), reader.readable(), reader.seekable(), reader.writable()


@case
def empty_ranges_are_passed_over(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = _optimized(lib, body, [(0, 0), (2, 6), (6, 6), (6, 9), (20, 20)])
    return [(reader.seek(start), reader.read(end - start)) for start, end in RANGES[:2]], body.calls


@case
def what_the_item_reader_refuses(lib: Library, at: Place) -> object:
    kind, item = lib.s3reader.DCPOptimizedS3Reader, lib.s3reader.ItemRange
    fine = [item(0, 5)]
    return [
        tried(lambda: kind("", "key", fine, refuse, refuse)),
        tried(lambda: kind("bucket", "", fine, refuse, refuse)),
        tried(lambda: kind("bucket", "key", [], refuse, refuse)),
        tried(lambda: kind("bucket", "key", None, refuse, refuse)),
        tried(lambda: kind("bucket", "key", fine, refuse, refuse, "1")),
        tried(lambda: kind("bucket", "key", fine, refuse, refuse, None)),
        tried(lambda: kind("bucket", "key", fine, refuse, refuse, -1)),
        tried(lambda: kind("bucket", "key", fine, refuse, refuse, max_gap_size=-0.1)),
        tried(lambda: kind("bucket", "key", fine)),
    ]


@case
def ranges_that_are_refused(lib: Library, at: Place) -> object:
    wrong = [
        [(0, 0)],
        [(0, 0), (5, 5)],
        [(-1, 3)],
        [(5, 3)],
        [(0, 5), (9, 7)],
        [(6, 9), (0, 3)],
        [(0, 5), (4, 8)],
        [(0, 5), (0, 5)],
    ]
    return [tried(_optimized, lib, Body(TEXT), ranges) for ranges in wrong]


@case
def a_stream_that_ends_inside_an_item(lib: Library, at: Place) -> object:
    reader = _optimized(lib, Body(TEXT[:5]), [(2, 12)])
    reader.seek(2)
    return tried(lambda: reader.read(3))[:2]


@case
def items_in_streams_of_any_piece(lib: Library, at: Place) -> object:
    def read(piece: int) -> object:
        reader = _optimized(lib, Body(TEXT, piece=piece), [(1, 4), (5, 11), (15, 20)])
        return [(reader.seek(start), reader.read(count)) for start, count in ((1, 3), (5, 2), (9, 2), (6, 5), (15, 5))]

    return [read(piece) for piece in (1, 2, 3, 5, 20)]


# --- the constructor for distributed checkpoints ---------------------------------------------------------------------


class _Plan:
    """Items of a load plan, and the storage data they point into."""

    def __init__(self, *places: tuple[str, int, int]) -> None:
        self.items = [_Item(number) for number in range(len(places))]
        self.storage = {number: _Stored(*place) for number, place in enumerate(places)}


class _Item:
    def __init__(self, storage_index: int) -> None:
        self.storage_index = storage_index


class _Stored:
    def __init__(self, relative_path: str, offset: int, length: int) -> None:
        self.relative_path, self.offset, self.length = relative_path, offset, length


PLAN = _Plan(("__0_0.distcp", 0, 4), ("__0_0.distcp", 6, 2), ("__1_0.distcp", 3, 5))


@case
def ranges_by_file(lib: Library, at: Place) -> object:
    constructor = lib.s3reader.DCPOptimizedConstructor()
    told = []
    for base in ("s3://bucket/checkpoint", "s3://bucket/checkpoint/"):
        constructor.set_item_ranges_by_file(PLAN.items, PLAN.storage, base)
        told.append(dict(constructor._item_ranges_by_file))
    return told


@case
def later_ranges_replace_earlier_ones(lib: Library, at: Place) -> object:
    constructor, other = lib.root.S3ReaderConstructor.dcp_optimized(), _Plan(("other", 1, 2))
    constructor.set_item_ranges_by_file(PLAN.items, PLAN.storage, "s3://bucket/a")
    constructor.set_item_ranges_by_file(other.items, other.storage, "s3://bucket/b")
    told = dict(constructor._item_ranges_by_file)
    constructor.set_item_ranges_by_file([], {}, "s3://bucket/c")
    return told, dict(constructor._item_ranges_by_file)


@case
def ranges_without_storage_data(lib: Library, at: Place) -> object:
    constructor = lib.s3reader.DCPOptimizedConstructor()
    return tried(lambda: constructor.set_item_ranges_by_file(PLAN.items, {}, "s3://b/c")), tried(
        lambda: constructor.set_item_ranges_by_file([_Item(99)], PLAN.storage, "s3://b/c")
    )


@case
def readers_from_the_constructor(lib: Library, at: Place) -> object:
    constructor, body = lib.s3reader.DCPOptimizedConstructor(max_gap_size=1), Body(TEXT)
    constructor.set_item_ranges_by_file(PLAN.items, PLAN.storage, "s3://bucket/checkpoint")
    made = [
        constructor("bucket", key, body.info, body.stream)
        for key in ("checkpoint/__0_0.distcp", "checkpoint/.metadata", "x.metadata")
    ]
    keyword = constructor(
        bucket="bucket", key="checkpoint/__1_0.distcp", get_object_info=body.info, get_stream=body.stream
    )
    keyword.seek(3)
    return [type(each) for each in made], keyword, keyword.read(5), body.calls


@case
def files_the_constructor_was_not_told_of(lib: Library, at: Place) -> object:
    constructor, body = lib.s3reader.DCPOptimizedConstructor(), Body(TEXT)
    before = tried(lambda: constructor("bucket", "checkpoint/__0_0.distcp", body.info, body.stream))
    constructor.set_item_ranges_by_file(PLAN.items, PLAN.storage, "s3://bucket/checkpoint")
    after = tried(lambda: constructor("other", "checkpoint/__0_0.distcp", body.info, body.stream))
    return [(kind, text.split(". ")[0]) for _, kind, text in (before, after)]
