"""Readers: files over objects of the server, and over objects from somebody's own functions."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ..standin import refuse
from .contents import LARGE
from .kit import Library, Place, case, generic_over, tried


def _open(lib: Library, at: Place, key: str, constructor: Any = None, **config: Any) -> Any:
    client = lib.client(s3client_config=lib.config(**config))
    return client.get_object(at.bucket, key, reader_constructor=constructor)


def _ranged(lib: Library, buffer_size: int | None = None) -> Any:
    return lib.root.S3ReaderConstructor.range_based(buffer_size)


def _kinds(lib: Library, at: Place, key: str) -> list[Any]:
    """A reader of each generic kind, of an object of the server."""
    return [_open(lib, at, key, each) for each in (None, _ranged(lib), _ranged(lib, 5), _ranged(lib, 0))]


# --- reading ---------------------------------------------------------------------------------------------------------


@case
def reading_everything(lib: Library, at: Place) -> object:
    return [(each.read(), each.read(), each.tell()) for each in _kinds(lib, at, "files/lines")]


@case
def reading_in_pieces(lib: Library, at: Place) -> object:
    return [list(iter(partial(each.read, 13), b"")) for each in _kinds(lib, at, "files/lines")]


@case
def the_sizes_of_a_read(lib: Library, at: Place) -> object:
    readers = _kinds(lib, at, "files/lines")
    return [
        (
            each.read(0),
            each.read(size=4),
            each.read(None)[:5],
            each.read(5),
            each.seek(0),
            each.read(-1)[-5:],
            each.read(0),
        )
        for each in readers
    ]


@case
def a_read_beyond_the_end(lib: Library, at: Place) -> object:
    return [(each.read(10_000), each.tell(), each.read(1)) for each in _kinds(lib, at, "train/02")]


@case
def what_is_no_size(lib: Library, at: Place) -> object:
    return [[tried(each.read, wrong) for wrong in ("3", 3.0, b"3", [3])] for each in generic_over(lib)]


@case
def reading_a_large_object(lib: Library, at: Place) -> object:
    readers = [_open(lib, at, "files/large", each, part_size=5 << 20) for each in (None, _ranged(lib), _ranged(lib, 0))]
    return [(each.read() == LARGE, each.tell()) for each in readers]


@case
def reading_parts_of_a_large_object(lib: Library, at: Place) -> object:
    places = [(0, 10), ((8 << 20) - 3, 6), ((5 << 20) - 1, 3 << 20), (12 << 20, 1000), (3, 5)]
    readers = [
        _open(lib, at, "files/large", each, part_size=5 << 20) for each in (None, _ranged(lib), _ranged(lib, 100))
    ]
    return [[(each.seek(start), each.read(count)) for start, count in places] for each in readers]


@case
def reading_at_the_end_first(lib: Library, at: Place) -> object:
    return [
        (each.seek(-4, io.SEEK_END), each.read(), each.seek(0), each.read(4)) for each in _kinds(lib, at, "files/lines")
    ]


@case
def filling_a_buffer(lib: Library, at: Place) -> object:
    found = []
    for reader in _kinds(lib, at, "files/lines"):
        target = bytearray(20)
        found.append(
            (
                reader.readinto(target),
                bytes(target),
                reader.tell(),
                reader.readinto(memoryview(target)[5:8]),
                bytes(target),
            )
        )
    return found


@case
def filling_a_buffer_at_the_end(lib: Library, at: Place) -> object:
    found = []
    for reader in _kinds(lib, at, "train/02"):
        target = bytearray(b"." * 16)
        found.append((reader.readinto(target), bytes(target), reader.readinto(target), reader.readinto(bytearray())))
    return found


@case
def filling_arrays_and_tensors(lib: Library, at: Place) -> object:
    array, tensor = np.zeros(8, dtype=np.uint8), torch.zeros(8, dtype=torch.uint8)
    readers = _kinds(lib, at, "files/lines")
    counts = [reader.readinto(target) for reader in readers[:2] for target in (array, tensor.numpy())]
    return counts, array, tensor


@case
def what_cannot_be_filled(lib: Library, at: Place) -> object:
    wrong: tuple[object, ...] = (b"bytes", memoryview(b"bytes"), "text", 5, None, [0])
    return [[tried(each.readinto, target) for target in wrong] for each in generic_over(lib)]


@case
def one_step_after_the_other(lib: Library, at: Place) -> object:
    """Reads, seeks and their errors with the same reader, which goes on after each error."""

    def walk(reader: Any) -> list[object]:
        target = bytearray(5)
        steps: list[Callable[[], object]] = [
            lambda: reader.read(3),
            lambda: (reader.readline(), reader.tell()),
            lambda: reader.readline(2),
            lambda: reader.seek(-2, io.SEEK_CUR),
            lambda: reader.seek(-3, io.SEEK_END),
            lambda: (reader.readinto(target), bytes(target)),
            reader.read,
            lambda: reader.seek(10_000),
            lambda: reader.seek(-1),
            lambda: reader.seek(0, 7),
            lambda: reader.seek(1.5),
            lambda: reader.read("x"),
            lambda: (reader.seek(0), reader.read(1), reader.readinto(b"x")),
            lambda: (reader.seek(0), reader.readlines()),
            lambda: (reader.readable(), reader.writable(), reader.seekable(), reader.isatty(), reader.closed),
            lambda: (reader.close(), reader.closed, reader.seek(1), reader.read()),
            lambda: next(iter(reader)),
            reader.__enter__,
            reader.flush,
            reader.fileno,
            reader.truncate,
        ]
        return [tried(step) for step in steps]

    checkpoint = lib.checkpoint()
    return [
        walk(checkpoint.reader(at.uri(key))) for key in ("train/05", "special/a#b?c=d&e", "special/é/ü 日本", "absent")
    ]


# --- position --------------------------------------------------------------------------------------------------------


@case
def seeking_from_each_origin(lib: Library, at: Place) -> object:
    def walk(reader: Any) -> object:
        moves = [(5,), (3, io.SEEK_CUR), (-2, io.SEEK_CUR), (-6, io.SEEK_END), (0, io.SEEK_END), (0, io.SEEK_SET)]
        return [(reader.seek(*move), reader.tell(), reader.read(2)) for move in moves]

    return [walk(each) for each in _kinds(lib, at, "files/lines")]


@case
def seeking_beyond_the_end(lib: Library, at: Place) -> object:
    return [
        (
            each.seek(10_000),
            each.read(),
            each.seek(5, io.SEEK_END),
            each.seek(1),
            each.seek(9_999, io.SEEK_CUR),
            each.tell(),
        )
        for each in _kinds(lib, at, "train/03")
    ]


@case
def seeking_before_the_start(lib: Library, at: Place) -> object:
    return [
        (tried(each.seek, -1), tried(each.seek, -1, 1), tried(each.seek, -99, 2), each.tell())
        for each in generic_over(lib)
    ]


@case
def what_is_no_origin(lib: Library, at: Place) -> object:
    wrong: tuple[object, ...] = (3, -1, "0", None)
    return [[tried(each.seek, 0, whence) for whence in wrong] for each in generic_over(lib)]


@case
def what_is_no_offset(lib: Library, at: Place) -> object:
    wrong: tuple[object, ...] = ("0", 1.0, None)
    return [[tried(each.seek, offset) for offset in wrong] for each in generic_over(lib)]


@case
def seek_takes_no_keywords(lib: Library, at: Place) -> object:
    return [(tried(each.seek, offset=1), tried(each.seek, 1, whence=0)) for each in generic_over(lib)]


@case
def the_position_after_a_failed_seek(lib: Library, at: Place) -> object:
    return [(each.read(4), tried(each.seek, -10, io.SEEK_CUR), each.tell(), each.read(2)) for each in generic_over(lib)]


@case
def reading_backwards(lib: Library, at: Place) -> object:
    return [
        [(reader.seek(start), reader.read(3)) for start in range(30, -1, -6)]
        for reader in _kinds(lib, at, "files/lines")
    ]


# --- lines -----------------------------------------------------------------------------------------------------------


@case
def iterating_over_lines(lib: Library, at: Place) -> object:
    return [list(each) for each in _kinds(lib, at, "files/lines")]


@case
def one_line_after_the_other(lib: Library, at: Place) -> object:
    return [
        (each.readline(), each.tell(), each.readline(0), each.readline(2), each.readline(-1), next(each), each.tell())
        for each in _kinds(lib, at, "files/lines")
    ]


@case
def lists_of_lines(lib: Library, at: Place) -> object:
    return [
        (each.readlines(10), each.tell(), len(each.readlines()), each.readlines())
        for each in _kinds(lib, at, "files/lines")
    ]


@case
def the_end_of_the_lines(lib: Library, at: Place) -> object:
    return [(each.seek(0, 2), each.readline(), tried(next, each)) for each in _kinds(lib, at, "files/lines")]


@case
def lines_and_reads_together(lib: Library, at: Place) -> object:
    return [
        (each.read(2), each.readline(), each.read(1), next(iter(each)), each.seek(0), each.readline())
        for each in _kinds(lib, at, "files/lines")
    ]


# --- what the readers are --------------------------------------------------------------------------------------------


@case
def what_a_reader_is(lib: Library, at: Place) -> object:
    return [
        (
            isinstance(each, (io.BufferedIOBase, lib.root.S3Reader)),
            each.bucket,
            each.key,
            each.readable(),
            each.writable(),
            each.seekable(),
            each.isatty(),
            each.closed,
        )
        for each in generic_over(lib)
    ]


@case
def what_a_reader_cannot_do(lib: Library, at: Place) -> object:
    names = ("detach", "fileno", "truncate")
    return [[tried(getattr(each, name)) for name in names] + [tried(each.write, b"")] for each in generic_over(lib)]


@case
def what_a_reader_does_not_have(lib: Library, at: Place) -> object:
    names = ("peek", "readall", "name", "mode", "raw", "getvalue", "getbuffer")
    return [[hasattr(each, name) for name in names] for each in generic_over(lib)]


@case
def the_attributes_of_a_reader_are_fixed(lib: Library, at: Place) -> object:
    return [
        tried(setattr, each, name, "x", unusual=AttributeError)
        for each in generic_over(lib)
        for name in ("bucket", "key")
    ]


@case
def the_abstract_reader(lib: Library, at: Place) -> object:
    reader = lib.root.S3Reader
    return sorted(reader.__abstractmethods__), tried(reader), [base.__name__ for base in reader.__mro__[1:]]


@case
def a_subclass_of_the_abstract_reader(lib: Library, at: Place) -> object:
    class Own(lib.root.S3Reader):  # type: ignore[misc, name-defined]
        bucket, key = "b", "k"

        def read(self, size: int | None = None) -> bytes:
            return b"data"

        def seek(self, offset: int, whence: int = 0, /) -> int:
            return 1

        def tell(self) -> int:
            return 2

        def readinto(self, buf: Any) -> int:
            return 3

    own = Own()
    return own.read(), own.readable(), own.writable(), own.seekable(), issubclass(Own, io.BufferedIOBase)


@case
def closing_a_reader(lib: Library, at: Place) -> object:
    def closed(reader: Any) -> object:
        begun = reader.read(4)
        reader.close()
        reader.close()
        return begun, reader.closed, reader.tell(), reader.seek(1), reader.read(3), reader.readinto(bytearray(2))

    return [closed(each) for each in _kinds(lib, at, "files/lines")]


@case
def what_a_closed_reader_refuses(lib: Library, at: Place) -> object:
    def closed(reader: Any) -> object:
        reader.close()
        return [
            tried(step)
            for step in (
                lambda: next(iter(reader)),
                reader.__enter__,
                reader.flush,
                reader.isatty,
                lambda: reader.readlines(),
            )
        ]

    return [closed(each) for each in generic_over(lib)]


@case
def a_reader_in_a_with_block(lib: Library, at: Place) -> object:
    def inside(reader: Any) -> object:
        with reader as same:
            found = same is reader, same.read(4)
        return found, reader.closed

    return [inside(each) for each in _kinds(lib, at, "files/lines")]


@case
def an_exception_in_a_with_block(lib: Library, at: Place) -> object:
    def inside(reader: Any) -> None:
        with reader:
            reader.read(1)
            raise LookupError("the caller's own")

    readers = generic_over(lib)
    return [(tried(inside, each), each.closed) for each in readers]


# --- missing, empty, refused -----------------------------------------------------------------------------------------


@case
def an_absent_key(lib: Library, at: Place) -> object:
    def found(key: str, constructor: Any) -> object:
        steps: list[Any] = [
            lambda reader: reader.read(),
            lambda reader: reader.read(1),
            lambda reader: reader.readinto(bytearray(3)),
            lambda reader: reader.seek(1),
            lambda reader: reader.seek(0, io.SEEK_END),
            lambda reader: reader.readline(),
            lambda reader: next(iter(reader)),
        ]
        return [tried(partial(step, _open(lib, at, key, constructor))) for step in steps]

    return [found("absent", each) for each in (None, _ranged(lib), _ranged(lib, 0))]


@case
def an_absent_key_where_nothing_is_asked(lib: Library, at: Place) -> object:
    reader = _open(lib, at, "absent")
    return reader.tell(), reader.seek(0), reader.seek(0, io.SEEK_CUR), reader.key, reader.readinto(bytearray())


@case
def a_missing_bucket(lib: Library, at: Place) -> object:
    client = lib.client()
    readers = [
        client.get_object("no-such-bucket-anywhere", "key", reader_constructor=each) for each in (None, _ranged(lib))
    ]
    return [tried(each.read) for each in readers], tried(lambda: readers[0].seek(0, io.SEEK_END))


@case
def an_empty_object_of_known_size(lib: Library, at: Place) -> object:
    readers = [
        lib.mapped(at.uri("folders/sub/"), reader_constructor=each)[0] for each in (_ranged(lib), _ranged(lib, 0))
    ]
    return [
        (each.read(), each.read(5), each.readline(), each.seek(3), each.readinto(bytearray(3)), list(each))
        for each in readers
    ]


@case
def an_empty_object_of_unknown_size_read_in_ranges(lib: Library, at: Place) -> object:
    at.put("empty", b"")
    readers = [_open(lib, at, f"{at.below}empty", each) for each in (_ranged(lib), _ranged(lib, 0))]
    return [(each.read(), each.tell(), each.seek(0, io.SEEK_END)) for each in readers]


@case
def no_bucket(lib: Library, at: Place) -> object:
    readers = lib.s3reader
    kinds = (readers.SequentialS3Reader, readers.RangedS3Reader)
    return [tried(kind, wrong, "key", refuse, refuse) for kind in kinds for wrong in ("", None)]


@case
def no_key(lib: Library, at: Place) -> object:
    readers = lib.s3reader
    return [kind("bucket", "", refuse, refuse).key for kind in (readers.SequentialS3Reader, readers.RangedS3Reader)]


# --- with other libraries --------------------------------------------------------------------------------------------


@case
def a_buffered_reader_on_top(lib: Library, at: Place) -> object:
    def through(reader: Any) -> object:
        buffered = io.BufferedReader(reader, 16)
        return (
            buffered.read(5),
            buffered.peek(3)[:3],
            buffered.readline(),
            buffered.seek(-4, 2),
            buffered.read(),
            buffered.tell(),
        )

    return [through(each) for each in _kinds(lib, at, "files/lines")]


@case
def tar_archives(lib: Library, at: Place) -> object:
    def members(reader: Any, mode: Any) -> object:
        with tarfile.open(fileobj=reader, mode=mode) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]

    return [members(each, mode) for mode in ("r:", "r|", "r:*") for each in _kinds(lib, at, "files/tar")]


@case
def zip_archives(lib: Library, at: Place) -> object:
    def members(reader: Any) -> object:
        with zipfile.ZipFile(reader) as archive:
            return archive.namelist(), archive.read("b"), archive.testzip()

    return [members(each) for each in _kinds(lib, at, "files/zip")]


@case
def numpy_files(lib: Library, at: Place) -> object:
    return [np.load(each) for each in _kinds(lib, at, "files/npy")]


@case
def pytorch_files(lib: Library, at: Place) -> object:
    return [torch.load(each, weights_only=True) for each in _kinds(lib, at, "files/model.zip.pt")]


@case
def pytorch_files_of_the_old_format(lib: Library, at: Place) -> object:
    return [torch.load(each, weights_only=True) for each in _kinds(lib, at, "files/model.old.pt")]


@case
def a_pytorch_file_that_is_none(lib: Library, at: Place) -> object:
    return [tried(torch.load, each, weights_only=True)[:2] for each in _kinds(lib, at, "files/lines")]


# --- travelling ------------------------------------------------------------------------------------------------------


@case
def an_unread_reader_travels(lib: Library, at: Place) -> object:
    constructors = (None, lib.root.S3ReaderConstructor.sequential(), _ranged(lib, 0))
    sent = [pickle.loads(pickle.dumps(_open(lib, at, "files/lines", each))) for each in constructors]
    return [(type(each), each.bucket, each.key, each.tell(), each.read()) for each in sent]


@case
def a_read_sequential_reader_stays(lib: Library, at: Place) -> object:
    reader = _open(lib, at, "files/lines")
    reader.read(1)
    return tried(lambda: pickle.dumps(reader)), reader.read(2)
