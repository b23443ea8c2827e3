"""Readers over objects from somebody's own functions, and the constructors that make readers."""

from __future__ import annotations

import io
import pickle
from functools import partial
from typing import Any

from .contents import LINES
from .kit import TEXT, Body, Library, Place, case, generic_over, ranged_over, sequential_over, tried

# --- readers made by hand --------------------------------------------------------------------------------------------


@case
def a_sequential_reader_made_by_hand(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = sequential_over(lib, body)
    return (
        reader.tell(),
        list(body.calls),
        reader.read(4),
        reader.seek(-2, io.SEEK_CUR),
        reader.read(),
        body.asked,
        len(body.calls),
    )


@case
def a_sequential_reader_asks_once(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = sequential_over(lib, body)
    steps = [
        reader.seek(0, io.SEEK_END),
        reader.seek(3),
        reader.read(2),
        reader.seek(-1, io.SEEK_END),
        reader.read(),
        reader.seek(0),
        reader.read(),
    ]
    return steps, body.asked, len(body.calls)


@case
def prefetching(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = sequential_over(lib, body)
    reader.prefetch()
    reader.prefetch()
    return len(body.calls), reader.tell(), reader.read(), len(body.calls), hasattr(ranged_over(lib, body), "prefetch")


@case
def a_stream_that_fails(lib: Library, at: Place) -> object:
    def stream(start: int | None = None, end: int | None = None) -> Any:
        raise LookupError("no stream")

    def info() -> Any:
        raise LookupError("no size")

    readers = [
        lib.s3reader.SequentialS3Reader("b", "k", info, stream),
        lib.s3reader.RangedS3Reader("b", "k", info, stream),
    ]
    return [(tried(each.read), tried(each.seek, 0, 2), each.tell()) for each in readers]


@case
def a_stream_of_nothing(lib: Library, at: Place) -> object:
    return [(each.read(), each.read(3), each.readline(), each.tell()) for each in generic_over(lib, b"")]


@case
def a_stream_of_single_bytes(lib: Library, at: Place) -> object:
    readers = [sequential_over(lib, Body(LINES, piece=1)), ranged_over(lib, Body(LINES, piece=1), 4)]
    return [(each.read(10), each.readline(), each.seek(-3, 2), each.read()) for each in readers]


@case
def a_ranged_reader_asks_for_the_size_first(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = ranged_over(lib, body)
    return body.asked, reader.read(3), body.asked, reader.seek(-1, io.SEEK_END), reader.read(), body.asked


@case
def a_ranged_reader_without_a_buffer_asks_for_exact_ranges(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = ranged_over(lib, body, 0)
    found = [
        reader.read(4),
        reader.readinto(bytearray(3)),
        reader.seek(15),
        reader.read(100),
        reader.seek(2),
        reader.read(),
    ]
    return found, body.calls


@case
def a_ranged_reader_fills_its_buffer(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = ranged_over(lib, body, 8)
    found = [reader.read(2), reader.read(3), reader.seek(1), reader.read(4), reader.seek(12), reader.read(2)]
    return found, body.calls


@case
def a_ranged_reader_passes_its_buffer_by(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = ranged_over(lib, body, 4)
    return reader.read(10), list(body.calls), reader.read(), body.calls


@case
def buffer_sizes(lib: Library, at: Place) -> object:
    sizes: tuple[int | None, ...] = (None, 0, 1, 7, 19, 20, 21, 1 << 20, -5)
    return [
        (each.read(3), each.read(), each.seek(5), each.read(10))
        for each in (ranged_over(lib, Body(TEXT), size) for size in sizes)
    ]


@case
def the_buffer_by_keyword(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    reader = lib.s3reader.RangedS3Reader(
        bucket="b", key="k", get_object_info=body.info, get_stream=body.stream, buffer_size=6
    )
    wrong = partial(lib.s3reader.RangedS3Reader, "b", "k", body.info, body.stream)
    return reader.read(2), body.calls, tried(lambda: wrong(buffer_size="6")), tried(lambda: wrong(buffer=6))


# --- constructors ----------------------------------------------------------------------------------------------------


@case
def the_names_of_the_constructors(lib: Library, at: Place) -> object:
    makers, readers = lib.root.S3ReaderConstructor, lib.s3reader
    constructors: list[Any] = [
        *(
            None,
            makers.sequential(),
            makers.default(),
            makers.range_based(),
            makers.range_based(0),
            makers.dcp_optimized(),
        ),
        *(readers.DCPOptimizedConstructor(), readers.SequentialS3Reader, readers.RangedS3Reader, print, 5),
        *(partial(readers.SequentialS3Reader), partial(readers.RangedS3Reader, buffer_size=1), partial(print)),
    ]
    return [makers.get_reader_type_string(each) for each in constructors]


@case
def the_constructors_are_partial(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    found = [
        makers.sequential(),
        makers.default(),
        makers.range_based(),
        makers.range_based(7),
        makers.range_based(buffer_size=0),
    ]
    return [(type(each), each.func, each.args, each.keywords) for each in found]


@case
def the_constructors_travel(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    sent = [
        pickle.loads(pickle.dumps(each))
        for each in (makers.sequential(), makers.range_based(3), makers.dcp_optimized(9))
    ]
    return [makers.get_reader_type_string(each) for each in sent], sent[1].keywords, sent[2]._max_gap_size


@case
def what_the_constructors_refuse(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    return [
        tried(lambda: makers.range_based(1, 2)),
        tried(lambda: makers.range_based(size=1)),
        tried(lambda: makers.sequential(1)),
        tried(lambda: makers.dcp_optimized(-1)),
        tried(lambda: makers.dcp_optimized(-0.5)),
        tried(lambda: makers.dcp_optimized("1")),
        tried(lambda: makers.dcp_optimized(None)),
        tried(lambda: lib.s3reader.DCPOptimizedConstructor(float("-inf"))),
    ]


@case
def the_protocols(lib: Library, at: Place) -> object:
    readers, makers = lib.s3reader, lib.root.S3ReaderConstructor

    class Told:
        def __init__(self) -> None:
            self._item_ranges_by_file: dict[str, Any] = {}

        def __call__(self, bucket: str, key: str, get_object_info: Any, get_stream: Any) -> Any: ...

        def set_item_ranges_by_file(self, plan_items: Any, storage_data: Any, base_path: Any) -> None: ...

    class Untold:
        def __call__(self) -> None: ...

        def set_item_ranges_by_file(self) -> None: ...

    found = [
        makers.sequential(),
        makers.range_based(),
        makers.dcp_optimized(),
        readers.SequentialS3Reader,
        print,
        Told(),
        Untold(),
        5,
        None,
    ]
    kinds = (readers.S3ReaderConstructorProtocol, readers.DCPS3ReaderConstructorProtocol)
    return [[isinstance(each, kind) for kind in kinds] for each in found]


@case
def ranges_are_values(lib: Library, at: Place) -> object:
    item, group = lib.s3reader.ItemRange, lib.s3reader.RangeGroup
    one = item(3, 9)
    one.end = 10
    return (
        one,
        one == item(start=3, end=10),
        repr(one),
        group(0, 10, [one]),
        repr(group(0, 1, [])),
        tried(lambda: item(1)),
        tried(lambda: hash(one)),
    )
