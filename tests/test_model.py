from __future__ import annotations

import array
import copy
import dataclasses
import json
import mmap
import pickle
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.model import (
    BoundedRange,
    Decoded,
    GetResult,
    ListPage,
    ObjectColumns,
    ObjectMeta,
    OffsetRange,
    PutOptions,
    RestoreStatus,
    StoredChecksum,
    SuffixRange,
    Upload,
    flat,
    resolve,
)

DATA = bytes(range(50))


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 50))
def test_ranges_are_slices(start: int, length: int, size: int) -> None:
    data = DATA[:size]

    def taken(byte_range: BoundedRange | OffsetRange | SuffixRange | None) -> bytes:
        first, end = resolve(byte_range, size)
        return data[first:end]

    assert taken(None) == data
    assert taken(BoundedRange(start, start + length)) == data[start : start + length]
    assert taken(OffsetRange(start)) == data[start:]
    assert taken(SuffixRange(length)) == data[-length:]


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5), (0, 0)])
def test_an_empty_range_is_none(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        BoundedRange(start, end)


def test_offsets_and_lengths_have_a_sign() -> None:
    with pytest.raises(ValueError, match="not an offset"):
        OffsetRange(-1)
    for length in (0, -1):
        with pytest.raises(ValueError, match="not a suffix length"):
            SuffixRange(length)


_RESTORED = RestoreStatus(False, datetime(2024, 3, 1, tzinfo=UTC))
META = ObjectMeta(
    "key",
    5,
    '"etag"',
    datetime(2024, 2, 29, tzinfo=UTC),
    "v",
    "GLACIER",
    "text/x",
    {"name": "value"},
    _RESTORED,
    StoredChecksum("CRC32C", 0xE3069283),
)


@pytest.mark.parametrize(
    "value",
    [
        META,
        ObjectMeta("key", 5),
        GetResult(META, 1, 3),
        BoundedRange(1, 2),
        PutOptions(),
        PutOptions("text/x", {"name": "value"}),
        PutOptions("text/x", {"name": "value"}, '"etag"', storage_class="GLACIER"),
        RestoreStatus(True),
        Upload("key", "id", PutOptions()),
    ],
)
def test_values_can_be_pickled(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("metadata", [{}, {"name": "value"}])
def test_metadata_cannot_be_changed(metadata: dict[str, str]) -> None:
    for kept in (ObjectMeta("key", 5, metadata=metadata).metadata, PutOptions(metadata=metadata).metadata):
        with pytest.raises(TypeError):
            kept["name"] = "other"  # type: ignore[index]
        with pytest.raises(TypeError):
            kept.update(name="other")  # type: ignore[attr-defined]
        assert kept == metadata


@pytest.mark.parametrize("value", [META, ObjectMeta("key", 5), PutOptions(), PutOptions(metadata={"name": "value"})])
def test_values_are_data_like_any_other(value: Any) -> None:
    """What pandas, sets and caches do with them."""
    assert {value, copy.deepcopy(value)} == {value}
    fields = dataclasses.asdict(value)
    assert json.loads(json.dumps(fields, default=str))["metadata"] == fields["metadata"] == dict(value.metadata)


@pytest.mark.parametrize(
    "data",
    [
        b"\1\2\3\4",
        bytearray(b"\1\2\3\4"),
        memoryview(b"\1\2\3\4").cast("B", (2, 2)),
        array.array("I", [0x04030201]),
        np.frombuffer(b"\1\2\3\4", dtype=">i4"),
        np.frombuffer(b"\1\2\3\4", dtype=[("a", "i2"), ("b", "i2")]),
        np.frombuffer(b"\1\2\3\4", dtype="u1").reshape(2, 2),
        pickle.PickleBuffer(b"\1\2\3\4"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_contiguous_buffer_is_its_bytes(data: Any) -> None:
    assert flat(data).format == "B"
    assert flat(data).obj is not None
    assert bytes(flat(data)) == b"\1\2\3\4"


def test_a_mapped_file_and_an_array_without_items_are_buffers_too() -> None:
    with mmap.mmap(-1, 4096) as mapped, flat(mapped) as view:
        assert len(view) == 4096
    empty: Any = np.empty((0, 3))
    assert len(flat(empty)) == 0


@pytest.mark.parametrize("data", ["text", 5, None, [b"bytes"], np.array(["2024-01-01"], dtype="M8[D]")], ids=repr)
def test_what_is_no_buffer_is_told_what_is_wanted(data: Any) -> None:
    with pytest.raises(TypeError, match=rf"buffer is wanted: .*encode.*numpy.*, not {type(data).__name__}"):
        flat(data)


def test_memory_with_gaps_is_refused() -> None:
    every_second: Any = np.zeros((4, 4))[:, ::2]
    with pytest.raises(TypeError, match="contiguous"):
        flat(every_second)


_COLUMNS = ObjectColumns({"key": ["a", "b", "c"], "size": [1, 2, 3], "etag": ['"1"', None, '"3"']})
_OBJECTS = (ObjectMeta("a", 1, '"1"'), ObjectMeta("b", 2), ObjectMeta("c", 3, '"3"'))


def test_objects_in_columns_look_as_they_are() -> None:
    assert _COLUMNS == _OBJECTS
    assert (hash(_COLUMNS), repr(_COLUMNS), len(_COLUMNS)) == (hash(_OBJECTS), repr(_OBJECTS), 3)
    assert [_COLUMNS[number] for number in range(-3, 3)] == [*_OBJECTS, *_OBJECTS]
    for chosen in (slice(1, None), slice(None, None, -1), slice(3, None)):
        assert _COLUMNS[chosen] == _OBJECTS[chosen]
    assert pickle.loads(pickle.dumps(ListPage(_COLUMNS, ("p/",), "t"))) == ListPage(_OBJECTS, ("p/",), "t")
    assert _OBJECTS[1:] != _COLUMNS
    with pytest.raises(IndexError):
        _COLUMNS[3]
    assert ObjectColumns.of([META, *_OBJECTS]) == (META, *_OBJECTS)
    assert ObjectColumns.of(_COLUMNS) is _COLUMNS


def test_objects_in_columns_are_chosen_by_key() -> None:
    assert _COLUMNS.where(lambda key: key != "b") == (_OBJECTS[0], _OBJECTS[2])
    assert _COLUMNS.where(lambda key: True) is _COLUMNS


def test_a_column_is_decoded_where_it_is_looked_at() -> None:
    decoded: list[str] = []

    def decode(text: str) -> int:
        decoded.append(text)
        return int(text)

    sizes = Decoded(["1", "2", "3"], decode)
    assert (len(sizes), decoded) == (3, [])
    assert (sizes[-1], decoded) == (3, ["3"])
    assert list(sizes[:2]) == [1, 2]
    assert list(sizes) == [1, 2, 3]
