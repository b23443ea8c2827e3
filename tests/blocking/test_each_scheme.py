"""The verbs on every scheme: what each promises, on real servers, files and in memory."""

from __future__ import annotations

import array
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import BulkError, Config, IntegrityError, NotFoundError, ObjectMeta, RangeError

MIB = 1 << 20
TEXT = "the quick brown fox"


def contents_of(uri: str) -> dict[str, bytes]:
    """What lies in a tree, by the names below it."""
    return {found.removeprefix(uri): data for found, data in s3dlio.get_many(s3dlio.list(uri).uris)}


def test_content_of_every_kind_comes_back(tree: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"in a file")
    contents: dict[str, tuple[Any, bytes]] = {
        "bytes": (b"some", b"some"),
        "text": ("tëxt", "tëxt".encode()),
        "array": (array.array("h", [1, 2]), array.array("h", [1, 2]).tobytes()),
        "numbers": (np.arange(6.0).reshape(2, 3), np.arange(6.0).tobytes()),
        "tensor": (torch.arange(6), np.arange(6).tobytes()),
        "half": (torch.ones(2, dtype=torch.bfloat16), b"\x80\x3f\x80\x3f"),
        "path": (file, b"in a file"),
        "open": (io.BytesIO(b"open"), b"open"),
    }
    for name, (data, _) in contents.items():
        s3dlio.put(tree + name, data)
    assert contents_of(tree) == {name: expected for name, (_, expected) in sorted(contents.items())}


def test_a_range_is_a_slice(tree: str) -> None:
    uri, data = f"{tree}text", TEXT.encode()
    s3dlio.put(uri, TEXT)
    assert s3dlio.get(uri, 4, 9) == data[4:9]
    assert s3dlio.get(uri, 4) == data[4:]
    assert s3dlio.get(uri, -3) == data[-3:]
    assert s3dlio.get(uri, 4, -4) == data[4:-4]
    assert s3dlio.get(uri, slice(2, 5)) == data[2:5]
    assert s3dlio.get(uri, 10, 99) == data[10:]
    assert s3dlio.get_range(uri, 4, 5) == data[4:9]
    with pytest.raises(RangeError):
        s3dlio.get(uri, len(data), 99)


def test_a_large_range_comes_in_parts(tree: str) -> None:
    uri, data, config = f"{tree}large", np.arange(3 * MIB, dtype="i4"), Config(part_size=5 * MIB)
    s3dlio.put(uri, data, config=config)
    whole = data.tobytes()
    assert s3dlio.get(uri, 3, -5, config=config) == whole[3:-5]
    target = torch.zeros(2 * MIB, dtype=torch.int32)
    result = s3dlio.get_into(uri, target, start=4 * MIB, config=config)
    assert target.numpy().tobytes() == whole[4 * MIB :]
    assert (result.start, result.end) == (4 * MIB, 12 * MIB)


def test_memory_that_is_too_large_is_not_filled(tree: str) -> None:
    s3dlio.put(f"{tree}small", b"1234")
    exact = bytearray(4)
    s3dlio.get_into(f"{tree}small", exact)
    assert exact == b"1234"
    with pytest.raises((IntegrityError, RangeError)):
        s3dlio.get_into(f"{tree}small", bytearray(5))


def test_many_are_written_read_and_removed(tree: str) -> None:
    items = {f"{tree}{number:03}": f"object {number}" for number in range(150)}
    written = s3dlio.put_many(iter(items.items()))
    assert [uri for uri, _ in written] == [*items]
    assert all(s3dlio.stat(uri).etag == result.etag for uri, result in written[:2])
    wanted = sorted(items, reverse=True)
    assert s3dlio.get_many(wanted) == [(uri, items[uri].encode()) for uri in wanted]
    s3dlio.delete_many(wanted[:100])
    assert [*s3dlio.list(tree).uris] == sorted(wanted[100:])


def test_what_fails_of_many_is_told_and_the_rest_is_done(tree: str) -> None:
    s3dlio.put_many([(f"{tree}a", "a"), (f"{tree}b", "b")])
    with pytest.raises(BulkError) as caught:
        s3dlio.get_many([f"{tree}a", f"{tree}absent", "nowhere://a/b", f"{tree}b"])
    assert caught.value.done == [(f"{tree}a", b"a"), (f"{tree}b", b"b")]
    failures = caught.value.failures
    assert {uri: type(error).__name__ for uri, error in failures.items()} == {
        f"{tree}absent": "NotFoundError",
        "nowhere://a/b": "InvalidUriError",
    }
    assert isinstance(caught.value.__cause__, s3dlio.StoreError)
    with pytest.raises(BulkError) as caught:
        s3dlio.put_many([(f"{tree}{'k' * 1025}", "long"), (f"{tree}c", "c")])
    assert len(caught.value.failures) == 1
    assert contents_of(tree) == {"a": b"a", "b": b"b", "c": b"c"}


def test_a_listing_is_a_sequence_and_a_table(tree: str) -> None:
    s3dlio.put_many({f"{tree}{name}": bytes(size) for name, size in (("a", 5), ("b/c", 1500), ("d", 0))})
    listing = s3dlio.list(tree)
    assert isinstance(listing, Sequence)
    assert len(listing) == 3
    assert [meta.size for meta in listing] == [5, 1500, 0]
    assert listing[-1].size == 0
    assert [*listing.uris] == [f"{tree}{name}" for name in ("a", "b/c", "d")]
    assert "3 objects of" in repr(listing)
    assert "1.5 kB" in repr(listing)
    assert "<td>1.5 kB</td>" in listing._repr_html_()
    assert [dataclasses.asdict(meta)["size"] for meta in listing] == [5, 1500, 0]
    assert not s3dlio.list(f"{tree}absent")
    assert [meta.size for meta in s3dlio.list(f"{tree}b/")] == [1500]


def test_one_object_is_described_and_removed(tree: str) -> None:
    uri = f"{tree}key"
    assert not s3dlio.exists(uri)
    with pytest.raises(NotFoundError):
        s3dlio.stat(uri)
    written = s3dlio.put_bytes(uri, b"data")
    meta: ObjectMeta = s3dlio.stat(uri)
    assert (meta.size, meta.etag) == (4, written.etag)
    assert s3dlio.exists(uri)
    s3dlio.delete(uri)
    s3dlio.delete(uri)
    assert not s3dlio.exists(uri)
