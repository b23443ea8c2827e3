"""Objects as Python's files, on every scheme."""

from __future__ import annotations

import gc
import io
import json
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio import NotFoundError, ObjectChangedError


def test_what_is_written_is_read(tree: str) -> None:
    uri = f"{tree}file"
    with s3dlio.open(uri, "wb") as file:
        assert file.write(b"some, ") == 6
        file.write(memoryview(b"and more"))
        assert file.tell() == 14
        assert not s3dlio.exists(uri)
    with s3dlio.open(uri) as file:
        assert file.read(4) == b"some"
        assert file.seek(-4, io.SEEK_END) == 10
        assert file.read() == b"more"
        assert file.read() == b""
        file.seek(2)
        assert file.read(2) == b"me"
        assert file.seek(100) == 100
        assert file.read(1) == b""
    with pytest.raises(NotFoundError):
        s3dlio.open(f"{tree}absent")


def test_programs_that_want_a_file_take_it(tree: str) -> None:
    numbers: Any = np.arange(1_000_000)
    with s3dlio.open(f"{tree}numbers.npz", "wb") as written:
        np.savez(written, numbers=numbers)
    with s3dlio.open(f"{tree}numbers.npz") as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["numbers.npy"]
    with s3dlio.open(f"{tree}numbers.npz") as file:
        assert np.array_equal(np.load(file)["numbers"], numbers)
    with s3dlio.open(f"{tree}text", "wb") as written, io.TextIOWrapper(written) as text:
        json.dump({"a": 1}, text)
    with s3dlio.open(f"{tree}text") as file:
        assert json.load(file) == {"a": 1}


def test_a_version_that_was_replaced_is_not_mixed(tree: str) -> None:
    uri = f"{tree}file"
    s3dlio.put(uri, bytes(100))
    with s3dlio.open(uri) as file:
        s3dlio.put(uri, b"\1" * 100)
        with pytest.raises(ObjectChangedError):
            file.read()


def test_what_an_exception_ends_makes_no_object(tree: str) -> None:
    file = s3dlio.open(f"{tree}file", "wb")

    def write_half() -> None:
        with file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert file.closed
    assert not s3dlio.exists(f"{tree}file")


def test_what_is_dropped_makes_no_object() -> None:
    file = s3dlio.open("memory://dropped/file", "wb")
    file.write(b"half")
    del file
    gc.collect()
    assert not s3dlio.exists("memory://dropped/file")


def test_a_file_says_what_it_is() -> None:
    s3dlio.put("memory://said/file", b"data")
    with s3dlio.open("memory://said/file") as reader, s3dlio.open("memory://said/other", "wb") as writer:
        assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
        assert (writer.readable(), writer.seekable(), writer.writable()) == (False, False, True)
        assert reader.name == "memory://said/file"
        assert writer.name == "memory://said/other"
    for closed in (reader, writer):
        with pytest.raises(ValueError, match="closed"):
            closed.tell()
    with pytest.raises(ValueError, match="'rb' or 'wb'"):
        s3dlio.open("memory://said/file", "r+")  # type: ignore[call-overload]


def test_objects_are_pickled_through_it() -> None:
    with s3dlio.open("memory://pickled/file", "wb") as file:
        pickle.dump(np.arange(5), file)
    with s3dlio.open("memory://pickled/file") as file:
        assert np.array_equal(pickle.load(file), np.arange(5))


def test_a_pattern_and_a_walk_find_what_is_there(tree: str) -> None:
    names = ["a.jpg", "b.txt", "x/a.jpg", "x/y/b.jpg", "x/y/z/c.jpg"]
    s3dlio.put_many({tree + name: name for name in names})

    def found(pattern: str) -> list[str]:
        return [uri.removeprefix(tree) for uri in s3dlio.glob(tree + pattern).uris]

    assert found("*.jpg") == ["a.jpg"]
    assert found("**/*.jpg") == ["a.jpg", "x/a.jpg", "x/y/b.jpg", "x/y/z/c.jpg"]
    assert found("x/*/[ab].jpg") == ["x/y/b.jpg"]
    assert found("x/**") == ["x/a.jpg", "x/y/b.jpg", "x/y/z/c.jpg"]
    assert found("nothing*") == []
    walked = [
        (each.uri.removeprefix(tree), [*each.folders], [meta.size for meta in each.objects])
        for each in s3dlio.walk(tree)
    ]
    assert walked == [("", ["x"], [5, 5]), ("x/", ["y"], [7]), ("x/y/", ["z"], [9]), ("x/y/z/", [], [11])]
