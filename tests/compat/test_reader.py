"""Readers as files: the protocol against `io.BytesIO`, and the libraries that read from files."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector import S3Exception, S3Reader
from s3dlio.compat.s3torchconnector.s3reader import SequentialS3Reader

from .files import CONTENTS, STEPS, check_step
from .standin import KEY, reader_of, refuse


@given(CONTENTS, st.lists(STEPS, max_size=12), st.integers(1, 40), st.booleans())
def test_a_reader_is_a_file(data: bytes, steps: list[tuple[Any, ...]], part_size: int, listed: bool) -> None:
    model = io.BytesIO(data)
    _, reader = reader_of(data, part_size=part_size, listed=listed)
    for step in steps:
        check_step(reader, model, step)


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 50))
def test_read1_gives_some_bytes_until_the_end(data: bytes, part_size: int, most: int) -> None:
    _, reader = reader_of(data, part_size=part_size, listed=False)
    pieces = list(iter(lambda: reader.read1(most), b""))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= most for piece in pieces)


@pytest.mark.parametrize("listed", [True, False])
def test_lines(listed: bool) -> None:
    data = b"one\n\ntwo\r\nthree"
    _, reader = reader_of(data, part_size=4, listed=listed)
    assert list(reader) == io.BytesIO(data).readlines()
    reader.seek(0)
    assert reader.readlines() == io.BytesIO(data).readlines()


def test_text() -> None:
    text = "línea\nwaarde €\n" * 500
    _, reader = reader_of(text.encode(), part_size=1000)
    assert io.TextIOWrapper(cast("Any", reader), "utf-8").read() == text


def test_a_buffered_reader_on_top() -> None:
    data = bytes(range(256)) * 100
    _, reader = reader_of(data, part_size=1000)
    buffered = io.BufferedReader(reader, 300)
    assert buffered.read(10) == data[:10]
    assert buffered.seek(-5, 2) == len(data) - 5
    assert buffered.read() == data[-5:]


def _tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 3000
            archive.addfile(member, io.BytesIO(name.encode() * 3000))
    return target.getvalue()


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(name, name * 3000)
    return target.getvalue()


@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_tar(mode: str) -> None:
    _, reader = reader_of(_tar(), part_size=1000)
    with tarfile.open(fileobj=reader, mode=mode) as archive:  # type: ignore[call-overload]
        found = {member.name: archive.extractfile(member).read() for member in archive}
    assert found == {name: name.encode() * 3000 for name in ("a", "b")}


def test_zip() -> None:
    _, reader = reader_of(_zip(), part_size=1000)
    with zipfile.ZipFile(reader) as archive:
        assert archive.namelist() == ["a", "b"]
        assert archive.read("b") == b"b" * 3000


def test_numpy() -> None:
    array = np.arange(1000)
    target = io.BytesIO()
    np.save(target, array)
    _, reader = reader_of(target.getvalue(), part_size=500)
    assert np.array_equal(np.load(reader), array)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_torch(zipped: bool, listed: bool) -> None:
    state: dict[str, Any] = {"weight": torch.arange(5000.0).reshape(50, 100), "bias": torch.ones(3), "step": 7}
    target = io.BytesIO()
    torch.save(state, target, _use_new_zipfile_serialization=zipped)
    store, reader = reader_of(target.getvalue(), part_size=4000, listed=listed)
    loaded = torch.load(cast("Any", reader), weights_only=True)
    assert loaded["step"] == 7
    assert torch.equal(loaded["weight"], state["weight"])
    assert len(store.requests) < 15


def test_what_a_reader_cannot_do() -> None:
    _, reader = reader_of(b"abc")
    calls: list[Callable[[], object]] = [
        reader.detach,
        reader.fileno,
        reader.truncate,
        lambda: reader.write(b""),
    ]
    for call in calls:
        with pytest.raises(io.UnsupportedOperation):
            call()
    assert (reader.readable(), reader.seekable(), reader.writable(), reader.isatty()) == (True, True, False, False)


@pytest.mark.parametrize("argument", ["a", 1.0, b"1"])
def test_sizes_and_offsets_are_integers(argument: Any) -> None:
    _, reader = reader_of(b"abc")
    for call in (reader.read, reader.readline, reader.read1, reader.seek, lambda whence: reader.seek(0, whence)):
        with pytest.raises(TypeError):
            call(argument)
    with pytest.raises(TypeError):
        reader.seek(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [b"abc", memoryview(b"abc"), "abc"])
def test_only_writable_memory_can_be_filled(target: Any) -> None:
    _, reader = reader_of(b"abc")
    with pytest.raises(TypeError, match=r"readinto\(\) argument must be read-write bytes-like object, not"):
        reader.readinto(target)


def test_any_item_type_can_be_filled() -> None:
    _, reader = reader_of(np.arange(6, dtype="<i4").tobytes())
    target = np.zeros((2, 3), dtype="<i4")
    assert reader.readinto(target.data) == 24
    assert target.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_seek_errors_have_the_known_texts() -> None:
    _, reader = reader_of(b"abc")
    with pytest.raises(ValueError, match="negative seek value -5"):
        reader.seek(-5)
    with pytest.raises(ValueError, match="SEEK_CUR, SEEK_SET, or SEEK_END"):
        reader.seek(0, 9)


def test_missing_objects_have_the_known_texts() -> None:
    store, reader = reader_of(b"abc", listed=False)
    del store.objects[KEY]
    for call in (reader.read, lambda: reader.read(1), lambda: reader.seek(1), lambda: reader.readinto(bytearray(1))):
        with pytest.raises(S3Exception) as caught:
            call()
        assert str(caught.value) == "Service error: The key does not exist"
    with pytest.raises(S3Exception) as caught:
        reader.seek(0, io.SEEK_END)
    assert str(caught.value) == "Service error: The object was not found"


def test_a_closed_reader_still_reads() -> None:
    _, reader = reader_of(b"abcdef")
    with reader as same:
        assert same is reader
        assert reader.read(1) == b"a"
    assert reader.closed
    assert reader.seek(2) == reader.tell() == 2
    assert reader.read() == b"cdef"


def test_a_reader_names_its_object() -> None:
    _, reader = reader_of(b"")
    assert isinstance(reader, S3Reader)
    assert isinstance(reader, io.BufferedIOBase)
    assert (reader.bucket, reader.key) == ("bucket", KEY)
    assert repr(reader) == "<SequentialS3Reader s3://bucket/object>"
    with pytest.raises(ValueError, match="Bucket should be specified"):
        SequentialS3Reader("", "key", refuse, refuse)
    assert S3Reader.__abstractmethods__ == {"bucket", "key", "read", "readinto", "seek", "tell"}


def test_an_unread_reader_can_be_pickled_and_keeps_its_position() -> None:
    _, reader = reader_of(b"abcdef", listed=False)
    reader.seek(-2, io.SEEK_END)
    arrived = pickle.loads(pickle.dumps(reader))
    assert (arrived.bucket, arrived.key, arrived.tell()) == ("bucket", KEY, 4)
    assert arrived.read() == b"ef"


def test_a_read_reader_cannot_be_pickled() -> None:
    _, reader = reader_of(b"abcdef")
    reader.read(1)
    with pytest.raises(TypeError, match="it was read"):
        pickle.dumps(reader)


def test_a_reader_of_anybody_s_functions() -> None:
    def stream(start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        yield from (b"ab", b"c\n", b"de")

    class Info:
        size = 6

    reader = SequentialS3Reader("bucket", "key", Info, stream)
    assert reader.seek(0, io.SEEK_END) == 6
    assert reader.seek(1) == 1
    assert reader.readline() == b"bc\n"
    assert reader.read() == b"de"
